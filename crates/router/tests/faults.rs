//! What clients send wrong and what replicas do wrong.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::{Duration, Instant};

use common::{MODEL, Stage, chat, config, stage, stage_with, until};
use emulator::Fault;
use http::Method;
use policy::config::StrategyName::{self, RoundRobin};
use router::config::units::ByteSize;
use serde_json::json;

const CHAT: &str = "/v1/chat/completions";

async fn with_faults(strategy: StrategyName, faults: &[Fault]) -> Stage {
    let stage = stage(strategy, faults.len()).await;
    for (replica, fault) in stage.replicas.iter().zip(faults) {
        replica.set_fault(*fault).await.unwrap();
    }
    stage
}

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
        (r#"{"model":"nope","messages":[]}"#, 404, "no replica serves the model"),
    ] {
        let answer = stage.post(CHAT, &[], body.to_owned()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(culprit), "{message}");
        assert!(answer.header("x-request-id").starts_with("req-"));
    }
    let bomb = stage.post(CHAT, &[], deep).await;
    assert!(bomb.status.is_client_error(), "{}", bomb.status);
    let cold = stage.metric("sluice_requests_total{outcome=\"refused\"}").await;
    assert!(6 <= cold, "each refusal is counted: {cold}");
    assert_eq!(stage.replicas[0].stats().counters.prompt_tokens, 0);
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
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET"));
}

#[tokio::test]
async fn an_oversized_or_compressed_body_is_refused() {
    let mut config = config(RoundRobin);
    config.limits.body_bytes_max = ByteSize(1_000);
    let stage = stage_with(config, 1).await;
    let answer = stage.chat(&chat(&"x".repeat(2_000), 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "body_too_large"));
    let answer = stage.post(CHAT, &[("content-encoding", "gzip")], "x").await;
    assert_eq!(answer.status, 415);
}

#[tokio::test]
async fn a_body_of_unknown_length_holds_no_more_memory_than_it_takes() {
    let mut config = config(RoundRobin);
    // Room for one body of the longest kind, which one of unknown length might become.
    config.limits.body_bytes_in_flight_max = config.limits.body_bytes_max;
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::StallAfter(0)).await.unwrap();
    let body = chat("go on", 9, true).to_string();
    let mut socket = tokio::net::TcpStream::connect(stage.data).await.unwrap();
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n");
    let request = format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    tokio::io::AsyncWriteExt::write_all(&mut socket, request.as_bytes()).await.unwrap();
    until("it is placed", async || stage.reserved().await != 0).await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200);
}

#[tokio::test]
async fn anthropic_clients_get_errors_in_their_dialect() {
    let stage = stage(RoundRobin, 1).await;
    let answer = stage.post("/v1/messages", &[], "{}").await;
    assert_eq!((answer.status.as_u16(), answer.json()["type"].as_str()), (400, Some("error")));
}

#[tokio::test]
async fn a_replica_that_fails_before_its_first_byte_is_replaced_by_another() {
    for fault in [Fault::Down, Fault::CloseBeforeAnswer, Fault::GarbageBytes] {
        let stage = with_faults(RoundRobin, &[fault, Fault::None]).await;
        let mut attempts = Vec::new();
        for _ in 0..4 {
            let answer = stage.chat(&chat("hi", 2, false)).await;
            assert_eq!(answer.status, 200, "{fault:?}: {answer:?}");
            assert_eq!(answer.header("x-sluice-replica"), "r1");
            attempts.push(answer.header("x-sluice-attempts").to_owned());
        }
        assert!(attempts.contains(&"2".to_owned()), "{fault:?}: one of them was retried");
        assert!(1 <= stage.metric("sluice_retries_total").await);
        stage.until_idle().await;
    }
}

