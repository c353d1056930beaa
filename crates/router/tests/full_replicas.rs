//! What replicas do, at the counts that docs/reliability.md asks for. Run by benches/full_counts.sh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    CHAT, Stage, chat, config,
    echo::{self, Then},
    raw, stage_with, until,
};
use http::Method;
use policy::config::StrategyName::{LeastRequest, RoundRobin};
use router::config::{Config, Replica};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

fn add(config: &mut Config, url: String) {
    let name = Some(format!("r{}", config.replicas.len()));
    config.replicas.push(Replica { name, ..Replica::at(url) });
}

const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";

/// Ways to answer, half of which are right.
const WAYS: usize = 26;

/// What a replica sends whose answer would be `body`: pieces with a moment between them, and whether it then closes.
fn erratic(way: usize, body: &str) -> (Vec<String>, Then) {
    let ok = "HTTP/1.1 200 OK\r\n";
    let length = body.len();
    let honest = String::from_utf8(echo::answer(body.as_bytes())).unwrap();
    let chunked = |end: &str| {
        format!(
            "{ok}transfer-encoding: chunked\r\ntrailer: x-evil\r\n\r\n{length:x}\r\n{body}\r\n{end}"
        )
    };
    let sized = |length: usize| format!("{ok}content-length: {length}\r\n\r\n{body}");
    match way {
        // More than was announced, all of it at once or the beginning of it, or in the middle of a head. (What nobody
        // asked for and comes once the next request is under way can't be told from its answer, by nobody.)
        0 => (vec![honest + EVIL], Then::Keep),
        1 => (vec![honest + &EVIL[..9], EVIL[9..].to_owned()], Then::Keep),
        2 => (vec![honest + EVIL + EVIL], Then::Close),
        3 => (vec![honest + "EVIL\r\n\r\n"], Then::Keep),
        4 => (vec![sized(length - 1)], Then::Keep),
        // Less than was announced.
        5 => (vec![sized(length + 9)], Then::Close),
        6 => (
            vec![format!("{ok}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}")],
            Then::Close,
        ),
        7 => (vec![String::new()], Then::Close),
        // Framing that can't be read, or in two ways.
        8 => (vec![chunked("EVIL\r\n")], Then::Keep),
        9 => (
            vec![format!("{ok}content-length: {length}\r\ncontent-length: 4\r\n\r\n{body}")],
            Then::Keep,
        ),
        10 => (vec![format!("EVIL\r\n{honest}")], Then::Keep),
        // Another protocol.
        11 => (
            vec![format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: evil\r\n\r\nEVIL{honest}")],
            Then::Keep,
        ),
        12 => (
            vec![format!("HTTP/1.1 101 Switching Protocols\r\n\r\n"), EVIL.to_owned()],
            Then::Close,
        ),
        // What comes before or after a right answer, and none of what need not come.
        13 => (vec![format!("HTTP/1.1 100 Continue\r\n\r\n{honest}")], Then::Keep),
        14 => (vec![format!("HTTP/1.1 103 Early Hints\r\nlink: EVIL\r\n\r\n"), honest], Then::Keep),
        15 => (vec![chunked("0\r\nx-evil: EVIL\r\n\r\n")], Then::Keep),
        16 => (
            vec![format!(
                "{ok}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            )],
            Then::Keep,
        ),
        17 => (vec![sized(length)], Then::Keep),
        18 => (vec![format!("{ok}\r\n{body}")], Then::Close),
        19 => (honest.split_inclusive('\n').map(str::to_owned).collect(), Then::Keep),
        _ => (vec![honest], Then::Keep),
    }
}

/// A number that says nothing of `at`.
fn scattered(at: usize) -> usize {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

async fn errs_by_number(mut socket: TcpStream, body: Vec<u8>) -> (TcpStream, Then) {
    let body = String::from_utf8(body).unwrap();
    let number = body.split('"').nth(7).unwrap().parse().unwrap();
    let (pieces, then) = erratic(scattered(number) % WAYS, &body);
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if socket.write_all(piece.as_bytes()).await.is_err() {
            return (socket, Then::Close);
        }
    }
    (socket, then)
}

#[derive(Debug, Default)]
struct Heard {
    whole: usize,
    broken_off: usize,
    refused: usize,
    mixed_up: usize,
}

/// Asks for every `clients`-th of `count` answers.
async fn hear(stage: Arc<Stage>, client: usize, clients: usize, count: usize) -> Heard {
    let mut heard = Heard::default();
    for at in (client..count).step_by(clients) {
        let padding = "x".repeat(scattered(at + 1) % 300);
        let body = format!(r#"{{"model":"m","user":"{at}","messages":[],"metadata":"{padding}"}}"#);
        let response = stage.open(Method::POST, CHAT, &[], body.clone()).await;
        let status = response.status();
        let is_evil = response.headers().values().any(|it| it.as_bytes().starts_with(b"EVIL"));
        let answer = http_body_util::BodyExt::collect(response.into_body()).await;
        let answer = answer.map(|it| it.to_bytes());
        let is_own = |answer: &[u8]| body.as_bytes().starts_with(answer);
        let odd = format!("{at}: {status} {answer:?}");
        match answer {
            _ if is_evil => heard.mixed_up += 1,
            Ok(answer) if status == 200 && is_own(&answer) => heard.whole += 1,
            Ok(answer)
                if status.is_server_error() && !answer.windows(4).any(|it| it == b"EVIL") =>
            {
                heard.refused += 1;
            }
            Ok(_) => {
                println!("{odd}");
                heard.mixed_up += 1;
            }
            Err(_) => heard.broken_off += 1,
        }
    }
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: benches/full_counts.sh"]
async fn full_a10_of_10_000_answers_with_wrong_ends_nothing_reaches_another_client() {
    let mut config = config(RoundRobin);
    // Who errs as often as these do is to be asked nevertheless.
    config.health.ejection = Duration::from_millis(1);
    for _ in 0..3 {
        add(&mut config, echo::replica(errs_by_number).await);
    }
    let stage = Arc::new(stage_with(config, 0).await);
    let (count, clients) = (10_000, 16);
    let mut hearing = JoinSet::new();
    for client in 0..clients {
        hearing.spawn(hear(Arc::clone(&stage), client, clients, count));
    }
    let all = hearing.join_all().await;
    let sum = |of: fn(&Heard) -> usize| all.iter().map(of).sum::<usize>();
    let (whole, broken_off) = (sum(|it| it.whole), sum(|it| it.broken_off));
    let (refused, mixed_up) = (sum(|it| it.refused), sum(|it| it.mixed_up));
    println!(
        "A10: {count} answers of {WAYS} kinds in random order over kept connections, {clients} at once: {whole} whole, \
         {broken_off} broken off, {refused} refused, {mixed_up} with a byte of another's"
    );
    assert_eq!((mixed_up, whole + broken_off + refused), (0, count));
    assert!(count / 2 <= whole && 0 < broken_off && 0 < refused, "they were asked");
    stage.until_idle().await;
}

/// Streams a token five times a second, for four seconds, and once it is busy answers every question after its health
/// 10 s later.
async fn slow_to_say_that_it_is_well(mut socket: TcpStream, is_busy: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16_384];
    loop {
        let Ok(read @ 1..) = socket.read(&mut bytes).await else { return };
        let head = &bytes[..read];
        if head.starts_with(b"POST") {
            let ok =
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            if socket.write_all(ok.as_bytes()).await.is_err() {
                return;
            }
            for _ in 0..20 {
                let token = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
                if socket.write_all(token).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let _ = socket.write_all(b"data: [DONE]\n\n").await;
            return;
        }
        if head.starts_with(b"GET /health") && is_busy.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        if socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}

/// Streams until `end`; returns how many answers were whole, and how many not.
async fn stream(to: std::net::SocketAddr, end: Instant) -> (usize, usize) {
    let (mut whole, mut other) = (0, 0);
    while Instant::now() < end {
        let mut socket = raw::post(to, CHAT, &chat("go on", 20, true).to_string()).await;
        let mut seen = Vec::new();
        while !seen.ends_with(b"0\r\n\r\n") {
            if !socket.read_buf(&mut seen).await.is_ok_and(|it| it > 0) {
                break;
            }
        }
        let seen = String::from_utf8_lossy(&seen);
        let is_whole = seen.starts_with("HTTP/1.1 200") && seen.matches("\"a\"").count() == 20;
        if is_whole {
            whole += 1;
        } else {
            other += 1;
        }
    }
    (whole, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: benches/full_counts.sh"]
async fn full_a6_with_2_048_streams_at_once_busy_replicas_are_not_taken_for_dead() {
    let mut config = config(LeastRequest);
    config.health.timeout = Duration::from_millis(500);
    config.health.probe_failures = 1;
    let count = 4;
    let is_busy: Arc<AtomicBool> = Arc::default();
    for _ in 0..count {
        let is_busy = Arc::clone(&is_busy);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        add(&mut config, format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(slow_to_say_that_it_is_well(socket, Arc::clone(&is_busy)));
            }
        });
    }
    let stage = stage_with(config, 0).await;
    let streams: u32 = 2_048;
    let end = Instant::now() + Duration::from_secs(30);
    let mut streaming = JoinSet::new();
    for _ in 0..streams {
        streaming.spawn(stream(stage.data, end));
    }
    until("all of them stream", async || {
        stage.metric_sum("sluice_requests_in_flight").await == u64::from(streams)
    })
    .await;
    is_busy.store(true, Ordering::Relaxed);
    let (mut looks, mut ejected) = (0, 0);
    while Instant::now() < end {
        for at in 0..count {
            looks += 1;
            ejected += usize::from(stage.health(at).await != "ready");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let all = streaming.join_all().await;
    let (whole, other) = all.iter().fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    println!(
        "A6: {streams} streams at once over {count} replicas that take 10 s to say that they are well (0.5 s allowed), for \
         30 s: {whole} whole, {other} others; not ready in {ejected} of {looks} looks"
    );
    assert_eq!((other, ejected), (0, 0));
    assert!(2 * streams as usize <= whole);
}

/// Sends a request each `every` until told to stop; latencies are from when each was due. The failed ones last.
async fn open_loop(
    stage: Arc<Stage>,
    every: Duration,
    stop: tokio::sync::watch::Receiver<bool>,
) -> (Vec<Duration>, usize) {
    let (began, mut asking) = (Instant::now(), JoinSet::new());
    for at in 0.. {
        let due = began + every * at;
        tokio::time::sleep_until(due.into()).await;
        if *stop.borrow() {
            break;
        }
        let stage = Arc::clone(&stage);
        asking.spawn(async move {
            let answer = stage.chat(&chat(&format!("question {at}"), 20, false)).await;
            (answer.status == 200).then(|| due.elapsed())
        });
    }
    let all = asking.join_all().await;
    let failed = all.iter().filter(|it| it.is_none()).count();
    let mut took: Vec<Duration> = all.into_iter().flatten().collect();
    took.sort();
    (took, failed)
}

fn p99_ms(sorted: &[Duration]) -> f64 {
    sorted[sorted.len() * 99 / 100].as_secs_f64() * 1e3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: benches/full_counts.sh"]
async fn full_a14_at_200_requests_a_second_a_rolling_restart_costs_none() {
    let mut config = config(LeastRequest);
    config.admin.registrable = vec!["127.0.0.0/8".to_owned()];
    let stage = Arc::new(stage_with(config, 4).await);
    let every = Duration::from_millis(5);
    let mut measured = Vec::new();
    for restarts in [false, true] {
        let (stop, told) = tokio::sync::watch::channel(false);
        let load = tokio::spawn(open_loop(Arc::clone(&stage), every, told));
        if restarts {
            for at in 0..4 {
                let pause = || tokio::time::sleep(Duration::from_secs(2));
                stage.restart(at, pause).await;
                pause().await;
            }
        } else {
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        stop.send(true).unwrap();
        measured.push(load.await.unwrap());
    }
    let [(steady, failed_before), (took, failed)] = measured.try_into().unwrap();
    let (before, during) = (p99_ms(&steady), p99_ms(&took));
    println!(
        "A14: 4 replicas restarted one after another at 200 requests a second: {failed} of {} failed; p99 {during:.0} ms, \
         {before:.0} ms without ({:.2} ×)",
        took.len() + failed,
        during / before
    );
    assert_eq!((failed_before, failed), (0, 0));
    assert!(during <= 2.0 * before, "{during} ms, where {before} is usual");
    stage.until_idle().await;
}
