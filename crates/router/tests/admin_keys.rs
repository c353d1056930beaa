//! Who may use the admin port, and where keys do not turn up. Named in docs/reliability.md by the ids G1 and G3.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{fmt::Write as _, fs, path::Path};

use bytes::Bytes;
use common::{
    Answer, CHAT, Stage, chat, config,
    log::{self, Log},
    raw, received, stage, stage_with,
};
use http::Request;
use http_body_util::Full;
use policy::config::StrategyName::RoundRobin;
use router::config::{Recording, Replica, Secret, Tenant};
use tokio::io::AsyncWriteExt as _;

/// Keys that stand nowhere else, so that whatever has one of them has it from a client.
const ADMIN_KEY: &str = "canary-admin-7a1f";
const DATA_KEY: &str = "canary-data-93c2";
const WRONG_KEY: &str = "canary-wrong-d05e";

/// A key that is read from a file in `folder`.
fn filed(folder: &Path, key: &str) -> Secret {
    // The name of a file with a key is no secret, and logged where others can read it.
    let file = folder.join(format!("{}.key", fs::read_dir(folder).unwrap().count()));
    fs::write(&file, key).unwrap();
    Secret { file: Some(file), ..Secret::default() }
}

fn tenant(name: &str, key: Secret) -> Tenant {
    Tenant {
        name: name.to_owned(),
        keys: vec![key],
        requests_per_minute: None,
        tokens_per_minute: None,
        concurrency: None,
    }
}

async fn admin(stage: &Stage, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request =
        Request::builder().method(method).uri(format!("http://{}{path}", stage.admin));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    received(stage.client.request(request).await.unwrap()).await
}

/// What the admin port serves, method and path, as the router itself says in its source: a route that is
/// added there is asked for here. Without the three that anybody may have.
fn admin_routes() -> Vec<(String, String)> {
    let source = include_str!("../src/admin.rs");
    let body = source.split("pub(crate) fn routes(").nth(1).unwrap().split("\n}").next().unwrap();
    let mut routes = Vec::new();
    for route in body.split(".route(\"").skip(1) {
        let (path, handlers) = route.split_once('"').unwrap();
        let before = routes.len();
        for method in ["get", "post", "put", "delete", "patch", "any"] {
            let call = format!("{method}(");
            let is_word = |at: usize| handlers[..at].ends_with([' ', '.']);
            if handlers.match_indices(&call).any(|(at, _)| is_word(at)) {
                routes.push((method.to_uppercase(), path.replace("{name}", "r0")));
            }
        }
        assert!(before < routes.len(), "no method is understood of {route}");
    }
    routes.retain(|(_, path)| !matches!(path.as_str(), "/" | "/livez" | "/readyz"));
    for known in ["/metrics", "/admin/admission", "/admin/goodput", "/admin/events"] {
        assert!(routes.iter().any(|it| it.1 == known), "{known} is not among {routes:?}");
    }
    routes
}

#[tokio::test]
async fn every_admin_route_asks_for_the_admin_key_and_no_other() {
    log::listen();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(RoundRobin);
    config.admin.key = Some(filed(folder.path(), ADMIN_KEY));
    config.tenants = vec![tenant("acme", filed(folder.path(), DATA_KEY))];
    let stage = stage_with(config, 1).await;
    let bearer = |key: &str| format!("Bearer {key}");
    let mut routes = admin_routes();
    println!("G1: {} routes", routes.len());
    routes.push(("GET".to_owned(), "/no/such/path".to_owned()));
    for (method, path) in &routes {
        for (key, status) in [
            (None, 401),
            (Some(bearer(WRONG_KEY)), 403),
            (Some(bearer(DATA_KEY)), 403),
            (Some(ADMIN_KEY.to_owned()), 401),
        ] {
            let headers: Vec<_> = key.iter().map(|it| ("authorization", it.as_str())).collect();
            let answer = admin(&stage, method, path, &headers).await;
            assert_eq!(answer.status, status, "{method} {path} with {key:?}");
        }
    }
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(admin(&stage, "GET", path, &[]).await.status, 200, "{path}");
    }
    let key = bearer(ADMIN_KEY);
    let with_key = [("authorization", key.as_str())];
    assert_eq!(admin(&stage, "GET", "/admin/replicas", &with_key).await.status, 200);
    let data = stage.post(CHAT, &with_key, chat("hi", 1, false).to_string()).await;
    assert_eq!(data.status, 401, "nor does the admin key open the data port");
}

