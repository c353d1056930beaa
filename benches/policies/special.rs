//! Single figures that policies are held to, each in a situation of its own.

use std::collections::BTreeMap;

use policy::config::StrategyName;
use report::Run;

use crate::{
    case::{Case, Variant},
    search::{self, Seeds},
};

/// Affinity that nothing overrules.
const STRICT: [&str; 2] = [
    "policy.prefix.match_min=0",
    "policy.saturation={threshold: 1000000, slack: 1000000, fallback: least-request}",
];

/// A figure beside what it should be.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    aim: String,
    measured: String,
    is_met: bool,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) seeds: Seeds,
    pub(crate) jobs: usize,
    pub(crate) attainment: f64,
}

impl Effort {
    fn capacity(self, workload: &str, sets: &[&str]) -> anyhow::Result<f64> {
        let case = Case::new(workload, &cost(sets))?;
        let found = search::capacity(&case, None, self.attainment, self.seeds, self.jobs)?;
        Ok(found.mean().unwrap_or_default())
    }

    fn runs(self, workload: &str, variant: &Variant, rate: f64) -> anyhow::Result<Vec<Run>> {
        search::at(&Case::new(workload, variant)?, rate, self.seeds, self.jobs)
    }
}

fn cost(sets: &[&str]) -> Variant {
    let sets: Vec<String> = sets.iter().map(|it| (*it).to_owned()).collect();
    Variant::of(StrategyName::LeastLatency, &sets)
}

fn mean(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    runs.iter().map(of).sum::<f64>() / runs.len().max(1) as f64
}

fn hits(runs: &[Run]) -> f64 {
    100.0 * mean(runs, |it| it.cache_hit_rate.unwrap_or_default())
}

fn ttft_p99(runs: &[Run]) -> f64 {
    mean(runs, |it| it.ttft_ms.as_ref().map_or(0.0, |it| it.p99))
}

/// Measures them all.
pub(crate) fn rows(effort: Effort, workloads: &[String]) -> anyhow::Result<Vec<Row>> {
    let mut rows = vec![lost_reports(effort)?, unlike(effort)?];
    for workload in workloads {
        rows.extend(three_routers(effort, workload)?);
    }
    for (workload, share) in [("hot-documents", 0.7), ("hot-documents", 0.9), ("hot-document", 0.7)]
    {
        rows.push(hot_documents(effort, workload, share)?);
    }
    rows.push(mooncake(effort)?);
    Ok(rows)
}

/// No router reads a load for a minute.
fn lost_reports(effort: Effort) -> anyhow::Result<Row> {
    let rate = 0.95 * effort.capacity("mixed", &["routers=3"])?;
    let lost = "faults=[{kind: lost-reports, at: 100s, for: 60s}]";
    let with = effort.runs("mixed", &cost(&["routers=3", lost]), rate)?;
    let without = effort.runs("mixed", &cost(&["routers=3"]), rate)?;
    let goodput = |runs: &[Run]| mean(runs, |it| it.request_goodput);
    let loss = 100.0 * (1.0 - goodput(&with) / goodput(&without).max(1e-9));
    Ok(Row {
        what: format!("mixed, 3 routers, {rate:.0}/s: no load is read for 60 s"),
        aim: "under 5 % of goodput lost".to_owned(),
        measured: format!("{loss:.2} %"),
        is_met: loss < 5.0,
    })
}

/// Half of the fleet takes three times as long, and nobody says so.
fn unlike(effort: Effort) -> anyhow::Result<Row> {
    let slow: Vec<String> = (0..4)
        .map(|at| format!("{{kind: slow, at: 0s, replica: {at}, for: 1h, factor: 3}}"))
        .collect();
    let unlike = format!("faults=[{}]", slow.join(", "));
    let learned = effort.capacity("mixed", &[&unlike])?;
    let known = effort.capacity("mixed", &[&unlike, "signals.speeds_known=true"])?;
    let share = 100.0 * learned / known.max(1e-9);
    Ok(Row {
        what: "mixed, four of eight replicas 3 times slower".to_owned(),
        aim: "90 % of who knows the speeds".to_owned(),
        measured: format!("{share:.1} % ({learned:.1} of {known:.1}/s)"),
        is_met: 90.0 <= share,
    })
}

