//! Replicas that say what they should not, and what clients are told of where the time went.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use axum::{
    Router,
    http::StatusCode,
    routing::{get, post},
};
use common::{CHAT, chat, config, stage, stage_before, until};
use policy::{admission::AdmissionConfig, config::StrategyName::RoundRobin};

async fn replica(routes: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    url
}

#[tokio::test]
async fn metrics_that_cannot_be_true_shut_nobody_out() {
    for nonsense in ["1e308", "-5", "4294967295"] {
        let page = format!(
            "vllm:num_requests_running 0\nvllm:num_requests_waiting {nonsense}\n\
             vllm:kv_cache_usage_perc 0.1\n"
        );
        let routes = Router::new()
            .route("/health", get(async || "ok"))
            .route("/metrics", get(async move || page.clone()))
            .route(CHAT, post(async || "{}"));
        let mut config = config(RoundRobin);
        config.admission = AdmissionConfig::default();
        let stage = stage_before(replica(routes).await, config).await;
        let left_out = async || {
            let text = stage.admin(http::Method::GET, "/metrics", "").await.body;
            let of = |it: &&str| it.starts_with("sluice_replica_implausible_samples_total{");
            let line = text.lines().find(of).unwrap().to_owned();
            line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()
        };
        until("they were read twice", async || 2 <= left_out().await).await;
        let answer = stage.chat(&chat("hi", 1, false)).await;
        assert_eq!(answer.status, 200, "{nonsense}: {answer:?}");
        let shown = stage.admin(http::Method::GET, "/admin/replicas", "").await.json();
        assert_eq!(shown["replicas"][0]["reported"]["waiting"], 0, "{nonsense}");
    }
}

#[tokio::test]
async fn what_only_the_router_may_say_is_not_taken_from_a_replica() {
    let routes = Router::new().route("/health", get(async || "ok")).route(
        CHAT,
        post(async |body: String| {
            let headers = [
                ("x-sluice-dropped-reason", "evil"),
                ("x-sluice-replica", "evil"),
                ("x-sluice-anything", "evil"),
                ("server-timing", "evil"),
                ("x-request-id", "evil"),
                ("x-engine", "mine"),
                ("retry-after", "7"),
            ];
            let is_full = body.contains("full");
            let status = if is_full { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
            (status, headers, "{}")
        }),
    );
    let stage = stage_before(replica(routes).await, config(RoundRobin)).await;
    for (question, status) in [("hi", 200), ("full", 429)] {
        let answer = stage.chat(&chat(question, 1, false)).await;
        assert_eq!(answer.status, status);
        assert!(answer.headers.values().all(|it| it != "evil"), "{answer:?}");
        assert_eq!((answer.header("x-engine"), answer.header("retry-after")), ("mine", "7"));
    }
}

#[tokio::test]
async fn every_answer_says_where_its_time_went() {
    let stage = stage(RoundRobin, 1).await;
    let parts = |timing: &str| -> Vec<(String, f64)> {
        let part = |it: &str| {
            let (name, ms) = it.trim().split_once(";dur=").unwrap();
            (name.to_owned(), ms.parse().unwrap())
        };
        timing.split(',').map(part).collect()
    };
    for stream in [false, true] {
        let answer = stage.chat(&chat("hi", 2, stream)).await;
        let parts = parts(answer.header("server-timing"));
        let names: Vec<_> = parts.iter().map(|it| it.0.as_str()).collect();
        assert_eq!(names, ["read", "queue", "replica", "total"]);
        let sum: f64 = parts[..3].iter().map(|it| it.1).sum();
        assert!((sum - parts[3].1).abs() < 0.01 && 0.0 < parts[2].1, "{parts:?}");
    }
    let refused = stage.post(CHAT, &[], "{").await;
    let parts = parts(refused.header("server-timing"));
    let names: Vec<_> = parts.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(names, ["read", "queue", "total"], "no replica had it");
}
