//! Each fault looks to a client as it is meant to, and ends when it is switched off.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{chat, eventually, get, post, question, replica, streamed};
use emulator::Fault;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const SOON: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_replica_that_is_down_refuses_and_comes_back_empty() {
    let replica = replica().await;
    chat(&replica, &question(100, 5)).await;
    let mut open = TcpStream::connect(replica.address()).await.unwrap();
    let request = post("/v1/chat/completions", &streamed(100, 5000));
    open.write_all(request.as_bytes()).await.unwrap();
    eventually("it runs", || replica.stats().in_flight == 1).await;

    replica.set_fault(Fault::Down).await.unwrap();
    TcpStream::connect(replica.address()).await.unwrap_err();
    let mut rest = Vec::new();
    let _ = open.read_to_end(&mut rest).await;
    assert!(!common::Answer::parse(&rest).complete);
    assert_eq!(replica.stats().in_flight, 0);

    replica.set_fault(Fault::None).await.unwrap();
    let answer = chat(&replica, &question(100, 5)).await;
    assert_eq!(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[tokio::test]
async fn a_connection_closes_before_the_answer() {
    let replica = replica().await;
    replica.set_fault(Fault::CloseBeforeAnswer).await.unwrap();
    assert_eq!(chat(&replica, &question(10, 5)).await.head, "");
    assert_eq!(get(replica.address(), "/health").await.status, 200);
}

#[tokio::test]
async fn a_stream_breaks_after_its_chunks_and_frees_its_place() {
    let replica = replica().await;
    replica.set_fault(Fault::BreakAfter(4)).await.unwrap();
    let answer = chat(&replica, &streamed(10, 500)).await;
    assert_eq!((answer.status, answer.events().len(), answer.complete), (200, 4, false));
    eventually("it is gone", || replica.stats().in_flight == 0).await;
    assert_eq!(chat(&replica, &question(10, 5)).await.head, "");
}

#[tokio::test]
async fn a_stream_stalls_after_its_chunks_until_the_client_leaves() {
    let replica = replica().await;
    replica.set_fault(Fault::StallAfter(2)).await.unwrap();
    let mut stream = TcpStream::connect(replica.address()).await.unwrap();
    let request = post("/v1/chat/completions", &streamed(10, 20));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while common::Answer::parse(&bytes).events().len() < 2 {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
    }
    timeout(SOON, stream.read_buf(&mut bytes)).await.unwrap_err();
    timeout(SOON, chat(&replica, &question(10, 5))).await.unwrap_err();
}

#[tokio::test]
async fn the_head_of_a_stream_comes_before_its_first_token() {
    let replica = replica().await;
    replica.set_fault(Fault::StallAfter(0)).await.unwrap();
    let mut stream = TcpStream::connect(replica.address()).await.unwrap();
    let request = post("/v1/chat/completions", &streamed(10, 20));
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
    }
    let answer = common::Answer::parse(&bytes);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
}

#[tokio::test]
async fn silence_is_silence_on_every_route() {
    let replica = replica().await;
    replica.set_fault(Fault::Silence).await.unwrap();
    timeout(SOON, chat(&replica, &question(10, 5))).await.unwrap_err();
    timeout(SOON, get(replica.address(), "/health")).await.unwrap_err();
    replica.set_fault(Fault::None).await.unwrap();
    assert_eq!(get(replica.address(), "/health").await.status, 200);
}

#[tokio::test]
async fn garbage_is_not_json_or_not_even_http() {
    let replica = replica().await;
    replica.set_fault(Fault::GarbageBody).await.unwrap();
    let answer = chat(&replica, &question(10, 5)).await;
    assert_eq!(answer.status, 200);
    serde_json::from_str::<serde_json::Value>(&answer.body).unwrap_err();
    replica.set_fault(Fault::GarbageBytes).await.unwrap();
    assert!(!chat(&replica, &question(10, 5)).await.head.contains("http/1.1"));
    replica.set_fault(Fault::None).await.unwrap();
    assert_eq!(chat(&replica, &question(10, 5)).await.status, 200);
}

#[tokio::test]
async fn an_overloaded_replica_says_when_to_come_back() {
    let replica = replica().await;
    let retry_after = Some(Duration::from_secs(7));
    replica.set_fault(Fault::Status { code: 429, retry_after }).await.unwrap();
    let answer = chat(&replica, &question(10, 5)).await;
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &429.into()));
    assert!(answer.head.contains("retry-after: 7"), "{}", answer.head);
    replica.set_fault(Fault::Status { code: 503, retry_after: None }).await.unwrap();
    let answer = chat(&replica, &question(10, 5)).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("The engine is currently busy"), "{}", answer.body);
}

#[tokio::test]
async fn a_dead_engine_answers_whole_requests_with_500() {
    let replica = replica().await;
    replica.set_fault(Fault::EngineDeathAfter(0)).await.unwrap();
    assert_eq!(chat(&replica, &question(10, 5)).await.status, 500);
}

#[tokio::test]
async fn health_answers_late() {
    let replica = replica().await;
    replica.set_fault(Fault::SlowHealth(SOON * 3)).await.unwrap();
    timeout(SOON, get(replica.address(), "/health")).await.unwrap_err();
    assert_eq!(chat(&replica, &question(10, 5)).await.status, 200);
    assert_eq!(get(replica.address(), "/health").await.status, 200);
}
