//! Results as Markdown.

use std::{collections::BTreeMap, fmt::Write as _};

use report::Run;

use crate::search::Found;

/// One capacity, as a line of progress.
pub(crate) fn line(found: &Found) -> String {
    format!("{:<16} {:<28} {}", found.workload, found.label, cell(found))
}

fn cell(found: &Found) -> String {
    match (found.mean(), found.half_interval()) {
        (Some(mean), Some(half)) => format!("{mean:.2} ± {half:.2}"),
        (Some(mean), None) => format!("{mean:.2}"),
        (None, _) => "–".to_owned(),
    }
}

/// Policies by workloads, the best of each workload in bold.
pub(crate) fn capacities(found: &[Found]) -> String {
    let (mut workloads, mut labels) = (Vec::new(), Vec::new());
    let mut cells = BTreeMap::new();
    let mut best: BTreeMap<&str, f64> = BTreeMap::new();
    for it in found {
        let (workload, label) = (it.workload.as_str(), it.label.as_str());
        if !workloads.contains(&workload) {
            workloads.push(workload);
        }
        if !labels.contains(&label) {
            labels.push(label);
        }
        cells.insert((workload, label), it);
        let most = best.entry(workload).or_default();
        *most = most.max(it.mean().unwrap_or_default());
    }
    let mut text = format!("|policy|{}|worst against best|\n", workloads.join("|"));
    let _ = writeln!(text, "|-|{}-|", "-|".repeat(workloads.len()));
    for label in labels {
        let _ = write!(text, "|{label}|");
        let mut worst = f64::INFINITY;
        for workload in &workloads {
            let Some(it) = cells.get(&(*workload, label)) else {
                text.push_str("–|");
                continue;
            };
            let most = best.get(workload).copied().unwrap_or_default();
            let share = it.mean().unwrap_or_default() / most.max(1e-9);
            worst = worst.min(share);
            let mark = if share >= 0.9995 { "**" } else { "" };
            let _ = write!(text, "{mark}{}{mark}|", cell(it));
        }
        let _ = writeln!(text, "{worst:.3}|");
    }
    text
}

/// The figures of policies at one rate, means over the seeds.
pub(crate) fn figures(workload: &str, rate: f64, rows: &[(String, Vec<Run>)]) -> String {
    let mut text = format!("\n{workload} at {rate}\n\n");
    text.push_str(
        "|policy|good|goodput/s|hit rate|TTFT p50 ms|TTFT p99 ms|TPOT p50 ms|TPOT p99 ms|\n",
    );
    text.push_str("|-|-|-|-|-|-|-|-|\n");
    for (label, runs) in rows {
        let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        let good = mean(&|it| it.good_request_fraction.unwrap_or_default());
        let goodput = mean(&|it| it.request_goodput);
        let hits = mean(&|it| it.cache_hit_rate.unwrap_or_default());
        let ttft = |at: fn(&report::Stats) -> f64| mean(&|it| it.ttft_ms.as_ref().map_or(0.0, at));
        let tpot = |at: fn(&report::Stats) -> f64| mean(&|it| it.tpot_ms.as_ref().map_or(0.0, at));
        let _ = writeln!(
            text,
            "|{label}|{:.1} %|{goodput:.1}|{:.1} %|{:.0}|{:.0}|{:.1}|{:.1}|",
            100.0 * good,
            100.0 * hits,
            ttft(|it| it.p50),
            ttft(|it| it.p99),
            tpot(|it| it.p50),
            tpot(|it| it.p99),
        );
    }
    text
}
