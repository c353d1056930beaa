//! Requests that are let in, wait, or are told when to come again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{
    CHAT, Stage, chat,
    full::{self, PATIENT, take_the_seat, unhurried, waiting},
    raw, stage_with, until,
};
use http::Method;
use policy::admission::AdmissionConfig;
use router::config::{Config, Replica};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn one_seat() -> Stage {
    let config = Config { admission: AdmissionConfig::default(), ..unhurried() };
    full::one_seat(config, "interactive", &[]).await
}

#[tokio::test]
async fn who_comes_again_when_there_is_room_is_let_in() {
    let stage = stage_with(unhurried(), 1).await;
    let set = r#"{"mode": "static", "in_flight_max": 1}"#;
    assert_eq!(stage.admin(Method::PUT, "/admin/admission", set).await.status, 200);
    let seat = take_the_seat(&stage, &[]).await;
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 503);
    drop(seat);
    stage.until_idle().await;
    // The replica's own report, read ten times a second, may still count who has left.
    let again = async || stage.chat(&chat("hi", 1, false)).await.status == 200;
    until("who comes again is let in", again).await;
}

#[tokio::test]
async fn who_waits_is_served_when_a_seat_is_free() {
    let stage = one_seat().await;
    let seat = take_the_seat(&stage, &[]).await;
    let body = chat("hi", 1, false).to_string();
    let answer = stage.post(CHAT, &[PATIENT], body);
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
    let mut config = Config { admission: AdmissionConfig::default(), ..unhurried() };
    config.replicas.push(Replica::at(url));
    let stage = Arc::new(full::one_seat(config, "interactive", &[]).await);
    let seat = raw::post(stage.data, CHAT, &chat("takes the seat", 1, false).to_string()).await;
    until("the seat is taken", async || stage.reserved().await > 0).await;
    let (mut served, mut cut, mut late, mut refused) =
        (BTreeSet::new(), BTreeSet::new(), Vec::new(), 0);
    let rounds = 12;
    for round in 0..rounds {
        let mut asking = tokio::task::JoinSet::new();
        for at in 0..3 {
            // One of the last still waits when room opens.
            let patience_ms =
                if round == rounds - 1 { [150, 150, 5_000][at] } else { [150, 250, 350][at] };
            let (stage, number) = (Arc::clone(&stage), 3 * round + at);
            asking.spawn(async move {
                let patience = patience_ms.to_string();
                let headers = [PATIENT, ("x-sluice-timeout-ms", patience.as_str())];
                let (body, asked) = (chat(&format!("question {number}"), 1, false), Instant::now());
                let answer = stage.post(CHAT, &headers, body.to_string()).await;
                (number, answer, asked.elapsed().as_secs_f64() * 1e3 - f64::from(patience_ms))
            });
        }
        if round == rounds - 1 {
            // While some of the last wait and some have waited for too long.
            tokio::time::sleep(Duration::from_secs(1)).await;
            leave.send(true).unwrap();
        }
        for (number, answer, after_ms) in asking.join_all().await {
            match answer.header("x-sluice-dropped-reason") {
                "rejected-ttl-expired" => late.push(after_ms),
                // It was not let wait at all.
                "rejected-saturated" => refused += 1,
                // Its time was over once it had been sent on.
                _ if answer.status == 504 => {
                    assert_eq!(answer.code(), "client_timeout");
                    cut.insert(number);
                }
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
    let reached: BTreeSet<usize> = seen.lock().unwrap().difference(&cut).copied().collect();
    assert_eq!(reached, served, "whoever has expired or is refused reaches no replica");
    assert!(rounds <= late.len(), "{} waited", late.len());
    drop(seat);
    stage.until_idle().await;
}
