//! The frontier and the plan as tables.

use std::fmt::Write as _;

use types::slo::Slo;

use super::{align_right, millis, percent, table};
use crate::{
    disruption::{Blend, Part, Split},
    frontier::{Frontier, KneeOf, Point, State},
    knee::Estimate,
    plan::{Plan, Trials},
    stats::Stats,
};

/// A frontier in full: what each rate gave, the knees, and the states where they were measured.
#[must_use]
pub fn frontier(frontier: &Frontier) -> String {
    let Frontier { workload, policy, clock, warmth, warmth_produced, .. } = frontier;
    let runs = frontier.points.iter().map(|it| it.runs).max().unwrap_or_default();
    let mut out = format!(
        "{workload}, {policy}: {} rates, {runs} runs each, {clock} time\ngood is {}\n\
         caches: {} ({warmth_produced})\n{}\n{}\n{}",
        frontier.points.len(),
        promise(&frontier.slo),
        warmth.as_str(),
        rates(frontier),
        latencies(&frontier.points),
        classes(&frontier.points),
    );
    let unit = |knee: &KneeOf| knee.value.map(|it| format!(", giving {it:.1}/s"));
    for (name, knee) in [
        ("knee by goodput", &frontier.knee_by_goodput),
        ("knee by throughput", &frontier.knee_by_throughput),
    ] {
        let found = knee.rate_per_s.map(|it| estimate(&it, "/s"));
        let none = || format!("none: {}", knee.none.map(|it| it.to_string()).unwrap_or_default());
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{name}: {}{}",
            found.unwrap_or_else(none),
            unit(knee).unwrap_or_default()
        );
    }
    if let Some(ratio) = &frontier.collapse_ratio {
        let _ =
            writeln!(out, "goodput at 1.5 × knee over that at the knee: {}", estimate(ratio, ""));
    }
    out.push_str(&states(&frontier.states, frontier.currency.as_deref()));
    if let Some(split) = &frontier.disruption {
        let blend = frontier.blend.as_ref();
        out.push_str(&disruption(split, blend, frontier.currency.as_deref()));
        out.push_str(&unblended(split, blend));
    }
    out
}

/// What is promised, in a few words.
#[must_use]
pub fn promise(slo: &Slo) -> String {
    let bounds = [
        ("TTFT", slo.ttft),
        ("TPOT", slo.tpot),
        ("ITL p95", slo.itl_p95),
        ("jitter", slo.jitter),
        ("E2E", slo.e2e),
        ("done", slo.completion),
    ];
    let told: Vec<String> = bounds
        .into_iter()
        .filter_map(|(name, max)| {
            Some(format!("{name} ≤ {}", millis(Some(max?.as_secs_f64() * 1_000.0))))
        })
        .collect();
    if told.is_empty() { "any whole answer".to_owned() } else { told.join(", ") }
}

fn estimate(it: &Estimate, unit: &str) -> String {
    let digits = if it.value.abs() < 10.0 { 2 } else { 1 };
    let value = format!("{:.digits$}{unit}", it.value);
    match it.low.zip(it.high) {
        Some((low, high)) => format!("{value} (95 %: {low:.digits$} to {high:.digits$})"),
        None => format!("{value} (no interval)"),
    }
}

fn rates(frontier: &Frontier) -> String {
    let cost = cost_header(frontier.currency.as_deref());
    let header = [
        "rate",
        "load",
        "answered",
        "goodput",
        "good",
        "good tok",
        "failed",
        "refused",
        "retried",
        "hits",
        cost.as_str(),
    ];
    let mut table = table(&header);
    for it in &frontier.points {
        table.add_row([
            rate(it.rate_per_s),
            it.band.as_str().to_owned(),
            rate(it.sustained_rps),
            rate(it.request_goodput),
            percent(it.good_request_fraction),
            format!("{:.0}", it.output_token_goodput),
            share(it.error_rate),
            share(it.refusal_rate),
            share(it.retry_rate),
            percent(it.cache_hit_rate),
            money(it.cost_per_accepted),
        ]);
    }
    close_up(&mut table);
    table.to_string()
}

/// Sets the columns of a wide table nearer to each other.
fn close_up(table: &mut comfy_table::Table) {
    align_right(table);
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
}

