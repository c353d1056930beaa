//! How real engines die, refuse and break their promises.
//!
//! `data/deaths` has recordings of m1 to m4 and m8; the others imitate what was seen. The numbers are those of the
//! list in docs/reliability.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{CHAT, Stage, chat, config, emulate, raw, stage_with};
use emulator::Fault;
use policy::config::StrategyName::RoundRobin;
use router::config::{Config, Replica};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};

const ENGINE_KILLED: &[u8] = include_bytes!("data/deaths/vllm-engine-killed.http");
const ENGINE_KILLED_WHOLE: &[u8] = include_bytes!("data/deaths/vllm-engine-killed-whole.http");
const TERMINATED: &[u8] = include_bytes!("data/deaths/vllm-terminated.http");
const DRAINING_SILENT: &[u8] = include_bytes!("data/deaths/vllm-draining-silent.http");
const DRAINING_REFUSAL: &[u8] = include_bytes!("data/deaths/vllm-draining-refusal.http");
const SERVER_KILLED: &[u8] = include_bytes!("data/deaths/llama-server-killed.http");
const QUEUE_FULL: &[u8] = include_bytes!("data/deaths/vllm-queue-full.http");

/// A replica that answers every request with `bytes` and then closes, or keeps silent.
async fn replica(bytes: &'static [u8], closes: bool) -> String {
    raw::replica(move |mut socket, _| async move {
        let _ = socket.write_all(bytes).await;
        if !closes {
            let _ = socket.read_u8().await;
        }
    })
    .await
}

async fn before(url: String, config: Config) -> Stage {
    common::stage_before(url, config).await
}

/// A router before a replica that answers `bytes` and a healthy one, asked until the first was tried.
async fn beside_a_healthy_one(bytes: &'static [u8]) -> Stage {
    let mut config = config(RoundRobin);
    config.replicas.push(Replica {
        name: Some("dying".to_owned()),
        ..Replica::at(replica(bytes, true).await)
    });
    stage_with(config, 1).await
}

async fn failed(stage: &Stage) -> u64 {
    stage.metric("sluice_requests_total{outcome=\"replica-failed\"}").await
}

#[tokio::test]
async fn m1_an_engine_that_dies_behind_its_server_is_no_success_for_all_its_done() {
    let stage = before(replica(ENGINE_KILLED, true).await, config(RoundRobin)).await;
    let answer = stage.chat(&chat("hi", 9, true)).await;
    assert!(answer.body.contains("EngineCore encountered an issue"), "relayed as it came");
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(answer.body.matches("[DONE]").count(), 1, "nothing is added: {}", answer.body);
    assert_eq!(failed(&stage).await, 1);
}

