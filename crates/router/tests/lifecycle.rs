//! How the router ends, and what is left when everything has gone wrong at once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::Duration;

use common::{CHAT, Stage, chat, config, raw, received, stage, stage_with, until};
use emulator::Fault;
use http::Method;
use http_body_util::BodyExt as _;
use policy::config::StrategyName::{LeastRequest, PrefixAware, RoundRobin};
use router::{config::Replica, serve::Router};
use tokio::task::JoinSet;

#[tokio::test]
async fn it_says_that_it_is_not_ready_and_still_serves_and_lets_streams_finish() {
    let mut config = config(RoundRobin);
    config.drain.lame_duck = Duration::from_millis(700);
    let mut stage = stage_with(config, 1).await;
    assert_eq!(stage.admin(Method::GET, "/readyz", "").await.status, 200);
    let open = stage.stream(150).await;
    stage.stop.cancel();
    until("it is not ready", async || stage.admin(Method::GET, "/readyz", "").await.status == 503)
        .await;
    let late = raw::post(stage.data, CHAT, &chat("late", 1, true).to_string()).await;
    let answer = received(open).await;
    assert!(answer.body.ends_with("data: [DONE]\n\n") && !answer.body.contains("error"));
    let late = raw::rest(late).await;
    assert!(late.starts_with("HTTP/1.1 200 OK") && late.contains("data: [DONE]"), "{late}");
    tokio::time::timeout(Duration::from_secs(5), &mut stage.router).await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(stage.data).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn what_outlasts_the_deadline_is_cut_off_with_an_error() {
    let mut config = config(RoundRobin);
    config.drain.timeout = Duration::from_millis(100);
    let mut stage = stage_with(config, 1).await;
    let open = stage.stream(100_000).await;
    stage.stop.cancel();
    let answer = received(open).await;
    assert!(answer.body.contains("router_shutting_down"), "{}", answer.body);
    tokio::time::timeout(Duration::from_secs(5), &mut stage.router).await.unwrap().unwrap();
    until("the replica is rid of it", async || stage.upstream_in_flight() == 0).await;
}

#[tokio::test]
async fn it_starts_before_its_replicas_and_finds_them_later() {
    let replica = common::emulate(Fault::Down).await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica { name: Some("late".to_owned()), ..Replica::at(replica.url()) });
    config.health.interval = Duration::from_millis(100);
    let router = Router::open(config).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(200), router.all_ready()).await.is_err());
    replica.set_fault(Fault::None).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), router.all_ready()).await.unwrap();
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let stage = stage(RoundRobin, 1).await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(stage.replicas[0].url()));
    config.listen = stage.data;
    let error = Router::open(config).await.unwrap_err().to_string();
    assert!(error.contains(&stage.data.to_string()) && error.contains("`listen`"), "{error}");
}

/// One request whose client may give up at any point.
async fn ask(stage: &Stage, at: u64) {
    let body = chat(
        &format!("question {}", at % 7),
        5 + u32::try_from(at % 40).unwrap(),
        !at.is_multiple_of(3),
    );
    let asking = async {
        let mut body = stage.open(Method::POST, CHAT, &[], body.to_string()).await.into_body();
        while let Some(Ok(_)) = body.frame().await {}
    };
    if at.is_multiple_of(4) {
        let _ = tokio::time::timeout(Duration::from_millis(at % 50), asking).await;
    } else {
        asking.await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_faults_and_hang_ups_of_every_kind_nothing_stays_reserved() {
    for strategy in [LeastRequest, PrefixAware] {
        let mut config = config(strategy);
        config.timeouts.answer = Duration::from_millis(500);
        config.timeouts.stall = Duration::from_millis(500);
        let stage = std::sync::Arc::new(stage_with(config, 4).await);
        let faults = [
            Fault::Down,
            Fault::BreakAfter(2),
            Fault::CloseBeforeAnswer,
            Fault::StallAfter(3),
            Fault::GarbageBytes,
            Fault::Status { code: 503, retry_after: None },
            Fault::EngineDeathAfter(1),
            Fault::Silence,
        ];
        let mut asking = JoinSet::new();
        for (round, fault) in faults.into_iter().enumerate() {
            for at in 0..40 {
                let stage = std::sync::Arc::clone(&stage);
                asking.spawn(async move { ask(&stage, at + 40 * round as u64).await });
            }
            let victim = &stage.replicas[round % 4];
            victim.set_fault(fault).await.unwrap();
            tokio::time::sleep(Duration::from_millis(60)).await;
            victim.set_fault(Fault::None).await.unwrap();
        }
        while let Some(asked) = asking.join_next().await {
            asked.unwrap();
        }
        stage.until_idle().await;
        until("the replicas are idle", async || stage.upstream_in_flight() == 0).await;
        let mut left = 0;
        for end in ["complete", "client-gone", "replica-failed", "cut", "refused", "bad-request"] {
            left += stage.metric(&format!("sluice_requests_total{{outcome=\"{end}\"}}")).await;
        }
        let strategy = strategy.as_str();
        println!("F8 {strategy}: 320 sent, {left} left exactly once, 0 reserved, 0 on replicas");
        // A client in four gives up, some of them before the router has heard of them.
        assert!((240..=320).contains(&left), "every request left exactly once: {left}");
    }
}
