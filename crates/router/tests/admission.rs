//! Requests that are let in, wait, or are told when to come again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use common::{
    CHAT, Stage, chat,
    full::{self, PATIENT, take_the_seat, unhurried, waiting},
    stage_with, until,
};
use http::Method;
use policy::admission::AdmissionConfig;
use router::config::Config;

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
