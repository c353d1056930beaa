//! Replicas that say what they should not, and what clients are told of where the time went.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use common::{CHAT, chat, config, raw, stage, stage_before, until};
use http_body_util::BodyExt as _;
use policy::{admission::AdmissionConfig, config::StrategyName::RoundRobin};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

async fn replica(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

#[tokio::test]
async fn metrics_that_cannot_be_true_shut_nobody_out() {
    for nonsense in ["1e308", "-5", "4294967295"] {
        let page = format!(
            "vllm:num_requests_running 0\nvllm:num_requests_waiting {nonsense}\n\
             vllm:kv_cache_usage_perc 0.1\n"
        );
        let routes = Router::new()
            .route("/health", get(async || "ok"))
            .route("/metrics", get(async move || page.clone()))
            .route(CHAT, post(async || "{}"));
        let mut config = config(RoundRobin);
        config.admission = AdmissionConfig::default();
        let stage = stage_before(replica(routes).await, config).await;
        let left_out = async || {
            let text = stage.admin(http::Method::GET, "/metrics", "").await.body;
            let of = |it: &&str| it.starts_with("sluice_replica_implausible_samples_total{");
            let line = text.lines().find(of).unwrap().to_owned();
            line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
        };
        until("they were read twice", async || 2 <= left_out().await).await;
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!(answer.status, 200, "{nonsense}: {answer:?}");
        let shown = stage.admin(http::Method::GET, "/admin/replicas", "").await.json();
        assert_eq!(shown["replicas"][0]["reported"]["waiting"], 0, "{nonsense}");
    }
}

#[tokio::test]
async fn what_only_the_router_may_say_is_not_taken_from_a_replica() {
    let routes = Router::new().route("/health", get(async || "ok")).route(
        CHAT,
        post(async |body: String| {
            let headers = [
                ("x-sluice-dropped-reason", "evil"),
                ("x-sluice-replica", "evil"),
                ("x-sluice-anything", "evil"),
                ("server-timing", "evil"),
                ("x-request-id", "evil"),
                ("x-engine", "mine"),
                ("retry-after", "7"),
            ];
            let is_full = body.contains("full");
            let status = if is_full { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
            (status, headers, "{}")
        }),
    );
    let stage = stage_before(replica(routes).await, config(RoundRobin)).await;
    for (question, status) in [("hi", 200), ("full", 429)] {
        let answer = stage.chat(&chat(question, 1, false)).await;
        assert_eq!(answer.status, status);
        assert!(answer.headers.values().all(|it| it != "evil"), "{answer:?}");
        assert_eq!((answer.header("x-engine"), answer.header("retry-after")), ("mine", "7"));
    }
}

#[tokio::test]
async fn every_answer_says_where_its_time_went() {
    let stage = stage(RoundRobin, 1).await;
    let parts = |timing: &str| -> Vec<(String, f64)> {
        let part = |it: &str| {
            let (name, ms) = it.trim().split_once(";dur=").unwrap();
            (name.to_owned(), ms.parse().unwrap())
        };
        timing.split(',').map(part).collect()
    };
    for stream in [false, true] {
        let answer = stage.chat(&chat("hi", 2, stream)).await;
        let parts = parts(answer.header("server-timing"));
        let names: Vec<_> = parts.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(names, ["read", "queue", "replica", "total"]);
        let sum: f64 = parts[..3].iter().map(|it| it.1).sum();
        assert!((sum - parts[3].1).abs() < 0.01 && 0.0 < parts[2].1, "{parts:?}");
    }
    let refused = stage.post(CHAT, &[], "{").await;
    let parts = parts(refused.header("server-timing"));
    let names: Vec<_> = parts.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(names, ["read", "queue", "total"], "no replica had it");
}

/// Bytes of an event without an end.
const LONG: usize = 48 << 20;

/// The same with what it begins by.
const EVENT: usize = LONG + 6;

/// What is written of it at a time.
const PIECE: usize = 64 << 10;

const EVENTS: usize = 100_000;

/// Events that end by returns alone, in several bytes a letter, and very many of them.
fn streamed(asked: &str) -> Vec<u8> {
    match asked {
        "returns" => "data: {\"delta\":\"a\"}\r\r".repeat(50) + "data: [DONE]\r\r",
        "split" => {
            "data: {\"delta\":\"a\u{e9}\u{20ac}\u{1f600}\"}\n\n".repeat(50) + "data: [DONE]\n\n"
        }
        _ => "data: {\"delta\":\"a\"}\n\n".repeat(EVENTS) + "data: [DONE]\n\n",
    }
    .into_bytes()
}

async fn say(socket: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    socket.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
    socket.write_all(bytes).await?;
    socket.write_all(b"\r\n").await
}

/// Answers `asked` as no engine should.
async fn be_hostile(socket: &mut TcpStream, asked: &str) -> std::io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";
    socket.write_all(head.as_bytes()).await?;
    match asked {
        "long head" => {
            socket.write_all(format!("x: {}\r\n", "a".repeat(1 << 20)).as_bytes()).await?;
        }
        "many lines" => socket.write_all("x: a\r\n".repeat(10_000).as_bytes()).await?,
        _ => {}
    }
    socket.write_all(b"\r\n").await?;
    match asked {
        "endless" => {
            say(socket, b"data: ").await?;
            for _ in 0..LONG / PIECE {
                say(socket, &[b'a'; PIECE]).await?;
            }
        }
        // A byte at a time.
        "split" => {
            for byte in streamed(asked).chunks(1) {
                say(socket, byte).await?;
            }
        }
        _ => say(socket, &streamed(asked)).await?,
    }
    socket.write_all(b"0\r\n\r\n").await
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1_024
}

/// E10, in docs/reliability.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e10_a_hostile_stream_is_relayed_or_refused_and_others_are_served() {
    let url = raw::replica(|mut socket, request| async move {
        let kinds = ["endless", "returns", "split", "burst", "long head", "many lines"];
        let _ = match kinds.into_iter().find(|it| request.contains(it)) {
            // Whoever is hung up on stops.
            Some(kind) => be_hostile(&mut socket, kind).await,
            None => socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await,
        };
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    let beside = async || {
        for _ in 0..20 {
            let answer = stage.chat(&chat("hi", 1, false)).await;
            assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "{}"));
        }
    };
    let ask = async |kind: &str| {
        let body = chat(kind, 1, true).to_string();
        stage.open(http::Method::POST, CHAT, &[], body).await
    };

    let endless = async {
        let mut answer = ask("endless").await;
        assert_eq!(answer.status(), 200);
        let (before, mut most, mut seen) = (resident_bytes(), 0, 0);
        // What follows the event that never ended.
        let mut end = Vec::new();
        while let Some(frame) = answer.frame().await {
            let bytes = frame.unwrap().into_data().unwrap();
            for byte in bytes {
                match seen {
                    ..6 => assert_eq!(byte, b"data: "[seen]),
                    6..EVENT => assert_eq!(byte, b'a'),
                    _ => end.push(byte),
                }
                seen += 1;
            }
            most = most.max(resident_bytes());
        }
        println!(
            "E10: an event of {} MB without an end: {seen} bytes relayed, memory +{} KB",
            LONG >> 20,
            most.saturating_sub(before) >> 10
        );
        assert!(EVENT <= seen, "{seen} bytes came");
        assert!(String::from_utf8(end).unwrap().contains("broke off"), "it had no end");
        assert!(most.saturating_sub(before) < LONG / 4 * 3, "{before} became {most}");
    };
    tokio::join!(endless, beside());

    for kind in ["returns", "split", "burst"] {
        let relayed = async {
            let answer = ask(kind).await;
            assert_eq!(answer.status(), 200);
            answer.into_body().collect().await.unwrap().to_bytes()
        };
        let (relayed, ()) = tokio::join!(relayed, beside());
        assert!(relayed == streamed(kind), "{kind}: {} bytes", relayed.len());
    }
    for kind in ["long head", "many lines"] {
        let (answer, ()) = tokio::join!(ask(kind), beside());
        assert_eq!(answer.status(), 502, "{kind}");
    }
    stage.until_idle().await;
}
