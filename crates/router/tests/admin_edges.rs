//! What the admin port says of odd requests, and what may be registered there. Named in docs/reliability.md by the
//! id G2.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use common::{Answer, Stage, config, stage, stage_with, until};
use http::Method;
use policy::config::StrategyName::RoundRobin;
use router::{
    config::{Replica, Secret, Tenant},
    serve::Router,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// SHA-256 of `root`.
const ROOT: &str = "4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2";

async fn register(stage: &Stage, name: &str, url: &str) -> Answer {
    let body = json!({ "name": name, "url": url }).to_string();
    stage.admin(Method::POST, "/admin/replicas", &body).await
}

#[tokio::test]
async fn every_error_is_json_also_those_that_no_route_wrote() {
    let stage = stage(RoundRobin, 1).await;
    let long = "a".repeat(3 << 20);
    for (method, path, body, status, code) in [
        (Method::PUT, "/admin/policy", long.as_str(), 413, "body_too_large"),
        (Method::POST, "/admin/replicas", &long, 413, "body_too_large"),
        (Method::DELETE, "/admin/replicas/%ff", "", 400, "invalid_request"),
        (Method::POST, "/admin/replicas/%ff/drain", "", 400, "invalid_request"),
    ] {
        let answer = stage.admin(method, path, body).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        assert_eq!(answer.code(), code, "{path}: {}", answer.body);
    }
    assert_eq!(stage.admin(Method::GET, "/livez", "").await.body, "ok\n");
}

#[tokio::test]
async fn a_key_opens_one_door() {
    let mut config = config(RoundRobin);
    let key = Secret { sha256: Some(ROOT.to_owned()), ..Secret::default() };
    config.replicas.push(Replica::at("http://127.0.0.1:1"));
    config.admin.key = Some(key.clone());
    config.tenants = vec![Tenant {
        name: "alice".to_owned(),
        keys: vec![key],
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
    }];
    let error = Router::open(config).await.unwrap_err().to_string();
    assert!(error.contains("admin.key: a tenant has the same key"), "{error}");
}

#[tokio::test]
async fn g2_addresses_in_disguise_and_the_routers_own_ports_are_not_registered() {
    let mut config = config(RoundRobin);
    config.admin.registrable = vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()];
    let stage = stage_with(config, 1).await;
    for url in [
        "http://[64:ff9b::a9fe:a9fe]:80".to_owned(),
        "http://[2002:a9fe:a9fe::1]:80".to_owned(),
        "http://[::169.254.169.254]:80".to_owned(),
        "http://[fd00:ec2::254]:80".to_owned(),
        "http://100.100.100.200:80".to_owned(),
        format!("http://{}", stage.data),
        format!("http://{}", stage.admin),
        format!("http://localhost:{}", stage.admin.port()),
        format!("http://[::ffff:127.0.0.1]:{}", stage.admin.port()),
    ] {
        let answer = register(&stage, "new", &url).await;
        assert_eq!(answer.status, 403, "{url}: {}", answer.body);
    }
    for name in ["a/b", "a?b", "a#b", "a%2Fb"] {
        let answer = register(&stage, name, "http://10.0.0.1:8000").await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn g2_one_replica_is_not_registered_twice_however_it_is_written() {
    let mut config = config(RoundRobin);
    config.admin.registrable = vec!["127.0.0.0/8".to_owned()];
    let stage = stage_with(config, 1).await;
    assert_eq!(register(&stage, "one", "http://127.0.0.1:9").await.status, 201);
    for url in
        ["http://[::ffff:127.0.0.1]:9", "http://[0:0:0:0:0:ffff:7f00:1]:9", "http://127.0.0.1:9/"]
    {
        let answer = register(&stage, "two", url).await;
        assert_eq!(answer.status, 409, "{url}: {}", answer.body);
    }
}

#[tokio::test]
async fn g2_passwords_and_endless_names_are_not_said_again() {
    let stage = stage(RoundRobin, 1).await;
    let answer = register(&stage, "new", "http://u:hunter2@127.0.0.1:9").await;
    assert!(answer.status == 400 && !answer.body.contains("hunter2"), "{}", answer.body);
    for name in ["a".repeat(5_000), "\u{1}/".repeat(2_500)] {
        let answer = register(&stage, &name, "http://127.0.0.1:9").await;
        assert!(answer.status == 400 && answer.body.len() < 1_000, "{}", answer.body);
    }
}

#[tokio::test]
async fn g2_a_name_is_looked_up_once_and_its_address_is_kept() {
    let mut config = config(RoundRobin);
    config.admin.registrable = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
    let stage = stage_with(config, 1).await;
    let answer = register(&stage, "named", "http://localhost:1").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let status = stage.admin(Method::GET, "/admin/replicas", "").await.json();
    for url in [&answer.json()["url"], &status["replicas"][1]["url"]] {
        assert!(!url.as_str().unwrap().contains("localhost"), "{url}");
    }
}

#[tokio::test]
async fn g2_a_redirect_of_a_health_path_is_not_followed() {
    let (secret, visits) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::default());
    let target = secret.local_addr().unwrap();
    let seen: Arc<AtomicUsize> = Arc::clone(&visits);
    tokio::spawn(async move {
        while secret.accept().await.is_ok() {
            seen.fetch_add(1, Ordering::Relaxed);
        }
    });
    let replica = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", replica.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = replica.accept().await {
            told.fetch_add(1, Ordering::Relaxed);
            let _ = socket.read(&mut [0; 4_096]).await;
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{target}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    });
    let mut config = config(RoundRobin);
    config.health.interval = std::time::Duration::from_millis(50);
    config.replicas.push(Replica { name: Some("moved".to_owned()), ..Replica::at(url) });
    let router = Router::open(config).await.unwrap();
    let running = tokio::spawn(router.run(std::future::pending()));
    until("it was asked often", async || 10 <= asked.load(Ordering::Relaxed)).await;
    assert_eq!(visits.load(Ordering::Relaxed), 0);
    running.abort();
}
