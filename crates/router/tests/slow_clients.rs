//! Clients that take their time. Named in docs/reliability.md: B4.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::{Duration, Instant};

use common::{chat, config, raw, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Slow clients of all kinds together.
const SLOW: usize = 4_000;

/// How long a head and a body may take here.
const BOUND: Duration = Duration::from_secs(3);

/// How long after its beginning the last slow client may still be there, on a machine that does much else.
const LATEST: Duration = Duration::from_secs(30);

/// What each kind says at once, and what it adds again and again; `SERVED` of them have been answered a request before.
const KINDS: [(&str, &str); 7] = [
    ("", ""),
    ("P", ""),
    ("PRI * HTTP/2.0\r\n\r\nSM", ""),
    ("POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n", "x: y\r\n"),
    (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: 9000\r\n\r\n{\"model\":\"m\",",
        " ",
    ),
    ("", ""),
    ("POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\n", "x: y\r\n"),
];

/// The last so many kinds.
const SERVED: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_slow_heads_and_bodies_end_and_hold_up_nobody() {
    let mut config = config(RoundRobin);
    (config.timeouts.client_head, config.timeouts.client_body) = (BOUND, BOUND);
    let stage = stage_with(config, 1).await;
    let mut slow = Vec::new();
    for at in 0..SLOW {
        let opened = Instant::now();
        let mut socket = TcpStream::connect(stage.data).await.unwrap();
        let kind = at % KINDS.len();
        if KINDS.len() - SERVED <= kind {
            socket.write_all(b"GET /v1/models HTTP/1.1\r\nhost: r\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"}") {
                assert_ne!(socket.read_buf(&mut answer).await.unwrap(), 0);
            }
            assert!(answer.starts_with(b"HTTP/1.1 200"));
        }
        socket.write_all(KINDS[kind].0.as_bytes()).await.unwrap();
        slow.push((kind, opened, Some(socket)));
    }
    let began = Instant::now();
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    let mut ended: [Option<Duration>; KINDS.len()] = [None; KINDS.len()];
    while slow.iter().any(|it| it.2.is_some()) {
        assert!(began.elapsed() < LATEST, "some of them are still there");
        for (kind, opened, place) in &mut slow {
            let Some(socket) = place else { continue };
            let mut bytes = [0; 512];
            let is_gone = |it: std::io::Error| it.kind() != std::io::ErrorKind::WouldBlock;
            let is_over = match socket.try_read(&mut bytes) {
                Ok(read) => read == 0,
                Err(error) => is_gone(error),
            } || socket.try_write(KINDS[*kind].1.as_bytes()).is_err_and(is_gone);
            if is_over {
                *place = None;
                let lasted = opened.elapsed();
                assert!(BOUND <= lasted, "{:?} was ended after {lasted:?}", KINDS[*kind].0);
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
