//! Replicas that are spoken to by HTTP/2, without TLS; tests/tls.rs has those with it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::{CHAT, Stage, chat, config, h2, raw, received, stage_before, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use router::config::Replica;
use tokio::io::AsyncReadExt as _;

/// Hang-ups; an odd number, so that one of them is the median.
const TRIES: usize = 21;

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// A router before one such replica.
async fn stage() -> (Stage, Arc<h2::Seen>) {
    let (address, seen) = h2::replica().await;
    let mut config = config(RoundRobin);
    config.upstream.http2 = true;
    (stage_before(url(address), config).await, seen)
}

#[tokio::test]
async fn hundreds_of_streams_share_a_few_connections() {
    let (stage, seen) = stage().await;
    // The replica's server takes 200 on each connection; none of these ends before the last has begun.
    let mut endless = Vec::new();
    for _ in 0..300 {
        endless.push(stage.stream(100_000).await);
    }
    assert_eq!(seen.open.load(Ordering::Relaxed), 300);
    drop(endless);
    let mut open = Vec::new();
    for _ in 0..100 {
        open.push(stage.stream(40).await);
    }
    for stream in open {
        let answer = received(stream).await;
        assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
        assert_eq!(answer.body.matches("content").count(), 40);
    }
    assert_eq!(seen.over_h2.load(Ordering::Relaxed), 400);
    assert_eq!(seen.over_http_1.load(Ordering::Relaxed), 0);
    assert_eq!(seen.connections.load(Ordering::Relaxed), 4, "probes included");
    stage.until_idle().await;
}

#[tokio::test]
async fn one_replica_may_be_spoken_to_otherwise_than_the_rest() {
    let ((one, by_h2), (other, by_http_1)) = (h2::replica().await, h2::replica().await);
    let mut config = config(RoundRobin);
    config.replicas.push(Replica { http2: Some(true), ..Replica::at(url(one)) });
    config.replicas.push(Replica::at(url(other)));
    let stage = stage_with(config, 0).await;
    for _ in 0..4 {
        assert_eq!(stage.chat(&chat("hi", 2, true)).await.status, 200);
    }
    assert_eq!(by_h2.over_h2.load(Ordering::Relaxed), 2);
    assert_eq!(by_http_1.over_http_1.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_frees_its_stream_and_no_other() {
    let (stage, seen) = stage().await;
    let stays = stage.stream(100_000).await;
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let body = chat("go on", 100_000, true).to_string();
        let mut socket = raw::post(stage.data, CHAT, &body).await;
        let mut bytes = Vec::new();
        while !bytes.windows(6).any(|it| it == b"data: ") {
            assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0);
        }
        let hung_up = Instant::now();
        drop(socket);
        until("the replica is rid of it", async || seen.open.load(Ordering::Relaxed) == 1).await;
        took.push(hung_up.elapsed());
    }
    took.sort();
    println!("B1 over HTTP/2: median {} µs", took[TRIES / 2].as_micros());
    assert!(took[TRIES / 2] < Duration::from_millis(50), "{took:?}");
    assert!(seen.connections.load(Ordering::Relaxed) <= 4, "they stay");
    drop(stays);
    stage.until_idle().await;
}

/// What one stream may take of the connection's window must leave enough to all others, or slow readers
/// together would stop everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_read_nothing_hold_up_nobody_else() {
    let (stage, seen) = stage().await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let body = chat("go on", 1_000_000, true).to_string();
        slow.push(raw::post(stage.data, CHAT, &body).await);
    }
    until("all are on their way", async || seen.open.load(Ordering::Relaxed) == 40).await;
    // Until no buffer takes more.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..10 {
        let answer = stage.chat(&chat("hi", 20, true)).await;
        assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
    }
    drop(slow);
    stage.until_idle().await;
}

#[tokio::test]
async fn a_replica_that_does_not_speak_it_is_never_ready() {
    let replica = common::emulate(emulator::Fault::None).await;
    let mut config = config(RoundRobin);
    config.upstream.http2 = true;
    config.replicas.push(Replica::at(replica.url()));
    let router = router::serve::Router::open(config).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(500), router.all_ready()).await;
    assert!(waited.is_err());
}