fn latencies(points: &[Point]) -> String {
    let header =
        ["rate", "TTFT p50", "p95", "p99", "TPOT p50", "p95", "p99", "E2E p50", "p95", "p99"];
    let mut table = table(&header);
    for it in points {
        let of = |stats: Option<Stats>, part: fn(Stats) -> f64| millis(stats.map(part));
        table.add_row([
            rate(it.rate_per_s),
            of(it.ttft_ms, |it| it.p50),
            of(it.ttft_ms, |it| it.p95),
            of(it.ttft_ms, |it| it.p99),
            of(it.tpot_ms, |it| it.p50),
            of(it.tpot_ms, |it| it.p95),
            of(it.tpot_ms, |it| it.p99),
            of(it.e2e_ms, |it| it.p50),
            of(it.e2e_ms, |it| it.p95),
            of(it.e2e_ms, |it| it.p99),
        ]);
    }
    close_up(&mut table);
    table.to_string()
}

/// Most SLO classes that have a column.
const CLASSES_MAX: usize = 5;

/// The share of each SLO class's requests that was good, by rate; a batch's is that of its rows.
fn classes(points: &[Point]) -> String {
    let names: Vec<&str> = points.first().map_or_else(Vec::new, |it| {
        it.by_slo_class.iter().map(|it| it.name.as_str()).take(CLASSES_MAX).collect()
    });
    if names.is_empty() {
        return String::new();
    }
    let shown = names.iter().map(|it| if it.is_empty() { "(none)" } else { *it });
    let header: Vec<&str> = ["rate"].into_iter().chain(shown).collect();
    let mut table = table(&header);
    for point in points {
        let share = |name: &str| {
            let class = point.by_slo_class.iter().find(|it| it.name == name);
            percent(class.and_then(|it| it.good_request_fraction))
        };
        let cells = names.iter().map(|it| share(it));
        table.add_row([rate(point.rate_per_s)].into_iter().chain(cells));
    }
    align_right(&mut table);
    format!("good by SLO class\n{table}\n")
}

fn states(states: &[State], currency: Option<&str>) -> String {
    let Some(first) = states.first() else { return String::new() };
    let cost = cost_header(currency);
    let mut table =
        table(&["caches", "hits", "TTFT p50", "TTFT p99", "goodput", "good", cost.as_str()]);
    for State { warmth, point } in states {
        table.add_row([
            warmth.as_str().to_owned(),
            percent(point.cache_hit_rate),
            millis(point.ttft_ms.map(|it| it.p50)),
            millis(point.ttft_ms.map(|it| it.p99)),
            format!("{}/s", rate(point.request_goodput)),
            percent(point.good_request_fraction),
            money(point.cost_per_accepted),
        ]);
    }
    align_right(&mut table);
    format!("the same {}/s in each state of the caches:\n{table}\n", rate(first.point.rate_per_s))
}

/// What it was like in disruption windows and outside of them, and blended where that is known.
pub(super) fn disruption(split: &Split, blend: Option<&Blend>, currency: Option<&str>) -> String {
    let cost = cost_header(currency);
    let header = ["", "time", "hits", "TTFT mean", "TTFT p99", "good", cost.as_str()];
    let mut table = table(&header);
    let mut row = |name: &str, part: &Part| {
        table.add_row([
            name.to_owned(),
            format!("{:.0} s", part.length_s),
            percent(part.cache_hit_rate),
            millis(part.ttft_ms.map(|it| it.mean)),
            millis(part.ttft_ms.map(|it| it.p99)),
            percent(part.good_request_fraction),
            money(part.cost_per_accepted),
        ]);
    };
    row("disrupted", &split.inside);
    row("undisturbed", &split.outside);
    if let Some(it) = blend {
        table.add_row([
            format!("{} a day", it.per_day),
            percent(Some(it.share_of_time)),
            percent(it.cache_hit_rate),
            millis(it.ttft_ms_mean),
            "-".to_owned(),
            percent(it.good_request_fraction),
            money(it.cost_per_accepted),
        ]);
    }
    align_right(&mut table);
    let kinds: std::collections::BTreeSet<&str> =
        split.disruptions.iter().map(|it| it.kind.as_str()).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let (kinds, mean_s) = (kinds.join(", "), split.window_mean_s);
    let told = match (split.unrecovered(), split.disruptions.len()) {
        (0, _) => format!("{kinds}: {mean_s:.0} s until caches and TTFT are as before"),
        (open, all) => format!(
            "{kinds}: caches and TTFT were not as before within {mean_s:.0} s, in {open} of {all} times;\n\
             the run ended before, so it is worse than this"
        ),
    };
    format!("{told}\n{table}\n")
}

