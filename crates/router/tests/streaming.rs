//! Bytes pass as they are and when they come, and a client that hangs up is noticed at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{HttpClient, MODEL, Stage, chat, config, received, stage, until};
use emulator::Fault;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use policy::config::StrategyName::RoundRobin;
use router::{config::Replica, serve::Router};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

const CHAT: &str = "/v1/chat/completions";

/// A server that answers one connection with `answer`, byte for byte, and tells what it was sent.
async fn record(listener: TcpListener, answer: &'static [u8]) -> Vec<u8> {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut chunk = [0; 65_536];
        while !request.windows(9).any(|it| it == b"the end\"}") && !request.starts_with(b"GET ") {
            let count = socket.read(&mut chunk).await.unwrap();
            request.extend_from_slice(&chunk[..count]);
            if count == 0 {
                break;
            }
        }
        if request.starts_with(b"GET ") {
            socket
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await
                .unwrap();
            continue;
        }
        socket.write_all(answer).await.unwrap();
        return request;
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_byte_for_byte() {
    const SENT: &str = "{ \"messages\" : [{\"content\":\"h\\u00e9\\n\",  \"role\":\"user\"}],\t\"model\":\"m\",\
        \"guided_json\":{\"b\":0.123456789012345678,\"a\":[]}, \"priority\": -3, \"cache_salt\":\"s\", \"z\":\"the end\"}";
    const EVENTS: &str = ": ping\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\ndata:  [DONE]\r\n\r\ndata: [DONE]\n\n";
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-engine: 7\r\ncontent-length: {}\r\n\r\n{EVENTS}",
        EVENTS.len()
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let recorded = tokio::spawn(record(listener, answer.leak().as_bytes()));
    let mut config = config(RoundRobin);
    config.replicas.push(Replica { name: None, url });
    let router = Router::open(config).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), router.all_ready()).await.unwrap();
    let address = router.data().unwrap();
    tokio::spawn(router.run(std::future::pending()));
    let client: HttpClient =
        hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
            .build_http();
    let request = Request::post(format!("http://{address}{CHAT}?a=b"))
        .header("x-request-id", "mine")
        .header("x-custom", "kept")
        .header("connection", "x-secret")
        .header("x-secret", "not kept")
        .body(Full::new(Bytes::from(SENT)))
        .unwrap();
    let answer = received(client.request(request).await.unwrap()).await;
    assert_eq!(answer.body, EVENTS);
    assert_eq!((answer.header("x-engine"), answer.header("x-request-id")), ("7", "mine"));
    let sent = String::from_utf8(recorded.await.unwrap()).unwrap();
    assert!(sent.ends_with(SENT), "{sent}");
    let head = sent.split("\r\n\r\n").next().unwrap().to_lowercase();
    assert!(head.starts_with("post /v1/chat/completions?a=b http/1.1"), "{head}");
    assert!(head.contains("x-custom: kept") && head.contains("x-request-id: mine"), "{head}");
    assert!(!head.contains("x-secret"), "{head}");
    assert!(head.contains(&format!("content-length: {}", SENT.len())), "{head}");
}

#[tokio::test]
async fn each_piece_is_relayed_when_it_comes() {
    let stage = stage(RoundRobin, 1).await;
    stage.replicas[0].set_fault(Fault::StallAfter(2)).await.unwrap();
    let mut body = stage.stream(20).await.into_body();
    let mut seen = String::new();
    // The replica says no more after this, so what comes was not held back for more.
    while seen.matches("data: ").count() < 2 {
        let frame = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
        seen.push_str(&String::from_utf8_lossy(frame.unwrap().unwrap().data_ref().unwrap()));
    }
}

#[tokio::test]
async fn a_whole_stream_has_its_usage_and_its_headers() {
    let stage = stage(RoundRobin, 1).await;
    let mut body = chat("hi", 5, true);
    body["stream_options"] = serde_json::json!({ "include_usage": true });
    let answer = stage.chat(&body).await;
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(answer.header("x-sluice-policy"), "round-robin");
    assert_eq!(answer.header("x-sluice-decision"), "load");
    assert!(answer.header("x-sluice-prefix-hit").starts_with("0/"));
    assert_eq!(stage.metric("sluice_output_tokens_total{replica=\"r0\"}").await, 5);
    stage.until_idle().await;
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
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await.unwrap();
    socket.write_all(body.as_bytes()).await.unwrap();
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
        for _ in 0..21 {
            took.push(hang_up(&stage, wait).await);
        }
        took.sort();
        assert!(took[10] < Duration::from_millis(50), "{wait:?}: {took:?}");
        stage.until_idle().await;
        let gone = stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await;
        assert_eq!(gone, 21, "{wait:?}");
    }
}

/// A replica that takes requests, says nothing, and tells when it was sent one and when it was left.
async fn silent(listener: TcpListener, told: mpsc::Sender<Instant>) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let told = told.clone();
        tokio::spawn(async move {
            let mut request = Vec::new();
            while !request.windows(4).any(|it| it == b"\r\n\r\n") {
                if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            if request.starts_with(b"GET ") {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                return socket.write_all(answer).await.unwrap();
            }
            told.send(Instant::now()).await.unwrap();
            while socket.read_buf(&mut request).await.unwrap_or(0) != 0 {}
            told.send(Instant::now()).await.unwrap();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_hangs_up_on_a_silent_replica_is_noticed_within_50_ms() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = config(RoundRobin);
    config
        .replicas
        .push(Replica { name: None, url: format!("http://{}", listener.local_addr().unwrap()) });
    let (sender, mut told) = mpsc::channel(1);
    tokio::spawn(silent(listener, sender));
    let router = Router::open(config).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), router.all_ready()).await.unwrap();
    let address = router.data().unwrap();
    tokio::spawn(router.run(std::future::pending()));
    let mut told = async || tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
    let body = chat("hi", 1, true).to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut took = Vec::new();
    for _ in 0..21 {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body.as_bytes()).await.unwrap();
        told().await.unwrap().unwrap();
        let hung_up = Instant::now();
        drop(socket);
        took.push(told().await.unwrap().unwrap().duration_since(hung_up));
    }
    took.sort();
    assert!(took[10] < Duration::from_millis(50), "{took:?}");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody_else() {
    let stage = stage(RoundRobin, 1).await;
    let stuck = stage.stream(2_000).await;
    let answer = stage.chat(&chat("hi", 3, true)).await;
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    drop(stuck);
    stage.until_idle().await;
    assert_eq!(stage.open(Method::GET, "/v1/models", &[], "").await.status(), 200);
    assert!(stage.get("/v1/models").await.body.contains(MODEL));
}
