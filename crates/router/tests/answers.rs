//! What the router makes of the answers that replicas give, and of those they do not.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{CHAT, Stage, chat, config, raw, received, stage_before, stage_with, until};
use emulator::Fault;
use http::Method;
use policy::config::StrategyName::{RoundRobin, Sticky};
use router::config::Replica;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpSocket, TcpStream},
};

const STREAM: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

/// A router before one replica that answers every request with `answer` and closes.
async fn before(answer: impl Into<String>) -> Stage {
    let answer = answer.into();
    let url = raw::replica(move |mut socket, _| {
        let answer = answer.clone();
        async move {
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    stage_before(url, config(RoundRobin)).await
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

async fn left_as(stage: &Stage, outcome: &str) -> u64 {
    stage.metric(&format!("sluice_requests_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_in_the_clients_dialect() {
    let stage = before([STREAM, &chunk(TOKEN), &chunk("data: {\"id")].concat()).await;
    for (path, body, end) in [
        (CHAT, r#"{"model":"m","messages":[]}"#, "data: [DONE]\n\n"),
        ("/v1/completions", r#"{"model":"m","prompt":""}"#, "data: [DONE]\n\n"),
        ("/v1/messages", r#"{"model":"m","messages":[]}"#, "in the middle of its answer\"}}\n\n"),
        ("/v1/responses", r#"{"model":"m","input":""}"#, "\"param\":null}\n\n"),
    ] {
        let answer = stage.post(path, &[], body).await;
        let (before, error) = answer.body.split_once("data: {\"id").unwrap();
        assert_eq!(before, TOKEN, "what came is relayed as it came");
        assert!(error.starts_with("\n\n") && error.ends_with(end), "{path}: {error}");
        assert_eq!(error.contains("event: error\n"), !end.contains("DONE"), "{path}: {error}");
        assert!(!answer.body.contains("finish_reason"), "{path}: no invented end");
    }
    assert_eq!(left_as(&stage, "replica-failed").await, 4);
}

#[tokio::test]
async fn a_stream_that_ends_without_saying_so_is_broken_off() {
    let stage = before([STREAM, &chunk(TOKEN), "0\r\n\r\n"].concat()).await;
    let answer = stage.chat(&chat("hi", 1, true)).await;
    assert!(answer.body.contains("upstream_disconnect"), "{}", answer.body);
    assert_eq!(left_as(&stage, "replica-failed").await, 1);
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_end_of_a_stream_breaks_nothing() {
    let stage = before([STREAM, &chunk(TOKEN), &chunk("data: [DONE]\n\n")].concat()).await;
    let answer = stage.chat(&chat("hi", 1, true)).await;
    assert_eq!(answer.body, format!("{TOKEN}data: [DONE]\n\n"));
    assert_eq!(left_as(&stage, "complete").await, 1);
}

#[tokio::test]
async fn a_whole_answer_that_breaks_off_is_not_taken_for_whole() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for (framing, body) in [
        ("content-length: 100\r\n\r\n", "{\"id\":"),
        ("transfer-encoding: chunked\r\n\r\n", "5\r\n{\"id\"\r\n"),
    ] {
        let stage = before([head, framing, body].concat()).await;
        let body = chat("hi", 1, false).to_string();
        let answer = stage.open(Method::POST, CHAT, &[], body).await;
        let received = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert!(received.is_err(), "{framing}: {received:?}");
        until("it is counted", async || left_as(&stage, "replica-failed").await == 1).await;
    }
}

#[tokio::test]
async fn an_answer_without_a_body_has_come_to_its_end() {
    for head in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"]
    {
        let stage = before(head).await;
        assert!(stage.chat(&chat("hi", 1, false)).await.status.is_success());
        assert_eq!(left_as(&stage, "complete").await, 1, "{head}");
    }
}

#[tokio::test]
async fn a_server_error_counts_as_the_replicas_failure() {
    for body in ["content-length: 2\r\n\r\n{}", "content-length: 0\r\n\r\n"] {
        let stage =
            before(format!("HTTP/1.1 500 Oops\r\ncontent-type: application/json\r\n{body}")).await;
        assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 500);
        assert_eq!(left_as(&stage, "replica-failed").await, 1, "{body}");
    }
}

#[tokio::test]
async fn an_answer_that_changes_the_protocol_is_none() {
    let stage =
        before("HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\n")
            .await;
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 502);
}

#[tokio::test]
async fn a_replica_that_breaks_every_stream_is_ejected() {
    let broken = [STREAM, &chunk(TOKEN)].concat();
    let url = raw::replica(move |mut socket, _| {
        let broken = broken.clone();
        async move {
            let _ = socket.write_all(broken.as_bytes()).await;
        }
    })
    .await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(url));
    // Beside another one: the last of all is kept.
    let stage = stage_with(config, 1).await;
    until("it is ejected", async || {
        assert_eq!(stage.chat(&chat("hi", 1, true)).await.status, 200);
        stage.health(0).await == "ejected"
    })
    .await;
    assert_eq!(stage.health(1).await, "ready");
}

#[tokio::test]
async fn a_retry_that_nobody_takes_is_not_counted() {
    let stage = before("HTTP/1.1 503 Busy\r\nretry-after: 3\r\ncontent-length: 2\r\n\r\n{}").await;
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "3"));
    assert_eq!(stage.metric("sluice_retries_total").await, 0);
}

#[tokio::test]
async fn a_date_to_come_again_at_is_obeyed_and_bounded() {
    let date = "Fri, 31 Dec 9999 23:59:59 GMT";
    let answer =
        format!("HTTP/1.1 429 Busy\r\nretry-after: {date}\r\ncontent-length: 2\r\n\r\n{{}}");
    let stage = before(answer).await;
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (429, "600"));
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert!(answer.status == 503 && answer.body.contains("to be left alone"), "{}", answer.body);
}

#[tokio::test]
async fn a_conversation_leaves_a_replica_that_kept_it_waiting_for_nothing() {
    let stage = stage_with(config(Sticky), 2).await;
    // Only the request that is to be kept waiting has a bound, which no slow machine can reach with another.
    let ask = async |bound: &[(&str, &str)]| {
        let headers = [&[("x-session-id", "s")], bound].concat();
        stage.post(CHAT, &headers, chat("hi", 1, false).to_string()).await
    };
    let first = ask(&[]).await;
    let at: usize = first.header("x-sluice-replica")[1..].parse().unwrap();
    stage.replicas[at].set_fault(Fault::StallAfter(0)).await.unwrap();
    assert_eq!(ask(&[("x-sluice-timeout-ms", "100")]).await.status, 504);
    stage.replicas[at].set_fault(Fault::None).await.unwrap();
    let next = ask(&[]).await;
    assert_eq!((next.status.as_u16(), next.header("x-sluice-decision")), (200, "load"), "{next:?}");
}

#[tokio::test]
async fn clients_without_patience_eject_no_replica() {
    let mut config = config(RoundRobin);
    // Whoever is ejected stays so until somebody looks.
    config.health.ejection = Duration::from_secs(60);
    // Of two, one may be ejected for what its requests meet; of one, none.
    let stage = stage_with(config, 2).await;
    for replica in &stage.replicas {
        replica.set_fault(Fault::StallAfter(0)).await.unwrap();
    }
    for _ in 0..40 {
        let body = chat("hi", 1, false).to_string();
        let answer = stage.post(CHAT, &[("x-sluice-timeout-ms", "20")], body).await;
        assert_eq!(answer.status, 504);
    }
    for replica in 0..2 {
        let health = stage.health(replica).await;
        assert_eq!(health, "ready", "how long they waited was theirs to say");
    }
}

#[tokio::test]
async fn a_replica_that_takes_no_connection_is_replaced() {
    // Its queue of connections is full: the system answers no further one.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = config(RoundRobin);
    config.timeouts.connect = Duration::from_millis(100);
    config.health.interval = Duration::from_secs(3_600);
    config.health.scrape_interval = Duration::from_secs(3_600);
    config.replicas.push(Replica {
        name: Some("full".to_owned()),
        ..Replica::at(format!("http://{address}"))
    });
    let answering = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        }
        listener
    });
    let stage = stage_with(config, 1).await;
    let _listener = answering.await.unwrap();
    let mut waiting = Vec::new();
    while let Ok(Ok(it)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        waiting.push(it);
    }
    // One of two requests goes there first.
    let mut attempts = Vec::new();
    for _ in 0..2 {
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        attempts.push(answer.header("x-sluice-attempts").to_owned());
    }
    assert!(attempts.contains(&"2".to_owned()), "{attempts:?}");
}

#[tokio::test]
async fn whoever_still_waits_for_an_answer_when_the_router_ends_is_told_so() {
    let mut config = config(RoundRobin);
    config.drain.timeout = Duration::from_millis(100);
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::Silence).await.unwrap();
    let body = chat("hi", 1, false).to_string();
    let asking = stage.open(Method::POST, CHAT, &[], body);
    let stopping = async {
        until("it is placed", async || stage.reserved().await != 0).await;
        stage.stop.cancel();
    };
    let (answer, ()) = tokio::join!(asking, stopping);
    let answer = received(answer).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("x-sluice-dropped-reason"), "rejected-shutting-down");
}

#[tokio::test]
async fn a_refusal_says_who_was_tried() {
    let stage = before("").await;
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-attempts")), (502, "1"));
    assert!(!answer.header("x-sluice-replica").is_empty(), "{answer:?}");
}

#[tokio::test]
async fn every_refusal_names_its_request() {
    let stage = stage_with(config(RoundRobin), 1).await;
    for answer in [stage.get("/nowhere").await, stage.get(CHAT).await] {
        assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
    }
}
