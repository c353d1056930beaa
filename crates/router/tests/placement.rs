//! Where requests go, as seen from outside.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{CHAT, MODEL, Stage, chat, config, stage, stage_with, until};
use emulator::Fault;
use http::Method;
use policy::config::StrategyName::{LeastRequest, PrefixAware, RoundRobin, Sticky};
use serde_json::{Value, json};

/// A conversation after `turns` answered questions.
fn conversation(name: &str, turns: usize) -> Value {
    let mut messages = vec![json!({"role": "system", "content": format!("{name} ").repeat(500)})];
    for turn in 0..turns {
        messages.push(json!({"role": "user", "content": format!("question {turn} of {name}")}));
        messages.push(json!({"role": "assistant", "content": format!("answer {turn}")}));
    }
    messages.push(json!({"role": "user", "content": "and then?"}));
    json!({"model": MODEL, "messages": messages, "max_tokens": 1})
}

async fn replica_of(stage: &Stage, headers: &[(&str, &str)], body: &Value) -> String {
    let answer = stage.post(CHAT, headers, body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.header("x-sluice-replica").to_owned()
}

#[tokio::test]
async fn round_robin_takes_turns() {
    let stage = stage(RoundRobin, 3).await;
    let mut replicas = Vec::new();
    for _ in 0..6 {
        replicas.push(replica_of(&stage, &[], &chat("same", 1, false)).await);
    }
    assert_eq!(replicas[..3], replicas[3..]);
    assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), 3);
}

#[tokio::test]
async fn a_named_session_stays_on_its_replica() {
    let stage = stage(Sticky, 4).await;
    for session in ["a", "b", "c"] {
        let headers = [("x-session-id", session)];
        let home = replica_of(&stage, &headers, &chat("one", 1, false)).await;
        for question in ["two", "three", "four"] {
            assert_eq!(replica_of(&stage, &headers, &chat(question, 1, false)).await, home);
        }
    }
}

#[tokio::test]
async fn a_conversation_without_a_name_is_known_by_its_beginning() {
    let stage = stage(Sticky, 4).await;
    for name in ["ann", "bob", "cid"] {
        let home = replica_of(&stage, &[], &conversation(name, 1)).await;
        for turns in 2..5 {
            assert_eq!(replica_of(&stage, &[], &conversation(name, turns)).await, home);
        }
    }
}

#[tokio::test]
async fn the_next_turn_goes_where_the_prefix_is_and_says_what_it_expects() {
    let stage = stage(PrefixAware, 4).await;
    let first = stage.chat(&conversation("ann", 1)).await;
    assert_eq!(first.header("x-sluice-decision"), "load");
    let second = stage.chat(&conversation("ann", 2)).await;
    assert_eq!(second.header("x-sluice-decision"), "prefix");
    assert_eq!(second.header("x-sluice-replica"), first.header("x-sluice-replica"));
    let (expected, prompt) = second.header("x-sluice-prefix-hit").split_once('/').unwrap();
    let (expected, prompt): (u32, u32) = (expected.parse().unwrap(), prompt.parse().unwrap());
    assert!(450 < expected && expected < prompt, "{expected}/{prompt}");
    // The engine found about as much: the expectation is in whole blocks of 64 tokens.
    let cached = second.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached.abs_diff(u64::from(expected)) <= 80, "{cached} against {expected}");
}

#[tokio::test]
async fn salts_and_tenants_share_nothing() {
    let mut config = config(PrefixAware);
    config.tenant_header = Some("x-tenant-id".to_owned());
    let stage = stage_with(config, 2).await;
    let mut salted = conversation("ann", 2);
    salted["cache_salt"] = json!("mine");
    for (tenant, body) in
        [("t1", conversation("ann", 2)), ("t2", conversation("ann", 2)), ("t1", salted)]
    {
        let headers = [("x-tenant-id", tenant)];
        let answer = stage.post(CHAT, &headers, body.to_string()).await;
        assert!(answer.header("x-sluice-prefix-hit").starts_with("0/"), "{answer:?}");
    }
    let nobody = stage.chat(&conversation("ann", 2)).await;
    assert_eq!((nobody.status.as_u16(), nobody.code().as_str()), (401, "no_tenant"));
}

