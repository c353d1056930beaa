//! Keys and tenants, replicas that come and go, and reloads under load.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use common::{CHAT, Stage, chat, config, emulate, stage, stage_with, until};
use emulator::Fault;
use http::Method;
use policy::config::StrategyName::{LeastRequest, RoundRobin};
use router::{
    config::{self, Config, Secret, Tenant},
    reload::Source,
    serve::Router,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// SHA-256 of `alice` and `bob`.
const ALICE: &str = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
const BOB: &str = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9";

fn hashed(hex: &str) -> Secret {
    Secret { sha256: Some(hex.to_owned()), ..Secret::default() }
}

fn tenant(name: &str, hex: &str) -> Tenant {
    Tenant {
        name: name.to_owned(),
        keys: vec![hashed(hex)],
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
    }
}

#[tokio::test]
async fn a_key_names_a_tenant_whose_share_is_kept() {
    let mut config = config(RoundRobin);
    let limited = Tenant { requests_per_minute: Some(3), ..tenant("alice", ALICE) };
    config.tenants = vec![limited, tenant("bob", BOB)];
    let stage = stage_with(config, 1).await;
    let ask = async |key: &str| {
        let key = format!("Bearer {key}");
        stage.post(CHAT, &[("authorization", &key)], chat("hi", 1, false).to_string()).await
    };
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 401);
    let wrong = ask("eve").await;
    assert_eq!((wrong.status.as_u16(), wrong.code().as_str()), (401, "invalid_api_key"));
    for left in ["2", "1", "0"] {
        let answer = ask("alice").await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "3");
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left);
    }
    let over = ask("alice").await;
    assert_eq!((over.status.as_u16(), over.code().as_str()), (429, "rate_limit_exceeded"));
    assert_eq!(over.header("x-sluice-dropped-reason"), "rejected-quota");
    assert!(over.header("retry-after").parse::<u64>().unwrap() <= 21);
    assert!(over.header("retry-after-ms").parse::<u64>().unwrap() <= 20_000);
    assert_eq!(over.header("x-ratelimit-limit-requests"), "3");
    assert_eq!(over.header("x-ratelimit-remaining-requests"), "0");
    assert!(over.header("x-ratelimit-reset-requests").ends_with("ms"));
    assert_eq!(ask("bob").await.status, 200, "one tenant's share is not another's");
    stage.until_idle().await;
}

#[tokio::test]
async fn models_and_labels_need_a_key_and_a_label_is_for_ones_own_request() {
    let mut config = config(RoundRobin);
    config.tenants = vec![tenant("alice", ALICE), tenant("bob", BOB)];
    let stage = stage_with(config, 1).await;
    let (alice, bob) = (("authorization", "Bearer alice"), ("authorization", "Bearer bob"));
    let label = json!({ "request_id": "hers", "accepted": false }).to_string();
    for path in ["/v1/models", &format!("/v1/models/{}", common::MODEL), "/v1/nothing"] {
        assert_eq!(stage.get(path).await.status, 401, "{path}");
    }
    assert_eq!(stage.post("/v1/feedback", &[], label.clone()).await.status, 401);
    let models = stage.open(Method::GET, "/v1/models", &[alice], Bytes::new()).await;
    assert_eq!(models.status(), 200);
    let body = chat("hi", 1, false).to_string();
    let asked = stage.post(CHAT, &[alice, ("x-request-id", "hers")], body).await;
    assert_eq!(asked.status, 200);
    stage.until_idle().await;
    let joined = async |key| {
        let answer = stage.post("/v1/feedback", &[key], label.clone()).await;
        (answer.status.as_u16(), answer.json()["joined"].as_bool().unwrap())
    };
    assert_eq!(joined(bob).await, (202, false));
    until("her request has left", async || joined(alice).await == (200, true)).await;
}

