//! Goodput as the router tells it, labels that change it, and windows of disruption.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use common::{CHAT, Stage, chat, stage, until};
use http::Method;
use policy::config::StrategyName::LeastRequest;
use serde_json::{Value, json};

/// Asks for an answer as the request `id` of the class `interactive`.
async fn ask(stage: &Stage, id: &str) {
    let headers = [("x-request-id", id), ("x-sluice-slo-class", "interactive")];
    let answer = stage.post(CHAT, &headers, chat("count", 4, true).to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn goodput(stage: &Stage) -> Value {
    stage.admin(Method::GET, "/admin/goodput", "").await.json()
}

/// A count of the only model, class and tenant, once so many requests have left.
async fn after(stage: &Stage, requests: u64) -> Value {
    let all = |it: &Value| {
        let of = |part: &str| it["keys"][0][part]["requests"].as_u64().unwrap_or_default();
        of("undisturbed") + of("disrupted")
    };
    until("all requests have left", async || all(&goodput(stage).await) == requests).await;
    goodput(stage).await["keys"][0].clone()
}

#[tokio::test]
async fn a_label_takes_a_request_out_of_the_goodput_and_puts_it_back() {
    let stage = stage(LeastRequest, 1).await;
    ask(&stage, "one").await;
    ask(&stage, "two").await;
    let key = after(&stage, 2).await;
    assert_eq!(
        (&key["slo_class"], &key["undisturbed"]["good"]),
        (&json!("interactive"), &json!(2))
    );
    assert!(key["windows"][0]["output_token_goodput"].as_f64().unwrap() > 0.0, "{key:#}");
    let label = |accepted: bool| json!({ "request_id": "one", "accepted": accepted }).to_string();
    let answer = stage.post("/v1/feedback", &[], label(false)).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "joined": true })));
    let figures = &after(&stage, 2).await["windows"][0];
    assert_eq!((&figures["good"], &figures["labelled"]), (&json!(1), &json!(1)));
    stage.post("/v1/feedback", &[], label(true)).await;
    assert_eq!(after(&stage, 2).await["windows"][0]["good"], 2);
}

#[tokio::test]
async fn labels_that_cannot_be_joined_or_read_are_told_apart() {
    let stage = stage(LeastRequest, 1).await;
    let of_nobody = json!({ "request_id": "never-seen", "accepted": true }).to_string();
    let answer = stage.post("/v1/feedback", &[], of_nobody).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (202, json!({ "joined": false })));
    for wrong in ["", "{}", r#"{"request_id":"r"}"#, r#"{"request_id":"","accepted":true}"#] {
        let answer = stage.post("/v1/feedback", &[], wrong).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "bad_label"), "{wrong}");
    }
    let long = format!(r#"{{"request_id":"{}"}}"#, "x".repeat(20_000));
    assert_eq!(stage.post("/v1/feedback", &[], long).await.status, 400);
    assert_eq!(stage.get("/v1/feedback").await.status, 405);
}

#[tokio::test]
async fn requests_in_a_window_of_disruption_are_counted_apart() {
    let stage = stage(LeastRequest, 1).await;
    ask(&stage, "before").await;
    after(&stage, 1).await;
    let event = |body: Value| {
        let body = body.to_string();
        let stage = &stage;
        async move { stage.admin(Method::POST, "/admin/events", &body).await }
    };
    assert_eq!(event(json!({ "kind": "deployment", "lasts_s": 60 })).await.status, 204);
    assert_eq!(goodput(&stage).await["is_disrupted"], true);
    ask(&stage, "within").await;
    let key = after(&stage, 2).await;
    let requests = |part: &str| key[part]["requests"].clone();
    assert_eq!((requests("undisturbed"), requests("disrupted")), (json!(1), json!(1)));
    assert_eq!(event(json!({ "kind": "deployment", "end": true })).await.status, 204);
    assert_eq!(goodput(&stage).await["is_disrupted"], false);
    for wrong in [
        json!({ "kind": "deployment", "end": true }),
        json!({ "kind": "" }),
        json!({ "kind": "x", "lasts_s": -1 }),
        json!({ "what": "x" }),
    ] {
        assert_eq!(event(wrong.clone()).await.status, 400, "{wrong}");
    }
}
