//! The shape of what admission does: where it holds the fleet, what it costs below the knee, and who
//! is turned away.
//!
//! Small fleets and short runs, so that it can be watched with every change; how much each mode serves
//! on the whole workloads is measured by `the example `admission``.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::time::Duration;

use engine::Profile;
use policy::admission::AdmissionMode;
use report::{Ending, RequestRecord};
use simulator::Scenario;

const SINGLE_PROMPTS: &str = "
name: single-prompts
about: prompts that share nothing, on two replicas
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  independent: { prompt_tokens: { min: 200, max: 3000 }, answer_tokens: { min: 50, max: 150 } }
load: { rates_per_s: [30], duration: 30s, warm_up: 10s }
slo: { ttft: 2s, tpot: 50ms }
";

const TEXTBOOK: &str = "
name: textbook
fleet:
  replicas: 1
  station: { servers: 1, service: { kind: exponential, mean: 2ms } }
policy: { strategy: least-request }
workload: { independent: {} }
load: { rates_per_s: [560], duration: 20s }
slo: { e2e: 200ms }
";

/// The records of a run of `scenario` with `changes` at `rate`, those of its warm-up left out.
fn run(scenario: &str, changes: &str, mode: AdmissionMode, rate_per_s: f64) -> Vec<RequestRecord> {
    let mut scenario: Scenario = serde_yaml::from_str(&format!("{scenario}{changes}")).unwrap();
    scenario.load.rates_per_s = vec![rate_per_s];
    assert_eq!(scenario.problems(), Vec::<String>::new());
    let (_, load) = scenario.loads(1).into_iter().next().unwrap();
    let planned = scenario.plan(&load, |_| unreachable!()).unwrap();
    let profile = Profile::named(&scenario.fleet.profile).unwrap();
    let setup = scenario.setup(scenario.policy.strategy, mode, 1, profile);
    let records = simulator::run(&setup, planned.arrivals).unwrap().records;
    let is_warm = |it: &RequestRecord| setup.warm_up <= it.scheduled.elapsed();
    records.into_iter().filter(is_warm).collect()
}

fn count(records: &[RequestRecord], what: impl Fn(&RequestRecord) -> bool) -> f64 {
    records.iter().filter(|it| what(it)).count() as f64
}

fn good(records: &[RequestRecord]) -> f64 {
    count(records, |it| it.slo.good)
}

fn rejected(records: &[RequestRecord]) -> f64 {
    count(records, |it| it.ending == Ending::Rejected)
}

#[test]
fn goodput_beyond_the_knee_is_that_of_the_knee() {
    let at = |mode, rate| good(&run(SINGLE_PROMPTS, "", mode, rate));
    let knee = at(AdmissionMode::Off, 30.0);
    for rate in [50.0, 80.0] {
        let (off, held) = (at(AdmissionMode::Off, rate), at(AdmissionMode::Knee, rate));
        assert!(knee * 0.95 <= held, "{held} at {rate}/s, {knee} at the knee");
        assert!(off < knee * 0.5, "{off} at {rate}/s without admission, {knee} at the knee");
    }
}

#[test]
fn what_is_let_in_is_served_as_promised() {
    let records = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 80.0);
    let let_in = records.len() as f64 - rejected(&records);
    assert!(let_in * 0.97 <= good(&records), "{} of {let_in}", good(&records));
    assert!(
        records.iter().all(|it| it.ending != Ending::Failed),
        "nothing that began was given up"
    );
}

#[test]
fn below_the_knee_nobody_is_turned_away() {
    let records = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 22.0);
    assert!(rejected(&records) < 0.01 * records.len() as f64, "{}", rejected(&records));
}

#[test]
fn the_time_to_first_token_alone_does_not_find_the_knee() {
    let changes = "signals: { scrape_interval: null }\n";
    let with = |mode| good(&run(SINGLE_PROMPTS, changes, mode, 80.0));
    let (ttft_only, knee) = (with(AdmissionMode::TtftOnly), with(AdmissionMode::Knee));
    assert!(ttft_only < knee * 0.5, "{ttft_only} against {knee}");
}

