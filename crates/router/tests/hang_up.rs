//! A client that hangs up is noticed at once, whatever its request is waiting for.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::{Duration, Instant};

use common::{CHAT, Stage, chat, config, raw, stage, stage_before, until};
use emulator::Fault;
use policy::config::StrategyName::RoundRobin;
use tokio::{io::AsyncReadExt as _, sync::mpsc};

/// Hang-ups of each kind; an odd number, so that one of them is the median.
const TRIES: usize = 21;

/// Which of them nine in ten do not exceed.
const P90: usize = 18;

/// Fails when half of the hang-ups took longer to notice than is promised: a machine that tests share holds up some, a
/// router that polls for hang-ups most.
fn assert_prompt(what: &str, mut took: Vec<Duration>) {
    took.sort();
    assert_eq!(took.len(), TRIES);
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    println!(
        "B1 {what}: median {:.1} ms, p90 {:.1} ms, longest {:.1} ms",
        ms(took[TRIES / 2]),
        ms(took[P90]),
        ms(took[TRIES - 1])
    );
    assert!(took[TRIES / 2] < Duration::from_millis(50), "{what}: {took:?}");
}

/// How a replica keeps a client waiting.
#[derive(Clone, Copy, Debug)]
enum Wait {
    /// It streams.
    Streaming,
    /// It has stopped in the middle of a stream.
    Stalled,
    /// It computes an answer that comes in one piece.
    Computing,
}

/// Sends a request over a connection of its own and hangs up once the replica has it; returns how
/// long the replica then kept it.
async fn hang_up(stage: &Stage, wait: Wait) -> Duration {
    let body = chat("go on", 100_000, matches!(wait, Wait::Streaming | Wait::Stalled)).to_string();
    let mut socket = raw::post(stage.data, CHAT, &body).await;
    until("the replica has it", async || stage.upstream_in_flight() == 1).await;
    if matches!(wait, Wait::Streaming | Wait::Stalled) {
        let mut seen = Vec::new();
        while !seen.windows(6).any(|it| it == b"data: ") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
        }
    }
    let hung_up = Instant::now();
    drop(socket);
    until("the replica is rid of it", async || stage.upstream_in_flight() == 0).await;
    hung_up.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_frees_its_replica_within_50_ms() {
    for (wait, fault) in [
        (Wait::Streaming, Fault::None),
        (Wait::Stalled, Fault::StallAfter(2)),
        (Wait::Computing, Fault::None),
    ] {
        let stage = stage(RoundRobin, 1).await;
        stage.replicas[0].set_fault(fault).await.unwrap();
        let mut took = Vec::new();
        for _ in 0..TRIES {
            took.push(hang_up(&stage, wait).await);
        }
        assert_prompt(&format!("{wait:?}"), took);
        stage.until_idle().await;
        let gone = stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await;
        assert_eq!(gone, TRIES as u64, "{wait:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_on_a_silent_replica_is_noticed_within_50_ms() {
    let (sender, mut told) = mpsc::channel(1);
    let url = raw::replica(move |mut socket, _| {
        let sender = sender.clone();
        async move {
            sender.send(Instant::now()).await.unwrap();
            // Ends when the router closes the connection.
            let _ = socket.read_u8().await;
            sender.send(Instant::now()).await.unwrap();
        }
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    let mut told =
        async || tokio::time::timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
    let body = chat("hi", 1, true).to_string();
    let mut took = Vec::new();
    for _ in 0..TRIES {
        let socket = raw::post(stage.data, CHAT, &body).await;
        told().await;
        let hung_up = Instant::now();
        drop(socket);
        took.push(told().await.duration_since(hung_up));
    }
    assert_prompt("silent", took);
    stage.until_idle().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_within_its_request_leaves_nothing_behind() {
    let stage = stage(RoundRobin, 1).await;
    let body = chat("never ends", 1, false).to_string();
    let whole = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: 9999\r\n\r\n{body}");
    let chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n{body}"
    );
    for (sent, count) in [(&whole, 1), (&chunked, 2)] {
        drop(raw::send(stage.data, sent).await);
        until("it is counted", async || {
            stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await == count
        })
        .await;
    }
    for outcome in ["refused", "bad-request", "complete", "replica-failed", "cut"] {
        let sample = format!("sluice_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(stage.metric(&sample).await, 0, "{outcome}");
    }
    // Garbage is another matter.
    let garbage =
        format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n");
    assert!(raw::rest(raw::send(stage.data, &garbage).await).await.starts_with("HTTP/1.1 400"));
    until("it is counted", async || {
        stage.metric("sluice_requests_total{outcome=\"bad-request\"}").await == 1
    })
    .await;
    assert_eq!(stage.reserved().await, 0);
    assert_eq!(stage.replicas[0].stats().counters.prompt_tokens, 0);
}
