//! Replicas that take requests and give no sign of life.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{chat, config, raw, stage, stage_with, until};
use emulator::Fault;
use policy::config::StrategyName::RoundRobin;
use router::config::Replica;
use tokio::io::AsyncWriteExt as _;

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
    config.health.silence = Duration::from_secs(1);
    let stage = stage_with(config, 1).await;
    // No byte comes before all of it is computed, which takes many times the silence allowed.
    let began = std::time::Instant::now();
    let answer = stage.chat(&chat("go on", 600, false)).await;
    let took = began.elapsed().as_secs_f64();
    println!("A6: {took:.1} s without a byte (silence 1 s), never ejected");
    assert!(4.0 <= took, "{took}");
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
    let took = began.elapsed();
    println!("C8: given up after {} ms where 150 were asked for", took.as_millis());
    // Where it is not kept, the router waits for as long as it would of itself, which is ten minutes.
    assert!(Duration::from_millis(150) <= took && took < Duration::from_secs(5), "{took:?}");
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (504, "client_timeout"));
    assert_eq!(stage.metric("sluice_requests_total{outcome=\"client-timeout\"}").await, 1);
}

/// Retries that a router may make before it has seen requests enough for a fifth of them.
const SAVED_UP: u64 = 10;

/// Errors that come by chance: three of ten requests get one, whatever they ask.
async fn errs_often(asked: Arc<AtomicU64>) -> String {
    raw::replica(move |mut socket, _| {
        let asked = Arc::clone(&asked);
        async move {
            let at = asked.fetch_add(1, Ordering::Relaxed);
            // Their order is that of no round of replicas, and never five in a row.
            let status = if at * 7 % 10 < 3 { "500 Internal Server Error" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

/// Clients ask so many questions, each up to four times, of replicas that err three times in ten.
async fn retry_storm(questions: u64) {
    let asked: Arc<AtomicU64> = Arc::default();
    let mut config = config(RoundRobin);
    for at in 0..3 {
        let url = errs_often(Arc::clone(&asked)).await;
        config.replicas.push(Replica { name: Some(format!("e{at}")), ..Replica::at(url) });
    }
    let stage = stage_with(config, 0).await;
    let (mut sent, mut served) = (0, 0);
    for at in 0..questions {
        let body = format!(r#"{{"model":"m","messages":["question {at}"]}}"#);
        for _ in 0..=3 {
            sent += 1;
            if stage.post(common::CHAT, &[], body.clone()).await.status == 200 {
                served += 1;
                break;
            }
        }
    }
    let upstream = asked.load(Ordering::Relaxed);
    let retries = stage.metric("sluice_retries_total").await;
    let denied = stage.metric("sluice_retries_denied_total").await;
    println!(
        "C4: {questions} questions, {sent} requests of clients, {upstream} of the router ({:.3} ×), {served} served; {denied} \
         retries denied",
        upstream as f64 / sent as f64
    );
    assert!(upstream <= SAVED_UP + sent * 6 / 5, "{upstream} of {sent}");
    assert!(sent < upstream, "some were retried");
    assert_eq!(upstream, sent + retries, "each is counted");
    assert!(0 < denied, "and so are those that were not made");
    assert!(stage.fraction("sluice_retries_left").await < 2.0, "they are used up");
    until("nothing is left", async || stage.reserved().await == 0).await;
}

#[tokio::test]
async fn c4_clients_that_retry_bring_replicas_a_fifth_more_than_they_send() {
    retry_storm(600).await;
}

#[tokio::test]
#[ignore = "a full count: benches/full_counts.sh"]
async fn full_c4_of_20_000_questions_replicas_are_asked_a_fifth_more() {
    retry_storm(20_000).await;
}

#[tokio::test]
async fn c4_what_a_client_did_wrong_is_asked_once() {
    for code in [400, 401, 403, 404, 405, 408, 409, 413, 415, 422] {
        let stage = stage(RoundRobin, 2).await;
        for replica in &stage.replicas {
            replica.set_fault(Fault::Status { code, retry_after: None }).await.unwrap();
        }
        for at in 0..4 {
            let answer = stage.chat(&chat(&format!("question {at}"), 1, false)).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-sluice-attempts")), (code, "1"));
        }
        assert_eq!(stage.metric("sluice_retries_total").await, 0, "{code}");
        assert!(stage.fraction("sluice_retries_left").await > 9.9, "{code}: nothing is paid for");
    }
}
