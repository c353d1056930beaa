//! Load that changes, load that stays too high, and what those who are turned away are told.

use std::time::Duration;

use policy::admission::AdmissionConfig;
use workload::{RatePoint, Rates};

use crate::{
    Terms,
    case::{self, Case, Ran, mean, quantile_of},
    goodput::at_knee,
    line::{Bar, put, say},
};

/// When the burst begins and ends, and when the run does, seconds.
const BURST: (u32, u32, u32) = (40, 70, 120);

/// Times the knee before and after the burst, and in it.
const CALM: f64 = 0.7;
const HIGH: f64 = 3.0;

/// Stretches of time for which goodput is compared, seconds.
const WINDOW_S: u32 = 5;
const STEADY_WINDOW_S: u32 = 10;

/// Refusals of which the median is taken, at least; where there are fewer, a run is so many times as long.
const FOLLOWED_MIN: usize = 50;
const LONGER: u32 = 4;

pub(crate) fn burst_and_steady(terms: &Terms) {
    for case in case::synthetic(terms) {
        burst(&case, terms.seeds);
        steady(&case, terms.seeds);
    }
}

fn bursting(case: &Case) -> Case {
    let mut case = case.clone();
    let point =
        |at: u32, times: f64| RatePoint { at: Duration::from_secs(at.into()), rate_per_s: times };
    let (begins, ends, over) = BURST;
    let points = [(0, CALM), (begins, CALM), (begins, HIGH), (ends, HIGH), (ends, CALM)];
    case.scenario.load.series = Some(Rates(points.map(|it| point(it.0, it.1)).to_vec()));
    case.scenario.load.duration = Some(Duration::from_secs(over.into()));
    case.scenario.load.warm_up = Duration::from_secs(10);
    case
}

/// Good and all requests that were to be sent from `from` to `until`.
fn between(ran: &Ran, from: u32, until: u32) -> (f64, f64) {
    let (from, until) = (Duration::from_secs(from.into()), Duration::from_secs(until.into()));
    let within = |at: Duration| from <= at && at < until;
    let all = ran.count(|it| within(it.scheduled.elapsed()));
    (ran.count(|it| it.slo.good && within(it.scheduled.elapsed())), all)
}

fn burst(case: &Case, seeds: u64) {
    let knee = at_knee(case, seeds).iter().map(|it| it.0).sum::<f64>() / seeds as f64;
    // A series is scaled so that its peak is the rate.
    let runs = bursting(case).runs(AdmissionConfig::default(), HIGH, seeds);
    let (begins, ends, over) = BURST;
    let within = mean(&runs, |it| between(it, begins, ends).0 / f64::from(ends - begins));
    let line = |what: &str, figure, bar| put("burst", &case.name, what, figure, bar);
    line("goodput in 30 s at 3 x, % of the knee's", 100.0 * within / knee, Bar::Least(95.0));
    // Conversations that begin in the burst go on after it.
    let offered = mean(&runs, |it| between(it, ends, over).1 / f64::from(over - ends));
    line("  asked for after it, times the knee", offered / case.knee, Bar::None);
    let back_s = |ran: &Ran| {
        let starts = (ends..over).step_by(WINDOW_S as usize);
        let bad = starts.filter(|from| {
            let (good, all) = between(ran, *from, from + WINDOW_S);
            good < 0.95 * all
        });
        bad.max().map_or(0.0, |from| f64::from(from + WINDOW_S - ends))
    };
    let worst = runs.iter().map(back_s).fold(0.0, f64::max);
    line("s after it until every 5 s have 95 % good, worst seed", worst, Bar::Most(15.0));
    // Where more is asked for than the knee, no more than the knee's goodput can be had for sure.
    let short_s = |ran: &Ran| {
        let starts = (ends..over).step_by(WINDOW_S as usize);
        let short = starts.filter(|from| {
            let (good, all) = between(ran, *from, from + WINDOW_S);
            good < 0.95 * all.min(knee * f64::from(WINDOW_S))
        });
        short.max().map_or(0.0, |from| f64::from(from + WINDOW_S - ends))
    };
    let worst = runs.iter().map(short_s).fold(0.0, f64::max);
    line(
        "  s after it until every 5 s have 95 % of the knee's goodput, or of what is asked",
        worst,
        Bar::Most(15.0),
    );
    let after = mean(&runs, |it| between(it, ends, over).0 / f64::from(over - ends));
    line("  goodput after it, % of the knee's", 100.0 * after / knee, Bar::None);
}