#[tokio::test]
async fn what_is_registered_must_lie_where_replicas_may() {
    let closed = stage(RoundRobin, 1).await;
    let body = json!({ "name": "new", "url": "http://10.0.0.1:8000" }).to_string();
    let answer = closed.admin(Method::POST, "/admin/replicas", &body).await;
    assert!(answer.status == 403 && answer.body.contains("admin.registrable"), "{}", answer.body);

    let mut config = config(RoundRobin);
    config.admin.registrable = vec!["10.0.0.0/8".to_owned(), "0.0.0.0/0".to_owned()];
    config.admin.registrable.push("::/0".to_owned());
    let open = stage_with(config.clone(), 1).await;
    for url in [
        "http://169.254.169.254",
        "http://169.254.169.254:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://[fe80::1]:80",
        "http://0.0.0.0:80",
        "http://0:80",
        "http://[::]:80",
        "http://2852039166:80",
        "http://0xA9FEA9FE:80",
        "http://0251.0376.0251.0376:80",
        "http://user:pw@10.0.0.1:80",
        "http://10.0.0.1:80/latest/meta-data",
        "file:///etc/passwd",
        "gopher://10.0.0.1:80",
        "10.0.0.1:80",
    ] {
        let body = json!({ "name": "new", "url": url }).to_string();
        let answer = open.admin(Method::POST, "/admin/replicas", &body).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403), "{url}: {answer:?}");
    }
    config.admin.registrable = vec!["10.0.0.0/8".to_owned()];
    config.replicas.clear();
    let narrow = stage_with(config, 1).await;
    for url in [
        "http://127.0.0.1:9090",
        "http://localhost:9090",
        "http://[::1]:9090",
        "http://2130706433:1",
    ] {
        let body = json!({ "name": "new", "url": url }).to_string();
        let answer = narrow.admin(Method::POST, "/admin/replicas", &body).await;
        assert_eq!(answer.status, 403, "{url}: {}", answer.body);
    }
    for (name, status) in [("", 400), ("a b", 400), ("r0", 409), ("good", 201), ("good", 409)] {
        let body = json!({ "name": name, "url": "http://10.0.0.1:8000" }).to_string();
        let answer = narrow.admin(Method::POST, "/admin/replicas", &body).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
    }
}

#[tokio::test]
async fn fields_of_a_body_never_choose_where_it_goes() {
    let stage = stage(RoundRobin, 1).await;
    let mut body = chat("hi", 1, false);
    for field in ["api_base", "base_url", "target", "url", "endpoint"] {
        body[field] = json!("http://127.0.0.1:1");
    }
    let answer = stage.chat(&body).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (200, "r0"));
}

/// Clients that ask on and on; each answer that is no good is counted.
struct Load {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    bad: Arc<std::sync::Mutex<Vec<String>>>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(stage: &Arc<Stage>, clients: usize) -> Self {
        let (stop, served, bad) = (Arc::default(), Arc::default(), Arc::default());
        let mut load = Self { stop, served, bad, clients: Vec::new() };
        for at in 0..clients {
            let (stage, stop) = (Arc::clone(stage), Arc::clone(&load.stop));
            let (served, bad) = (Arc::clone(&load.served), Arc::clone(&load.bad));
            load.clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let is_stream = at.is_multiple_of(2);
                    let answer = stage.chat(&chat("go", 3, is_stream)).await;
                    let whole = !is_stream || answer.body.ends_with("data: [DONE]\n\n");
                    if answer.status == 200 && whole && !answer.body.contains("\"error\"") {
                        served.fetch_add(1, Ordering::Relaxed);
                    } else {
                        bad.lock().unwrap().push(format!("{answer:?}"));
                    }
                }
            }));
        }
        load
    }

    async fn some_more(&self) {
        let before = self.served.load(Ordering::Relaxed);
        until("more is served", async || {
            before + 20 <= self.served.load(Ordering::Relaxed)
                || !self.bad.lock().unwrap().is_empty()
        })
        .await;
    }

    async fn end(self, what: &str) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        let bad = self.bad.lock().unwrap();
        let served = self.served.load(Ordering::Relaxed);
        println!("{what}: {served} served, {} failed", bad.len());
        assert!(bad.is_empty(), "{} failed, such as {:?}", bad.len(), bad.first());
    }
}

/// A router that reads `file`, and the stage around it.
async fn stage_reading(file: &Path) -> Stage {
    let path = file.to_owned();
    let source = Source::new(file.to_owned(), move || config::load(&path));
    let router = Router::open(source.read().unwrap()).await.unwrap().reloading(source);
    router.all_ready().await;
    let (data, admin) = (router.data().unwrap(), router.admin().unwrap());
    let stop = CancellationToken::new();
    let router = tokio::spawn(router.run(stop.clone().cancelled_owned()));
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    Stage { replicas: Vec::new(), data, admin, stop, router, client }
}

