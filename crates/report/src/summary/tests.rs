//! The contract's definitions, on runs small enough to work out by hand.

use types::{quantity::Tokens, slo::Slo};

use super::*;
use crate::{cost::Prices, goodput::Terms};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(millis))
}

/// A judged record: TTFT as given, ten tokens at 100 ms after the first, TTFT target 500 ms.
pub(crate) fn answered(scheduled_ms: u64, ttft_ms: u64, cached: Option<u32>) -> RequestRecord {
    let mut record = RequestRecord {
        session: Some(scheduled_ms / 4_000),
        scheduled: at(scheduled_ms),
        sent: Some(at(scheduled_ms + 1)),
        first_token: Some(at(scheduled_ms + ttft_ms)),
        last_token: Some(at(scheduled_ms + ttft_ms + 900)),
        ended: at(scheduled_ms + ttft_ms + 900),
        input_tokens: Tokens(100),
        output_tokens: Tokens(10),
        cached_tokens: cached.map(Tokens),
        ending: Ending::Completed,
        ..RequestRecord::default()
    };
    let slo = Slo { ttft: Some(Duration::from_millis(500)), ..Slo::default() };
    record.slo = Terms { slo, retries_max: None }.judge(&record);
    record
}

pub(crate) fn ended(scheduled_ms: u64, ending: Ending) -> RequestRecord {
    RequestRecord {
        scheduled: at(scheduled_ms),
        ended: at(scheduled_ms + 60_000),
        ending,
        ..RequestRecord::default()
    }
}

pub(crate) fn info() -> RunInfo {
    RunInfo {
        workload: "support-chat".to_owned(),
        policy: "least-latency".to_owned(),
        admission: "off".to_owned(),
        seed: 1,
        scheduled_for: Some(Duration::from_secs(8)),
        warm_up: Duration::ZERO,
        costs: Some(Costs {
            prices: Prices { replica_hour: 3.6, ..Prices::default() },
            replicas: 2,
        }),
        workload_class: None,
        ..RunInfo::default()
    }
}

pub(crate) fn run(records: &[RequestRecord]) -> Run {
    let mut gaps = Histogram::new();
    gaps.record(Duration::from_millis(100));
    Run::measure(&info(), records, &gaps)
}

/// Two good answers, one late one that ends at 10 s, a refusal and a failure.
pub(crate) fn records() -> Vec<RequestRecord> {
    vec![
        answered(1_000, 200, Some(80)),
        answered(2_000, 300, Some(40)),
        answered(7_000, 2_100, None),
        ended(5_000, Ending::Rejected),
        ended(6_000, Ending::Failed),
    ]
}

#[track_caller]
fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
}

#[test]
fn the_warm_up_does_not_count() {
    let info = RunInfo { warm_up: Duration::from_secs(2), ..info() };
    let run = Run::measure(&info, &records(), &Histogram::new());
    near(run.window_s, 6.0);
    assert_eq!((run.requests, run.completed, run.good), (4, 2, 1));
}

#[test]
fn every_definition_of_the_contract_holds() {
    let run = run(&records());
    near(run.window_s, 8.0);
    near(run.drain_s, 2.0);
    assert_eq!((run.requests, run.completed, run.good), (5, 3, 2));
    assert_eq!((run.rejected, run.failed), (1, 1));
    near(run.offered_rps, 5.0 / 8.0);
    near(run.request_throughput, 3.0 / 8.0);
    near(run.request_goodput, 2.0 / 8.0);
    near(run.good_request_fraction.unwrap(), 0.4);
    near(run.good_session_fraction.unwrap(), 0.5);
    near(run.session_goodput, 1.0 / 8.0);
    assert_eq!((run.retries, run.input_tokens, run.output_tokens), (0, 300, 30));
    near(run.output_token_throughput, 30.0 / 8.0);
    near(run.output_token_goodput, 20.0 / 8.0);
    near(run.cache_hit_rate.unwrap(), 0.6);
    near(run.cost_per_accepted.unwrap(), 0.01);
    near(run.ttft_ms.unwrap().p50, 300.0);
    near(run.tpot_ms.unwrap().max, 100.0);
    near(run.e2e_ms.unwrap().max, 3_000.0);
    near(run.generator_lag_ms.unwrap().max, 1.0);
}

#[test]
fn a_client_that_hangs_up_on_purpose_makes_nothing_worse() {
    let records = [answered(0, 100, None), answered(1_000, 100, None)];
    let cancelled = RequestRecord { session: Some(0), ..ended(2_000, Ending::Cancelled) };
    let with = run(&[records[0].clone(), records[1].clone(), cancelled]);
    let without = run(&records);
    assert_eq!((with.cancelled, with.failed, with.requests), (1, 0, 3));
    assert_eq!(with.good_request_fraction, without.good_request_fraction);
    assert_eq!(with.good_session_fraction, without.good_session_fraction);
}

#[test]
fn a_straggler_moves_the_drain_and_nothing_else() {
    let (mut straggling, run_before) = (records(), run(&records()));
    straggling[1].last_token = Some(at(90_000));
    let run = run(&straggling);
    near(run.drain_s, 82.0);
    near(run.request_goodput, run_before.request_goodput);
    near(run.output_token_throughput, run_before.output_token_throughput);
}

