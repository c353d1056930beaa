//! What tests of queueing systems need: stations whose routers see loads exactly, and bare arrivals.

use policy::config::{DispatcherConfig, StrategyName};
use report::Terms;
use simulator::{Kind, ServiceTime, Setup, Signals};
use types::{quantity::Tokens, time::Timestamp};
use workload::{Arrival, Prompt};

/// One station of `servers` servers.
pub(crate) fn station(servers: u32, service: ServiceTime) -> Setup {
    Setup {
        seed: 1,
        replicas: 1,
        kind: Kind::Fcfs { servers, service },
        routers: 1,
        dispatcher: DispatcherConfig::new(StrategyName::LeastRequest, 0),
        comes_again: 0,
        classes: std::collections::BTreeMap::new(),
        unstreamed: 0.0,
        follow_refusals: None,
        ranks: std::collections::BTreeMap::new(),
        attempts_max: 1,
        closed_conversations: false,
        quoted_answers: false,
        patience: None,
        warm_up: std::time::Duration::ZERO,
        signals: Signals { scrape_interval: None, ..Signals::default() },
        faults: Vec::new(),
        terms: Terms::default(),
    }
}

/// A request without content at `at`.
pub(crate) fn arrival(at: Timestamp) -> Arrival {
    Arrival {
        at,
        session: None,
        turn: 0,
        turns: None,
        workload_class: None,
        tenant: None,
        slo_class: None,
        prompt: Prompt::default(),
        output: Tokens(1),
        answer: None,
        think: std::time::Duration::ZERO,
    }
}
