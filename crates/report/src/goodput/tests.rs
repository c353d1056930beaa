//! Each promise by itself, and the worked examples of what goodput means.

use std::time::Duration;

use types::{quantity::Tokens, time::Timestamp};

use super::*;
use crate::{
    Histogram, Run, RunInfo,
    cost::{Costs, Prices},
    record::Gaps,
};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(millis))
}

const fn millis(millis: u64) -> Option<Duration> {
    Some(Duration::from_millis(millis))
}

/// TTFT 500 ms, TPOT 50 ms, gaps of 30 to 110 ms and 90 ms at the 95th percentile, E2E 1 s.
fn completed() -> RequestRecord {
    RequestRecord {
        first_token: Some(at(500)),
        last_token: Some(at(1_000)),
        output_tokens: Tokens(11),
        itl: Some(Gaps { mean_ms: 50.0, min_ms: 30.0, p95_ms: 90.0, max_ms: 110.0 }),
        ending: Ending::Completed,
        ..RequestRecord::default()
    }
}

fn terms(slo: Slo) -> Terms {
    Terms { slo, retries_max: None }
}

#[test]
fn every_bound_that_is_set_must_hold() {
    let none = Slo::default();
    let exact = Slo {
        ttft: millis(500),
        tpot: millis(50),
        itl_p95: millis(90),
        jitter: millis(80),
        e2e: millis(1_000),
        completion: None,
    };
    let good = |slo: Slo| terms(slo).judge(&completed()).good;
    assert!(good(none) && good(exact));
    for broken in [
        Slo { ttft: millis(499), ..none },
        Slo { tpot: millis(49), ..none },
        Slo { itl_p95: millis(89), ..none },
        Slo { jitter: millis(79), ..none },
        Slo { e2e: millis(999), ..none },
        Slo { completion: millis(999), ..none },
    ] {
        assert!(!good(broken), "{broken:?}");
    }
}

#[test]
fn only_bounds_that_are_set_have_a_verdict() {
    let verdicts = terms(Slo { ttft: millis(499), ..Slo::default() }).judge(&completed());
    let expected = Verdicts { ttft: Some(false), ..Verdicts::default() };
    assert_eq!(verdicts, expected);
}

#[test]
fn a_batch_is_held_to_its_window_and_to_no_interactive_bound() {
    let slo = Slo { ttft: millis(1), tpot: millis(1), completion: millis(1_000), ..Slo::default() };
    let verdicts = terms(slo).judge(&completed());
    assert!(verdicts.good);
    assert_eq!((verdicts.ttft, verdicts.completion), (None, Some(true)));
    let late = RequestRecord { last_token: Some(at(1_001)), ..completed() };
    assert!(!terms(slo).judge(&late).good);
}

#[test]
fn a_refusal_or_failure_is_never_good() {
    for ending in [Ending::Rejected, Ending::Failed] {
        let record = RequestRecord { ending, ..completed() };
        assert!(!Terms::default().judge(&record).good);
    }
}

#[test]
fn what_has_no_gap_keeps_the_promises_on_gaps() {
    let slo = Slo { tpot: millis(1), itl_p95: millis(1), jitter: millis(1), ..Slo::default() };
    let record = RequestRecord { output_tokens: Tokens(1), itl: None, ..completed() };
    assert!(terms(slo).judge(&record).good);
    let unfinished = RequestRecord { ending: Ending::Failed, ..record };
    assert_eq!(terms(slo).judge(&unfinished).jitter, Some(false));
}

#[test]
fn labels_and_retries_count() {
    let unacceptable = RequestRecord { accepted: Some(false), ..completed() };
    assert!(!Terms::default().judge(&unacceptable).good);
    let retried = RequestRecord { attempts: Some(3), ..completed() };
    assert!(Terms::default().judge(&retried).good);
    assert!(Terms { retries_max: Some(2), ..Terms::default() }.judge(&retried).good);
    assert!(!Terms { retries_max: Some(1), ..Terms::default() }.judge(&retried).good);
}