#[tokio::test]
async fn a_request_touches_two_replicas_at_the_most() {
    let stage = with_faults(RoundRobin, &[Fault::CloseBeforeAnswer; 4]).await;
    let answer = stage.chat(&chat("poison", 2, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_disconnect"));
    assert_eq!(stage.metric("sluice_retries_total").await, 1);
    stage.until_idle().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_ends_with_an_error_and_not_with_silence() {
    let stage = with_faults(RoundRobin, &[Fault::BreakAfter(3), Fault::None]).await;
    let answer = stage.chat(&chat("hi", 20, true)).await;
    assert_eq!(answer.status, 200);
    assert!(answer.body.contains(r#""code":"upstream_disconnect""#), "{}", answer.body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"));
    assert!(!answer.body.contains(r#""finish_reason":"stop""#), "no invented end");
    assert_eq!(answer.header("x-sluice-attempts"), "1", "never sent again after the first byte");
    let failed = "sluice_requests_total{outcome=\"replica-failed\"}";
    assert_eq!(stage.metric(failed).await, 1);
    stage.until_idle().await;
}

#[tokio::test]
async fn an_engine_that_dies_behind_a_200_counts_as_failed() {
    let stage = with_faults(RoundRobin, &[Fault::EngineDeathAfter(3)]).await;
    let answer = stage.chat(&chat("hi", 20, true)).await;
    assert!(answer.body.contains("error") && answer.body.ends_with("data: [DONE]\n\n"));
    let failed = "sluice_requests_total{outcome=\"replica-failed\"}";
    assert_eq!(stage.metric(failed).await, 1);
}

#[tokio::test]
async fn silence_runs_into_a_timeout() {
    let mut config = config(RoundRobin);
    config.timeouts.answer = Duration::from_millis(200);
    config.timeouts.stall = Duration::from_millis(200);
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::Silence).await.unwrap();
    let answer = stage.chat(&chat("hi", 2, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (504, "upstream_timeout"));
    stage.replicas[0].set_fault(Fault::StallAfter(3)).await.unwrap();
    let answer = stage.chat(&chat("hi", 20, true)).await;
    assert!(answer.body.contains("upstream_timeout"), "{}", answer.body);
    stage.until_idle().await;
}

#[tokio::test]
async fn a_replica_that_says_no_is_asked_no_further_and_is_not_ill() {
    for code in [429, 503] {
        let no = Fault::Status { code, retry_after: Some(Duration::from_secs(7)) };
        let stage = with_faults(RoundRobin, &[no, Fault::None]).await;
        for _ in 0..20 {
            let answer = stage.chat(&chat("hi", 1, false)).await;
            assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r1"));
        }
        assert_eq!(stage.health(0).await, "ready");
        stage.replicas[1].set_fault(no).await.unwrap();
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (code, "7"));
        stage.until_idle().await;
    }
}

#[tokio::test]
async fn a_storm_of_client_errors_ejects_nobody() {
    let stage = with_faults(RoundRobin, &[Fault::Status { code: 400, retry_after: None }]).await;
    for _ in 0..50 {
        assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 400);
    }
    assert_eq!(stage.health(0).await, "ready");
}

#[tokio::test]
async fn server_errors_in_a_row_eject_and_answered_probes_readmit() {
    let stage = with_faults(RoundRobin, &[Fault::Status { code: 500, retry_after: None }]).await;
    for _ in 0..5 {
        assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 500);
    }
    assert_eq!(stage.health(0).await, "ejected");
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    until("it is ready again", async || stage.health(0).await == "ready").await;
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200);
}

#[tokio::test]
async fn with_everyone_down_clients_are_told_to_come_again_at_once() {
    let stage = with_faults(RoundRobin, &[Fault::Down, Fault::Down]).await;
    until("both are ejected", async || {
        stage.health(0).await == "ejected" && stage.health(1).await == "ejected"
    })
    .await;
    let started = Instant::now();
    let answer = stage.chat(&chat("hi", 1, false)).await;
    let took = started.elapsed();
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert_eq!(answer.header("x-sluice-dropped-reason"), "rejected-no-replicas");
    assert!(took < Duration::from_secs(1), "refused without waiting: {took:?}");
    assert_eq!(stage.admin(Method::GET, "/readyz", "").await.status, 503);
    assert_eq!(stage.admin(Method::GET, "/livez", "").await.status, 200);
    let rejected = "sluice_requests_rejected_total{reason=\"rejected-no-replicas\"}";
    assert_eq!(stage.metric(rejected).await, 1);
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    until("one is back", async || stage.chat(&chat("hi", 1, false)).await.status == 200).await;
}

#[tokio::test]
async fn a_slow_health_check_does_not_eject_a_replica_whose_answers_flow() {
    let mut config = config(RoundRobin);
    config.health.interval = Duration::from_millis(50);
    config.health.timeout = Duration::from_millis(50);
    config.health.probe_failures = 1;
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::SlowHealth(Duration::from_secs(5))).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(600);
    while Instant::now() < deadline {
        assert_eq!(stage.chat(&chat("hi", 2, false)).await.status, 200);
    }
    assert_eq!(stage.health(0).await, "ready");
}

#[tokio::test]
async fn garbage_that_calls_itself_an_answer_is_relayed_as_it_is() {
    let stage = with_faults(RoundRobin, &[Fault::GarbageBody]).await;
    let answer =
        stage.chat(&json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})).await;
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_str::<serde_json::Value>(&answer.body).is_err());
    stage.until_idle().await;
}
