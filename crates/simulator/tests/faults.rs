//! A thousand small worlds in which things go wrong at random: no invariant may break, and the same
//! world must come out the same.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use engine::{Profile, Spread};
use policy::config::{DispatcherConfig, StrategyName};
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use report::{Terms, record::Ending};
use simulator::{Fault, Kind, Recording, Setup, Signals};
use types::quantity::Tokens;
use workload::{
    Arrival, Load, Schedule, Workload,
    range::{DurationRange, TokenRange},
    support_chat::SupportChat,
};

/// How long requests come, in milliseconds; faults begin within it.
const DURATION_MS: u64 = 6_000;

fn millis(draws: &mut Xoshiro256PlusPlus, max: u64) -> Duration {
    Duration::from_millis(draws.random_range(0..=max))
}

fn fault(draws: &mut Xoshiro256PlusPlus, replicas: u32, routers: u32) -> Fault {
    let at = millis(draws, DURATION_MS);
    let replica = draws.random_range(0..replicas);
    let lasts = millis(draws, 3_000);
    match draws.random_range(0..10_u32) {
        0 => Fault::Crash { at, replica, down_for: Some(lasts) },
        1 => Fault::Crash { at, replica, down_for: None },
        2 => Fault::Slow { at, replica, lasts, factor: draws.random_range(0.5..20.0) },
        3 => {
            let router = draws.random::<bool>().then(|| draws.random_range(0..routers));
            Fault::Partition { at, router, replica, lasts }
        }
        4 => Fault::ScaleOut { at, replicas: draws.random_range(1..3) },
        5 => Fault::ScaleIn { at, replica },
        6 => Fault::Stall { at, replica, lasts },
        7 => Fault::RollingDeployment { at, down_for: lasts },
        8 => Fault::LostReports { at, lasts },
        _ => Fault::RotateSalt { at },
    }
}

/// A world of a few replicas with too little memory, under a random policy and random faults.
fn world(seed: u64) -> (Setup, Vec<Arrival>) {
    let mut draws = Xoshiro256PlusPlus::seed_from_u64(seed);
    let replicas = draws.random_range(1..5);
    let routers = draws.random_range(1..4);
    let strategies = StrategyName::ALL;
    let strategy = strategies.into_iter().nth(draws.random_range(0..strategies.len())).unwrap();
    let profile = Profile {
        kv_tokens: Tokens(draws.random_range(1_500..6_000)),
        max_num_batched_tokens: Tokens(draws.random_range(64..2_048)),
        max_num_seqs: draws.random_range(1..16),
        steps_ahead: draws.random_range(0..2),
        spread: draws.random::<bool>().then_some(Spread::Exponential),
        ..Profile::named("llama-3-8b-h100").unwrap()
    };
    let faults = (0..draws.random_range(0..6)).map(|_| fault(&mut draws, replicas, routers));
    let faults: Vec<Fault> = faults.collect();
    let mut dispatcher = DispatcherConfig::new(strategy, 0);
    if draws.random() {
        // Engines whose blocks are as long can be followed.
        dispatcher.prefix.block = profile.block_size;
    }
    let setup = Setup {
        seed,
        replicas,
        kind: Kind::Engine(Box::new(profile)),
        routers,
        dispatcher,
        comes_again: 0,
        classes: std::collections::BTreeMap::new(),
        unstreamed: 0.0,
        follow_refusals: None,
        ranks: std::collections::BTreeMap::new(),
        attempts_max: draws.random_range(1..4),
        closed_conversations: draws.random(),
        quoted_answers: draws.random(),
        patience: draws.random::<bool>().then(|| millis(&mut draws, 4_000)),
        warm_up: Duration::ZERO,
        signals: Signals {
            scrape_delay: millis(&mut draws, 2_000),
            scrape_loss: draws.random(),
            event_lag: draws
                .random_bool(0.5)
                .then(|| Duration::from_millis(draws.random_range(0..500))),
            event_loss: draws.random_range(0.0..0.5),
            health_delay: millis(&mut draws, 2_000),
            placements_lag: draws.random_bool(0.5).then(|| millis(&mut draws, 500)),
            placements_work: draws.random(),
            ..Signals::default()
        },
        faults,
        terms: Terms::default(),
    };
    let chat = SupportChat {
        tenants: 3,
        prefix_tokens: 200,
        turns: 3,
        question_tokens: TokenRange { min: 1, max: 300 },
        answer_tokens: TokenRange { min: 1, max: 40 },
        answer_time_per_token: Duration::from_millis(10),
        think_time: DurationRange { min: Duration::ZERO, max: Duration::from_secs(1) },
        ..SupportChat::default()
    };
    let load = Load {
        schedule: Schedule::Poisson { rate_per_s: 6.0 },
        duration: Some(Duration::from_millis(DURATION_MS)),
        seed,
    };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    // So short a run may have no request at all.
    let planned = Workload::SupportChat(chat).plan(&load, none).unwrap_or_default();
    (setup, planned.arrivals)
}

fn run(seed: u64) -> Recording {
    let (setup, arrivals) = world(seed);
    simulator::run(&setup, arrivals).unwrap_or_else(|error| panic!("{error}\n{setup:#?}"))
}

#[test]
fn a_thousand_seeds_of_faults_break_no_invariant() {
    let mut endings = [0_usize; 3];
    for seed in 0..1_000 {
        for record in run(seed).records {
            let ending = match record.ending {
                Ending::Completed => 0,
                Ending::Rejected => 1,
                Ending::Failed | Ending::Cancelled => 2,
            };
            if let Some(count) = endings.get_mut(ending) {
                *count += 1;
            }
        }
    }
    // The campaign is worth something only where all of them happen, and often.
    assert!(endings.iter().all(|it| *it > 1_000), "{endings:?}");
}

#[test]
fn a_seed_is_a_world() {
    for seed in 0..20 {
        let (once, again) = (run(seed), run(seed));
        assert_eq!(once.records, again.records);
        assert_eq!(once.events, again.events);
        assert_eq!(once.gaps.stats_ms(), again.gaps.stats_ms());
    }
}
