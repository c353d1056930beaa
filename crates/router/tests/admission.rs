//! Requests that are let in, wait, or are told when to come again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{CHAT, Stage, chat, config, raw, stage_with, until};
use emulator::Fault;
use http::{Method, Response};
use hyper::body::Incoming;
use policy::{admission::AdmissionConfig, config::StrategyName::LeastRequest};
use router::config::{Config, Replica};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// One replica with one seat, of which an urgent request was just served: whoever is less urgent does not wait for the
/// seat in the engine.
async fn one_seat() -> Stage {
    one_seat_of(config(LeastRequest), 1).await
}

/// The same before the replicas of `config` and `count` emulated ones.
async fn one_seat_of(mut config: Config, count: usize) -> Stage {
    config.admission = AdmissionConfig::default();
    config.policy.estimate.coefficients.sequences_max = 1;
    let stage = stage_with(unhurried(config), count).await;
    let urgent = [("x-sluice-priority", "interactive")];
    let answer = stage.post(CHAT, &urgent, chat("hi", 1, false).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    stage
}

/// Requests may stand still here for as long as a test takes, and probes take their time on a slow machine:
/// neither is a sign of illness.
fn unhurried(mut config: Config) -> Config {
    config.health.timeout = Duration::from_secs(600);
    config.health.silence = Duration::from_secs(600);
    config.health.standstill = Duration::from_secs(600);
    config
}

/// A promise that leaves time to wait for as long as a test may take.
const PATIENT: [(&str, &str); 1] = [("x-sluice-slo-ttft-ms", "600000")];

/// Takes the seat, and keeps it until the answer is dropped.
async fn take_the_seat(stage: &Stage) -> Response<Incoming> {
    stage.replicas[0].set_fault(Fault::StallAfter(1)).await.unwrap();
    let head = stage.stream(20).await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    head
}

async fn waiting(stage: &Stage, priority: &str) -> u64 {
    let view = stage.admin(Method::GET, "/admin/admission", "").await.json();
    view["waiting"][priority].as_u64().unwrap()
}

#[tokio::test]
async fn who_finds_the_fleet_full_is_told_why_and_when_to_come_again() {
    let stage = stage_with(unhurried(config(LeastRequest)), 1).await;
    let set = r#"{"mode": "static", "in_flight_max": 1}"#;
    assert_eq!(stage.admin(Method::PUT, "/admin/admission", set).await.status, 200);
    let seat = take_the_seat(&stage).await;
    let answer = stage.chat(&chat("hi", 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (503, "fleet_saturated"));
    assert_eq!(answer.header("x-sluice-dropped-reason"), "rejected-saturated");
    assert!(1 <= answer.header("retry-after").parse::<u64>().unwrap(), "{answer:?}");
    assert!(1 <= answer.header("retry-after-ms").parse::<u64>().unwrap(), "{answer:?}");
    let shed = "sluice_requests_rejected_total{reason=\"rejected-saturated\",priority=\"default\"}";
    assert_eq!(stage.metric(shed).await, 1);
    assert_eq!(stage.metric("sluice_admission_shed_total{gate=\"count\"}").await, 1);
    assert_eq!(stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await, 0);
    drop(seat);
    stage.until_idle().await;
    // The replica's own report, read ten times a second, may still count who has left.
    let again = async || stage.chat(&chat("hi", 1, false)).await.status == 200;
    until("who comes again is let in", again).await;
}

#[tokio::test]
async fn who_waits_is_served_when_a_seat_is_free() {
    let stage = one_seat().await;
    let seat = take_the_seat(&stage).await;
    let body = chat("hi", 1, false).to_string();
    let answer = stage.post(CHAT, &PATIENT, body);
    let makes_room = async {
        until("it waits", async || waiting(&stage, "default").await == 1).await;
        drop(seat);
    };
    let (answer, ()) = tokio::join!(answer, makes_room);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.header("x-sluice-queue-ms").parse::<u64>().is_ok(), "{answer:?}");
    assert_eq!(waiting(&stage, "default").await, 0);
}

#[tokio::test]
async fn who_hangs_up_while_waiting_leaves_nothing_behind() {
    let stage = one_seat().await;
    let seat = take_the_seat(&stage).await;
    let headers = [PATIENT[0], ("x-sluice-priority", "batch")];
    let body = chat("hi", 1, false).to_string();
    tokio::select! {
        answer = stage.post(CHAT, &headers, body) => panic!("{answer:?}"),
        () = until("it waits", async || waiting(&stage, "batch").await == 1) => {}
    }
    until("nobody waits", async || waiting(&stage, "batch").await == 0).await;
    drop(seat);
    stage.until_idle().await;
    assert_eq!(stage.metric("sluice_requests_total{outcome=\"refused\"}").await, 0);
}

#[tokio::test]
async fn admission_is_switched_live_and_mistakes_are_named() {
    let stage = one_seat().await;
    let view = stage.admin(Method::GET, "/admin/admission", "").await.json();
    assert_eq!(view["config"]["mode"], "knee");
    let off = stage.admin(Method::PUT, "/admin/admission", r#"{"mode": "off"}"#).await;
    assert_eq!(off.json()["mode"], "off");
    for (wrong, culprit) in
        [(r#"{"mode": "knees"}"#, "knees"), (r#"{"in_flight_max": 0}"#, "in_flight_max")]
    {
        let answer = stage.admin(Method::PUT, "/admin/admission", wrong).await;
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains(culprit), "{}", answer.body);
    }
    let view = stage.admin(Method::GET, "/admin/admission", "").await.json();
    assert_eq!(view["config"]["mode"], "off");
}

/// Numbers of questions.
type Numbers = Arc<Mutex<BTreeSet<usize>>>;

/// A replica that tells which questions reach it, and keeps who takes the seat until all may leave.
async fn tells_who_came(seen: Numbers, left: tokio::sync::watch::Receiver<bool>) -> String {
    raw::replica(move |mut socket, request| {
        let (told, mut left) = (Arc::clone(&seen), left.clone());
        async move {
            let number = request.split("question ").nth(1).and_then(|it| it.split('"').next());
            if let Some(number) = number {
                told.lock().unwrap().insert(number.parse().unwrap());
            }
            if request.contains("takes the seat") {
                tokio::select! {
                    _ = left.wait_for(|it| *it) => {}
                    _ = socket.read_u8() => {}
                }
            }
            let ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            let _ = socket.write_all(ok).await;
        }
    })
    .await
}

/// Who waits for longer than it wants to is told so and reaches no replica, whenever room opens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c8_what_has_expired_in_the_queue_is_never_dispatched() {
    let seen: Numbers = Arc::default();
    let (leave, left) = tokio::sync::watch::channel(false);
    let url = tells_who_came(Arc::clone(&seen), left).await;
    let mut config = config(LeastRequest);
    config.replicas.push(Replica::at(url));
    let stage = Arc::new(one_seat_of(config, 0).await);
    let seat = raw::post(stage.data, CHAT, &chat("takes the seat", 1, false).to_string()).await;
    until("the seat is taken", async || stage.reserved().await > 0).await;
    let (mut served, mut late, mut refused) = (BTreeSet::new(), Vec::new(), 0);
    let rounds = 12;
    for round in 0..rounds {
        let mut asking = tokio::task::JoinSet::new();
        for at in 0..3 {
            let (stage, number, patience_ms) = (Arc::clone(&stage), 3 * round + at, 150 + 100 * at);
            asking.spawn(async move {
                let patience = patience_ms.to_string();
                let headers = [PATIENT[0], ("x-sluice-timeout-ms", patience.as_str())];
                let (body, asked) = (chat(&format!("question {number}"), 1, false), Instant::now());
                let answer = stage.post(CHAT, &headers, body.to_string()).await;
                (number, answer, asked.elapsed().as_secs_f64() * 1e3 - patience_ms as f64)
            });
        }
        if round == rounds - 1 {
            // While some of the last wait and some have waited for too long.
            tokio::time::sleep(Duration::from_millis(250)).await;
            leave.send(true).unwrap();
        }
        for (number, answer, after_ms) in asking.join_all().await {
            match answer.header("x-sluice-dropped-reason") {
                "rejected-ttl-expired" => late.push(after_ms),
                // It was not let wait at all.
                "rejected-saturated" => refused += 1,
                _ => {
                    assert_eq!(answer.status, 200, "{answer:?}");
                    served.insert(number);
                }
            }
        }
    }
    late.sort_by(f64::total_cmp);
    println!(
        "C8: {} of {} expired in the queue, {refused} were not let wait, {} served once there was room; told so {:.1} ms after \
         the time they had set in the median, {:.1} ms at the latest",
        late.len(),
        3 * rounds,
        served.len(),
        late[late.len() / 2],
        late[late.len() - 1]
    );
    assert_eq!(
        *seen.lock().unwrap(),
        served,
        "whoever has expired or is refused reaches no replica"
    );
    assert!(rounds <= late.len(), "{} waited", late.len());
    drop(seat);
    stage.until_idle().await;
}
