//! One line a request, whatever it asked for; and what a fresh router exports.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use common::{CHAT, chat, raw, stage, until};
use http::Method;
use policy::config::StrategyName::RoundRobin;
use router::{
    config::{Secret, Tenant},
    telemetry::METRICS,
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

type Line = BTreeMap<&'static str, String>;

/// Keeps the lines of requests.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

struct Reading(Line);

impl Visit for Reading {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut reading = Reading(Line::new());
        event.record(&mut reading);
        if reading.0.get("message").is_some_and(|it| it == "request") {
            self.0.lock().unwrap().push(reading.0);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test]
async fn every_request_leaves_one_line_and_one_count() {
    let lines = Lines::default();
    let _kept = tracing::subscriber::set_default(lines.clone());
    let stage = stage(RoundRobin, 1).await;
    let good = chat("hi", 1, false).to_string();
    let long = format!("/{}", "x".repeat(1_000));
    let asked = [
        (Method::POST, CHAT, good.as_str(), "200", "complete"),
        (Method::POST, CHAT, "{", "400", "bad-request"),
        (Method::GET, CHAT, "", "405", "bad-request"),
        (Method::GET, "/v1/models", "", "200", "complete"),
        (Method::HEAD, "/v1/models", "", "200", "complete"),
        (Method::GET, "/v1/models/nope", "", "404", "bad-request"),
        (Method::POST, "/v1/feedback", "{", "400", "bad-request"),
        (Method::GET, "/favicon.ico", "", "404", "bad-request"),
        (Method::GET, long.as_str(), "", "404", "bad-request"),
    ];
    for (method, path, body, _, _) in &asked {
        let id = [("x-request-id", "mine")];
        let _ =
            common::received(stage.open(method.clone(), path, &id, (*body).to_owned()).await).await;
    }
    let gone = "POST /v1/feedback HTTP/1.1\r\nhost: r\r\ncontent-length: 99\r\n\r\n{";
    drop(raw::send(stage.data, gone).await);
    until("all have left", async || lines.0.lock().unwrap().len() == asked.len() + 1).await;
    let lines = lines.0.lock().unwrap().clone();
    for ((_, path, _, status, end), line) in asked.iter().zip(&lines) {
        assert_eq!(
            (line["status"].as_str(), line["end"].as_str()),
            (*status, *end),
            "{path}: {line:?}"
        );
        assert_eq!(line["request_id"], "mine", "{path}");
        assert!(line.values().all(|it| it.len() <= 128), "{line:?}");
    }
    let gone = &lines[asked.len()];
    assert_eq!((gone["end"].as_str(), gone.get("status")), ("client-gone", None), "{gone:?}");
    for (outcome, count) in [("complete", 3), ("bad-request", 6), ("client-gone", 1)] {
        let sample = format!("sluice_requests_total{{outcome=\"{outcome}\"}}");
        assert_eq!(stage.metric(&sample).await, count, "{outcome}");
    }
}

#[tokio::test]
async fn a_request_beyond_its_tenants_share_is_logged_as_that_tenants() {
    /// SHA-256 of `alice`.
    const ALICE: &str = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let lines = Lines::default();
    let _kept = tracing::subscriber::set_default(lines.clone());
    let mut config = common::config(RoundRobin);
    config.tenants = vec![Tenant {
        name: "alice".to_owned(),
        keys: vec![Secret { sha256: Some(ALICE.to_owned()), ..Secret::default() }],
        requests_per_minute: Some(1),
        tokens_per_minute: None,
        concurrency: None,
    }];
    let stage = common::stage_with(config, 1).await;
    let key = [("authorization", "Bearer alice")];
    for status in [200, 429] {
        let answer = stage.post(CHAT, &key, chat("hi", 1, false).to_string()).await;
        assert_eq!(answer.status, status);
    }
    until("both have left", async || lines.0.lock().unwrap().len() == 2).await;
    let lines = lines.0.lock().unwrap().clone();
    assert_eq!(lines[1]["status"], "429");
    assert!(lines.iter().all(|it| it["tenant"] == "alice"), "{lines:?}");
}

/// A router that has served nobody exports every metric but those that the page marks: what has to be
/// seen first, and what is there for some configurations only.
#[tokio::test]
async fn counters_begin_at_zero_and_not_with_their_first_event() {
    let stage = stage(RoundRobin, 1).await;
    let text = stage.admin(Method::GET, "/metrics", "").await.body;
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
    let page = std::fs::read_to_string(page).unwrap();
    let later = page.split("Absent at first:").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut wrong = Vec::new();
    for metric in &METRICS {
        let is_there = text.lines().any(|it| {
            it.strip_prefix(metric.name).is_some_and(|rest| rest.starts_with([' ', '{', '_']))
        });
        let is_later = later.contains(&format!("`{}`", metric.name));
        if is_there == is_later {
            wrong.push((metric.name, is_there));
        }
    }
    assert!(wrong.is_empty(), "not as the page says: {wrong:?}");
    let declared = text.lines().filter_map(|it| it.strip_prefix("# TYPE ")?.split_once(' '));
    for (name, kind) in declared {
        let metric = METRICS.iter().find(|it| it.name == name);
        let listed = metric.map(|it| format!("{:?}", it.kind).to_lowercase());
        assert_eq!(listed.as_deref(), Some(kind), "{name} is exported and not listed as such");
    }
}