/// Why there is nothing blended, where there could be.
fn unblended(split: &Split, blend: Option<&Blend>) -> String {
    match split.per_day_max().filter(|_| blend.is_none()) {
        Some(most) => format!("nothing is blended: a day has room for {most:.0} of them\n"),
        None => String::new(),
    }
}

/// What is said where sizing by throughput misleads nobody.
const NO_FEWER: &str = "sizing by throughput buys no fewer here: the promise holds for as long as the \
     fleet keeps up\n";

/// A plan, and what sizing by throughput would have bought.
#[must_use]
pub fn plan(plan: &Plan) -> String {
    let Plan { demand, per_replica, by_goodput, with_bursts, replicas, .. } = plan;
    let mut table = table(&["sized by", "a replica gives", "replicas", "what that gives"]);
    if let Some((throughput, bought)) = per_replica.throughput_per_s.zip(plan.by_throughput) {
        let gives = plan.goodput_by_throughput.map_or_else(
            || format!("each at {} of its knee", percent(Some(plan.load_of(bought)))),
            |it| format!("{} good/s of {} asked", rate(it), rate(demand.rate_per_s)),
        );
        let each = format!("{}/s answered", rate(throughput));
        let name = if plan.throughput_misleads() { "throughput (wrong)" } else { "throughput" };
        table.add_row([name.to_owned(), each, bought.to_string(), gives]);
    }
    let each = format!("{}/s good", rate(per_replica.goodput_per_s));
    let mut row = |name: String, replicas: u64| {
        let load = format!("each at {} of its knee", percent(Some(plan.load_of(replicas))));
        table.add_row([name, each.clone(), replicas.to_string(), load]);
    };
    row("goodput".to_owned(), *by_goodput);
    if demand.burst > 1.0 {
        row(format!("and bursts of {} ×", demand.burst), *with_bursts);
    }
    if demand.failures > 0 {
        row(format!("and {} failed", demand.failures), *replicas);
    }
    align_right(&mut table);
    let told = plan.trials.as_ref().map(trials).unwrap_or_default();
    let note = match plan.by_throughput {
        Some(_) if !plan.throughput_misleads() => NO_FEWER,
        Some(_) | None => "",
    };
    format!(
        "{} useful requests/s need {replicas} replicas\n{table}\n{note}{told}",
        rate(demand.rate_per_s)
    )
}

/// What became of the fleets that were tried out.
fn trials(all: &Trials) -> String {
    let needed = percent(Some(all.good_fraction_needed));
    let mut out = format!(
        "tried in virtual time at {}/s with {} lost ({} runs of {:.0} s; {needed} good are needed):\n",
        rate(all.rate_per_s),
        all.lost,
        all.runs,
        all.counted_s,
    );
    for it in &all.trials {
        let verdict = if it.holds { "enough" } else { "too few" };
        let good = percent(Some(it.good_request_fraction));
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  {} replicas: {good} good, {verdict}", it.replicas);
    }
    match (all.replicas, all.trials.first()) {
        (Some(enough), Some(planned)) if enough > planned.replicas => {
            let _ = writeln!(
                out,
                "so buy {enough}: goodput does not grow with the fleet as the plan takes it to"
            );
        }
        (Some(_), _) => {}
        (None, _) => out.push_str(
            "none of them is enough: what holds one replica back is not all that holds the fleet back\n",
        ),
    }
    out
}

impl Plan {
    /// Share of its knee at which each of so many replicas runs on average.
    fn load_of(&self, replicas: u64) -> f64 {
        self.demand.rate_per_s / (self.per_replica.goodput_per_s * replicas as f64)
    }
}

fn rate(per_s: f64) -> String {
    if per_s < 100.0 { format!("{per_s:.1}") } else { format!("{per_s:.0}") }
}

/// A share that is mostly nothing.
fn share(share: f64) -> String {
    if share <= 0.0 { "-".to_owned() } else { percent(Some(share)) }
}

