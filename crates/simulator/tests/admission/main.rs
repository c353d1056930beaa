//! The shape of what admission does: where it holds the fleet, what it costs below the knee, and who
//! is turned away.
//!
//! Small fleets and short runs, so that it can be watched with every change; how much each mode serves
//! on the whole workloads is measured by the benchmark `admission`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod changes;
mod classes;
mod ran;
mod robust;
mod seats;
mod sizes;

use std::time::Duration;

use policy::admission::AdmissionMode;
use report::Ending;

use crate::ran::{Ran, SINGLE_PROMPTS, TEXTBOOK, arrivals, read, run, run_with};

#[test]
fn goodput_beyond_the_knee_is_that_of_the_knee() {
    let at = |mode, rate| run(SINGLE_PROMPTS, "", mode, rate).good();
    let knee = at(AdmissionMode::Off, 30.0);
    for rate in [50.0, 80.0] {
        let (off, held) = (at(AdmissionMode::Off, rate), at(AdmissionMode::Knee, rate));
        assert!(knee * 0.97 <= held, "{held} at {rate}/s, {knee} at the knee");
        assert!(off < knee * 0.5, "{off} at {rate}/s without admission, {knee} at the knee");
    }
}

#[test]
fn what_is_let_in_is_served_as_promised() {
    let ran = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 80.0);
    assert!(ran.let_in() * 0.97 <= ran.good(), "{} of {}", ran.good(), ran.let_in());
    let gave_up = ran.count(|it| it.ending == Ending::Failed);
    assert!(gave_up < 1.0, "{gave_up} of those that began were given up");
}

/// Conversations on two replicas, whose knee is near 27 a second.
const CHATS: &str = "
name: chats
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  support-chat:
    tenants: 4
    prefix_tokens: 1000
    turns: 8
    question_tokens: { min: 60, max: 300 }
    answer_tokens: { min: 100, max: 400 }
    think_time: { min: 3s, max: 8s }
load: { rates_per_s: [27], duration: 45s, warm_up: 15s }
slo: { ttft: 2s, tpot: 50ms }
";

#[test]
fn conversations_whose_caches_overflow_are_served_as_promised_or_turned_away() {
    let scenario = read(CHATS, "");
    let knee = run(CHATS, "", AdmissionMode::Off, 27.0).good();
    let (mut let_in, mut good) = (0.0, 0.0);
    // Hits are lost that were forecast, which only the pace of answers tells before they end.
    for (rate_per_s, seed) in [(40.0, 1), (40.0, 2), (54.0, 1), (54.0, 2)] {
        let arrivals = arrivals(&scenario, rate_per_s, seed);
        let ran = run_with(&scenario, AdmissionMode::Knee, arrivals);
        (let_in, good) = (let_in + ran.let_in(), good + ran.good());
        assert!(0.97 * knee <= ran.good(), "{} of {knee} at the knee", ran.good());
    }
    assert!(0.97 * let_in <= good, "{good} of {let_in}");
}

#[test]
fn below_the_knee_nobody_is_turned_away_and_nobody_waits() {
    let at = |mode| run(SINGLE_PROMPTS, "", mode, 25.0);
    let (held, off) = (at(AdmissionMode::Knee), at(AdmissionMode::Off));
    assert!(held.rejected() < 0.01 * held.all(), "{} of {}", held.rejected(), held.all());
    let p99 = |ran: &Ran| ran.ttft_ms(0.99, |_| true);
    assert!(p99(&held) <= 1.05 * p99(&off), "{} ms against {} ms", p99(&held), p99(&off));
}

#[test]
fn the_time_to_first_token_alone_does_not_find_the_knee() {
    let changes = "signals: { scrape_interval: null }\n";
    let with = |mode| run(SINGLE_PROMPTS, changes, mode, 80.0).good();
    let (ttft_only, knee) = (with(AdmissionMode::TtftOnly), with(AdmissionMode::Knee));
    assert!(ttft_only < knee * 0.5, "{ttft_only} against {knee}");
}

#[test]
fn a_server_of_which_nothing_is_known_is_held_as_well_as_by_the_best_number() {
    for rate in [560.0, 1_000.0] {
        let by_number = |most: u32| {
            let number = format!("admission: {{ in_flight_max: {most} }}\n");
            run(TEXTBOOK, &number, AdmissionMode::Static, rate).good()
        };
        let best = (30..=90).step_by(10).map(by_number).fold(0.0, f64::max);
        let held = run(TEXTBOOK, "", AdmissionMode::Knee, rate).good();
        assert!(0.98 * best <= held, "{held} good at {rate}/s, {best} by the best number");
        assert!(0.95 * 500.0 * 20.0 <= best, "{best} by the best number at {rate}/s");
    }
    let off = run(TEXTBOOK, "", AdmissionMode::Off, 560.0).good();
    assert!(off < 250.0 * 20.0, "{off}");
}

#[test]
fn the_same_run_twice_is_the_same() {
    let once = || run(SINGLE_PROMPTS, "comes_again: 2\n", AdmissionMode::Knee, 60.0).records;
    assert_eq!(once(), once());
}

#[test]
fn waiting_at_the_router_is_bounded_by_the_promise() {
    let ran = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 60.0);
    let rejected = ran.records.iter().filter(|it| it.ending == Ending::Rejected);
    let longest = rejected.map(|it| it.ended.since(it.scheduled)).max();
    assert!(longest.unwrap() <= Duration::from_millis(1_001), "{longest:?}");
}
