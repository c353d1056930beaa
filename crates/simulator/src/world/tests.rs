//! What a small world does, checked by hand.

use std::time::Duration;

use engine::Profile;
use policy::config::{DispatcherConfig, StrategyName};
use report::{Terms, record::Ending};
use types::quantity::Tokens;
use workload::{Load, Schedule, Workload, support_chat::SupportChat};

use super::*;
use crate::setup::{Kind, Setup, Signals};

fn setup(strategy: StrategyName, replicas: u32) -> Setup {
    Setup {
        seed: 1,
        replicas,
        kind: Kind::Engine(Box::new(Profile::named("llama-3-8b-h100").unwrap())),
        routers: 1,
        dispatcher: DispatcherConfig::new(strategy, 0),
        attempts_max: 2,
        closed_conversations: false,
        quoted_answers: true,
        patience: None,
        warm_up: std::time::Duration::ZERO,
        signals: Signals::default(),
        faults: Vec::new(),
        terms: Terms::default(),
    }
}

fn chat(rate_per_s: f64, seconds: u64) -> Vec<Arrival> {
    let load = Load {
        schedule: Schedule::Poisson { rate_per_s },
        duration: Some(Duration::from_secs(seconds)),
        seed: 1,
    };
    let none = |_: &str| Err(std::io::ErrorKind::NotFound.into());
    Workload::SupportChat(SupportChat::default()).plan(&load, none).unwrap().arrivals
}

#[test]
fn a_small_fleet_answers_everything() {
    let arrivals = chat(10.0, 30);
    let count = arrivals.len();
    let recording = run(&setup(StrategyName::PrefixAware, 4), arrivals).unwrap();
    assert_eq!(recording.records.len(), count);
    assert!(recording.records.iter().all(|it| it.ending == Ending::Completed));
    let cached: u64 = recording
        .records
        .iter()
        .map(|it| u64::from(it.cached_tokens.unwrap_or(Tokens::ZERO).0))
        .sum();
    assert!(cached > 0);
}
