//! What clients do, at the counts that docs/reliability.md asks for. Run by benches/full_counts.sh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{net::SocketAddr, time::Instant};

use common::{
    CHAT, config,
    echo::{self, Then},
    stage_before,
};
use policy::config::StrategyName::RoundRobin;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, task::JoinSet};

/// Requests, over how many connections, and how many are sent ahead at the most.
const REQUESTS: usize = 1_000_000;
const CONNECTIONS: usize = 32;
const AHEAD_MAX: usize = 16;

/// Asks over one connection and returns how many answers were another's.
async fn ask(to: SocketAddr, client: usize) -> usize {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut at, mut mismatched, mut bytes) = (0, 0, Vec::new());
    while at < REQUESTS / CONNECTIONS {
        // Batches and bodies of all sizes, in an order that no two clients share.
        let ahead = (1 + (at * 7 + client * 3) % AHEAD_MAX).min(REQUESTS / CONNECTIONS - at);
        let (mut sent, mut expected) = (String::new(), Vec::new());
        for at in at..at + ahead {
            let padding = "x".repeat((at * 31 + client) % 700);
            let body = format!(
                r#"{{"model":"m","user":"{client}-{at}","messages":[],"metadata":"{padding}"}}"#
            );
            let length = body.len();
            sent += &format!(
                "POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n{body}"
            );
            expected.push(body);
        }
        socket.write_all(sent.as_bytes()).await.unwrap();
        for body in &expected {
            let (is_well, answer) = echo::message(&mut socket, &mut bytes).await.unwrap();
            mismatched += usize::from(!is_well || answer != body.as_bytes());
        }
        at += ahead;
    }
    mismatched
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: benches/full_counts.sh"]
async fn full_b6_of_a_million_requests_no_answer_is_mixed_up_with_another() {
    let url = echo::replica(|mut socket, body| async move {
        let then = match socket.write_all(&echo::answer(&body)).await {
            Ok(()) => Then::Keep,
            Err(_) => Then::Close,
        };
        (socket, then)
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    let began = Instant::now();
    let mut asking = JoinSet::new();
    for client in 0..CONNECTIONS {
        asking.spawn(ask(stage.data, client));
    }
    let mismatched: usize = asking.join_all().await.iter().sum();
    println!(
        "B6: {REQUESTS} requests on {CONNECTIONS} connections, up to {AHEAD_MAX} sent ahead: {mismatched} mismatched, {:.0} \
         requests a second",
        REQUESTS as f64 / began.elapsed().as_secs_f64()
    );
    assert_eq!(mismatched, 0);
    let complete = "sluice_requests_total{outcome=\"complete\"}";
    assert_eq!(stage.metric(complete).await, REQUESTS as u64);
    stage.until_idle().await;
}
