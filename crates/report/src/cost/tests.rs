//! Costs worked out by hand.

use std::time::Duration;

use proptest::prelude::*;
use types::{quantity::Tokens, time::Timestamp};

use super::*;
use crate::record::Verdicts;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_secs(seconds))
}

/// A turn that takes thirty seconds.
fn turn(session: u64, number: u32, good: bool) -> RequestRecord {
    let from = u64::from(number) * 60;
    RequestRecord {
        session: Some(session),
        turn: number,
        scheduled: at(from),
        last_token: Some(at(from + 30)),
        ended: at(from + 30),
        input_tokens: Tokens(1_000),
        cached_tokens: Some(Tokens(400)),
        output_tokens: Tokens(100),
        ending: Ending::Completed,
        slo: Verdicts { good, ..Verdicts::default() },
        ..RequestRecord::default()
    }
}

#[track_caller]
fn near(actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
}

#[test]
fn every_class_counts_results_of_its_own_kind() {
    // Two sessions of two turns, one of which has a bad turn, and one request of no session.
    let mut records = [(1, 0, true), (1, 1, true), (2, 0, true), (2, 1, false), (3, 0, true)]
        .map(|(session, number, good)| turn(session, number, good));
    records[4].session = None;
    let records: Vec<&RequestRecord> = records.iter().collect();
    let accepted = |class| by_class(&records, Some(class), None)[0].accepted;
    near(accepted(WorkloadClass::Rag), 4.0);
    near(accepted(WorkloadClass::Extraction), 4.0);
    near(accepted(WorkloadClass::Batch), 4.0);
    near(accepted(WorkloadClass::Conversational), 2.0);
    near(accepted(WorkloadClass::Agentic), 2.0);
    // A call of 90 seconds, and one of 30.
    near(accepted(WorkloadClass::Voice), 2.0);
}

#[test]
fn conversations_that_were_cut_off_are_no_results_and_cost_none() {
    let of_three = |it: RequestRecord| RequestRecord { turns: Some(3), ..it };
    let whole = [0, 1, 2].map(|it| of_three(turn(1, it, true)));
    let cut_off = [of_three(turn(2, 0, true)), of_three(turn(2, 1, true))];
    let prices = Prices { request: 0.01, ..Prices::default() };
    let costs = Costs { prices, replicas: 1 };
    let cost = |records: &[RequestRecord], class| {
        let all = costs.of(records.iter(), 10.0);
        by_class(&records.iter().collect::<Vec<_>>(), Some(class), Some((&costs, &all)))[0]
    };
    for class in [WorkloadClass::Conversational, WorkloadClass::Agentic] {
        let of_whole = cost(&whole, class);
        let of_both = cost(&[&whole[..], &cut_off].concat(), class);
        near(of_whole.accepted, 1.0);
        near(of_both.accepted, 1.0);
        assert_eq!((of_whole.unfinished, of_both.unfinished), (0, 1));
        near(of_both.cost_per_accepted.unwrap(), of_whole.cost_per_accepted.unwrap());
        near(of_both.cost.unwrap(), 0.05);
    }
    near(cost(&cut_off, WorkloadClass::Voice).accepted, 0.0);
    near(cost(&cut_off, WorkloadClass::Rag).accepted, 2.0);
}

#[test]
fn a_client_that_hangs_up_spoils_no_conversation() {
    let mut records = [turn(1, 0, true), turn(1, 1, false), turn(2, 0, false)];
    records[1].ending = Ending::Cancelled;
    records[2].ending = Ending::Cancelled;
    let records: Vec<&RequestRecord> = records.iter().collect();
    near(by_class(&records, Some(WorkloadClass::Conversational), None)[0].accepted, 1.0);
}

#[test]
fn everything_that_is_paid_is_counted_once() {
    let prices = Prices {
        replica_hour: 3.6,
        other_hour: 1.8,
        request: 0.01,
        input_mtok: 10.0,
        cached_mtok: 1.0,
        output_mtok: 20.0,
        rework: 0.5,
        ..Prices::default()
    };
    let costs = Costs { prices, replicas: 2 };
    let refused = RequestRecord {
        input_tokens: Tokens(1_000),
        ending: Ending::Rejected,
        ..RequestRecord::default()
    };
    let retried = RequestRecord { attempts: Some(3), ..turn(1, 0, true) };
    let all = [turn(1, 0, false), retried, refused];
    let it = costs.of(all.iter(), 100.0);
    near(it.fleet, 0.2);
    near(it.other, 0.05);
    near(it.calls, 0.02);
    near(it.refusals, 0.01);
    // 600 tokens at 10, 400 at 1 and 100 at 20 a million, twice.
    let prompt = 0.006 + 0.000_4;
    near(it.tokens, 2.0 * (prompt + 0.002));
    near(it.retries, 2.0 * (0.01 + prompt));
    near(it.rework, 0.5);
    near(
        it.total,
        it.fleet + it.other + it.calls + it.tokens + it.retries + it.refusals + it.rework,
    );
}

#[test]
fn negative_prices_are_refused_by_name() {
    let prices = Prices { rework: -1.0, request: f64::NAN, ..Prices::default() };
    let problems = prices.problems().join("; ");
    assert!(problems.contains("rework: ") && problems.contains("request: "), "{problems}");
    assert!(Prices::default().problems().is_empty());
}

proptest! {
    /// Classes divide what was paid: nothing is lost and nothing is paid twice.
    #[test]
    fn the_classes_costs_add_up(classes in prop::collection::vec((0..6_usize, 0..9_u32, any::<bool>()), 1..40)) {
        let records: Vec<RequestRecord> = classes
            .iter()
            .map(|(class, number, good)| RequestRecord {
                workload_class: Some(WorkloadClass::ALL[*class]),
                attempts: Some(*number),
                ..turn(u64::from(*number), *number, *good)
            })
            .collect();
        let prices =
            Prices { replica_hour: 2.0, request: 0.1, output_mtok: 9.0, rework: 0.2, ..Prices::default() };
        let costs = Costs { prices, replicas: 3 };
        let total = costs.of(records.iter(), 50.0);
        let records: Vec<&RequestRecord> = records.iter().collect();
        let sum: f64 =
            by_class(&records, None, Some((&costs, &total))).iter().filter_map(|it| it.cost).sum();
        prop_assert!((sum - total.total).abs() < 1e-9, "{sum} is not {}", total.total);
    }
}