#[test]
fn a_server_of_which_nothing_is_known_is_held_by_count() {
    let good_per_s = |mode, rate| good(&run(TEXTBOOK, "", mode, rate)) / 20.0;
    for rate in [560.0, 1_000.0] {
        let held = good_per_s(AdmissionMode::Knee, rate);
        assert!(0.95 * 500.0 <= held, "{held} good requests a second at {rate}/s");
    }
    assert!(good_per_s(AdmissionMode::Off, 560.0) < 250.0);
}

#[test]
fn clients_that_come_again_do_not_crowd_out_those_who_come_first() {
    let storm = "comes_again: 3\n";
    let once = good(&run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 60.0));
    let records = run(SINGLE_PROMPTS, storm, AdmissionMode::Knee, 60.0);
    assert!(once * 0.9 <= good(&records), "{} against {once}", good(&records));
    let attempts: u32 = records.iter().filter_map(|it| it.attempts).sum();
    assert!(f64::from(attempts) <= 1.2 * records.len() as f64, "{attempts}");
}

const TWO_TENANTS: &str = "
name: two-tenants
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { max_num_batched_tokens: 2048 } }
policy: { strategy: least-latency }
workload:
  support-chat:
    tenants: 2
    tenant_skew: SKEW
    prefix_tokens: 500
    turns: 1
    question_tokens: { min: 200, max: 3000 }
    answer_tokens: { min: 50, max: 150 }
load: { rates_per_s: [30], duration: 40s, warm_up: 15s }
slo: { ttft: 2s, tpot: 50ms }
";

#[test]
fn a_tenant_that_floods_the_fleet_leaves_the_others_their_share() {
    // Ten requests of the first for one of the second.
    let flood = TWO_TENANTS.replace("SKEW", "3.32");
    let records = run(&flood, "", AdmissionMode::Knee, 120.0);
    let of = |tenant: u32, what: fn(&RequestRecord) -> bool| {
        count(&records, |it| it.tenant == Some(tenant) && what(it))
    };
    let share = |tenant| of(tenant, |it| it.slo.good) / of(tenant, |_| true);
    assert!(0.9 <= share(1), "{}", share(1));
    assert!(share(0) < 0.6, "{}", share(0));
}

#[test]
fn work_for_later_fills_what_the_urgent_leave_and_is_not_starved() {
    let ranks = "ranks:
  0: { priority: batch, slo: { completion: 20s } }
  1: { priority: interactive }
";
    let flood = TWO_TENANTS.replace("SKEW", "2");
    let records = run(&flood, ranks, AdmissionMode::Knee, 60.0);
    let of = |tenant: u32| -> Vec<RequestRecord> {
        records.iter().filter(|it| it.tenant == Some(tenant)).cloned().collect()
    };
    let (batch, urgent) = (of(0), of(1));
    assert!(0.95 * urgent.len() as f64 <= good(&urgent), "{} of {}", good(&urgent), urgent.len());
    assert!(0.3 * batch.len() as f64 <= good(&batch), "{} of {}", good(&batch), batch.len());
}

#[test]
fn the_same_run_twice_is_the_same() {
    let once = || run(SINGLE_PROMPTS, "comes_again: 2\n", AdmissionMode::Knee, 60.0);
    assert_eq!(once(), once());
}

#[test]
fn waiting_at_the_router_is_bounded_by_the_promise() {
    let records = run(SINGLE_PROMPTS, "", AdmissionMode::Knee, 60.0);
    let longest = records
        .iter()
        .filter(|it| it.ending == Ending::Rejected)
        .map(|it| it.ended.since(it.scheduled))
        .max();
    assert!(longest.unwrap() <= Duration::from_millis(1_001), "{longest:?}");
}
