//! Goodput as the router tells it, labels that change it, and windows of disruption.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{CHAT, Stage, chat, config, stage, stage_with, until};
use http::Method;
use policy::config::StrategyName::LeastRequest;
use report::cost::Prices;
use router::config::{Bounds, Config};
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
    // A grade changes nothing and finds its request all the same.
    let grade = json!({ "request_id": "one", "quality": 0.5 }).to_string();
    let answer = stage.post("/v1/feedback", &[], grade).await;
    assert_eq!((answer.status.as_u16(), answer.json()), (200, json!({ "joined": true })));
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
    assert_eq!(stage.post("/v1/feedback", &[], long).await.status, 413);
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

#[tokio::test]
async fn a_good_answer_has_a_price_where_the_fleet_has_one() {
    let prices = Prices { request: 0.25, currency: "EUR".to_owned(), ..Prices::default() };
    let config = Config { costs: Some(prices), ..config(LeastRequest) };
    let stage = stage_with(config, 2).await;
    ask(&stage, "one").await;
    ask(&stage, "two").await;
    let key = after(&stage, 2).await;
    // Calls are all that costs anything here, so the price does not depend on the time that passes.
    assert_eq!(key["windows"][0]["cost_per_accepted"], 0.25, "{key:#}");
    let all = goodput(&stage).await;
    assert_eq!((&all["currency"], &all["all"]["windows"][1]["cost"]), (&json!("EUR"), &json!(0.5)));
    let label = json!({ "request_id": "one", "accepted": false }).to_string();
    stage.post("/v1/feedback", &[], label).await;
    assert_eq!(goodput(&stage).await["all"]["windows"][1]["cost_per_accepted"], 0.5);
    let metrics = stage.admin(Method::GET, "/metrics", "").await.body;
    for line in [
        r#"sluice_cost_per_accepted{slo_class="interactive"} 0.5"#,
        r#"sluice_judged_requests_total{slo_class="interactive",good="true"} 2"#,
    ] {
        assert!(metrics.contains(line), "{line} is missing from:\n{metrics}");
    }
}

#[tokio::test]
async fn a_batch_is_held_to_its_window_and_to_nothing_interactive() {
    let mut config = config(LeastRequest);
    let impossible = Some(Duration::from_nanos(1));
    config.slo.default = Bounds { ttft: impossible, ..Bounds::default() };
    let stage = stage_with(config, 1).await;
    for (id, class) in [("one", "batch"), ("two", "of-nobody")] {
        let headers = [("x-request-id", id), ("x-sluice-slo-class", class)];
        let answer = stage.post(CHAT, &headers, chat("count", 4, true).to_string()).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    until("both have left", async || goodput(&stage).await["all"]["undisturbed"]["requests"] == 2)
        .await;
    let view = goodput(&stage).await;
    // A class that nobody configured is none, and what it was promised is what everybody is.
    let (none, batch) = (&view["keys"][0], &view["keys"][1]);
    assert_eq!((&none["slo_class"], &none["undisturbed"]["good"]), (&json!(""), &json!(0)));
    assert_eq!((&batch["slo_class"], &batch["undisturbed"]["good"]), (&json!("batch"), &json!(1)));
    let figures = &batch["undisturbed"];
    assert_eq!(
        (&figures["accepted_row_rate"], &figures["ttft_ms_mean"]),
        (&json!(1.0), &Value::Null)
    );
}

#[tokio::test]
async fn what_clients_do_wrong_breaks_no_promise() {
    let stage = stage(LeastRequest, 1).await;
    for _ in 0..30 {
        assert_eq!(stage.post(CHAT, &[], "{").await.status, 400);
    }
    assert_eq!(stage.post(CHAT, &[], r#"{"model":"nope","messages":[]}"#).await.status, 404);
    let wrong = emulator::Fault::Status { code: 400, retry_after: None };
    stage.replicas[0].set_fault(wrong).await.unwrap();
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 400);
    stage.replicas[0].set_fault(emulator::Fault::None).await.unwrap();
    let bad = "sluice_requests_total{outcome=\"bad-request\"}";
    until("all are counted", async || stage.metric(bad).await == 32).await;
    ask(&stage, "good").await;
    let key = after(&stage, 1).await;
    assert_eq!(key["undisturbed"]["good_request_fraction"], 1.0, "{key:#}");
    // To be full is no fault of the client's, nor is it to have used up a share.
    let full = emulator::Fault::Status { code: 429, retry_after: None };
    stage.replicas[0].set_fault(full).await.unwrap();
    let body = chat("hi", 1, false).to_string();
    let answer = stage.post(CHAT, &[("x-sluice-slo-class", "interactive")], body).await;
    assert_eq!(answer.status, 429);
    let key = after(&stage, 2).await;
    assert_eq!(
        (&key["undisturbed"]["rejected"], &key["undisturbed"]["good"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(stage.metric(bad).await, 32);
}
