//! What the admin port keeps for those who ask how the router fares, and what it forgets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use common::{CHAT, Stage, config, raw, stage, stage_with, until};
use http::Method;
use policy::config::StrategyName::RoundRobin;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

/// A request to the admin port whose body does not come.
async fn stuck(stage: &Stage) -> TcpStream {
    let head = "PUT /admin/policy HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    raw::send(stage.admin, head).await
}

async fn asked(stage: &Stage, path: &str) -> String {
    let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    raw::rest(raw::send(stage.admin, &head).await).await
}

#[tokio::test]
async fn c3_whoever_takes_every_connection_leaves_health_and_metrics_to_others() {
    let stage = stage(RoundRobin, 1).await;
    let mut all = Vec::new();
    for _ in 0..300 {
        all.push(stuck(&stage).await);
    }
    for _ in 0..30 {
        for path in ["/livez", "/readyz", "/metrics"] {
            let answer = asked(&stage, path).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
        }
    }
    let other = asked(&stage, "/admin/replicas").await;
    assert!(other.starts_with("HTTP/1.1 503 ") && other.contains("/livez, /readyz"), "{other}");
    drop(all);
    let served = async || asked(&stage, "/admin/replicas").await.starts_with("HTTP/1.1 200 ");
    until("there is room again", served).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_to_the_admin_port_is_not_waited_for() {
    let mut config = config(RoundRobin);
    config.timeouts.client_body = Duration::from_millis(200);
    let stage = stage_with(config, 1).await;
    let answer = raw::rest(stuck(&stage).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("body_timeout"), "{answer}");
    let long = format!(
        "PUT /admin/policy HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{}",
        3 << 20,
        "x".repeat(3 << 20)
    );
    let mut socket = TcpStream::connect(stage.admin).await.unwrap();
    // It may be told before it has sent all of it.
    let _ = socket.write_all(long.as_bytes()).await;
    let mut answer = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut socket, &mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn g6_replicas_that_come_and_go_leave_no_series() {
    let mut config = config(RoundRobin);
    config.admin.registrable = vec!["127.0.0.0/8".to_owned()];
    let stage = stage_with(config, 1).await;
    let metrics = async || stage.admin(Method::GET, "/metrics", "").await.body;
    let series = |text: &str| text.lines().filter(|it| !it.starts_with('#')).count();
    let url = raw::replica(|mut socket, _| async move {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    })
    .await;
    let ask = async || stage.post(CHAT, &[], r#"{"model":"m","messages":[]}"#).await;
    let before = series(&metrics().await);
    for at in 0..20 {
        let body = json!({ "name": format!("pod-{at}"), "url": url }).to_string();
        let joined =
            async || stage.admin(Method::POST, "/admin/replicas", &body).await.status == 201;
        // The one before may still be leaving.
        until("it joins", joined).await;
        until("it serves", async || ask().await.header("x-sluice-replica").starts_with("pod"))
            .await;
        let text = metrics().await;
        assert!(text.contains(&format!("_bucket{{replica=\"pod-{at}\"")), "{text}");
        let path = format!("/admin/replicas/pod-{at}");
        assert_eq!(stage.admin(Method::DELETE, &path, "").await.status, 204);
    }
    until("all are gone", async || !metrics().await.contains("pod-")).await;
    assert_eq!(series(&metrics().await), before, "as many as before");
    assert!(metrics().await.contains("sluice_requests_in_flight{replica=\"r0\"}"));
    let body = json!({ "name": "pod-0", "url": url }).to_string();
    assert_eq!(stage.admin(Method::POST, "/admin/replicas", &body).await.status, 201);
    until("it serves", async || ask().await.header("x-sluice-replica") == "pod-0").await;
    let counts = async || {
        let text = metrics().await;
        let mut counts = text.lines().filter_map(|it| {
            it.strip_prefix("sluice_request_duration_seconds_count{replica=\"pod-0\"} ")
        });
        counts.next().is_some_and(|it| it != "0")
    };
    until("who comes back under its name is counted again", counts).await;
}
