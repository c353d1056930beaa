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

#[test]
fn a_burst_is_over_when_it_ends() {
    let load = "load: { rates_per_s: [90], duration: 75s, warm_up: 10s, series: [
  { at: 0s, rate_per_s: 0.7 }, { at: 20s, rate_per_s: 0.7 }, { at: 20s, rate_per_s: 3 },
  { at: 50s, rate_per_s: 3 }, { at: 50s, rate_per_s: 0.7 } ] }
";
    let plain = "load: { rates_per_s: [30], duration: 30s, warm_up: 10s }\n";
    let scenario = SINGLE_PROMPTS.replace(plain, load);
    let ran = run(&scenario, "", AdmissionMode::Knee, 90.0);
    let (good, all) = between(&ran, 65, 75);
    assert!(0.95 * all <= good, "{good} of {all} from 15 s after the burst on");
    // Thirty a second are what the fleet can take.
    let (good, _) = between(&ran, 25, 50);
    assert!(0.95 * 30.0 * 25.0 <= good, "{good} good in 25 s of the burst");
}

#[test]
fn load_that_stays_above_the_knee_is_served_evenly() {
    let longer = SINGLE_PROMPTS.replace("duration: 30s", "duration: 120s");
    let ran = run(&longer, "", AdmissionMode::Knee, 40.0);
    let windows = (10..120_u64).step_by(10).map(|from| between(&ran, from, from + 10).0);
    let windows: Vec<f64> = windows.collect();
    let mean = windows.iter().sum::<f64>() / windows.len() as f64;
    let worst = windows.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(0.8 * mean <= worst, "{windows:?}");
}

#[test]
fn those_who_are_turned_away_are_told_within_an_order_when_there_is_room() {
    let ran = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 50.0);
    let pairs = ran.refusals.iter().filter_map(|it| Some((it.told, it.free_after?)));
    let ratio: Vec<f64> =
        pairs.map(|(told, free)| told.as_secs_f64() / free.as_secs_f64()).collect();
    assert!(ratio.len() > 20, "{} refusals were followed", ratio.len());
    let middle = quantile_of(ratio, 0.5);
    // A factor of two is what the benchmark holds larger fleets to.
    assert!((0.1..=4.0).contains(&middle), "told {middle} times the time until there was room");
}
