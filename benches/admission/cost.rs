//! What the dispatcher takes to turn a request away. The whole router's share is measured live.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use policy::{
    admission::AdmissionConfig,
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::{Decision, Event},
};
use types::{
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::{ModelId, Request, RequestId},
    slo::Slo,
    time::Timestamp,
};

use crate::line::{Bar, put};

/// Refusals that are timed.
const REFUSALS: u64 = 20_000;

pub(crate) fn of_refusals() {
    for (replicas, queue_max) in [(8, 0), (8, 1_024), (64, 0), (64, 1_024)] {
        let each_us = each_us(replicas, queue_max);
        let what = format!("{replicas} replicas, {queue_max} waiting: us a refusal");
        put("cost", "-", &what, each_us, Bar::Most(100.0));
    }
}

/// A prompt that takes some 0.7 s, of which two do not fit into a promise of a second.
fn long(id: u64) -> Request {
    let ms = Duration::from_millis;
    let slo = Slo { ttft: Some(ms(1_000)), tpot: Some(ms(50)), ..Slo::default() };
    Request { slo, ..Request::new(RequestId(id), ModelId(1), Tokens(16_000), Vec::new().into()) }
}

fn each_us(replicas: u32, queue_max: u32) -> f64 {
    let mut config = DispatcherConfig::new(StrategyName::LeastLatency, 7);
    config.admission = AdmissionConfig { queue_max, ..AdmissionConfig::default() };
    let mut dispatcher = Dispatcher::new(config);
    let mut decisions: Vec<Decision> = Vec::new();
    for replica in (0..replicas).map(ReplicaId) {
        let ready = Event::HealthChanged { replica, health: Health::Ready };
        dispatcher.handle(Timestamp::ZERO, Event::ReplicaJoined(replica), &mut decisions);
        dispatcher.handle(Timestamp::ZERO, ready, &mut decisions);
    }
    let mut next = 0;
    let mut refused = 0;
    let mut ask = |dispatcher: &mut Dispatcher| {
        next += 1;
        decisions.clear();
        dispatcher.handle(Timestamp::ZERO, Event::Arrived(long(next)), &mut decisions);
        black_box(decisions.iter().any(|it| it.verdict.is_err()))
    };
    while refused < 100 {
        refused += u32::from(ask(&mut dispatcher));
    }
    let began = Instant::now();
    for _ in 0..REFUSALS {
        assert!(ask(&mut dispatcher), "somebody was let in");
    }
    began.elapsed().as_secs_f64() * 1e6 / REFUSALS as f64
}