#[test]
fn a_request_that_hangs_until_its_deadline_is_no_drain() {
    near(run(&[answered(1_000, 200, None), ended(2_000, Ending::Failed)]).drain_s, 0.0);
}

#[test]
fn without_a_length_the_schedule_ends_a_mean_gap_after_its_last_request() {
    let window = |records: &[RequestRecord]| {
        let run = Run::measure(&RunInfo::default(), records, &Histogram::new());
        (run.window_s, run.drain_s)
    };
    let (one, two) = (answered(1_000, 200, None), answered(3_000, 200, None));
    let (length, drain) = window(&[one.clone(), two]);
    near(length, 4.0);
    near(drain, 0.0);
    near(window(&[one]).0, 1.1);
}

#[test]
fn without_a_length_the_rate_offered_is_the_schedules() {
    for (count, gap_ms) in [(2_u64, 9_u64), (3, 1_429), (40, 250)] {
        let records: Vec<RequestRecord> =
            (1..=count).map(|it| answered(it * gap_ms, 100, None)).collect();
        let run = Run::measure(&RunInfo::default(), &records, &Histogram::new());
        let rate = 1_000.0 / gap_ms as f64;
        assert!((run.offered_rps / rate - 1.0).abs() < 1e-6, "{} is not {rate}", run.offered_rps);
        near(run.offered_rps, run.request_throughput);
    }
}

/// A fleet that finishes at most ten answers a second, each three seconds after its turn came, asked
/// `rate` times a second for `seconds`.
fn of_ten_a_second(rate: u64, seconds: u64) -> Vec<RequestRecord> {
    let answer = |number: u64| {
        let scheduled_ms = number * 1_000 / rate;
        let turn_ms = scheduled_ms.max(number * 100);
        answered(scheduled_ms, turn_ms - scheduled_ms + 2_100, None)
    };
    (0..rate * seconds).map(answer).collect()
}

#[test]
fn a_fleet_sustains_what_comes_within_the_window_and_all_that_is_good() {
    let served = |rate: u64, warm_up_s: u64| {
        let info = RunInfo {
            scheduled_for: Some(Duration::from_secs(20)),
            warm_up: Duration::from_secs(warm_up_s),
            ..info()
        };
        let mut records = of_ten_a_second(rate, 20);
        let slo = Slo { ttft: Some(Duration::from_millis(2_500)), ..Slo::default() };
        for record in &mut records {
            record.slo = Terms { slo, retries_max: None }.judge(record);
        }
        let run = Run::measure(&info, &records, &Histogram::new());
        assert!(run.served_rps >= run.request_goodput, "{rate}/s: {run:?}");
        run.served_rps
    };
    for warm_up_s in [0, 5] {
        // Three seconds of twenty: a fleet that keeps up is not taken for one that does not.
        assert!((served(8, warm_up_s) / 8.0 - 1.0).abs() < 0.02, "{}", served(8, warm_up_s));
        for rate in [20, 40] {
            let served = served(rate, warm_up_s);
            assert!((served / 10.0 - 1.0).abs() < 0.02, "{served} of {rate}, {warm_up_s} s");
        }
    }
}

#[test]
fn a_run_of_nothing_has_no_statistics() {
    let run = run(&[]);
    assert_eq!((run.ttft_ms, run.good_request_fraction), (None, None));
    assert_eq!((run.cost_per_accepted, run.cache_hit_rate), (None, None));
    near(run.request_throughput, 0.0);
}

#[test]
fn what_is_to_be_known_before_the_figures_is_in_the_files() {
    let doubts = vec!["THE LOAD GENERATOR FELL BEHIND".to_owned()];
    let caveats = Caveats { stopped: true, unsent: 14, doubts };
    let info = RunInfo { caveats, records: Some(5), ..info() };
    let run = Run::measure(&info, &records(), &Histogram::new());
    assert_eq!(run.caveats.told().len(), 2, "{:?}", run.caveats.told());
    let json = serde_json::to_value(&run).unwrap();
    assert_eq!((&json["unsent"], &json["stopped"]), (&14.into(), &true.into()));
    assert!(json["doubts"][0].as_str().unwrap().contains("FELL BEHIND"), "{json:#}");
    assert_eq!(serde_json::from_value::<Run>(json).unwrap(), run);
    let info_again = serde_json::from_value(serde_json::to_value(&info).unwrap());
    assert_eq!(info_again.ok(), Some(info));
    // What was written before anybody asked has nothing to say.
    assert_eq!(serde_json::from_str::<RunInfo>("{}").unwrap().caveats, Caveats::default());
}

#[test]
fn summary_json_has_the_contracts_keys() {
    let json = serde_json::to_value(Summary::new(vec![run(&records())])).unwrap();
    assert_eq!(json["schema"], "sluice.summary/1");
    let run = json["runs"][0].as_object().unwrap();
    for key in "policy admission seed offered_rps request_throughput request_goodput \
        good_request_fraction output_token_throughput output_token_goodput cache_hit_rate rejected \
        failed cost_per_accepted generator_lag_ms"
        .split_whitespace()
    {
        assert!(run.contains_key(key), "{key} is missing");
    }
    for key in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"] {
        for part in ["mean", "p50", "p90", "p95", "p99", "max"] {
            assert!(run[key][part].is_f64(), "{key}.{part} is missing");
        }
    }
}
