//! What clients send wrong.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::Duration;

use common::{CHAT, MODEL, chat, config, raw, stage, stage_with, until};
use emulator::Fault;
use policy::config::StrategyName::RoundRobin;
use router::config::{Secret, Tenant, units::ByteSize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

#[tokio::test]
async fn bad_requests_are_refused_with_the_reason_and_reach_no_replica() {
    let stage = stage(RoundRobin, 1).await;
    let duplicate = format!(r#"{{"model":"{MODEL}","model":"x","messages":[]}}"#);
    let deep =
        format!(r#"{{"model":"{MODEL}","x":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    for (body, status, culprit) in [
        ("{", 400, "line 1"),
        ("[]", 400, "JSON object"),
        (r#"{"messages":[]}"#, 400, "`model` is missing"),
        (r#"{"model":7,"messages":[]}"#, 400, "`model` must be"),
        (duplicate.as_str(), 400, "more than once"),
        (
            r#"{"model":"nope","messages":[]}"#,
            404,
            "no replica serves the model `nope`; GET /v1/models",
        ),
    ] {
        let answer = stage.post(CHAT, &[], body.to_owned()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(culprit), "{message}");
        assert!(answer.header("x-request-id").starts_with("req-"));
    }
    let bomb = stage.post(CHAT, &[], deep).await;
    assert!(bomb.status.is_client_error(), "{}", bomb.status);
    let wrong = stage.metric("sluice_requests_total{outcome=\"bad-request\"}").await;
    assert_eq!(wrong, 7, "each refusal is counted");
    assert_eq!(stage.replicas[0].stats().counters.prompt_tokens, 0);
}

#[tokio::test]
async fn what_needs_no_model_goes_to_any_replica() {
    let stage = stage(RoundRobin, 1).await;
    for path in ["/tokenize", "/detokenize"] {
        let answer = stage.post(path, &[], r#"{"prompt":"hi","tokens":[1]}"#).await;
        assert_eq!(answer.header("x-sluice-replica"), "r0", "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn what_is_not_served_is_not_found() {
    let stage = stage(RoundRobin, 1).await;
    for path in
        ["/", "/health", "/metrics", "/reset_prefix_cache", "/v1/chat/completions/", "//v1/models"]
    {
        assert_eq!(stage.post(path, &[], "{}").await.status, 404, "{path}");
    }
    let answer = stage.get(CHAT).await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    let answer = stage.post("/v1/models", &[], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, HEAD"));
    let head = stage.open(http::Method::HEAD, "/v1/models", &[], "").await;
    assert_eq!(head.status(), 200);
}

#[tokio::test]
async fn a_model_that_nobody_serves_is_named_in_what_can_be_shown_of_it() {
    let stage = stage(RoundRobin, 1).await;
    let long = format!("\u{1b}[31m{}", "x".repeat(5_000));
    let body = serde_json::json!({ "model": long, "messages": [] }).to_string();
    let answer = stage.post(CHAT, &[], body).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (404, "model_not_found"));
    assert!(message.contains("`\\u{1b}[31mxxx") && message.contains("x…`"), "{message}");
    assert!(message.len() < 200, "{message}");
    let answer = stage.get("/v1/models/nope").await;
    assert!(
        answer.body.contains("`nope`") && answer.body.contains("/v1/models"),
        "{}",
        answer.body
    );
}

#[tokio::test]
async fn a_header_of_ours_that_says_nothing_is_refused_with_the_cure() {
    let stage = stage(RoundRobin, 1).await;
    for (name, value, cure) in [
        ("x-sluice-timeout-ms", "soon", "milliseconds"),
        ("x-sluice-timeout-ms", "-1", "milliseconds"),
        ("x-sluice-timeout-ms", "99999999999999999999999", "milliseconds"),
        ("x-sluice-timeout-ms", "0", "milliseconds of at least 1"),
        ("x-sluice-slo-ttft-ms", "abc", "milliseconds"),
        ("x-slo-tpot-ms", "-5", "milliseconds"),
        ("x-sluice-priority", "urgent!", "`batch`"),
    ] {
        let answer = stage.post(CHAT, &[(name, value)], chat("hi", 1, false).to_string()).await;
        assert_eq!(answer.status, 400, "{name}: {value}: {answer:?}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.starts_with(name) && message.contains(cure), "{message}");
    }
    let good = [("x-sluice-timeout-ms", " 60000"), ("x-sluice-priority", "batch")];
    assert_eq!(stage.post(CHAT, &good, chat("hi", 1, false).to_string()).await.status, 200);
}

#[tokio::test]
async fn an_oversized_or_compressed_body_is_refused() {
    let mut config = config(RoundRobin);
    config.limits.body_bytes_max = ByteSize(1_000);
    let stage = stage_with(config, 1).await;
    let answer = stage.chat(&chat(&"x".repeat(2_000), 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "body_too_large"));
    let chunk = format!("{:x}\r\n{}\r\n", 2_000, "x".repeat(2_000));
    // It is refused before its end, which does not come.
    let socket = raw::send(stage.data, &(chunked_head() + &chunk)).await;
    let answer = raw::rest(socket).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("body_too_large"), "{answer}");
    let answer = stage.post(CHAT, &[("content-encoding", "gzip")], "x").await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (415, "unsupported_encoding"));
}

fn chunked_head() -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n")
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_not_waited_for() {
    let mut config = config(RoundRobin);
    config.timeouts.client_body = Duration::from_millis(50);
    let stage = stage_with(config, 1).await;
    let answer = raw::rest(raw::send(stage.data, &chunked_head()).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
}

#[tokio::test]
async fn a_body_of_unknown_length_holds_no_more_memory_than_it_takes() {
    let mut config = config(RoundRobin);
    // Room for one body of the longest kind, which one of unknown length might become.
    config.limits.body_bytes_in_flight_max = config.limits.body_bytes_max;
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::StallAfter(0)).await.unwrap();
    let body = chat("go on", 9, true).to_string();
    let request = format!("{}{:x}\r\n{body}\r\n0\r\n\r\n", chunked_head(), body.len());
    let _open = raw::send(stage.data, &request).await;
    until("it is placed", async || stage.reserved().await != 0).await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200);
}

#[tokio::test]
async fn anthropic_clients_get_errors_in_their_dialect() {
    let stage = stage(RoundRobin, 1).await;
    let answer = stage.post("/v1/messages", &[("x-request-id", "mine")], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.json()["type"].as_str()), (400, Some("error")));
    assert_eq!(answer.header("x-request-id"), "mine");
}

/// All that comes back over one connection for `bytes`, however it ends.
async fn exchanged(to: std::net::SocketAddr, bytes: String) -> String {
    let (mut reads, mut writes) = TcpStream::connect(to).await.unwrap().into_split();
    // Whoever closes with bytes unread resets the connection: what had come by then counts.
    let writing = tokio::spawn(async move {
        let _ = writes.write_all(bytes.as_bytes()).await;
        writes
    });
    let mut seen = Vec::new();
    let reading = async { while matches!(reads.read_buf(&mut seen).await, Ok(1..)) {} };
    tokio::time::timeout(Duration::from_secs(20), reading).await.unwrap();
    let _ = writing.await.unwrap();
    String::from_utf8(seen).unwrap()
}

/// A request is refused by its head, and its body is made of requests: none of them is served, and what
/// follows it on the connection gets its own answer, or the connection has ended.
#[tokio::test]
async fn e3_a_body_that_nobody_read_is_no_request() {
    /// SHA-256 of `alice`.
    const ALICE: &str = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let mut config = config(RoundRobin);
    config.tenants = vec![Tenant {
        name: "alice".to_owned(),
        keys: vec![Secret { sha256: Some(ALICE.to_owned()), ..Secret::default() }],
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
    }];
    let stage = stage_with(config, 1).await;
    let key = "host: r\r\nauthorization: Bearer alice\r\n";
    let chat = chat("smuggled", 1, false).to_string();
    let length = chat.len();
    let inner = format!("POST {CHAT} HTTP/1.1\r\n{key}content-length: {length}\r\n\r\n{chat}");
    let next = format!("GET /v1/models HTTP/1.1\r\n{key}connection: close\r\n\r\n");
    for (line, headers, status) in [
        (format!("POST {CHAT}"), "host: r\r\n".to_owned(), "401"),
        ("POST /nowhere".to_owned(), key.to_owned(), "404"),
        (format!("PUT {CHAT}"), key.to_owned(), "405"),
        (format!("POST {CHAT}"), format!("{key}content-encoding: gzip\r\n"), "415"),
    ] {
        for size in [1_000, 60_000, 300_000, 2_000_000] {
            let body = inner.repeat(size / inner.len() + 1);
            let head = format!("{line} HTTP/1.1\r\n{headers}content-length: {}", body.len());
            let answers = exchanged(stage.data, format!("{head}\r\n\r\n{body}{next}")).await;
            let statuses: Vec<_> = answers.split("HTTP/1.1 ").skip(1).map(|it| &it[..3]).collect();
            println!("E3: {line}, {size} bytes unread: {statuses:?}");
            let is_own = statuses == [status, "200"] && answers.contains("\"object\":\"list\"");
            assert!(
                is_own || 60_000 <= size && (statuses == [status] || statuses.is_empty()),
                "{answers}"
            );
        }
    }
    let counted = || stage.replicas[0].stats().counters.prompt_tokens;
    assert_eq!(counted(), 0, "no inner request was served");
    assert!(exchanged(stage.data, inner + &next).await.starts_with("HTTP/1.1 200"));
    assert!(0 < counted(), "outside of a body it would have been");
}
