//! What engines publish of their caches, from the event to the decision.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use common::{Answer, MODEL, Stage, config, stage_with, until};
use emulator::{Fault, Handle, KvEvents};
use policy::config::StrategyName::KvAware;
use router::config::{Config, Replica};
use serde_json::json;
use tokio::net::TcpListener;
use types::{
    quantity::{Blocks, Tokens},
    units::TokenCount,
};

/// Tokens in a block of the emulated engine.
const BLOCK: u32 = 16;

async fn publishing(kv_blocks: u32) -> Handle {
    let options =
        emulator::Options { kv_blocks: Some(Blocks(kv_blocks)), ..emulator::Options::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let any = "tcp://127.0.0.1:0".to_owned();
    let kv = KvEvents { endpoint: any.clone(), replay: Some(any), topic: "kv@".to_owned() };
    emulator::spawn_publishing(options.replica().unwrap(), listener, &kv).await.unwrap()
}

fn followed(replica: &Handle, name: &str, has_replay: bool) -> Replica {
    let kv = replica.kv_events().unwrap().clone();
    Replica {
        name: Some(name.to_owned()),
        kv_events: Some(kv.endpoint),
        kv_replay: kv.replay.filter(|_| has_replay),
        kv_topic: "kv@".to_owned(),
        ..Replica::at(replica.url())
    }
}

fn kv_config() -> Config {
    let mut config = config(KvAware);
    config.policy.prefix.block = TokenCount(Tokens(BLOCK));
    // Its counters would give a restart away as well.
    config.health.scrape_interval = std::time::Duration::from_secs(3_600);
    config
}

/// A router that follows `count` emulated engines of `kv_blocks` blocks.
async fn stage(count: usize, kv_blocks: u32) -> Stage {
    let (mut config, mut replicas) = (kv_config(), Vec::new());
    for at in 0..count {
        let replica = publishing(kv_blocks).await;
        config.replicas.push(followed(&replica, &format!("r{at}"), true));
        replicas.push(replica);
    }
    let mut stage = stage_with(config, 0).await;
    stage.replicas = replicas;
    for at in 0..count {
        until_following(&stage, at, "followed").await;
    }
    stage
}

async fn until_following(stage: &Stage, at: usize, state: &str) {
    let sample = format!("sluice_kv_following{{replica=\"r{at}\",state=\"{state}\"}}");
    until("its events are followed", async || stage.metric(&sample).await == 1).await;
}

/// Asks for one token after a prompt of `blocks` blocks of `family` and some.
async fn ask(stage: &Stage, family: u32, blocks: u32) -> Answer {
    let ids: Vec<u32> = (0..blocks * BLOCK + 3).map(|at| family * 1_000 + at).collect();
    let body = json!({"model": MODEL, "prompt": ids, "max_tokens": 1});
    let answer = stage.post("/v1/completions", &[], body.to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Tokens that the router expected to be found, and that were.
fn hits(answer: &Answer) -> (u64, u64) {
    let expected = answer.header("x-sluice-prefix-hit").split('/').next().unwrap();
    let found = &answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
    (expected.parse().unwrap(), found.as_u64().unwrap_or_default())
}

/// Waits until all that the first engine published is known.
async fn until_told(stage: &Stage) {
    let published = stage.replicas[0].kv_events_published();
    let received = "sluice_kv_events_total{replica=\"r0\"}";
    until("all events are here", async || stage.metric(received).await == published).await;
}

async fn until_held(stage: &Stage, blocks: u64) {
    let held = async || stage.metric("sluice_held_index_blocks").await == blocks;
    until("the engine has said what it holds", held).await;
}

#[tokio::test]
async fn what_is_expected_is_what_is_found() {
    let stage = stage(2, 4_000).await;
    assert_eq!(hits(&ask(&stage, 1, 40).await), (0, 0));
    until_held(&stage, 40).await;
    let home = ask(&stage, 1, 30).await;
    assert_eq!(hits(&home), (30 * 16, 30 * 16));
    let longer = ask(&stage, 1, 50).await;
    assert_eq!(hits(&longer), (40 * 16, 40 * 16));
    assert_eq!(home.header("x-sluice-replica"), longer.header("x-sluice-replica"));
    assert_eq!(longer.header("x-sluice-decision"), "prefix");
    let precise = "sluice_cache_mode{replica=\"r0\",mode=\"precise\"}";
    assert_eq!(stage.metric(precise).await, 1);
}

#[tokio::test]
async fn under_pressure_what_was_evicted_is_not_expected() {
    // Room for three prompts of eighteen blocks at a time.
    let stage = stage(1, 60).await;
    for round in 0..40 {
        let family = [1, 2, 3, 4, 1, 5, 2, 6][round % 8];
        let (expected, found) = hits(&ask(&stage, family, 18).await);
        assert_eq!(expected, found, "round {round}");
        until_told(&stage).await;
    }
}

#[tokio::test]
async fn a_restart_leaves_no_ghost() {
    let stage = stage(1, 4_000).await;
    ask(&stage, 1, 40).await;
    until_held(&stage, 40).await;
    stage.replicas[0].set_fault(Fault::Down).await.unwrap();
    until("it is ejected", async || stage.health(0).await == "ejected").await;
    stage.replicas[0].set_fault(Fault::None).await.unwrap();
    until("it is back", async || stage.health(0).await == "ready").await;
    assert_eq!(hits(&ask(&stage, 1, 40).await), (0, 0));
    until_held(&stage, 40).await;
    assert_eq!(hits(&ask(&stage, 1, 41).await), (640, 640));
}

#[tokio::test]
async fn an_engine_that_hangs_up_is_taken_to_hold_nothing() {
    let mut stage = stage(2, 4_000).await;
    let home = ask(&stage, 1, 40).await;
    until_held(&stage, 40).await;
    let at: usize = home.header("x-sluice-replica")[1..].parse().unwrap();
    stage.replicas.remove(at).shutdown().await;
    until_following(&stage, at, "waiting").await;
    assert_eq!(hits(&ask(&stage, 1, 40).await), (0, 0));
}

#[tokio::test]
async fn an_engine_that_restarted_unseen_gives_itself_away_with_its_first_event() {
    let stage = stage(1, 4_000).await;
    for family in 1..4 {
        ask(&stage, family, 10).await;
    }
    until_held(&stage, 30).await;
    stage.replicas[0].restart_unseen();
    ask(&stage, 9, 10).await;
    until_told(&stage).await;
    assert_eq!(stage.metric("sluice_kv_restarts_total{replica=\"r0\"}").await, 1);
    assert_eq!(hits(&ask(&stage, 1, 10).await), (0, 0));
}

#[tokio::test]
async fn what_was_missed_is_asked_for() {
    let stage = stage(1, 4_000).await;
    ask(&stage, 1, 10).await;
    until_held(&stage, 10).await;
    stage.replicas[0].lose_kv_events(1);
    ask(&stage, 2, 10).await;
    ask(&stage, 3, 10).await;
    until_held(&stage, 30).await;
    assert_eq!(stage.metric("sluice_kv_event_gaps_total{replica=\"r0\"}").await, 1);
    assert_eq!(hits(&ask(&stage, 2, 10).await), (160, 160));
}

#[tokio::test]
async fn what_cannot_be_asked_for_ends_the_following_until_a_restart() {
    let replica = publishing(4_000).await;
    let mut config = kv_config();
    config.replicas.push(followed(&replica, "r0", false));
    let mut stage = stage_with(config, 0).await;
    stage.replicas.push(replica);
    // The first message may come before the router listens; a restart is seen by whoever does.
    let following = "sluice_kv_following{replica=\"r0\",state=\"followed\"}";
    until("its events are followed", async || {
        stage.replicas[0].restart_unseen();
        ask(&stage, 1, 10).await;
        stage.metric(following).await == 1
    })
    .await;
    stage.replicas[0].lose_kv_events(1);
    ask(&stage, 2, 10).await;
    ask(&stage, 3, 10).await;
    until_following(&stage, 0, "gap").await;
    let approximate = "sluice_cache_mode{replica=\"r0\",mode=\"approximate\"}";
    assert_eq!(stage.metric(approximate).await, 1);
    // What was sent to it is believed to be there.
    assert_eq!(hits(&ask(&stage, 2, 10).await), (160, 160));
    stage.replicas[0].restart_unseen();
    ask(&stage, 4, 10).await;
    until_following(&stage, 0, "followed").await;
    assert_eq!(hits(&ask(&stage, 4, 10).await), (160, 160));
    assert_eq!(hits(&ask(&stage, 1, 10).await), (0, 0));
}

#[tokio::test]
async fn an_engine_that_could_not_be_followed_is_once_it_comes_back_with_other_blocks() {
    let start = async |block: u32, listen: String, kv: &KvEvents| {
        let mut config = emulator::Options::default().replica().unwrap();
        config.profile.block_size = Tokens(block);
        let listener = TcpListener::bind(listen).await.ok()?;
        emulator::spawn_publishing(config, listener, kv).await.ok()
    };
    let any = "tcp://127.0.0.1:0".to_owned();
    let kv = KvEvents { endpoint: any.clone(), replay: Some(any), topic: "kv@".to_owned() };
    let replica = start(24, "127.0.0.1:0".to_owned(), &kv).await.unwrap();
    let mut config = kv_config();
    config.replicas.push(followed(&replica, "r0", true));
    let (address, kv) = (replica.url(), replica.kv_events().unwrap().clone());
    let address = address.trim_start_matches("http://").to_owned();
    let stage = stage_with(config, 0).await;
    until_following(&stage, 0, "followed").await;
    ask(&stage, 1, 10).await;
    until_following(&stage, 0, "unusable").await;
    replica.shutdown().await;
    let (mut again, mut tries) = (None, 0);
    // Until its ports are free.
    while again.is_none() {
        assert!(tries < 1_000, "the ports stay taken");
        again = start(BLOCK, address.clone(), &kv).await;
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    until_following(&stage, 0, "followed").await;
    until("it is ready", async || stage.health(0).await == "ready").await;
    ask(&stage, 2, 10).await;
    until_held(&stage, 10).await;
}

#[tokio::test]
async fn a_reset_cache_is_empty() {
    let stage = stage(1, 4_000).await;
    ask(&stage, 1, 10).await;
    until_held(&stage, 10).await;
    assert!(stage.replicas[0].reset_prefix_cache());
    until_told(&stage).await;
    assert_eq!(hits(&ask(&stage, 1, 10).await), (0, 0));
}

#[tokio::test]
async fn a_salt_separates_worlds() {
    let stage = stage(1, 4_000).await;
    let ids: Vec<u32> = (0..163).collect();
    let asked = async |salt: Option<&str>| {
        let mut body = json!({"model": MODEL, "prompt": ids, "max_tokens": 1});
        if let Some(salt) = salt {
            body["cache_salt"] = salt.into();
        }
        stage.post("/v1/completions", &[], body.to_string()).await
    };
    assert_eq!(hits(&asked(Some("a")).await), (0, 0));
    until_held(&stage, 10).await;
    assert_eq!(hits(&asked(None).await), (0, 0));
    until_held(&stage, 20).await;
    assert_eq!(hits(&asked(Some("a")).await), (160, 160));
}
