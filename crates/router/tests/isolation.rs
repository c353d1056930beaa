//! What a tenant learns of another, and can do to it. Named in docs/reliability.md: F6, F7.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use common::{Answer, CHAT, Stage, chat, config, stage_with};
use policy::config::StrategyName::{self, LeastRequest, PrefixAware, Sticky};
use router::config::{Secret, Tenant};
use serde_json::json;

/// Of `alice` and `bob`.
const KEYS: [(&str, &str); 2] = [
    ("alice", "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90"),
    ("bob", "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9"),
];

async fn stage(strategy: StrategyName, replicas: usize) -> Stage {
    let mut config = config(strategy);
    config.tenants = KEYS
        .map(|(name, sha256)| Tenant {
            name: name.to_owned(),
            keys: vec![Secret { sha256: Some(sha256.to_owned()), ..Secret::default() }],
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrency: None,
        })
        .to_vec();
    stage_with(config, replicas).await
}

async fn ask(stage: &Stage, key: &str, headers: &[(&str, &str)], question: &str) -> Answer {
    let key = format!("Bearer {key}");
    let headers = [headers, &[("authorization", key.as_str())]].concat();
    let answer = stage.post(CHAT, &headers, chat(question, 1, false).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Prompt tokens that the router says are held.
fn hit(answer: &Answer) -> u32 {
    answer.header("x-sluice-prefix-hit").split('/').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn f6_what_a_tenant_is_told_says_nothing_of_anothers_prompts() {
    let stage = stage(PrefixAware, 2).await;
    let secret =
        |at: usize| format!("the secret number {at} {}", "and what follows it ".repeat(60));
    for at in 0..40 {
        ask(&stage, "alice", &[], &secret(at)).await;
    }
    // Half of what bob guesses is right.
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for at in 0..80 {
        let seen = hit(&ask(&stage, "bob", &[], &secret(at)).await);
        if at < 40 { &mut right } else { &mut wrong }.push(seen);
    }
    // How often a right guess shows more than a wrong one; equal ones count half.
    let wins = |a: u32| {
        wrong.iter().map(move |b| if a > *b { 1.0 } else { f64::from(u8::from(a == *b)) / 2.0 })
    };
    let auc = right.iter().flat_map(|a| wins(*a)).sum::<f64>() / (right.len() * wrong.len()) as f64;
    let own = hit(&ask(&stage, "alice", &[], &secret(0)).await);
    println!(
        "F6: told apart by what the router says: AUC {auc:.2}; alice sees {own} tokens of her own"
    );
    assert!(auc <= 0.55 && 0 < own);
}

#[tokio::test]
async fn f6_engines_keep_tenants_apart_by_salt_alone() {
    let stage = stage(LeastRequest, 1).await;
    let cached = async |key: &str, salt: Option<&str>| {
        let mut body = chat(&"a prompt that two of them send ".repeat(60), 1, false);
        if let Some(salt) = salt {
            body["cache_salt"] = json!(salt);
        }
        let key = format!("Bearer {key}");
        let answer = stage.post(CHAT, &[("authorization", &key)], body.to_string()).await;
        answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("alice", Some("of alice")).await, 0);
    assert_eq!(cached("bob", Some("of bob")).await, 0, "salted apart");
    assert!(0 < cached("bob", Some("of bob")).await);
    // The router sends bodies as they come: without a salt the engine's cache is everybody's, which
    // docs/reliability.md says.
    assert_eq!(cached("alice", None).await, 0);
    assert!(0 < cached("bob", None).await);
}

#[tokio::test]
async fn f7_a_session_is_its_tenants_own_and_leads_nowhere_by_name() {
    let stage = stage(Sticky, 4).await;
    let mut same = 0;
    for at in 0..40 {
        let name = format!("s{at}");
        let session = [("x-session-id", name.as_str())];
        let home = async |key: &str| {
            let answer = ask(&stage, key, &session, "hi").await;
            answer.header("x-sluice-replica").to_owned()
        };
        let (alice, bob) = (home("alice").await, home("bob").await);
        same += usize::from(alice == bob);
        assert_eq!((home("alice").await, home("bob").await), (alice, bob), "each stays");
    }
    println!("F7: of 40 sessions of the same name {same} are on the same replica (chance: 10)");
    assert!(same < 30);
    // Naming a replica, its address or another's session chooses nothing.
    let url = stage.replicas[3].url();
    let mut seen = std::collections::BTreeSet::new();
    for at in 0..40 {
        let name = format!("forged{at}");
        let headers = [
            ("x-session-id", name.as_str()),
            ("x-sluice-replica", "r3"),
            ("x-gateway-destination-endpoint", url.as_str()),
            ("x-target", url.as_str()),
        ];
        let answer = ask(&stage, "bob", &headers, "hi").await;
        seen.insert(answer.header("x-sluice-replica").to_owned());
    }
    assert!(1 < seen.len(), "{seen:?}");
}
