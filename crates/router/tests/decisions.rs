//! `GET /admin/decisions`: why requests went where they went.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use common::{CHAT, Stage, chat, config, stage, stage_with, until};
use http::Method;
use policy::config::StrategyName;
use serde_json::Value;

async fn decisions(stage: &Stage, query: &str) -> Vec<Value> {
    let answer = stage.admin(Method::GET, &format!("/admin/decisions{query}"), "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["decisions"].as_array().unwrap().clone()
}

/// The one decision on the request of that name, once it has ended.
async fn ended(stage: &Stage, name: &str) -> Value {
    let query = format!("?request={name}");
    until("the request has ended", async || {
        decisions(stage, &query).await[0]["observed"]["outcome"].is_string()
    })
    .await;
    let mut found = decisions(stage, &query).await;
    assert_eq!(found.len(), 1);
    found.remove(0)
}

#[tokio::test]
async fn a_decision_is_found_by_its_request_with_terms_in_seconds_and_what_came_of_it() {
    let stage = stage(StrategyName::LeastLatency, 3).await;
    let question = "a secret that nobody may read later ".repeat(40);
    for name in ["first", "second"] {
        let body = chat(&question, 4, true).to_string();
        let answer = stage.post(CHAT, &[("x-request-id", name)], body).await;
        assert_eq!(answer.status, 200);
    }
    let it = ended(&stage, "second").await;
    assert_eq!(
        (it["request_id"].as_str(), it["strategy"].as_str()),
        (Some("second"), Some("least-latency"))
    );
    assert_eq!(it["ranked_in"], "s");
    let candidates = it["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 3);
    let chosen: Vec<&Value> = candidates.iter().filter(|it| it["chosen"] == true).collect();
    assert_eq!((chosen.len(), &chosen[0]["replica"]), (1, &it["replica"]));
    assert!(chosen[0]["hit_tokens"].as_u64().unwrap() > 0, "{it:#}");
    for candidate in candidates {
        let cost = &candidate["cost"];
        let sum: f64 =
            ["wait_s", "harm_s", "price_s"].iter().map(|term| cost[term].as_f64().unwrap()).sum();
        assert!((sum - candidate["score"].as_f64().unwrap()).abs() < 1e-9, "{candidate:#}");
        assert!(candidate["predicted"]["ttft_s"].as_f64().unwrap() > 0.0);
    }
    assert!(it["observed"]["ttft_s"].as_f64().unwrap() > 0.0, "{it:#}");
    assert!(it["regret"]["ttft_error_s"].is_number(), "{it:#}");
    let all = stage.admin(Method::GET, "/admin/decisions", "").await.body;
    assert!(!all.contains("secret"), "prompts are not shown");
}

#[tokio::test]
async fn the_newest_come_first_and_no_more_than_asked_for() {
    let stage = stage(StrategyName::RoundRobin, 2).await;
    for number in 0..5 {
        let name = format!("r{number}");
        stage.post(CHAT, &[("x-request-id", &name)], chat("hi", 1, false).to_string()).await;
    }
    let names: Vec<Value> =
        decisions(&stage, "?limit=2").await.iter().map(|it| it["request_id"].clone()).collect();
    assert_eq!(names, ["r4", "r3"]);
    assert_eq!(decisions(&stage, "").await.len(), 5);
    assert!(decisions(&stage, "?request=nobody").await.is_empty());
    let wrong = stage.admin(Method::GET, "/admin/decisions?last=2", "").await;
    assert_eq!(wrong.status, 400);
}

#[tokio::test]
async fn who_is_turned_away_is_told_of_and_nothing_is_where_that_is_off() {
    let mut silent = config(StrategyName::LeastLatency);
    silent.policy.explain.keep = 0;
    let silent = stage_with(silent, 1).await;
    silent.chat(&chat("hi", 1, false)).await;
    assert!(decisions(&silent, "").await.is_empty());

    let stage = stage(StrategyName::LeastLatency, 1).await;
    let mut body = chat("hi", 1, false);
    body["model"] = "nobody-serves-this".into();
    let answer = stage.post(CHAT, &[("x-request-id", "no")], body.to_string()).await;
    assert_eq!(answer.status, 404);
    let it = decisions(&stage, "?request=no").await.remove(0);
    assert_eq!(it["refused"], "no replica serves the model");
    assert_eq!((it["replica"].is_null(), it["model"].is_null()), (true, true));
}