#[tokio::test]
async fn a_switch_of_strategy_loses_no_request_and_forgets_nothing() {
    let stage = stage(PrefixAware, 3).await;
    let home = replica_of(&stage, &[], &conversation("ann", 1)).await;
    let names =
        ["round-robin", "random", "least-request", "power-of-two", "sticky", "prefix-aware"];
    let switching = async {
        for name in names.iter().cycle().take(60) {
            let body = json!({ "strategy": name }).to_string();
            let answer = stage.admin(Method::PUT, "/admin/policy", &body).await;
            assert_eq!(
                (answer.status.as_u16(), answer.json()["strategy"].as_str()),
                (200, Some(*name))
            );
        }
    };
    let asking = async {
        for at in 0..60 {
            let answer = stage.chat(&chat(&format!("question {at}"), 2, at % 2 == 0)).await;
            assert_eq!(answer.status, 200);
        }
    };
    tokio::join!(switching, asking);
    let shown = stage.admin(Method::GET, "/admin/policy", "").await.json();
    assert_eq!(shown["strategy"], "prefix-aware");
    assert_eq!(replica_of(&stage, &[], &conversation("ann", 2)).await, home);
    stage.until_idle().await;
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_changes_nothing() {
    let stage = stage(LeastRequest, 1).await;
    for (body, culprit) in [
        ("[]", "{\"strategy\": \"least-request\"}"),
        ("round-robin", "{\"strategy\": \"least-request\"}"),
        (r#"{"strategy":"robin"}"#, "round-robin"),
        (r#"{"strategy":"random","treshold":1}"#, "treshold"),
        (r#"{"strategy":"sticky","saturation":{"threshold":0.5}}"#, "threshold"),
        (r#"{"strategy":"sticky","match_min":2}"#, "match_min"),
    ] {
        let answer = stage.admin(Method::PUT, "/admin/policy", body).await;
        assert_eq!(answer.status, 400, "{body}");
        let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(message.contains(culprit), "{message}");
    }
    let shown = stage.admin(Method::GET, "/admin/policy", "").await.json();
    assert_eq!(shown["strategy"], "least-request");
}

#[tokio::test]
async fn saturation_can_be_switched_off_and_stays_off() {
    let stage = stage(LeastRequest, 1).await;
    let set = async |body: &str| {
        let answer = stage.admin(Method::PUT, "/admin/policy", body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["saturation"].clone()
    };
    assert_eq!(set(r#"{"strategy":"sticky"}"#).await["slack"], 4);
    assert_eq!(set(r#"{"strategy":"sticky","saturation":null}"#).await["slack"], 4);
    assert_eq!(set(r#"{"strategy":"sticky","saturation":"off"}"#).await, "off");
    let shown = stage.admin(Method::GET, "/admin/policy", "").await.body;
    assert_eq!(set(&shown).await, "off", "what is shown can be set");
}

#[tokio::test]
async fn models_are_listed_once_and_survive_a_dead_replica() {
    let stage = stage(RoundRobin, 2).await;
    let listed = stage.get("/v1/models").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    assert_eq!(stage.get(&format!("/v1/models/{MODEL}")).await.json()["id"], MODEL);
    assert_eq!(stage.get("/v1/models/other").await.status, 404);
    stage.replicas[0].set_fault(Fault::Down).await.unwrap();
    until("it is ejected", async || stage.health(0).await == "ejected").await;
    let listed = stage.get("/v1/models").await;
    assert_eq!(
        (listed.status.as_u16(), listed.json()["data"][0]["id"].as_str()),
        (200, Some(MODEL))
    );
}