#[test]
fn every_class_has_terms_of_its_own() {
    let strict = terms(Slo { ttft: millis(100), ..Slo::default() });
    let batch = terms(Slo { completion: millis(60_000), ..Slo::default() });
    let classes = [("batch".to_owned(), batch)].into_iter().collect();
    let promises = Promises { default: strict, classes };
    let of_class =
        |class: Option<&str>| RequestRecord { slo_class: class.map(str::to_owned), ..completed() };
    let mut records = [of_class(None), of_class(Some("batch")), of_class(Some("unheard-of"))];
    promises.judge_all(&mut records);
    assert_eq!(records.map(|it| it.slo.good), [false, true, false]);
}

/// A hundred requests in ten seconds, `good` of which pass every gate, for `dollars` in all.
fn route(good: usize, dollars: f64) -> Run {
    let terms = terms(Slo { ttft: millis(500), ..Slo::default() });
    let records: Vec<RequestRecord> = (0..100_u64)
        .map(|number| {
            let scheduled = number * 100;
            // Those that fail do so in every way there is: late, unacceptable, failed, refused.
            let bad = usize::try_from(number).unwrap() >= good;
            let way = number % 4;
            let ttft = if bad && way == 0 { 501 } else { 400 };
            let mut record = RequestRecord {
                scheduled: at(scheduled),
                first_token: Some(at(scheduled + ttft)),
                last_token: Some(at(scheduled + ttft + 100)),
                accepted: (bad && way == 1).then_some(false),
                ending: match way {
                    2 if bad => Ending::Failed,
                    3 if bad => Ending::Rejected,
                    _ => Ending::Completed,
                },
                ..completed()
            };
            record.slo = terms.judge(&record);
            record
        })
        .collect();
    let prices = Prices { request: dollars / 100.0, ..Prices::default() };
    let info = RunInfo {
        scheduled_for: Some(Duration::from_secs(10)),
        costs: Some(Costs { prices, replicas: 0 }),
        ..RunInfo::default()
    };
    Run::measure(&info, &records, &Histogram::new())
}

#[test]
fn the_dearer_route_is_the_cheaper_one() {
    let (a, b) = (route(58, 1.10), route(85, 1.45));
    let near = |actual: f64, expected: f64, within: f64| {
        assert!((actual - expected).abs() < within, "{actual} is not {expected}");
    };
    near(a.request_goodput, 5.8, 1e-9);
    near(b.request_goodput, 8.5, 1e-9);
    near(a.good_request_fraction.unwrap(), 0.58, 1e-9);
    near(a.cost_per_accepted.unwrap(), 0.019, 0.000_5);
    near(b.cost_per_accepted.unwrap(), 0.017, 0.000_5);
    assert!(b.cost_per_accepted < a.cost_per_accepted);
}

#[test]
fn one_bad_turn_of_eight_spoils_the_session_and_no_other_turn() {
    let terms = terms(Slo { ttft: millis(500), ..Slo::default() });
    let turn = |session: u64, turn: u32, ttft: u64| {
        let scheduled = u64::from(turn) * 1_000;
        let mut record = RequestRecord {
            session: Some(session),
            turn,
            scheduled: at(scheduled),
            first_token: Some(at(scheduled + ttft)),
            last_token: Some(at(scheduled + ttft + 100)),
            ..completed()
        };
        record.slo = terms.judge(&record);
        record
    };
    let ttft = |number: u32| if number == 4 { 2_000 } else { 300 };
    let mut records: Vec<RequestRecord> = (0..8).map(|it| turn(1, it, ttft(it))).collect();
    records.extend((0..8).map(|it| turn(2, it, 300)));
    let info = RunInfo { scheduled_for: Some(Duration::from_secs(8)), ..RunInfo::default() };
    let run = Run::measure(&info, &records, &Histogram::new());
    assert_eq!((run.good, run.requests), (15, 16));
    let near = |actual: f64, expected: f64| {
        assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
    };
    near(run.request_goodput, 15.0 / 8.0);
    near(run.good_session_fraction.unwrap(), 0.5);
    near(run.session_goodput, 1.0 / 8.0);
    near(run.output_token_goodput, 15.0 * 11.0 / 8.0);
}
