//! Replays against a server in the same process, well-behaved or not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{sync::atomic::Ordering, time::Duration};

use common::{Manner, arrivals, options, run, serve};
use replay::{ReplayOptions, Target};
use report::Ending;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use types::quantity::Tokens;
use workload::{Message, Role, Segment};

/// Runs one request and gives how it ended, its status and its error.
async fn one(manner: Manner) -> (Ending, Option<u16>, String) {
    let (_, target) = serve(manner).await;
    let options = ReplayOptions { request_deadline: Duration::from_millis(300), ..options(target) };
    let record = run(&options, arrivals(1, Duration::ZERO)).await.records.remove(0);
    (record.ending, record.status, record.error.unwrap_or_default())
}

#[tokio::test]
async fn a_whole_answer_is_timed_and_counted() {
    let gap = Duration::from_millis(20);
    let (server, target) = serve(Manner::Tokens(gap)).await;
    let options = ReplayOptions { api_key: Some("k".to_owned()), ..options(target) };
    let recording = run(&options, arrivals(1, Duration::ZERO)).await;
    let record = &recording.records[0];
    assert_eq!((record.ending, record.error.as_deref()), (Ending::Completed, None));
    assert_eq!((record.input_tokens, record.output_tokens), (Tokens(120), Tokens(5)));
    assert_eq!(record.cached_tokens, Some(Tokens(96)));
    assert_eq!(record.replica.as_deref(), Some("gpu-3"));
    assert_eq!((record.decision.as_deref(), record.attempts), (Some("prefix"), Some(2)));
    assert!(record.ttft().unwrap() >= gap && record.e2e().unwrap() >= gap * 5);
    assert!(record.tpot().unwrap() >= gap * 9 / 10, "{:?}", record.tpot());
    assert_eq!(recording.gaps.len(), 4);
    assert!(record.slo.good);
    let (_, headers, body) = server.last.lock().unwrap().clone();
    assert_eq!(headers["x-request-id"], "replay-000000");
    assert_eq!(headers["x-session-id"], "replay-session-0");
    assert_eq!(headers["authorization"], "Bearer k");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&body["max_tokens"], &body["ignore_eos"]), (&5.into(), &true.into()));
}

#[tokio::test]
async fn a_server_that_answers_nobody_is_sent_every_request_on_time() {
    let (server, target) = serve(Manner::Stalled).await;
    let options = ReplayOptions { request_deadline: Duration::from_secs(2), ..options(target) };
    let started = Instant::now();
    let recording = run(&options, arrivals(20, Duration::from_millis(5))).await;
    // One that waits for each answer takes forty seconds.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(server.seen.load(Ordering::SeqCst), 20);
    for record in &recording.records {
        assert_eq!(record.ending, Ending::Failed);
        assert_eq!(record.error.as_deref(), Some("the deadline passed"));
        assert!(record.first_token.is_some() && record.e2e().is_none());
        assert!(record.lag().unwrap() < Duration::from_secs(10), "{:?}", record.lag());
        let waited = record.ended.since(record.scheduled);
        assert!(waited >= Duration::from_secs(2), "{waited:?}");
    }
}

#[tokio::test]
async fn a_stalled_server_shows_in_every_request_that_was_due_meanwhile() {
    // It answers nobody before the last request has come, which a sender that waits never sends.
    let (_, target) = serve(Manner::FrozenUntil(100)).await;
    let records = run(&options(target), arrivals(100, Duration::from_millis(2))).await.records;
    let last = records.last().unwrap().scheduled;
    for record in &records {
        assert_eq!((record.ending, record.error.as_deref()), (Ending::Completed, None));
        assert!(record.ttft().unwrap() >= last.since(record.scheduled), "{:?}", record.ttft());
    }
}

#[tokio::test]
async fn latencies_count_from_the_schedule_however_late_the_sender_is() {
    let (_, target) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let plan = arrivals(2, Duration::ZERO);
    let options = options(target);
    // The only thread of this runtime is kept busy when the requests are due.
    let hog = async {
        tokio::task::yield_now().await;
        std::thread::sleep(Duration::from_millis(250));
    };
    let (recording, ()) = tokio::join!(run(&options, plan), hog);
    for record in &recording.records {
        assert!(record.lag().unwrap() >= Duration::from_millis(150), "{:?}", record.lag());
        assert!(record.ttft().unwrap() >= record.lag().unwrap());
    }
}

#[tokio::test]
async fn bad_endings_are_told_apart() {
    let (ending, status, error) = one(Manner::Truncated).await;
    assert_eq!((ending, status), (Ending::Failed, Some(200)));
    assert!(error.contains("without its last event"), "{error}");

    let (ending, status, error) = one(Manner::ErrorInStream).await;
    assert_eq!((ending, status), (Ending::Failed, Some(200)));
    assert!(error.contains("dead"), "{error}");

    for refused in [429, 503] {
        let (ending, status, error) = one(Manner::Refused(refused)).await;
        assert_eq!((ending, status), (Ending::Rejected, Some(refused)));
        assert_eq!(error, "rejected-saturated");
    }

    let (ending, status, _) = one(Manner::Refused(500)).await;
    assert_eq!((ending, status), (Ending::Failed, Some(500)));

    let (ending, _, error) = one(Manner::Unstreamed).await;
    assert_eq!(ending, Ending::Failed);
    assert!(error.contains("no event stream"), "{error}");
}

