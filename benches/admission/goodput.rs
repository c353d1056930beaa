//! Goodput beyond the knee, and what admission costs below it.

use std::time::Duration;

use policy::admission::AdmissionConfig;
use workload::{RatePoint, Rates};

use crate::{
    Terms,
    case::{self, Case, mean, ttft_ms},
    line::{Bar, put},
};

/// Finds the knees by halving: where 97 % of the requests keep their promises without admission.
pub(crate) fn knees(terms: &Terms) {
    for case in case::synthetic(terms) {
        put("knees", &case.name, "knee, requests/s", knee_of(&case, terms.seeds), Bar::None);
    }
}

/// The knee, to two per cent.
pub(crate) fn knee_of(case: &Case, seeds: u64) -> f64 {
    let attained =
        |times| mean(&case.runs(AdmissionConfig::off(), times, seeds), |it| it.attained());
    let (mut least, mut most) = (0.4, 1.6);
    while most / least > 1.02 {
        let middle = f64::midpoint(least, most);
        if attained(middle) < 97.0 { most = middle } else { least = middle }
    }
    case.knee * least
}

/// Times the knee, and the least share of the knee's goodput that is promised there.
const BEYOND: [(f64, f64); 3] = [(1.4, 98.0), (2.0, 97.0), (3.0, 95.0)];

/// Loads below the knee.
const BELOW: [f64; 3] = [0.8, 0.9, 0.95];

pub(crate) fn beyond_the_knee(terms: &Terms) {
    for case in case::synthetic(terms) {
        beyond(&case, terms.seeds, "goodput");
    }
}

/// Times the knee at which caches are filled before what is compared: little enough for a fleet that has none yet.
const WARMING: f64 = 0.4;

/// Longer than other rows, and twice: with caches that are filled at a rate which a cold fleet can serve, and from cold. As
/// long as caches are cold, a fleet that is offered less than its knee is beyond it. Then admission has everybody wait
/// where `off` breaks promises, which leaves other copies in the caches for minutes.
pub(crate) fn below_the_knee(terms: &Terms) {
    for case in case::synthetic(terms).into_iter().chain(case::few_seats_and_agents(terms)) {
        let case = case.lasting(terms.duration * 5 / 2);
        for times in BELOW {
            below(&warmed(&case, times), times, terms.seeds, "", Bar::Most(1.05));
            below(&case, times, terms.seeds, ", from cold caches", Bar::None);
        }
    }
}

/// The same with less load until what counts begins.
fn warmed(case: &Case, times: f64) -> Case {
    let (warm_up, over) = (case.scenario.load.warm_up, case.scenario.load.duration);
    let points = [
        (Duration::ZERO, WARMING),
        (warm_up, WARMING),
        (warm_up, times),
        (over.unwrap_or(warm_up), times),
    ];
    let mut case = case.clone();
    let point = |(at, rate_per_s)| RatePoint { at, rate_per_s };
    case.scenario.load.series = Some(Rates(points.map(point).to_vec()));
    case
}

/// Goodput at the knee without admission: requests, and tokens, a second, for each seed.
pub(crate) fn at_knee(case: &Case, seeds: u64) -> Vec<(f64, f64)> {
    let runs = case.runs(AdmissionConfig::off(), 1.0, seeds);
    runs.iter().map(|it| (it.good_per_s(), it.good_tokens_per_s())).collect()
}

pub(crate) fn beyond(case: &Case, seeds: u64, row: &str) {
    let knee = at_knee(case, seeds);
    for (times, least) in BEYOND {
        let runs = case.runs(AdmissionConfig::default(), times, seeds);
        let of_knee: Vec<(f64, f64)> = runs
            .iter()
            .zip(&knee)
            .map(|(it, knee)| {
                (100.0 * it.good_per_s() / knee.0, 100.0 * it.good_tokens_per_s() / knee.1)
            })
            .collect();
        let n = seeds as f64;
        let (requests, tokens) = of_knee.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
        let worst = of_knee.iter().map(|it| it.0).fold(f64::INFINITY, f64::min);
        let what = |what: &str| format!("{what} at {times} x the knee");
        let line = |text: &str, figure, bar| put(row, &case.name, &what(text), figure, bar);
        line("goodput, % of the knee's", requests / n, Bar::Least(least));
        line("  its worst seed", worst, Bar::Least(least));
        line("  in output tokens, %", tokens / n, Bar::None);
        line("  refused, %", mean(&runs, |it| it.refused_share()), Bar::None);
        line(
            "served as promised of those let in, %",
            mean(&runs, |it| it.attained()),
            Bar::Least(97.0),
        );
    }
}

fn below(case: &Case, times: f64, seeds: u64, how: &str, most: Bar) {
    let held = case.runs(AdmissionConfig::default(), times, seeds);
    let off = case.runs(AdmissionConfig::off(), times, seeds);
    let line = |what: &str, figure, bar| {
        put("below", &case.name, &format!("{what} at {times} x the knee{how}"), figure, bar);
    };
    line("refused, %", mean(&held, |it| it.refused_share()), Bar::Most(1.0));
    let (with, without) = (ttft_ms(&held, 0.99, |_| true), ttft_ms(&off, 0.99, |_| true));
    line("TTFT p99, of that with `off`", with / without, most);
    line("  the same, ms", with, Bar::None);
    for (label, runs) in [("as it is", &held), ("with `off`", &off)] {
        line(&format!("  as promised, %, {label},"), mean(runs, |it| it.attained()), Bar::None);
    }
}
