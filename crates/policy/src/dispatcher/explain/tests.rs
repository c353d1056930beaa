//! What is said of a decision is what it was made on.

use std::time::Duration;

use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::{ModelId, Request, RequestId},
    time::Timestamp,
};

use crate::{
    admission::{AdmissionConfig, AdmissionMode, Gate},
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::{Decision, Event, Placement, Reason, Reject},
    explanation::{CostTerms, ExplainConfig, Explanation},
};

fn request(id: u64) -> Request {
    let blocks = (0..20_u64).map(|at| BlockHash((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    Request::new(RequestId(id), ModelId(1), Tokens(1_300), blocks.collect())
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(millis))
}

fn told(dispatcher: &mut Dispatcher, millis: u64, event: Event) -> Vec<Decision> {
    let mut decisions = Vec::new();
    dispatcher.handle(at(millis), event, &mut decisions);
    decisions
}

fn fleet(strategy: StrategyName, replicas: u32) -> Dispatcher {
    let config = DispatcherConfig {
        explain: ExplainConfig { candidates: 16, ..ExplainConfig::default() },
        ..DispatcherConfig::new(strategy, 7)
    };
    let mut dispatcher = Dispatcher::new(config);
    for replica in (0..replicas).map(ReplicaId) {
        told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        told(&mut dispatcher, 0, Event::HealthChanged { replica, health: Health::Ready });
    }
    dispatcher
}

fn placed(dispatcher: &mut Dispatcher, millis: u64, id: u64) -> Placement {
    told(dispatcher, millis, Event::Arrived(request(id)))[0].verdict.unwrap()
}

fn newest(dispatcher: &Dispatcher) -> Explanation {
    dispatcher.explanations().newest().next().unwrap().clone()
}

#[test]
fn the_terms_of_every_strategy_say_who_wins() {
    for strategy in StrategyName::ALL {
        let mut dispatcher = fleet(strategy, 5);
        let mut scored = 0;
        for id in 0..40 {
            let placement = placed(&mut dispatcher, id * 20, id);
            let it = newest(&dispatcher);
            assert_eq!((it.request, it.verdict), (RequestId(id), Ok(placement)), "{strategy}");
            assert_eq!((it.candidates.len(), it.others), (5, 0), "{strategy}");
            let chosen = it.candidates.iter().find(|it| it.replica == placement.replica).unwrap();
            assert_eq!(chosen.cached, placement.cached, "{strategy}");
            assert!(
                it.candidates
                    .iter()
                    .all(|it| it.cost.is_some() == (strategy == StrategyName::LeastLatency))
            );
            for CostTerms { wait_s, harm_s, price_s } in
                it.candidates.iter().filter_map(|it| it.cost)
            {
                assert!([wait_s, harm_s, price_s].iter().all(|it| it.is_finite() && 0.0 <= *it));
            }
            let Some(score) = chosen.score else { continue };
            scored += 1;
            assert!(strategy.ranks_in().is_some());
            let best = it.candidates.iter().filter_map(|it| it.score).fold(f64::MAX, f64::min);
            // Preble's holders go by load alone.
            let is_exploited =
                strategy == StrategyName::PeerPreble && placement.reason == Reason::Prefix;
            let is_by_score = placement.reason != Reason::Fallback
                && !is_exploited
                && ![StrategyName::PowerOfTwo, StrategyName::PeerLlmdTokenLoad].contains(&strategy);
            // Those that are as cheap but for chance draw lots.
            assert!(!is_by_score || score <= best * 1.02 + 1e-12, "{strategy}: {it:?}");
        }
        assert_eq!(scored > 0, strategy.ranks_in().is_some(), "{strategy}");
    }
}

#[test]
fn a_cost_is_the_sum_of_its_terms() {
    let mut dispatcher = fleet(StrategyName::LeastLatency, 3);
    for id in 0..20 {
        placed(&mut dispatcher, id, id);
    }
    for it in newest(&dispatcher).candidates {
        let CostTerms { wait_s, harm_s, price_s } = it.cost.unwrap();
        assert!((wait_s + harm_s + price_s - it.score.unwrap()).abs() < 1e-12, "{it:?}");
        assert!((wait_s - it.predicted.unwrap().ttft_s).abs() < 1e-12, "the weight of a wait is 1");
    }
}

#[test]
fn a_fallback_says_whom_it_stands_in_for() {
    let mut dispatcher = fleet(StrategyName::PrefixAware, 8);
    let home = placed(&mut dispatcher, 0, 0).replica;
    let spilled = (1..9).find(|id| placed(&mut dispatcher, 0, *id).reason == Reason::Fallback);
    let it = dispatcher.explanations().newest().find(|it| Some(it.request.0) == spilled).unwrap();
    assert_eq!(it.instead_of, Some(home));
}

#[test]
fn what_came_of_it_stands_beside_what_was_predicted() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, 2);
    let placement = placed(&mut dispatcher, 0, 1);
    assert!(placement.ttft.is_some_and(|it| it > Duration::from_millis(1)));
    told(&mut dispatcher, 250, Event::FirstToken(RequestId(1)));
    let (output, cached) = (Some(Tokens(9)), Some(Tokens(0)));
    let outcome = Outcome::Finished;
    told(&mut dispatcher, 400, Event::Ended { request: RequestId(1), outcome, output, cached });
    let observed = newest(&dispatcher).observed;
    assert_eq!(observed.ttft_s, Some(0.25));
    assert_eq!(
        (observed.output, observed.cached, observed.outcome),
        (output, cached, Some(outcome))
    );
}