#[tokio::test]
async fn a_target_that_nobody_serves_fails_with_the_systems_reason() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let recording = run(&options(target), arrivals(1, Duration::ZERO)).await;
    let error = recording.records[0].error.as_deref().unwrap();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn what_exceeds_the_generators_limit_is_recorded() {
    let (_, target) = serve(Manner::Tokens(Duration::from_millis(30))).await;
    let options = ReplayOptions { open_requests_max: 2, ..options(target) };
    let recording = run(&options, arrivals(5, Duration::from_millis(1))).await;
    let over: Vec<_> = recording.records.iter().filter(|it| it.ending == Ending::Failed).collect();
    assert_eq!((recording.records.len(), over.len(), recording.unsent), (5, 3, 3));
    for record in over {
        assert!(record.error.as_deref().unwrap().starts_with("generator limit"));
        assert_eq!((record.sent, record.status), (None, None));
    }
}

#[tokio::test]
async fn the_drain_limit_ends_what_is_still_open() {
    let (_, target) = serve(Manner::Stalled).await;
    let options = ReplayOptions { drain_max: Duration::from_millis(100), ..options(target) };
    let started = Instant::now();
    run(&options, arrivals(2, Duration::from_millis(1))).await;
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_stopped_run_keeps_what_it_has() {
    let (_, target) = serve(Manner::Stalled).await;
    let stop = CancellationToken::new();
    let options = options(target);
    let plan = arrivals(2, Duration::from_secs(3_600));
    let stopper = async {
        sleep(Duration::from_millis(200)).await;
        stop.cancel();
    };
    let (recording, ()) = tokio::join!(replay::run(&options, plan, stop.clone(), |_| {}), stopper);
    let records = recording.unwrap().records;
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].error.as_deref(), Some("the run was stopped"));
}

#[tokio::test]
async fn targets_take_turns_and_connections_are_kept() {
    let (one, first) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let (two, second) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let options = ReplayOptions { targets: vec![first, second.clone()], ..options(second) };
    let recording = run(&options, arrivals(6, Duration::from_millis(10))).await;
    assert!(recording.records.iter().all(|it| it.ending == Ending::Completed));
    let seen = [one, two].map(|server| server.seen.load(Ordering::SeqCst));
    assert_eq!(seen, [3, 3]);
}

#[tokio::test]
async fn of_several_targets_each_is_a_replica_that_need_not_say_so() {
    let (_, first) = serve(Manner::Anonymous).await;
    let (_, second) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let name = first.to_string();
    let both = ReplayOptions { targets: vec![first.clone(), second.clone()], ..options(second) };
    let recording = run(&both, arrivals(2, Duration::from_millis(10))).await;
    let replicas: Vec<_> = recording.records.iter().map(|it| it.replica.as_deref()).collect();
    assert_eq!(replicas, [Some(name.as_str()), Some("gpu-3")]);
    // One target is no fleet: who answered behind it, nobody knows.
    let recording = run(&options(first), arrivals(1, Duration::ZERO)).await;
    assert_eq!(recording.records[0].replica, None);
}

#[tokio::test]
async fn conversations_need_the_chat_endpoint() {
    let (server, target) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let endpoint = wire::openai::Endpoint::Completions;
    let options = ReplayOptions { endpoint, ..options(target) };
    let recording = run(&options, arrivals(1, Duration::ZERO)).await;
    assert_eq!(recording.records[0].ending, Ending::Completed);
    let body = server.last.lock().unwrap().2.clone();
    assert!(body.windows(9).any(|it| it == b"\"prompt\":"));

    let mut dialogue = arrivals(1, Duration::ZERO);
    let segment = Segment { id: 1, tokens: Tokens(5) };
    dialogue[0].prompt.messages.push(Message::new(Role::Assistant, segment));
    let refused = replay::run(&options, dialogue, CancellationToken::new(), |_| {}).await;
    assert!(refused.unwrap_err().to_string().contains("use chat completions"));
}

#[tokio::test]
async fn the_first_model_of_a_target_is_found() {
    let (_, target) = serve(Manner::Unstreamed).await;
    assert_eq!(replay::models::first(&target, None, None).await.unwrap(), "tiny");
    let nobody: Target = "http://127.0.0.1:9".parse().unwrap();
    let error = replay::models::first(&nobody, None, None).await.unwrap_err().to_string();
    assert!(error.contains("pass --model NAME"), "{error}");
}