fn steady(case: &Case, seeds: u64) {
    let case = case.clone().lasting(Duration::from_secs(330));
    let mut case = case;
    case.scenario.load.warm_up = Duration::from_secs(30);
    let runs = case.runs(AdmissionConfig::default(), 1.2, seeds.min(2));
    let rates = |ran: &Ran| -> Vec<f64> {
        let starts = (30..330_u32).step_by(STEADY_WINDOW_S as usize);
        starts.map(|from| between(ran, from, from + STEADY_WINDOW_S).0).collect()
    };
    let mut lowest = f64::INFINITY;
    let mut spread: f64 = 0.0;
    for ran in &runs {
        let rates = rates(ran);
        let n = rates.len() as f64;
        let mean = rates.iter().sum::<f64>() / n;
        let variance = rates.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / n;
        lowest = lowest.min(rates.iter().copied().fold(f64::INFINITY, f64::min) / mean);
        spread = spread.max(variance.sqrt() / mean);
    }
    let line = |what: &str, figure, bar| put("steady", &case.name, what, figure, bar);
    line("5 min at 1.2 x: worst 10 s, % of the mean goodput", 100.0 * lowest, Bar::Least(85.0));
    line("  deviation of 10 s, % of the mean", 100.0 * spread, Bar::None);
    line("  refused, %", mean(&runs, |it| it.refused_share()), Bar::None);
}

pub(crate) fn retry_after(terms: &Terms) {
    for case in case::synthetic(terms) {
        let mut case = case;
        case.follow = Some(2);
        for times in [1.2, 1.4, 2.0] {
            let mut runs = case.runs(AdmissionConfig::default(), times, terms.seeds);
            let followed: usize = runs.iter().map(|it| it.refusals.len()).sum();
            if followed < FOLLOWED_MIN {
                // Of a few, the median says nothing.
                let longer = case.clone().lasting(terms.duration * LONGER);
                runs = longer.runs(AdmissionConfig::default(), times, terms.seeds);
            }
            told(&case, &runs, &format!("at {times} x"));
        }
        let runs = bursting(&case).runs(AdmissionConfig::default(), HIGH, terms.seeds);
        told(&case, &runs, "in a burst of 30 s");
    }
}

/// Compares what those who were turned away were told with when there was room for them.
fn told(case: &Case, runs: &[Ran], when: &str) {
    let followed = || runs.iter().flat_map(|it| &it.refusals);
    if followed().next().is_none() {
        return say("retry-after", &case.name, when, "nobody was turned away");
    }
    let pairs =
        || followed().filter_map(|it| Some((it.told.as_secs_f64(), it.free_after?.as_secs_f64())));
    let mut off: Vec<f64> = pairs().map(|(told, free)| (told / free).ln().abs()).collect();
    let mut ratio: Vec<f64> = pairs().map(|(told, free)| told / free).collect();
    let mut free: Vec<f64> = pairs().map(|it| it.1).collect();
    let never = 100.0 * (1.0 - off.len() as f64 / (followed().count() as f64).max(1.0));
    let line = |what: &str, figure, bar| {
        put("retry-after", &case.name, &format!("{what} {when}"), figure, bar);
    };
    let middle = quantile_of(&mut ratio, 0.5);
    line(
        "told / until there was room, median, the greater way round",
        middle.max(1.0 / middle),
        Bar::Most(2.0),
    );
    line("  told / until there was room, median", middle, Bar::None);
    line("  median factor between the two", quantile_of(&mut off, 0.5).exp(), Bar::None);
    line("  s until there was room, median", quantile_of(&mut free, 0.5), Bar::None);
    line("  never room, %", never, Bar::None);
    line("  refusals that were followed", followed().count() as f64, Bar::None);
}
