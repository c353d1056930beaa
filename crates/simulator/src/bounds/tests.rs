//! What runs do never exceeds what is said to be the limit.

use engine::Profile;
use policy::config::{DispatcherConfig, StrategyName};
use report::{Run, RunInfo, Terms};
use types::slo::Slo;
use workload::{
    Load, Schedule, Workload,
    range::{DurationRange, TokenRange},
    support_chat::SupportChat,
};

use super::*;
use crate::setup::Signals;

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Four replicas with room for a few conversations each.
fn setup(strategy: StrategyName, seed: u64) -> Setup {
    let profile =
        Profile { kv_tokens: Tokens(12_000), ..Profile::named("llama-3-8b-h100").unwrap() };
    let slo = Slo { ttft: Some(millis(200)), tpot: Some(millis(12)), ..Slo::default() };
    Setup {
        seed,
        replicas: 4,
        kind: Kind::Engine(Box::new(profile)),
        routers: 1,
        dispatcher: DispatcherConfig::new(strategy, 0),
        comes_again: 0,
        classes: BTreeMap::new(),
        unstreamed: 0.0,
        follow_refusals: None,
        ranks: BTreeMap::new(),
        attempts_max: 2,
        closed_conversations: seed.is_multiple_of(2),
        quoted_answers: true,
        patience: None,
        warm_up: millis(5_000),
        signals: Signals::default(),
        faults: Vec::new(),
        terms: Terms { slo, ..Terms::default() },
    }
}

fn chat(rate_per_s: f64, seed: u64) -> Vec<Arrival> {
    let chat = SupportChat {
        tenants: 12,
        prefix_tokens: 2_000,
        turns: 4,
        question_tokens: TokenRange { min: 20, max: 200 },
        answer_tokens: TokenRange { min: 10, max: 100 },
        think_time: DurationRange { min: millis(500), max: millis(3_000) },
        ..SupportChat::default()
    };
    let schedule = Schedule::Poisson { rate_per_s };
    let load = Load { schedule, duration: Some(millis(25_000)), seed };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    Workload::SupportChat(chat).plan(&load, none).unwrap().arrivals
}

#[test]
fn no_policy_exceeds_the_limits() {
    for (strategy, seed) in StrategyName::ALL.into_iter().zip((0..4).cycle()) {
        for rate_per_s in [20.0, 150.0] {
            let (setup, arrivals) = (setup(strategy, seed), chat(rate_per_s, seed));
            let recording = crate::run(&setup, arrivals.clone()).unwrap();
            let limits = limits(&setup, &arrivals, &recording.records).unwrap();
            let info = RunInfo { warm_up: setup.warm_up, ..RunInfo::default() };
            let run = Run::measure(&info, &recording.records, &recording.gaps);
            let (hits, best) = (run.cache_hit_rate.unwrap(), limits.hit_rate_best.unwrap());
            assert!(hits <= best, "{strategy} at {rate_per_s}/s: {hits} of {best}");
            let lru = limits.hit_rate_lru_fleet.unwrap();
            assert!(lru <= best && best <= limits.hit_rate_endless.unwrap(), "{limits:?}");
            let (good, most) =
                (run.good_request_fraction.unwrap(), limits.good_request_fraction.unwrap());
            assert!(good <= most, "{strategy} at {rate_per_s}/s: {good} of {most}");
            let knee = limits.knee_rps.unwrap();
            assert!((20.0..600.0).contains(&knee), "{knee}");
        }
    }
}

#[test]
fn what_comes_after_a_new_salt_finds_nothing_from_before() {
    let faults = vec![Fault::RotateSalt { at: millis(12_000) }];
    let plain = setup(StrategyName::Sticky, 1);
    let salted = Setup { faults, ..plain.clone() };
    let best = |setup: &Setup| {
        let arrivals = chat(20.0, 1);
        let records = crate::run(setup, arrivals.clone()).unwrap().records;
        limits(setup, &arrivals, &records).unwrap().hit_rate_endless.unwrap()
    };
    assert!(best(&salted) + 0.01 < best(&plain), "{} {}", best(&salted), best(&plain));
}

/// One server that takes two seconds for the first request and one for each of the others.
fn station(servers: u32, slo_ms: u64) -> Limits {
    let service = ServiceTime::Listed([2_000, 1_000, 1_000].map(millis).into());
    let slo = Slo { e2e: Some(millis(slo_ms)), ..Slo::default() };
    let setup = Setup {
        kind: Kind::Fcfs { servers, service },
        replicas: 1,
        warm_up: Duration::ZERO,
        terms: Terms { slo, ..Terms::default() },
        ..setup(StrategyName::Random, 1)
    };
    let arrivals: Vec<Arrival> = chat(20.0, 1)
        .into_iter()
        .take(3)
        .map(|it| Arrival { at: Timestamp::ZERO, session: None, ..it })
        .collect();
    let records = crate::run(&setup, arrivals.clone()).unwrap().records;
    limits(&setup, &arrivals, &records).unwrap()
}

#[test]
fn one_server_turns_the_long_one_away() {
    let limits = station(1, 2_000);
    assert_eq!((limits.good_request_fraction, limits.good_is_exact), (Some(2.0 / 3.0), true));
    assert!((limits.knee_rps.unwrap() - 0.75).abs() < 1e-9);
    let pooled = station(2, 2_000);
    assert_eq!((pooled.good_request_fraction, pooled.good_is_exact), (Some(1.0), false));
}

#[test]
fn sizes_reach_from_a_thousand_blocks_to_more_than_asked() {
    let of = |most| sizes(Blocks(most)).map(|it| it.0).collect::<Vec<_>>();
    assert_eq!(of(1), [1_024]);
    assert_eq!(of(5_000), [1_024, 2_048, 4_096, 8_192]);
    assert_eq!(of(u32::MAX).last(), Some(&(1 << 31)));
}