#[test]
fn who_is_turned_away_is_explained_too() {
    let mut dispatcher = fleet(StrategyName::LeastLatency, 2);
    for replica in (0..2).map(ReplicaId) {
        told(&mut dispatcher, 1, Event::HealthChanged { replica, health: Health::Draining });
    }
    told(&mut dispatcher, 2, Event::Arrived(request(1)));
    let it = newest(&dispatcher);
    assert_eq!((it.verdict, it.candidates.len()), (Err(Reject::NoReplicas), 0));
}

#[test]
fn tokens_that_another_replica_held_are_known() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, 2);
    let first = placed(&mut dispatcher, 0, 1);
    let second = placed(&mut dispatcher, 1, 2);
    assert_ne!(first.replica, second.replica);
    assert_eq!((first.most_cached, first.recomputed(first.cached)), (Some(Tokens(0)), Tokens(0)));
    assert_eq!((second.cached, second.most_cached), (Tokens(0), Some(Tokens(1_280))));
    assert_eq!(second.recomputed(Tokens(1_000)), Tokens(280));
}

#[test]
fn explaining_changes_no_decision() {
    for strategy in StrategyName::ALL {
        let (mut silent, mut telling) = (fleet(strategy, 5), fleet(strategy, 5));
        silent.explain(ExplainConfig::off());
        for id in 0..50 {
            let (one, other) = (placed(&mut silent, id, id), placed(&mut telling, id, id));
            assert_eq!(one, other, "{strategy}");
        }
        assert_eq!(silent.explanations().newest().count(), 0);
    }
}

#[test]
fn the_gate_that_is_closed_is_named_and_so_is_what_engines_report() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, 2);
    let replica = ReplicaId(1);
    let report = LoadReport { running: 3, waiting: 2, kv_usage: 0.5, ..LoadReport::default() };
    told(&mut dispatcher, 0, Event::LoadReported { replica, report });
    let admission =
        AdmissionConfig { in_flight_max: 1, ..AdmissionConfig::of(AdmissionMode::Static) };
    told(&mut dispatcher, 0, Event::AdmissionChanged(admission));
    let first = placed(&mut dispatcher, 1, 1).replica;
    told(&mut dispatcher, 2, Event::Arrived(request(2)));
    let gates: Vec<_> =
        newest(&dispatcher).candidates.iter().map(|it| (it.replica, it.gate)).collect();
    assert!(gates.contains(&(first, Some(Gate::Count))), "{gates:?}");
    let reported: Vec<_> = newest(&dispatcher).candidates;
    let of_other = reported.iter().find(|it| it.replica == replica).unwrap();
    assert_eq!(
        (of_other.reported.waiting, of_other.passed_over.is_some()),
        (2, of_other.gate.is_some())
    );
}