#[tokio::test]
async fn without_an_admin_key_other_sites_stay_out() {
    log::listen();
    let stage = stage(RoundRobin, 1).await;
    for (method, path) in admin_routes() {
        for headers in [
            [("host", "evil.example"), ("x", "y")],
            [("host", "localhost"), ("origin", "http://evil.example")],
        ] {
            let answer = admin(&stage, &method, &path, &headers).await;
            assert_eq!(answer.status, 403, "{method} {path}");
        }
    }
    assert_eq!(stage.health(0).await, "ready");
}

/// All that the router wrote into `folder`.
fn recorded(folder: &Path) -> String {
    let files = fs::read_dir(folder).unwrap();
    files.map(|it| fs::read_to_string(it.unwrap().path()).unwrap()).collect()
}

#[tokio::test]
async fn no_key_reaches_a_replica_a_log_a_recording_or_the_admin_port() {
    log::listen();
    let log = Log::default();
    let _kept = tracing::subscriber::set_default(log.clone());
    let (sender, mut seen) = tokio::sync::mpsc::channel(8);
    let url = raw::replica(move |mut socket, request| {
        let sender = sender.clone();
        async move {
            let is_bad = request.contains("poison");
            sender.send(request).await.unwrap();
            let status = if is_bad { "500 Internal Server Error" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
            let _ = socket.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    let (keys, recording) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = config(RoundRobin);
    config.admin.key = Some(filed(keys.path(), ADMIN_KEY));
    config.tenants = vec![tenant("acme", filed(keys.path(), DATA_KEY))];
    config.recording = Some(Recording::into_directory(recording.path().to_owned()));
    config.replicas.push(Replica::at(url));
    let mut stage = stage_with(config, 0).await;

    let mut said = String::new();
    let [data, admins, wrong] = [DATA_KEY, ADMIN_KEY, WRONG_KEY].map(|it| format!("Bearer {it}"));
    for (header, value, body, status) in [
        ("authorization", data.as_str(), r#"{"model":"m","messages":[]}"#, 200),
        ("x-api-key", DATA_KEY, r#"{"model":"m","messages":[]}"#, 200),
        ("authorization", &data, r#"{"model":"m","messages":["poison"]}"#, 500),
        ("authorization", &data, "{", 400),
        ("authorization", &wrong, r#"{"model":"m","messages":[]}"#, 401),
        ("x-api-key", WRONG_KEY, r#"{"model":"m","messages":[]}"#, 401),
        ("authorization", &admins, r#"{"model":"m","messages":[]}"#, 401),
    ] {
        let answer = stage.post(CHAT, &[(header, value)], body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        write!(said, "{:?} {}", answer.headers, answer.body).unwrap();
    }
    for key in [&wrong, &data, &admins] {
        for path in ["/metrics", "/admin/decisions", "/admin/replicas", "/admin/goodput"] {
            let answer = admin(&stage, "GET", path, &[("authorization", key)]).await;
            assert_eq!(answer.status, if key == &admins { 200 } else { 403 }, "{path}");
            write!(said, "{:?} {}", answer.headers, answer.body).unwrap();
        }
    }
    stage.stop.cancel();
    (&mut stage.router).await.unwrap();
    seen.close();
    let mut sent = String::new();
    while let Some(request) = seen.recv().await {
        sent.push_str(&request);
    }

    let (logged, written) = (log.0.lock().unwrap().clone(), recorded(recording.path()));
    println!("G3: looked through {} bytes of logs", logged.len());
    for (where_, text, has) in [
        ("a replica", sent, "poison"),
        ("an answer", said, "sluice_requests_total"),
        ("the log", logged, "acme"),
        ("a recording", written, "arrived"),
    ] {
        assert!(text.contains(has), "{where_} has nothing: {text}");
        for key in [ADMIN_KEY, DATA_KEY, WRONG_KEY] {
            assert!(!text.contains(key), "{key} reached {where_}: {text}");
        }
    }
}
