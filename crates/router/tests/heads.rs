//! What the head of a request may be, what becomes of one that may not, and what of it a replica sees. Named in
//! docs/reliability.md by the ids E4 and G4.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::sync::{Arc, Mutex};

use common::{CHAT, Stage, chat, config, raw, stage, until};
use policy::config::StrategyName::RoundRobin;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const LIMIT: usize = 32 << 10;

/// What is answered to a head that reads as `line`, followed by a good body; and what of it is in memory.
async fn asked(stage: &Stage, line: &str, headers: &str) -> String {
    let body = chat("hi", 1, false).to_string();
    let head = format!("{line}\r\nhost: r\r\nconnection: close\r\n{headers}");
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    let _ = socket.write_all(request.as_bytes()).await;
    let mut seen = Vec::new();
    // It may be reset before all of the answer is here.
    let _ = socket.read_to_end(&mut seen).await;
    String::from_utf8_lossy(&seen).to_lowercase()
}

async fn bad_requests(stage: &Stage) -> u64 {
    stage.metric("sluice_requests_total{outcome=\"bad-request\"}").await
}

#[tokio::test]
async fn e4_a_head_is_measured_whole_and_what_is_longer_is_told_so() {
    let stage = stage(RoundRobin, 1).await;
    let post = format!("POST {CHAT} HTTP/1.1");
    let header = |bytes: usize| format!("x: {}\r\n", "a".repeat(bytes));
    let many: String = (0..80).map(|it| format!("x-{it}: {}\r\n", "a".repeat(450))).collect();
    let target = format!("POST {CHAT}?{} HTTP/1.1", "a".repeat(33_000));
    let served = asked(&stage, &post, &header(LIMIT - 200)).await;
    assert!(served.starts_with("http/1.1 200"), "{served}");
    let before = stage.replicas[0].stats().counters.prompt_tokens;
    for (name, line, headers) in [
        ("a header of 33 KB", post.as_str(), header(33_000)),
        ("a header of 48 KB", &post, header(48_000)),
        ("36 KB in 80 lines", &post, many),
        ("a target of 33 KB", &target, String::new()),
    ] {
        let answer = asked(&stage, line, &headers).await;
        assert!(answer.starts_with("http/1.1 431"), "{name}: {answer}");
        assert!(answer.contains("x-request-id: req-"), "{name}: {answer}");
        assert!(answer.contains("\"code\":\"head_too_long\""), "{name}: {answer}");
    }
    assert_eq!(stage.replicas[0].stats().counters.prompt_tokens, before);
    assert_eq!(bad_requests(&stage).await, 4);
}

#[tokio::test]
async fn e4_a_head_that_cannot_be_read_is_counted() {
    let stage = stage(RoundRobin, 1).await;
    let post = format!("POST {CHAT} HTTP/1.1");
    let lines: String = (0..101).map(|it| format!("x-{it}: a\r\n")).collect();
    let unreadable = [
        ("400", raw::send(stage.data, "POST / HTTP/1.1\r\na b: c\r\n\r\n").await),
        ("400", raw::send(stage.data, "GET / HTTP/9\r\n\r\n").await),
        ("400", raw::send(stage.data, &format!("{post}\r\ncontent-length: -0\r\n\r\n")).await),
        ("431", raw::send(stage.data, &format!("{post}\r\n{lines}\r\n")).await),
    ];
    for (status, socket) in unreadable {
        let answer = raw::rest(socket).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    until("all are counted", async || bad_requests(&stage).await == 4).await;
    // Who hangs up has asked for nothing.
    drop(raw::send(stage.data, "POST / HT").await);
    let answer = asked(&stage, "GET /nowhere HTTP/1.1", "").await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    assert_eq!(bad_requests(&stage).await, 5);
}

#[tokio::test]
async fn g4_what_tells_a_router_what_to_do_reaches_no_replica() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let told = Arc::clone(&seen);
    let url = raw::replica(move |mut socket, request| {
        told.lock().unwrap().push(request.to_lowercase());
        async move {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
    })
    .await;
    let stage = common::stage_before(url, config(RoundRobin)).await;
    let answer = stage
        .post(
            CHAT,
            &[
                ("x-sluice-priority", "system"),
                ("x-sluice-session-id", "mine"),
                ("x-sluice-replica", "forged"),
                ("x-llm-d-inference-fairness-id", "other"),
                ("x-llm-d-slo-ttft-ms", "1"),
                ("x-slo-tpot-ms", "1"),
                ("x-tenant-id", "other"),
                ("accept-encoding", "gzip, br"),
                ("x-session-id", "kept"),
                ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
                ("x-request-id", "named"),
            ],
            chat("hi", 1, false).to_string(),
        )
        .await;
    assert_eq!(answer.status, 200);
    let head = seen.lock().unwrap().last().unwrap().clone();
    for control in ["x-sluice", "x-llm-d", "x-slo-", "x-tenant-id", "accept-encoding"] {
        assert!(!head.contains(control), "{control}: {head}");
    }
    for kept in ["x-session-id: kept", "traceparent: 00-0af7", "x-request-id: named"] {
        assert!(head.contains(kept), "{kept}: {head}");
    }
    assert_eq!(stage.metric("sluice_priority_clamped_total").await, 1);
}