/// Requests spread over three routers, each with a picture of its own, and with one that they share.
fn three_routers(effort: Effort, workload: &str) -> anyhow::Result<Vec<Row>> {
    let rate = 0.8 * effort.capacity(workload, &[])?;
    let found =
        |sets: &[&str]| Ok::<_, anyhow::Error>(hits(&effort.runs(workload, &cost(sets), rate)?));
    let one = found(&[])?;
    let alone = found(&["routers=3"])?;
    let told = found(&["routers=3", "signals.placements_lag=5ms"])?;
    let late = found(&["routers=3", "signals.placements_lag=100ms"])?;
    let row = |how: &str, measured: String, worst: f64| Row {
        what: format!("{workload}, {rate:.1}/s: 3 routers for 1, {how}"),
        aim: "under 2 points of hit rate lost".to_owned(),
        measured,
        is_met: one - worst < 2.0,
    };
    Ok(vec![
        row("who tell each other nothing", format!("{one:.1} % and {alone:.1} %"), alone),
        row(
            "who tell each other what they place, known 5 ms and 100 ms later",
            format!("{one:.1} %, {told:.1} % and {late:.1} %"),
            told.min(late),
        ),
    ])
}

/// Popular documents, against going where the prefix is whatever happens.
fn hot_documents(effort: Effort, workload: &str, share: f64) -> anyhow::Result<Row> {
    let rate = share * effort.capacity(workload, &[])?;
    let strict =
        Variant::named("strict", StrategyName::PrefixAware, &STRICT.map(|it: &str| it.to_owned()));
    let ours = ttft_p99(&effort.runs(workload, &cost(&[]), rate)?);
    let theirs = ttft_p99(&effort.runs(workload, &strict, rate)?);
    let part = 100.0 * ours / theirs.max(1e-9);
    Ok(Row {
        what: format!("{workload}, {rate:.1}/s: TTFT p99"),
        aim: "60 % of strict affinity's".to_owned(),
        measured: format!("{part:.1} % ({ours:.0} of {theirs:.0} ms)"),
        is_met: part <= 60.0,
    })
}

/// Mooncake's conversations on four replicas whose caches hold 5,000 of its blocks each.
fn mooncake(effort: Effort) -> anyhow::Result<Row> {
    let sets = ["fleet.replicas=4", "fleet.overrides={kv_tokens: 2560000}"];
    let case = Case::new("mooncake-conversation", &cost(&sets))?;
    let (mut found, mut blocks, mut busiest) = (0.0, 0.0, 0.0_f64);
    for seed in effort.seeds.first..=effort.seeds.last {
        let (_, recording) = case.record(1.0, seed)?;
        let mut loads: BTreeMap<&str, f64> = BTreeMap::new();
        for it in &recording.records {
            blocks += f64::from(it.input_tokens.0.div_ceil(512));
            found += it.cached_tokens.map_or(0.0, |it| f64::from(it.0 / 512));
            *loads.entry(it.replica.as_deref().unwrap_or_default()).or_default() += 1.0;
        }
        let most = loads.values().copied().fold(0.0, f64::max);
        let mean = loads.values().sum::<f64>() / f64::from(case.replicas());
        busiest = busiest.max(most / mean.max(1e-9));
    }
    let rate = found / f64::max(blocks, 1.0);
    Ok(Row {
        what: "Mooncake's conversations, 4 replicas of 5,000 blocks of 512 tokens".to_owned(),
        aim: "blocks found 0.28, busiest replica 1.1 × mean".to_owned(),
        measured: format!("{rate:.3}, {busiest:.3} × mean"),
        is_met: 0.28 <= rate && busiest <= 1.1,
    })
}

/// The rows as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = "|what|aim|measured| |\n|-|-|-|-|\n".to_owned();
    for Row { what, aim, measured, is_met } in rows {
        let verdict = if *is_met { "met" } else { "**missed**" };
        text.push_str(&format!("|{what}|{aim}|{measured}|{verdict}|\n"));
    }
    text
}
