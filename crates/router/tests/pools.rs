//! Replicas for short prompts and for long ones, and adapters, from outside.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{Stage, chat, config, emulate, stage_with, until};
use emulator::{Fault, Handle};
use http::Method;
use policy::config::StrategyName::LeastRequest;
use router::config::{Pool, Pools, Replica};
use types::{quantity::Tokens, units::TokenCount};

fn member(replica: &Handle, name: &str, pool: &str) -> Replica {
    let (name, pool) = (Some(name.to_owned()), Some(pool.to_owned()));
    Replica { name, pool, ..Replica::at(replica.url()) }
}

fn pools() -> Pools {
    let short = Pool { prompt_max: Some(TokenCount(Tokens(500))) };
    Pools(BTreeMap::from([("short".to_owned(), short), ("long".to_owned(), Pool::default())]))
}

async fn replica_of(stage: &Stage, words: usize) -> String {
    let answer = stage.chat(&chat(&"word ".repeat(words), 1, false)).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.header("x-sluice-replica").to_owned()
}

#[tokio::test]
async fn prompts_go_to_the_pool_for_their_length_and_spill_into_the_larger_one() {
    let (short, long) = (emulate(Fault::None).await, emulate(Fault::None).await);
    let mut config = config(LeastRequest);
    config.pools = pools();
    config.replicas = vec![member(&short, "small", "short"), member(&long, "large", "long")];
    let stage = stage_with(config, 0).await;
    for _ in 0..3 {
        assert_eq!(replica_of(&stage, 20).await, "small");
        assert_eq!(replica_of(&stage, 2_000).await, "large");
    }
    let shown = stage.admin(Method::GET, "/admin/replicas", "").await.json();
    assert_eq!(
        // By name: large, small.
        (&shown["replicas"][0]["pool"], &shown["replicas"][1]["pool"]),
        (&"long".into(), &"short".into())
    );
    stage.admin(Method::POST, "/admin/replicas/small/drain", "").await;
    until("it drains", async || stage.health(1).await == "draining").await;
    assert_eq!(replica_of(&stage, 20).await, "large");
}

#[tokio::test]
async fn a_prompt_that_no_pool_takes_is_refused_as_too_long() {
    let replica = emulate(Fault::None).await;
    let mut config = config(LeastRequest);
    config.pools = pools();
    config.pools.0.remove("long");
    config.replicas = vec![member(&replica, "small", "short")];
    let stage = stage_with(config, 0).await;
    let answer = stage.chat(&chat(&"word ".repeat(2_000), 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (400, "context_length_exceeded"));
}

#[tokio::test]
async fn a_pool_that_is_not_listed_is_a_mistake() {
    let mut config = config(LeastRequest);
    config.pools = pools();
    config.replicas =
        vec![Replica { pool: Some("huge".to_owned()), ..Replica::at("http://127.0.0.1:1") }];
    let problem = config.checked("test").unwrap_err().to_string();
    assert!(problem.contains("replicas[0].pool: `huge` is no pool"), "{problem}");
}
