//! Bytes pass as they are, and when they come.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{CHAT, MODEL, chat, config, raw, received, stage, stage_before};
use emulator::Fault;
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use policy::config::StrategyName::RoundRobin;
use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, sync::mpsc};

#[tokio::test]
async fn bodies_pass_both_ways_byte_for_byte() {
    const SENT: &str = "{ \"messages\" : [{\"content\":\"h\\u00e9\\n\",  \"role\":\"user\"}],\t\"model\":\"m\",\
        \"guided_json\":{\"b\":0.123456789012345678,\"a\":[]}, \"priority\": -3, \"cache_salt\":\"s\", \"z\":1e400}\n ";
    const EVENTS: &str = ": ping\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\r\n\r\ndata:  [DONE]\r\n\r\ndata: [DONE]\n\n";
    let (sender, mut seen) = mpsc::channel(1);
    let url = raw::replica(move |mut socket, request| {
        let sender = sender.clone();
        async move {
            sender.send(request).await.unwrap();
            let length = EVENTS.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-engine: 7\r\n";
            let answer = format!("{head}content-length: {length}\r\n\r\n{EVENTS}");
            socket.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    let request = Request::post(format!("http://{}{CHAT}?a=b", stage.data))
        .header("x-request-id", "mine")
        .header("x-custom", "kept")
        .header("connection", "x-secret")
        .header("x-secret", "not kept")
        .body(Full::new(Bytes::from(SENT)))
        .unwrap();
    let answer = received(stage.client.request(request).await.unwrap()).await;
    assert_eq!(answer.body, EVENTS);
    assert_eq!((answer.header("x-engine"), answer.header("x-request-id")), ("7", "mine"));
    let request = seen.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, SENT);
    let head = head.to_lowercase();
    assert!(head.starts_with("post /v1/chat/completions?a=b http/1.1"), "{head}");
    assert!(head.contains("x-custom: kept") && head.contains("x-request-id: mine"), "{head}");
    assert!(!head.contains("x-secret"), "{head}");
    assert!(head.contains(&format!("content-length: {}", SENT.len())), "{head}");
}

/// A stream without what differs between two runs of one request: its name, its time, and how many
/// tokens an event holds, which is more than one where the replica is late.
fn comparable(stream: &str) -> (String, Vec<String>) {
    let (mut text, mut lines) = (String::new(), Vec::new());
    for line in stream.split('\n') {
        let Some(chunk) = line.strip_prefix("data: ").filter(|it| it.starts_with('{')) else {
            lines.push(line.to_owned());
            continue;
        };
        let mut chunk: Value = serde_json::from_str(chunk).unwrap();
        assert!(chunk["id"].take().is_string() && chunk["created"].take().is_u64());
        if let Some(content) = chunk["choices"].get_mut(0).map(|it| it["delta"]["content"].take()) {
            text.push_str(content.as_str().unwrap_or_default());
        }
        lines.push(format!("data: {chunk}"));
    }
    lines.retain(|it| !it.is_empty());
    lines.dedup();
    (text, lines)
}

#[tokio::test]
async fn a_stream_through_the_router_is_the_one_that_the_replica_sends() {
    let stage = stage(RoundRobin, 1).await;
    let mut body = chat("tell me", 30, true);
    body["stream_options"] = serde_json::json!({ "include_usage": true });
    // The first of all fills the replica's cache, of which the answers speak.
    let _ = stage.chat(&body).await;
    let routed = stage.chat(&body).await;
    let request = Request::post(format!("{}{CHAT}", stage.replicas[0].url()))
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let direct = received(stage.client.request(request).await.unwrap()).await;
    assert_eq!(comparable(&routed.body), comparable(&direct.body));
    assert!(!comparable(&routed.body).0.is_empty(), "{}", routed.body);
    assert_eq!(routed.header("content-type"), direct.header("content-type"));
}

#[tokio::test]
async fn a_client_that_speaks_http_2_is_served() {
    let stage = stage(RoundRobin, 1).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .http2_only(true)
        .build_http::<Full<Bytes>>();
    let request = Request::post(format!("http://{}{CHAT}", stage.data));
    let body = chat("hi", 5, true).to_string();
    let answer = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let answer = received(answer).await;
    assert!(answer.status == 200 && answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
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
