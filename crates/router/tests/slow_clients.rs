//! Clients that take their time, and clients that come and go. Named in docs/reliability.md: B4, B7.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{CHAT, Stage, chat, config, raw, stage, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Slow clients of all kinds together.
const SLOW: usize = 4_000;

/// How long a head and a body may take here.
const BOUND: Duration = Duration::from_secs(3);

/// What each kind says at once, and what it adds again and again.
const KINDS: [(&str, &str); 5] = [
    ("", ""),
    ("P", ""),
    ("PRI * HTTP/2.0\r\n\r\nSM", ""),
    ("POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n", "x: y\r\n"),
    (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: 9000\r\n\r\n{\"model\":\"m\",",
        " ",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_slow_heads_and_bodies_end_and_hold_up_nobody() {
    let mut config = config(RoundRobin);
    (config.timeouts.client_head, config.timeouts.client_body) = (BOUND, BOUND);
    let stage = stage_with(config, 1).await;
    let mut slow = Vec::new();
    for at in 0..SLOW {
        let mut socket = TcpStream::connect(stage.data).await.unwrap();
        socket.write_all(KINDS[at % KINDS.len()].0.as_bytes()).await.unwrap();
        slow.push((at % KINDS.len(), Some(socket)));
    }
    let began = Instant::now();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    let mut ended: [Option<Duration>; KINDS.len()] = [None; KINDS.len()];
    while slow.iter().any(|it| it.1.is_some()) {
        assert!(began.elapsed() < 10 * BOUND, "some of them are still there");
        for (kind, place) in &mut slow {
            let Some(socket) = place else { continue };
            let mut bytes = [0; 512];
            let is_gone = |it: std::io::Error| it.kind() != std::io::ErrorKind::WouldBlock;
            let is_over = match socket.try_read(&mut bytes) {
                Ok(read) => read == 0,
                Err(error) => is_gone(error),
            } || socket.try_write(KINDS[*kind].1.as_bytes()).is_err_and(is_gone);
            if is_over {
                *place = None;
                ended[*kind] = Some(began.elapsed());
            }
        }
        for _ in 0..40 {
            let asking = Instant::now();
            assert_eq!(stage.chat(&chat("hi", 2, false)).await.status, 200);
            slowest = slowest.max(asking.elapsed());
            asked += 1;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ended: Vec<u128> = ended.iter().map(|it| it.unwrap().as_millis()).collect();
    println!(
        "B4: {SLOW} slow clients, {asked} of {asked} others served, the slowest in {} ms; the last of each kind ended \
         after {ended:?} ms (bound {} ms)",
        slowest.as_millis(),
        BOUND.as_millis()
    );
    stage.until_idle().await;
}

#[tokio::test]
async fn b4_one_address_takes_no_more_than_its_places() {
    let mut config = config(RoundRobin);
    config.limits.connections_per_address_max = std::num::NonZeroUsize::new(10);
    let stage = stage_with(config, 1).await;
    let mut kept = Vec::new();
    for _ in 0..10 {
        kept.push(TcpStream::connect(stage.data).await.unwrap());
    }
    until("those beyond are closed", async || {
        let mut socket = TcpStream::connect(stage.data).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(1), socket.read_u8()).await;
        matches!(ended, Ok(Err(_)))
    })
    .await;
    let other = TcpSocket::new_v4().unwrap();
    other.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = other.connect(stage.data).await.unwrap();
    other
        .write_all(b"GET /v1/models HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(raw::rest(other).await.starts_with("HTTP/1.1 200 OK"), "another one is served");
    drop(kept);
    until("they are given back", async || {
        let head = "GET /v1/models HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n";
        let mut socket = raw::send(stage.data, head).await;
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes).await;
        bytes.starts_with(b"HTTP/1.1 200")
    })
    .await;
}

/// Connections made, used and closed.
const CHURN: usize = 4_000;

/// How many of them at once.
const AT_ONCE: usize = 8;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Connections of the kernel that wait at `port` for stray packets.
fn waiting_at(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let waits = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[3] == "06"
    };
    table.lines().filter(waits).count()
}

async fn churn(stage: &Stage, count: usize) {
    for at in 0..count {
        let body = chat("hi", 1, false).to_string();
        let mut socket = match at % 4 {
            // One that is reset, and one that says nothing.
            0 => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_zero_linger().unwrap();
                drop(socket.connect(stage.data).await.unwrap());
                continue;
            }
            1 => {
                drop(TcpStream::connect(stage.data).await.unwrap());
                continue;
            }
            _ => raw::post(stage.data, CHAT, &body).await,
        };
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_connections_that_come_and_go_leave_nothing() {
    let stage = Arc::new(stage(RoundRobin, 1).await);
    churn(&stage, 200).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = (descriptors(), tasks());
    let began = Instant::now();
    let mut churning = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let stage = Arc::clone(&stage);
        churning.spawn(async move { churn(&stage, CHURN / AT_ONCE).await });
    }
    churning.join_all().await;
    let took = began.elapsed();
    until("all of it is given back", async || {
        descriptors() <= before.0 + 2
            && tasks() <= before.1 + 2
            && waiting_at(stage.data.port()) == 0
    })
    .await;
    let after = (descriptors(), tasks());
    let waiting = waiting_at(stage.data.port());
    println!(
        "B7: {CHURN} connections in {:.1} s: descriptors {} → {}, tasks {} → {}, {waiting} connections wait at the router's \
         port",
        took.as_secs_f64(),
        before.0,
        after.0,
        before.1,
        after.1
    );
    stage.until_idle().await;
}