fn written(replicas: &[&emulator::Handle], more: &str) -> String {
    let list: Vec<String> =
        replicas.iter().map(|it| format!("{{ url: '{}' }}", it.url())).collect();
    format!(
        "listen: 127.0.0.1:0\nadmin: {{ listen: '127.0.0.1:0' }}\nhealth: {{ interval: 200ms }}\n\
         drain: {{ lame_duck: 0s, timeout: 5s }}\nreplicas: [{}]\n{more}",
        list.join(", ")
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_lose_nothing_and_a_bad_one_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let (a, b) = (emulate(Fault::None).await, emulate(Fault::None).await);
    std::fs::write(&file, written(&[&a], "")).unwrap();
    let stage = Arc::new(stage_reading(&file).await);
    let load = Load::start(&stage, 4);
    for round in 0..12 {
        let (replicas, strategy) = match round % 3 {
            0 => (vec![&a, &b], "round-robin"),
            1 => (vec![&a], "sticky"),
            _ => (vec![&b, &a], "least-request"),
        };
        let text = written(&replicas, &format!("policy: {{ strategy: {strategy} }}\n"));
        std::fs::write(&file, text).unwrap();
        let answer = stage.admin(Method::POST, "/admin/reload", "").await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let policy = stage.admin(Method::GET, "/admin/policy", "").await.json();
        assert_eq!(policy["strategy"], strategy, "it is in force at once");
        load.some_more().await;
    }
    std::fs::write(&file, "replicas: []\nattempts_max: 0\npolicy: { strategy: robin }\n").unwrap();
    let answer = stage.admin(Method::POST, "/admin/reload", "").await;
    assert_eq!(answer.status, 422, "{}", answer.body);
    let policy = stage.admin(Method::GET, "/admin/policy", "").await.json();
    assert_eq!(policy["strategy"], "least-request", "the old one stays");
    load.some_more().await;
    load.end("D3: 13 reloads").await;
    assert!(1 <= stage.metric("sluice_config_reloads_total{result=\"refused\"}").await);
    stage.until_idle().await;
}

#[tokio::test]
async fn a_change_on_the_admin_port_leaves_the_rest_and_lasts_until_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let replica = emulate(Fault::None).await;
    let policy = "policy: { cost: { harm: 0.5 } }\nadmission: { wait_share: 1.0 }\n";
    std::fs::write(&file, written(&[&replica], policy)).unwrap();
    let stage = stage_reading(&file).await;
    let put = async |path: &str, body: &str| {
        let answer = stage.admin(Method::PUT, path, body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let changed = put("/admin/policy", r#"{"strategy": "sticky", "cost": {"wait": 2.0}}"#).await;
    assert_eq!((&changed["cost"]["harm"], &changed["cost"]["wait"]), (&json!(0.5), &json!(2.0)));
    assert_eq!(changed["saturation"]["fallback"], "least-request", "as usual for the strategy");
    for mode in ["off", "knee", "off"] {
        let changed = put("/admin/admission", &json!({ "mode": mode }).to_string()).await;
        assert_eq!((&changed["mode"], &changed["wait_share"]), (&json!(mode), &json!(1.0)));
    }
    let wrong = stage.admin(Method::PUT, "/admin/policy", r#"{"cost": {"harms": 1}}"#).await;
    assert!(wrong.status == 400 && wrong.body.contains("harms"), "{}", wrong.body);

    std::fs::write(&file, written(&[&replica], &format!("{policy}attempts_max: 2\n"))).unwrap();
    let in_force = async || {
        let policy = stage.admin(Method::GET, "/admin/policy", "").await.json();
        let admission = stage.admin(Method::GET, "/admin/admission", "").await.json();
        (policy["strategy"].clone(), admission["config"]["mode"].clone())
    };
    until("the file is in force", async || {
        in_force().await == (json!("least-latency"), json!("knee"))
    })
    .await;
    put("/admin/admission", r#"{"mode": "off"}"#).await;
    let report = stage.admin(Method::POST, "/admin/reload", "").await.json();
    assert_eq!(report["restored"], json!(["admission"]));
    assert_eq!(in_force().await.1, "knee");
}

#[tokio::test]
async fn what_waits_for_a_restart_is_told_until_it_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let replica = emulate(Fault::None).await;
    std::fs::write(&file, written(&[&replica], "")).unwrap();
    let stage = stage_reading(&file).await;
    let waits = async |more: &str| {
        std::fs::write(&file, written(&[&replica], more)).unwrap();
        let report = stage.admin(Method::POST, "/admin/reload", "").await.json();
        let settings = report["needs_restart"].clone();
        let counted = stage.metric("sluice_config_needs_restart").await;
        assert_eq!(counted, settings.as_array().unwrap().len() as u64);
        settings
    };
    assert_eq!(waits("").await, json!([]));
    let seed = "hash_seed: 7\n";
    assert_eq!(waits(seed).await, json!(["hash_seed"]));
    // The second time too, and beside what has come since.
    assert_eq!(waits(&format!("{seed}attempts_max: 2\n")).await, json!(["hash_seed"]));
    let both = format!("{seed}timeouts: {{ connect: 3s }}\n");
    assert_eq!(waits(&both).await, json!(["hash_seed", "timeouts.connect"]));
    assert_eq!(waits("").await, json!([]));
}

#[tokio::test]
async fn a_file_that_changes_is_read_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let replica = emulate(Fault::None).await;
    std::fs::write(&file, written(&[&replica], "")).unwrap();
    let stage = stage_reading(&file).await;
    // As mounted configurations are replaced: another file takes the name.
    let other = folder.path().join("other.yaml");
    let tenants = format!("tenants: [{{ name: alice, keys: [{{ sha256: {ALICE} }}] }}]\n");
    std::fs::write(&other, written(&[&replica], &tenants)).unwrap();
    std::fs::rename(&other, &file).unwrap();
    until("keys are asked for", async || stage.chat(&chat("hi", 1, false)).await.status == 401)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_restarted_one_after_another_cost_no_request() {
    let mut config = config(LeastRequest);
    config.admin.registrable = vec!["127.0.0.0/8".to_owned()];
    config.health.interval = std::time::Duration::from_millis(100);
    let stage = Arc::new(stage_with(config, 4).await);
    let load = Load::start(&stage, 8);
    for at in 0..4 {
        stage.restart(at, async || load.some_more().await).await;
        load.some_more().await;
    }
    load.end("A14: 4 replicas restarted").await;
    stage.until_idle().await;
}

#[tokio::test]
async fn a_replica_that_nobody_knows_is_neither_drained_nor_removed() {
    let stage = stage(RoundRobin, 1).await;
    for (method, path) in [
        (Method::POST, "/admin/replicas/no/drain"),
        (Method::DELETE, "/admin/replicas/no"),
        (Method::DELETE, "/admin/replicas/%0d%0a"),
    ] {
        let answer = stage.admin(method, path, "").await;
        assert!(answer.status == 404 && !answer.body.contains('\r'), "{path}: {answer:?}");
    }
    for (method, path, status) in [
        (Method::GET, "/admin/nothing", 404),
        (Method::POST, "/metrics", 405),
        (Method::PUT, "/admin/policy", 400),
        (Method::GET, "/admin/decisions?limit=x", 400),
    ] {
        let answer = stage.admin(method, path, "").await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type")),
            (status, "application/json")
        );
        assert!(!answer.json()["error"]["message"].as_str().unwrap().is_empty(), "{path}");
    }
    let page = stage.admin(Method::GET, "/", "").await;
    assert_eq!(
        (page.status.as_u16(), page.header("content-type")),
        (200, "text/html; charset=utf-8")
    );
    for needed in ["color-scheme: light dark", "/admin/replicas", "/admin/goodput"] {
        assert!(page.body.contains(needed), "{needed}");
    }
    assert!(
        !page.body.contains("http://") && !page.body.contains("https://"),
        "nothing from elsewhere"
    );
    let reload = stage.admin(Method::POST, "/admin/reload", "").await;
    assert!(reload.status == 409 && reload.body.contains("without a configuration file"));
}

#[tokio::test]
async fn a_name_in_dns_is_a_fleet() {
    let replica = emulate(Fault::None).await;
    let port = replica.url().rsplit(':').next().unwrap().to_owned();
    let config = Config {
        discovery: Some(config::Discovery {
            dns: format!("127.0.0.1:{port}"),
            pool: "default".to_owned(),
            https: false,
            interval: std::time::Duration::from_millis(50),
        }),
        ..config(RoundRobin)
    };
    let stage = stage_with(config, 0).await;
    until("it serves", async || stage.chat(&chat("hi", 1, false)).await.status == 200).await;
    assert_eq!(
        stage.chat(&chat("hi", 1, false)).await.header("x-sluice-replica"),
        format!("127.0.0.1:{port}")
    );
}
