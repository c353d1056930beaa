//! What replicas do wrong.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::{Duration, Instant};

use common::{CHAT, MODEL, Stage, chat, config, raw, stage, stage_before, stage_with, until};
use emulator::Fault;
use http::Method;
use policy::config::StrategyName::{self, RoundRobin};
use router::config::Replica;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

async fn with_faults(strategy: StrategyName, faults: &[Fault]) -> Stage {
    let stage = stage(strategy, faults.len()).await;
    for (replica, fault) in stage.replicas.iter().zip(faults) {
        replica.set_fault(*fault).await.unwrap();
    }
    stage
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
        println!("A1 {fault:?}: {} of 4 served by another, attempts {attempts:?}", attempts.len());
        assert!(1 <= stage.metric("sluice_retries_total").await);
        stage.until_idle().await;
    }
}

#[tokio::test]
async fn where_there_is_no_other_replica_the_failure_is_told() {
    for (fault, code) in [
        (Fault::Down, "upstream_unreachable"),
        (Fault::CloseBeforeAnswer, "upstream_disconnect"),
        (Fault::GarbageBytes, "upstream_disconnect"),
    ] {
        let stage = with_faults(RoundRobin, &[fault]).await;
        let answer = stage.chat(&chat("hi", 2, true)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, code), "{fault:?}");
        let failed = "sluice_requests_total{outcome=\"replica-failed\"}";
        assert_eq!(stage.metric(failed).await, 1, "{fault:?}");
        assert_eq!(stage.reserved().await, 0, "{fault:?}");
    }
}

#[tokio::test]
async fn a_model_whose_only_replica_fails_is_not_called_unknown() {
    let options = emulator::Options { model: Some("rare".to_owned()), ..Default::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rare = emulator::spawn(options.replica().unwrap(), listener).unwrap();
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(rare.url()));
    let stage = stage_with(config, 1).await;
    let body = json!({ "model": "rare", "messages": [], "max_tokens": 1 });
    rare.set_fault(Fault::CloseBeforeAnswer).await.unwrap();
    let answer = stage.chat(&body).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_disconnect"));
    rare.set_fault(Fault::Down).await.unwrap();
    until("it is ejected", async || stage.health(0).await == "ejected").await;
    let answer = stage.chat(&body).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "no_replicas"));
}