#[tokio::test]
async fn m1_an_answer_in_one_piece_is_had_from_another_replica() {
    let stage = beside_a_healthy_one(ENGINE_KILLED_WHOLE).await;
    for _ in 0..4 {
        let answer = stage.chat(&chat("hi", 2, false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r0"));
    }
}

#[tokio::test]
async fn m2_an_answer_that_ends_by_abort_counts_as_failed_and_is_not_mended() {
    let stage = before(replica(TERMINATED, true).await, config(RoundRobin)).await;
    let answer = stage.chat(&chat("hi", 9, true)).await;
    assert!(answer.body.contains(r#""finish_reason":"abort""#));
    assert!(!answer.body.contains(r#""finish_reason":"stop""#), "no invented end");
    assert_eq!(failed(&stage).await, 1);
}

#[tokio::test]
async fn m3_a_stream_that_falls_silent_while_its_server_is_well_ends_with_an_error() {
    let mut config = config(RoundRobin);
    config.timeouts.stall = Duration::from_millis(200);
    let stage = before(replica(DRAINING_SILENT, false).await, config).await;
    let answer = stage.chat(&chat("hi", 9, true)).await;
    assert!(answer.body.contains("upstream_timeout"), "{}", answer.body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(failed(&stage).await, 1);
}

#[tokio::test]
async fn m3_a_server_that_drains_refuses_with_500_and_another_replica_serves() {
    let stage = beside_a_healthy_one(DRAINING_REFUSAL).await;
    for _ in 0..4 {
        assert_eq!(stage.chat(&chat("hi", 2, true)).await.header("x-sluice-replica"), "r0");
    }
    assert_eq!(stage.health(0).await, "ready", "it is not ill");
}

#[tokio::test]
async fn m3_a_prompt_that_two_draining_servers_refused_is_served_by_a_third() {
    let mut config = config(RoundRobin);
    for name in ["draining-0", "draining-1"] {
        let url = replica(DRAINING_REFUSAL, true).await;
        config.replicas.push(Replica { name: Some(name.to_owned()), ..Replica::at(url) });
    }
    let stage = stage_with(config, 1).await;
    let first = stage.chat(&chat("hi", 2, true)).await;
    assert!(first.status == 200 || first.body.contains("cannot schedule"), "{}", first.body);
    for _ in 0..4 {
        let answer = stage.chat(&chat("hi", 2, true)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r0"));
    }
}

/// Two replicas that answer one path with 500, and the other.
#[tokio::test]
async fn m5_a_body_that_breaks_one_path_is_served_on_another() {
    let mut config = config(RoundRobin);
    for _ in 0..2 {
        let url = raw::replica(|mut socket, request| async move {
            let is_bad = request.starts_with("POST /v1/responses");
            let status = if is_bad { "500 Internal Server Error" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes()).await;
        });
        config.replicas.push(Replica::at(url.await));
    }
    let stage = stage_with(config, 0).await;
    let body = r#"{"model":"m","messages":[],"input":"hi"}"#;
    assert_eq!(stage.post("/v1/responses", &[], body).await.status, 500);
    let again = stage.post("/v1/responses", &[], body).await;
    assert_eq!((again.status.as_u16(), again.code().as_str()), (502, "upstream_crash"));
    assert_eq!(stage.post(CHAT, &[], body).await.status, 200);
}

#[tokio::test]
async fn m4_a_full_queue_is_no_illness_and_another_replica_serves() {
    let stage = beside_a_healthy_one(QUEUE_FULL).await;
    for _ in 0..8 {
        assert_eq!(stage.chat(&chat("hi", 2, false)).await.header("x-sluice-replica"), "r0");
    }
    assert_eq!(stage.health(0).await, "ready");
    let alone = before(replica(QUEUE_FULL, true).await, config(RoundRobin)).await;
    let answer = alone.chat(&chat("hi", 2, false)).await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("currently busy"), "relayed as it came: {}", answer.body);
}

/// SGLang dies of `{"prompt": [999999]}`: the connection closes, and from then on nothing listens.
#[tokio::test]
async fn m5_a_request_that_kills_what_it_touches_touches_two_replicas() {
    let killed = Arc::new(AtomicUsize::new(0));
    let mut config = config(RoundRobin);
    for at in 0..4 {
        let killed = Arc::clone(&killed);
        let url = raw::replica(move |mut socket, request| {
            let killed = Arc::clone(&killed);
            async move {
                if request.contains("999999") {
                    killed.fetch_add(1, Ordering::Relaxed);
                } else {
                    let _ =
                        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                }
            }
        });
        config
            .replicas
            .push(Replica { name: Some(format!("sglang-{at}")), ..Replica::at(url.await) });
    }
    let stage = stage_with(config, 0).await;
    let poison = r#"{"model":"tiny-llama","prompt":[999999],"max_tokens":4}"#;
    for _ in 0..5 {
        let answer = stage.post("/v1/completions", &[], poison).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_crash"));
    }
    assert_eq!(killed.load(Ordering::Relaxed), 2, "of four replicas, in five tries");
    let healthy = r#"{"model":"tiny-llama","prompt":[7],"max_tokens":4}"#;
    assert_eq!(stage.post("/v1/completions", &[], healthy).await.status, 200);
    stage.until_idle().await;
}

/// A replica that keeps its connections. The first request that `kills` it is counted in `killed`; from then on
/// nothing listens, and every connection is closed.
async fn mortal(kills: fn(&str) -> bool, killed: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let mut socket = accepted.unwrap().0;
                    connections.spawn(async move {
                        while let Some(request) = raw::receive(&mut socket).await {
                            if kills(&request) {
                                return true;
                            }
                            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
                            if socket.write_all(answer).await.is_err() {
                                return false;
                            }
                        }
                        false
                    });
                }
                Some(is_killed) = connections.join_next() => {
                    if is_killed.unwrap() {
                        killed.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                }
            }
        }
    });
    url
}

/// A request that closes a kept connection might not have been seen: it is sent once more, but not forgotten.
#[tokio::test]
async fn m5_a_request_that_kills_over_kept_connections_touches_two_replicas() {
    let killed = Arc::new(AtomicUsize::new(0));
    let mut config = config(RoundRobin);
    for at in 0..4 {
        let url = mortal(|request| request.contains("999999"), Arc::clone(&killed)).await;
        config.replicas.push(Replica { name: Some(format!("sglang-{at}")), ..Replica::at(url) });
    }
    let stage = stage_with(config, 0).await;
    let healthy = r#"{"model":"tiny-llama","prompt":[7],"max_tokens":4}"#;
    for _ in 0..4 {
        assert_eq!(stage.post("/v1/completions", &[], healthy).await.status, 200);
    }
    let poison = r#"{"model":"tiny-llama","prompt":[999999],"max_tokens":4}"#;
    for _ in 0..5 {
        let answer = stage.post("/v1/completions", &[], poison).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_crash"));
    }
    assert_eq!(killed.load(Ordering::Relaxed), 2, "of four replicas, in five tries");
    assert_eq!(stage.post("/v1/completions", &[], healthy).await.status, 200);
    stage.until_idle().await;
}

#[tokio::test]
async fn m6_an_error_in_place_of_a_streams_first_token_is_had_from_another_replica() {
    const TOO_LATE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
        transfer-encoding: chunked\r\n\r\n43\r\ndata: {\"object\":\"error\",\"message\":\"scheduler died\",\
        \"code\":500}\n\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let stage = beside_a_healthy_one(TOO_LATE).await;
    for _ in 0..4 {
        let answer = stage.chat(&chat("hi", 2, true)).await;
        assert_eq!(answer.header("x-sluice-replica"), "r0", "{}", answer.body);
        assert!(!answer.body.contains("error"));
    }
    let alone = before(replica(TOO_LATE, true).await, config(RoundRobin)).await;
    let answer = alone.chat(&chat("hi", 2, true)).await;
    assert!(answer.body.contains("scheduler died"), "where nobody else is, it is relayed");
    assert_eq!(failed(&alone).await, 1);
}

/// llama-server promises to keep the connection of a stream and then closes it, every time.
#[tokio::test]
async fn m7_a_promise_to_keep_a_connection_that_is_broken_costs_no_request() {
    const KEPT: &[u8] =
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\
        Keep-Alive: timeout=5, max=100\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let stage = before(replica(KEPT, true).await, config(RoundRobin)).await;
    for _ in 0..150 {
        let answer = stage.chat(&chat("hi", 2, true)).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "data: [DONE]\n\n"));
    }
    assert_eq!(failed(&stage).await, 0);
}

#[tokio::test]
async fn m8_a_server_that_is_killed_in_mid_stream_leaves_an_error_to_its_clients() {
    let stage = before(replica(SERVER_KILLED, true).await, config(RoundRobin)).await;
    let answer = stage.chat(&chat("hi", 9, true)).await;
    assert!(answer.body.contains("upstream_disconnect"), "{}", answer.body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert_eq!(failed(&stage).await, 1);
}

/// Its health path answers 200 and its port is closed for requests a moment later.
#[tokio::test]
async fn m9_a_server_that_is_well_one_moment_and_gone_the_next_costs_no_request() {
    let mut config = config(RoundRobin);
    let going = emulate(Fault::None).await;
    config.replicas.push(Replica { name: Some("going".to_owned()), ..Replica::at(going.url()) });
    config.health.interval = Duration::from_secs(3_600);
    let stage = stage_with(config, 1).await;
    going.set_fault(Fault::Down).await.unwrap();
    for _ in 0..4 {
        assert_eq!(stage.post(CHAT, &[], chat("hi", 2, false).to_string()).await.status, 200);
    }
}
