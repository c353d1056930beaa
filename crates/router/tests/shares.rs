//! What tenants may have of tokens, over the wire: reserved when a request comes, settled however it ends.
//! Named in docs/reliability.md: G11.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Instant;

use common::{CHAT, Stage, chat, config, stage_with};
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use policy::config::StrategyName::RoundRobin;
use router::config::{Secret, Tenant};

/// Tokens a minute.
const SHARE: u32 = 600;

/// A router before one replica, whose only tenant shows the key `alice`.
struct Shared {
    stage: Stage,
    began: Instant,
}

async fn shared() -> Shared {
    let sha256 = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let mut config = config(RoundRobin);
    config.tenants = vec![Tenant {
        name: "alice".to_owned(),
        keys: vec![Secret { sha256: Some(sha256.to_owned()), ..Secret::default() }],
        requests_per_minute: None,
        tokens_per_minute: Some(SHARE),
        concurrency: None,
    }];
    let stage = stage_with(config, 1).await;
    Shared { stage, began: Instant::now() }
}

impl Shared {
    async fn open(&self, output: u32, stream: bool) -> Response<Incoming> {
        let body = chat("count", output, stream).to_string();
        self.stage.open(Method::POST, CHAT, &[("authorization", "Bearer alice")], body).await
    }

    /// What is left of the share, once nothing is under way; asked by what takes nothing of it.
    async fn left(&self) -> u32 {
        self.stage.until_idle().await;
        let key = [("authorization", "Bearer alice")];
        let answer = self.stage.post("/tokenize", &key, r#"{"prompt":"a"}"#).await;
        answer.header("x-ratelimit-remaining-tokens").parse().unwrap()
    }

    /// As much as can be left where so many were produced, be the machine as slow as it likes.
    fn most_left(&self, produced: u32) -> f64 {
        f64::from(SHARE - produced) + self.began.elapsed().as_secs_f64() * f64::from(SHARE) / 60.0
    }

    async fn assert_charged(&self, produced: u32) {
        let left = self.left().await;
        let most = self.most_left(produced);
        assert!(f64::from(left) <= most, "{left} left of {SHARE} after {produced} were produced");
    }
}

/// Events of an answer that carry a part of it: one for each token, or for several where this machine is
/// slow to read them.
fn pieces(answer: &common::Answer) -> u32 {
    u32::try_from(answer.body.matches(r#""content":""#).count()).unwrap() - 1
}

#[tokio::test]
async fn g11_a_stream_that_does_not_say_what_it_cost_costs_what_came_of_it() {
    let shared = shared().await;
    let answer = common::received(shared.open(200, true).await).await;
    assert!(answer.status == 200 && !answer.body.contains("\"usage\":{"), "{}", answer.body);
    assert!(pieces(&answer) > 20, "{}", answer.body);
    shared.assert_charged(pieces(&answer)).await;
}

#[tokio::test]
async fn g11_a_stream_whose_client_hangs_up_costs_what_came_of_it_and_no_more() {
    let shared = shared().await;
    let mut body = shared.open(550, true).await.into_body();
    let mut seen = 0;
    while seen < 60 {
        let frame = body.frame().await.unwrap().unwrap();
        let text = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        seen += text.matches("data: ").count();
    }
    drop(body);
    shared.assert_charged(50).await;
    assert!(shared.left().await > SHARE - 550, "what it did not come to is given back");
}

#[tokio::test]
async fn g11_an_answer_in_one_piece_that_nobody_waits_for_is_not_free() {
    let shared = shared().await;
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nauthorization: Bearer alice\r\n";
    let body = chat("count", 500, false).to_string();
    let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let client = common::raw::send(shared.stage.data, &request).await;
    common::until("the replica has it", async || shared.stage.upstream_in_flight() == 1).await;
    drop(client);
    shared.assert_charged(500).await;
}

#[tokio::test]
async fn g11_an_answer_in_one_piece_that_took_longer_than_its_client_waits_is_not_free() {
    let shared = shared().await;
    let headers = [("authorization", "Bearer alice"), ("x-sluice-timeout-ms", "50")];
    let body = chat("count", 500, false).to_string();
    let answer = shared.stage.post(CHAT, &headers, body).await;
    assert_eq!(answer.status, 504, "{}", answer.body);
    assert_eq!(answer.code(), "client_timeout", "{}", answer.body);
    shared.assert_charged(500).await;
}

#[tokio::test]
async fn g11_requests_that_come_together_do_not_take_the_same_tokens() {
    let shared = shared().await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        answers.push(shared.open(250, true).await);
    }
    let statuses: Vec<u16> = answers.iter().map(|it| it.status().as_u16()).collect();
    assert_eq!(statuses, [200, 200, 429, 429, 429, 429, 429, 429]);
    let mut produced = 0;
    for answer in answers.drain(..2) {
        produced += pieces(&common::received(answer).await);
    }
    shared.assert_charged(produced).await;
}

#[tokio::test]
async fn g11_what_no_replica_was_asked_for_costs_nothing() {
    let shared = shared().await;
    let key = [("authorization", "Bearer alice")];
    for _ in 0..5 {
        let body = r#"{"model":"nobody","max_tokens":500,"messages":[]}"#;
        assert_eq!(shared.stage.post(CHAT, &key, body).await.status, 404);
    }
    assert_eq!(shared.left().await, SHARE);
}