fn cost_header(currency: Option<&str>) -> String {
    currency.map_or_else(|| "cost/1k".to_owned(), |it| format!("{it}/1k"))
}

/// What a thousand good requests cost.
fn money(each: Option<f64>) -> String {
    match each.map(|it| it * 1_000.0) {
        None => "-".to_owned(),
        Some(it) if it < 10.0 => format!("{it:.3}"),
        Some(it) => format!("{it:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::time::Timestamp;

    use super::*;
    use crate::{
        disruption::Disruption,
        frontier::{Warmth, tests::frontier as measured},
        plan::{Demand, PerReplica},
        summary::tests::answered,
    };

    #[track_caller]
    fn fits(table: &str) {
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
    }

    #[test]
    fn a_frontier_is_told_in_full() {
        let mut it = measured();
        it.slo.e2e = Some(Duration::from_millis(200));
        let point = it.points[2].clone();
        it.states = [Warmth::Warm, Warmth::WarmModelColdCache]
            .map(|warmth| State { warmth, point: point.clone() })
            .to_vec();
        let at = |seconds| Timestamp::from_elapsed(Duration::from_secs(seconds));
        let kind = "rolling-deployment".to_owned();
        let open = Disruption { kind, from: at(40), until: at(60), recovered: true };
        let records: Vec<_> = (0..100).map(|it| answered(it * 1_000, 200, Some(50))).collect();
        let split = Split::of(&records, vec![open], (at(0), at(100)), None);
        it.blend = split.blended(10.0);
        it.disruption = Some(split);
        let table = frontier(&it);
        fits(&table);
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_fleet_that_never_recovered_is_told_so() {
        let at = |seconds| Timestamp::from_elapsed(Duration::from_secs(seconds));
        let records: Vec<_> = (0..100).map(|it| answered(it * 1_000, 200, Some(50))).collect();
        let kind = "rolling-deployment".to_owned();
        let open = Disruption { kind, from: at(40), until: at(100), recovered: false };
        let split = Split::of(&records, vec![open], (at(0), at(100)), None);
        let mut it = measured();
        (it.blend, it.disruption) = (split.blended(1e9), Some(split));
        let table = frontier(&it);
        fits(&table);
        assert!(table.contains("not as before within 60 s, in 1 of 1 times"), "{table}");
        assert!(table.contains("nothing is blended: a day has room for 1440"), "{table}");
        assert!(!table.contains("until caches"), "{table}");
    }

    #[test]
    fn the_widest_figures_fit() {
        let mut it = measured();
        for point in &mut it.points {
            (point.rate_per_s, point.sustained_rps) = (123_456.0, 123_456.0);
            (point.request_goodput, point.output_token_goodput) = (123_456.0, 98_765_432.0);
            (point.error_rate, point.refusal_rate, point.retry_rate) = (0.123, 0.234, 0.345);
            (point.cost_per_accepted, point.cache_hit_rate) = (Some(0.001_234), Some(0.999));
        }
        fits(&frontier(&it));
    }

    #[test]
    fn a_plan_shows_why_throughput_misleads() {
        let demand = Demand { rate_per_s: 9_000.0, burst: 1.25, failures: 1 };
        let each = PerReplica { goodput_per_s: 450.0, throughput_per_s: Some(500.0) };
        let table = plan(&Plan::new(demand, each, None).unwrap());
        fits(&table);
        insta::assert_snapshot!(table);
    }

    #[test]
    fn throughput_is_called_wrong_only_where_it_buys_too_few() {
        let demand = Demand { rate_per_s: 900.0, burst: 1.25, failures: 1 };
        let table = |throughput_per_s| {
            let each = PerReplica { goodput_per_s: 450.0, throughput_per_s };
            plan(&Plan::new(demand, each, None).unwrap())
        };
        for throughput in [450.0, 440.0] {
            let table = table(Some(throughput));
            assert!(!table.contains("wrong") && table.contains("no fewer here"), "{table}");
            fits(&table);
        }
        let none = table(None);
        assert!(!none.contains("throughput"), "{none}");
        let misleads = table(Some(900.0));
        assert!(misleads.contains("throughput (wrong)"), "{misleads}");
        assert!(!misleads.contains("no fewer"), "{misleads}");
    }
}