#[tokio::test]
async fn a_request_touches_two_replicas_at_the_most() {
    let stage = with_faults(RoundRobin, &[Fault::CloseBeforeAnswer; 4]).await;
    for _ in 0..2 {
        let answer = stage.chat(&chat("poison", 2, false)).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (502, "upstream_crash"));
        assert_eq!(
            stage.metric("sluice_retries_total").await,
            1,
            "nor do others when it comes again"
        );
    }
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
async fn an_answer_in_one_piece_that_breaks_off_is_not_taken_for_a_whole_one() {
    let url = raw::replica(|mut socket, _| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
        let half = format!("{head}transfer-encoding: chunked\r\n\r\n9\r\n{{\"half\":1\r\n");
        socket.write_all(half.as_bytes()).await.unwrap();
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    let body = chat("hi", 2, false).to_string();
    let answer = raw::rest(raw::post(stage.data, CHAT, &body).await).await;
    assert!(answer.contains("{\"half\":1"), "{answer}");
    assert!(!answer.ends_with("0\r\n\r\n"), "the end is missing: {answer}");
    let failed = "sluice_requests_total{outcome=\"replica-failed\"}";
    assert_eq!(stage.metric(failed).await, 1);
}

#[tokio::test]
async fn a_broken_stream_ends_in_the_dialect_of_its_endpoint() {
    let url = raw::replica(|mut socket, _| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n";
        let cut = format!("{head}connection: close\r\n\r\ndata: {{\"delta\":\"a\"}}\n\ndata: {{");
        socket.write_all(cut.as_bytes()).await.unwrap();
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    for (path, end) in [
        (CHAT, "data: [DONE]\n\n"),
        ("/v1/completions", "data: [DONE]\n\n"),
        ("/v1/responses", "\n\n"),
        ("/v1/messages", "\n\n"),
    ] {
        let answer = stage.post(path, &[], r#"{"model":"m","messages":[],"stream":true}"#).await;
        let (sent, error) = answer.body.split_once("data: {\n\n").unwrap();
        assert_eq!(sent, "data: {\"delta\":\"a\"}\n\n");
        let is_named = error.starts_with("event: error\ndata: {");
        assert_eq!(is_named, matches!(path, "/v1/responses" | "/v1/messages"), "{path}: {error}");
        assert!(error.contains("broke off") && error.ends_with(end), "{path}: {error}");
    }
}

#[tokio::test]
async fn a_connection_that_the_replica_has_closed_meanwhile_costs_no_request() {
    let url = raw::replica(|mut socket, _| async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        socket.write_all(answer).await.unwrap();
    })
    .await;
    let stage = stage_before(url, config(RoundRobin)).await;
    for _ in 0..100 {
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-attempts")), (200, "1"));
    }
    assert_eq!(stage.health(0).await, "ready");
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
    let began = Instant::now();
    let answer = stage.chat(&chat("hi", 20, true)).await;
    let took = began.elapsed();
    println!("A4: ended after {} ms, 200 of them silence", took.as_millis());
    // Not before its time, nor at that of another timeout.
    assert!((Duration::from_millis(200)..Duration::from_secs(5)).contains(&took), "{took:?}");
    assert!(answer.body.contains("upstream_timeout"), "{}", answer.body);
    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{}", answer.body);
    assert!(!answer.body.contains(r#""finish_reason":"stop""#), "no invented end");
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
async fn a8_who_says_no_to_many_in_a_row_is_not_ill() {
    let mut config = config(RoundRobin);
    // Whoever is ejected stays so until somebody looks.
    config.health.ejection = Duration::from_secs(60);
    let stage = stage_with(config, 2).await;
    // It may be asked again at once, and so it is: more often than would eject a replica that errs.
    let no = Fault::Status { code: 429, retry_after: Some(Duration::ZERO) };
    stage.replicas[0].set_fault(no).await.unwrap();
    let mut refused = 0;
    for _ in 0..60 {
        let answer = stage.chat(&chat("hi", 1, false)).await;
        refused += u32::from(answer.status == 429 || answer.header("x-sluice-attempts") == "2");
    }
    println!("A8: {refused} of 60 refused by it at first");
    assert!(20 <= refused, "{refused}");
    assert_eq!(stage.health(0).await, "ready");
}

#[tokio::test]
async fn a12_while_the_only_replica_wants_to_be_left_alone_clients_are_told_for_how_long() {
    let no = Fault::Status { code: 503, retry_after: Some(Duration::from_secs(40)) };
    let stage = with_faults(RoundRobin, &[no]).await;
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.header("retry-after"), "40");
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert!(answer.status == 503 && answer.body.contains("to be left alone"), "{}", answer.body);
    assert_eq!(answer.header("x-sluice-dropped-reason"), "rejected-saturated");
    let after: u64 = answer.header("retry-after").parse().unwrap();
    assert!((20..=40).contains(&after), "{after} s");
    let unknown = json!({ "model": "nobody", "messages": [] });
    assert_eq!(stage.chat(&unknown).await.status, 404, "whoever could not serve it says nothing");
}

#[tokio::test]
async fn a8_nobody_is_told_to_come_again_in_a_billion_years() {
    let huge = Fault::Status { code: 503, retry_after: Some(Duration::from_secs(u64::MAX)) };
    let stage = with_faults(RoundRobin, &[huge]).await;
    for _ in 0..2 {
        let answer = stage.chat(&chat("hi", 1, false)).await;
        let after: u64 = answer.header("retry-after").parse().unwrap();
        assert!(answer.status == 503 && after <= 600, "{after} s");
    }
}

#[tokio::test]
async fn a_storm_of_client_errors_ejects_nobody() {
    // One of them serves: where all refuse, nobody would be ejected for what requests meet.
    let codes = [400, 413, 422];
    let no = |code| Fault::Status { code, retry_after: None };
    let stage = with_faults(RoundRobin, &[no(400), no(413), no(422), Fault::None]).await;
    let rounds = 334;
    let mut seen = std::collections::BTreeMap::<u16, u32>::new();
    for _ in 0..4 * rounds {
        *seen.entry(stage.chat(&chat("hi", 1, false)).await.status.as_u16()).or_default() += 1;
    }
    println!("A7: {seen:?} of {} requests in turn", 4 * rounds);
    // Whoever is ejected is asked less than in its turn, also where it has come back by the end.
    for code in codes.into_iter().chain([200]) {
        assert_eq!(seen[&code], rounds, "{seen:?}");
    }
    assert_eq!(stage.metric("sluice_retries_total").await, 0, "no retry mends a bad request");
    for replica in 0..4 {
        assert_eq!(stage.health(replica).await, "ready");
    }
}

#[tokio::test]
async fn server_errors_in_a_row_that_another_replica_does_not_give_eject() {
    let no = Fault::Status { code: 500, retry_after: None };
    let stage = with_faults(RoundRobin, &[no, Fault::None]).await;
    let at = std::cell::Cell::new(0);
    until("it is ejected", async || {
        at.set(at.get() + 1);
        let answer = stage.chat(&chat(&format!("question {}", at.get()), 1, false)).await;
        assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r1"));
        stage.health(0).await == "ejected"
    })
    .await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    until("it is ready again", async || stage.health(0).await == "ready").await;
}

/// Two replicas that answer 500 to whatever has the word poison in it, and 200 to all else; the number is
/// that of the requests with it.
async fn allergic() -> (Stage, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    use std::sync::{Arc, atomic::AtomicUsize};
    let poisoned = Arc::new(AtomicUsize::new(0));
    let mut config = config(RoundRobin);
    for at in 0..2 {
        let poisoned = Arc::clone(&poisoned);
        let url = raw::replica(move |mut socket, request| {
            let poisoned = Arc::clone(&poisoned);
            async move {
                let is_poison = request.contains("poison");
                poisoned.fetch_add(usize::from(is_poison), std::sync::atomic::Ordering::Relaxed);
                let status = if is_poison { "500 Internal Server Error" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        config.replicas.push(Replica { name: Some(format!("a{at}")), ..Replica::at(url) });
    }
    (stage_with(config, 0).await, poisoned)
}

#[tokio::test]
async fn prompts_that_replicas_answer_with_500_eject_nobody() {
    let (stage, poisoned) = allergic().await;
    for at in 0..60 {
        let answer = stage.chat(&chat(&format!("poison {at}"), 1, false)).await;
        assert_eq!(answer.status, 500, "{at}: relayed as it came");
    }
    for replica in 0..2 {
        assert_eq!(stage.health(replica).await, "ready");
    }
    for at in 0..20 {
        let answer = stage.chat(&chat(&format!("question {at}"), 1, false)).await;
        assert_eq!(answer.status, 200, "others go on being served");
    }
    // The same again reaches nobody, once two replicas have had it.
    let again = chat("poison again", 1, false);
    let seen = || poisoned.load(std::sync::atomic::Ordering::Relaxed);
    let before = seen();
    let answers = [stage.chat(&again).await, stage.chat(&again).await, stage.chat(&again).await];
    assert_eq!(answers.map(|it| it.status.as_u16()), [500, 502, 502]);
    assert_eq!(seen() - before, 2, "two replicas at the most");
    stage.until_idle().await;
}

#[tokio::test]
async fn the_last_replica_that_answers_its_probes_is_kept_whatever_its_answers() {
    for fault in [Fault::Status { code: 500, retry_after: None }, Fault::BreakAfter(1)] {
        let stage = with_faults(RoundRobin, &[fault]).await;
        for at in 0..20 {
            let _ = stage.chat(&chat(&format!("question {at}"), 4, true)).await;
        }
        assert_eq!(stage.health(0).await, "ready", "{fault:?}");
        stage.replicas[0].set_fault(Fault::None).await.unwrap();
        assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200, "{fault:?}");
    }
}

#[tokio::test]
async fn with_everyone_down_clients_are_told_to_come_again_at_once() {
    let stage = with_faults(RoundRobin, &[Fault::Down, Fault::Down]).await;
    until("both are ejected", async || {
        stage.health(0).await == "ejected" && stage.health(1).await == "ejected"
    })
    .await;
    let mut took = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        let answer = stage.chat(&chat("hi", 1, false)).await;
        took.push(started.elapsed());
        assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
        assert_eq!(answer.header("x-sluice-dropped-reason"), "rejected-no-replicas");
    }
    took.sort();
    println!(
        "A12: 21 refused, median {:.1} ms, longest {:.1} ms",
        took[10].as_secs_f64() * 1e3,
        took[20].as_secs_f64() * 1e3
    );
    assert!(took[10] < Duration::from_millis(50), "refused without waiting: {took:?}");
    assert_eq!(stage.admin(Method::GET, "/readyz", "").await.status, 503);
    assert_eq!(stage.admin(Method::GET, "/livez", "").await.status, 200);
    let rejected =
        "sluice_requests_rejected_total{reason=\"rejected-no-replicas\",priority=\"default\"}";
    assert_eq!(stage.metric(rejected).await, 21);
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    until("one is back", async || stage.chat(&chat("hi", 1, false)).await.status == 200).await;
    assert_eq!(stage.health(1).await, "ejected");
    let listed = stage.get("/v1/models").await;
    assert_eq!(
        (listed.status.as_u16(), listed.json()["data"][0]["id"].as_str()),
        (200, Some(MODEL))
    );
}

#[tokio::test]
async fn a_slow_health_check_does_not_eject_a_replica_whose_answers_flow() {
    let mut config = config(RoundRobin);
    // Long enough for an answer to come in between on a busy machine.
    config.health.interval = Duration::from_millis(500);
    config.health.timeout = Duration::from_millis(500);
    config.health.probe_failures = 1;
    let stage = stage_with(config, 1).await;
    stage.replicas[0].set_fault(Fault::SlowHealth(Duration::from_secs(5))).await.unwrap();
    let deadline = Instant::now() + Duration::from_millis(1_600);
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
