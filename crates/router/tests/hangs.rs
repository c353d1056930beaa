//! Replicas that take requests and give no sign of life.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::Duration;

use common::{chat, config, stage, stage_with, until};
use emulator::Fault;
use policy::config::StrategyName::RoundRobin;

#[tokio::test]
async fn a_replica_that_hangs_is_found_out_and_what_waits_there_is_served_elsewhere() {
    let mut config = config(RoundRobin);
    // What is found out here is found out by silence, and not by the usual probes.
    config.health.interval = Duration::from_secs(3_600);
    config.health.silence = Duration::from_secs(1);
    let stage = stage_with(config, 2).await;
    stage.replicas[0].set_fault(Fault::Silence).await.unwrap();
    let (some, body) = (4, chat("hi", 2, false));
    let began = std::time::Instant::now();
    let mut asking = Vec::new();
    for _ in 0..some {
        asking.push(stage.chat(&body));
    }
    let mut rescued = 0;
    for asked in asking {
        let answer = asked.await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r1"));
        rescued += u32::from(answer.header("x-sluice-attempts") == "2");
    }
    assert!(rescued > 0, "somebody waited for the hung one");
    let took = began.elapsed().as_secs_f64();
    println!("A3: all {some} served, {rescued} of them rescued, in {took:.2} s (silence 1 s)");
    assert_eq!(stage.health(0).await, "ejected");
    stage.until_idle().await;
}

#[tokio::test]
async fn a_replica_that_computes_for_long_without_a_byte_is_left_alone() {
    let mut config = config(RoundRobin);
    config.health.silence = Duration::from_millis(300);
    let stage = stage_with(config, 1).await;
    // No byte comes before all of it is computed, which takes many times the silence allowed.
    let began = std::time::Instant::now();
    let answer = stage.chat(&chat("go on", 250, false)).await;
    println!(
        "A6: {:.1} s without a byte (silence 0.3 s), never ejected",
        began.elapsed().as_secs_f64()
    );
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-attempts")), (200, "1"));
    assert_eq!(stage.health(0).await, "ready");
}

#[tokio::test]
async fn the_clients_own_deadline_is_kept_where_it_is_the_shorter_one() {
    let stage = stage(RoundRobin, 1).await;
    stage.replicas[0].set_fault(Fault::StallAfter(0)).await.unwrap();
    let body = chat("hi", 2, false).to_string();
    let began = std::time::Instant::now();
    let answer = stage.post(common::CHAT, &[("x-sluice-timeout-ms", "150")], body).await;
    println!("C8: given up after {} ms where 150 were asked for", began.elapsed().as_millis());
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (504, "client_timeout"));
    assert_eq!(stage.metric("sluice_requests_total{outcome=\"client-timeout\"}").await, 1);
}

#[tokio::test]
async fn retries_of_refusals_add_a_fifth_to_what_replicas_are_asked() {
    let stage = stage(RoundRobin, 3).await;
    let no = Fault::Status { code: 500, retry_after: None };
    stage.replicas[0].set_fault(no).await.unwrap();
    let asked = 200;
    for _ in 0..asked {
        let _ = stage.chat(&chat("hi", 1, false)).await;
    }
    let retries = stage.metric("sluice_retries_total").await;
    println!("C4: {retries} retries of {asked} requests");
    assert!(retries <= 10 + asked / 5, "{retries} retries of {asked} requests");
    until("nothing is left", async || stage.reserved().await == 0).await;
}
