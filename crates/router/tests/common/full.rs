//! A fleet that is full: one replica with one seat, and answers that keep it.

use std::time::Duration;

use emulator::Fault;
use http::{Method, Response};
use hyper::body::Incoming;
use policy::config::StrategyName::LeastRequest;
use router::config::Config;

use super::{CHAT, Stage, chat, config, stage_with};

/// A promise that leaves time to wait for as long as a test may take.
pub const PATIENT: (&str, &str) = ("x-sluice-slo-ttft-ms", "600000");

/// Requests may stand still here for as long as a test takes, and probes take their time on a slow machine:
/// neither is a sign of illness.
pub fn unhurried() -> Config {
    let mut config = config(LeastRequest);
    config.health.timeout = Duration::from_secs(600);
    config.health.silence = Duration::from_secs(600);
    config.health.standstill = Duration::from_secs(600);
    config
}

/// One replica with one seat, that of `config` or an emulated one, of which a request of `urgency` was just served by those who show `key`: whoever is less
/// urgent does not wait for the seat in the engine.
pub async fn one_seat(mut config: Config, urgency: &str, key: &[(&str, &str)]) -> Stage {
    config.policy.estimate.coefficients.sequences_max = 1;
    let emulated = usize::from(config.replicas.is_empty());
    let stage = stage_with(config, emulated).await;
    let headers = [&[("x-sluice-priority", urgency)], key].concat();
    let answer = stage.post(CHAT, &headers, chat("hi", 1, false).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    stage
}

/// Takes the seat, and keeps it until the answer is dropped.
pub async fn take_the_seat(stage: &Stage, key: &[(&str, &str)]) -> Response<Incoming> {
    stage.replicas[0].set_fault(Fault::StallAfter(1)).await.unwrap();
    let head = stage.open(Method::POST, CHAT, key, chat("count", 20, true).to_string()).await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    head
}

/// How many of that urgency wait at the router.
pub async fn waiting(stage: &Stage, priority: &str) -> u64 {
    let view = stage.admin(Method::GET, "/admin/admission", "").await.json();
    view["waiting"][priority].as_u64().unwrap()
}

/// Prompt tokens that replicas were ever asked to compute.
pub fn asked_of_replicas(stage: &Stage) -> u64 {
    stage.replicas.iter().map(|it| it.stats().counters.prompt_tokens).sum()
}
