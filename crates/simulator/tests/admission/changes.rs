//! Load that changes, load that stays too high, and what those who are turned away are told.

use std::time::Duration;

use policy::admission::AdmissionMode;

use crate::ran::{Ran, SINGLE_PROMPTS, quantile_of, run};

/// Good and all requests that were to be sent from `from_s` to `until_s`.
fn between(ran: &Ran, from_s: u64, until_s: u64) -> (f64, f64) {
    let (from, until) = (Duration::from_secs(from_s), Duration::from_secs(until_s));
    let within = |at: Duration| from <= at && at < until;
    let all = ran.count(|it| within(it.scheduled.elapsed()));
    (ran.count(|it| it.slo.good && within(it.scheduled.elapsed())), all)
}

const PLAIN: &str = "load: { rates_per_s: [30], duration: 30s, warm_up: 10s }\n";

/// Three times the knee for half a minute.
const BURST: &str = "load: { rates_per_s: [90], duration: 75s, warm_up: 10s, series: [
  { at: 0s, rate_per_s: 0.7 }, { at: 20s, rate_per_s: 0.7 }, { at: 20s, rate_per_s: 3 },
  { at: 50s, rate_per_s: 3 }, { at: 50s, rate_per_s: 0.7 } ] }
";

#[test]
fn a_burst_is_over_when_it_ends() {
    let scenario = SINGLE_PROMPTS.replace(PLAIN, BURST);
    let ran = run(&scenario, "", AdmissionMode::Knee, 90.0);
    let (good, all) = between(&ran, 65, 75);
    assert!(0.95 * all <= good, "{good} of {all} from 15 s after the burst on");
    // Thirty a second are what the fleet can take.
    let (good, _) = between(&ran, 25, 50);
    assert!(0.95 * 30.0 * 25.0 <= good, "{good} good in 25 s of the burst");
}

/// Five minutes at 1.2 times the knee: no ten seconds lack more than chance has them lack, and what they lack says
/// nothing of the next ones. What swings back and forth has a correlation near -1 from one to the next, or near 1
/// where it takes longer.
#[test]
fn load_that_stays_above_the_knee_is_served_evenly() {
    let longer = SINGLE_PROMPTS.replace("duration: 30s", "duration: 310s");
    let ran = run(&longer, "", AdmissionMode::Knee, 1.2 * 30.0);
    let windows = (10..310_u64).step_by(10).map(|from| between(&ran, from, from + 10).0);
    let windows: Vec<f64> = windows.collect();
    let mean = windows.iter().sum::<f64>() / windows.len() as f64;
    let worst = windows.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(0.85 * mean <= worst, "{worst} of {mean}: {windows:?}");
    assert!(0.98 * 300.0 <= mean, "{mean} good in ten seconds, 300 at the knee");
    let off: Vec<f64> = windows.iter().map(|it| it - mean).collect();
    let variance: f64 = off.iter().map(|it| it * it).sum();
    let together: f64 = off.windows(2).map(|it| it[0] * it[1]).sum();
    let correlation = together / variance;
    assert!((-0.5..0.5).contains(&correlation), "{correlation}: {windows:?}");
}

#[track_caller]
fn told_within_a_factor_of_two(ran: &Ran) {
    let pairs = ran.refusals.iter().filter_map(|it| Some((it.told, it.free_after?)));
    let ratio: Vec<f64> =
        pairs.map(|(told, free)| told.as_secs_f64() / free.as_secs_f64()).collect();
    assert!(ratio.len() > 20, "{} refusals were followed", ratio.len());
    let middle = quantile_of(ratio, 0.5);
    assert!((0.5..=2.0).contains(&middle), "told {middle} times the time until there was room");
}

#[test]
fn those_who_are_turned_away_are_told_when_there_is_room() {
    told_within_a_factor_of_two(&run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 42.0));
}

#[test]
fn those_who_are_turned_away_in_a_burst_are_told_when_there_is_room() {
    let scenario = SINGLE_PROMPTS.replace(PLAIN, BURST);
    told_within_a_factor_of_two(&run(&scenario, "", AdmissionMode::Knee, 90.0));
}
