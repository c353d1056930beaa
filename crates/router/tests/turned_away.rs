//! Requests that are turned away: each reason, as clients of both dialects and dashboards find it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, sync::Arc};

use common::{
    Answer, CHAT, Stage, chat, config,
    full::{PATIENT, asked_of_replicas, one_seat, take_the_seat, unhurried, waiting},
    raw, stage, stage_with, until,
};
use emulator::Fault;
use http::Method;
use policy::{
    admission::AdmissionConfig,
    config::StrategyName::{LeastRequest, RoundRobin},
};
use router::config::{Config, Secret, Tenant};
use types::request::Priority;

const MESSAGES: &str = "/v1/messages";

/// Longest time to come again that is told: a minute, spread by three tenths.
const RETRY_AFTER_MAX_S: u64 = 78;

/// How a refusal must look.
struct Refusal {
    status: u16,
    reason: &'static str,
    /// Its word for programs in the dialect that has one.
    code: &'static str,
}

impl Refusal {
    const fn fleet(reason: &'static str, code: &'static str) -> Self {
        Self { status: 503, reason, code }
    }

    const fn tenant(reason: &'static str, code: &'static str) -> Self {
        Self { status: 429, reason, code }
    }

    /// Fails unless `answer`, of a request to `path`, says all that a client is to know.
    #[track_caller]
    fn assert_told(&self, path: &str, answer: &Answer) {
        assert_eq!(answer.status.as_u16(), self.status, "{answer:?}");
        assert_eq!(answer.header("x-sluice-dropped-reason"), self.reason, "{answer:?}");
        assert!(!answer.header("x-request-id").is_empty(), "{answer:?}");
        assert_eq!(answer.header("content-type"), "application/json", "{answer:?}");
        let after = |name: &str| answer.header(name).parse::<u64>().unwrap();
        let (seconds, millis) = (after("retry-after"), after("retry-after-ms"));
        assert!(0 < millis && seconds == millis.div_ceil(1_000), "{seconds} s, {millis} ms");
        assert!(seconds <= RETRY_AFTER_MAX_S, "{seconds} s");
        let body = answer.json();
        assert!(!body["error"]["message"].as_str().unwrap().is_empty(), "{body}");
        let is_tenants = self.status == 429;
        if path == MESSAGES {
            let kind = if is_tenants { "rate_limit_error" } else { "overloaded_error" };
            assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &kind.into()));
        } else {
            let kind = if is_tenants { "rate_limit_error" } else { "server_error" };
            assert_eq!(body["error"]["type"], kind, "{body}");
            assert_eq!(answer.code(), self.code, "{body}");
        }
    }

    /// Fails unless so many requests of no special urgency were counted as turned away for this reason, no other one
    /// was for any, and as clients that hung up only the `gone` who did.
    async fn assert_counted(&self, stage: &Stage, count: u64, gone: u64) {
        let text = stage.admin(Method::GET, "/metrics", "").await.body;
        let counted: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|it| it.strip_prefix("sluice_requests_rejected_total")?.rsplit_once(' '))
            .filter(|it| it.1 != "0")
            .collect();
        let labels = format!("{{reason=\"{}\",priority=\"default\"}}", self.reason);
        assert_eq!(counted, [(labels.as_str(), count.to_string().as_str())]);
        let ended = async |outcome: &str| {
            stage.metric(&format!("sluice_requests_total{{outcome=\"{outcome}\"}}")).await
        };
        assert_eq!((ended("refused").await, ended("client-gone").await), (count, gone));
    }
}

/// Asks in both dialects, one after the other.
async fn ask_both(stage: &Stage, headers: &[(&str, &str)]) -> [(&'static str, Answer); 2] {
    let body = chat("hi", 1, false).to_string();
    let completion = stage.post(CHAT, headers, body.clone()).await;
    [(CHAT, completion), (MESSAGES, stage.post(MESSAGES, headers, body).await)]
}

/// Asks in both dialects, and fails unless both are turned away as `refusal` says, which is then counted.
async fn both_are_told(stage: &Stage, headers: &[(&str, &str)], refusal: &Refusal) {
    for (path, answer) in ask_both(stage, headers).await {
        refusal.assert_told(path, &answer);
    }
    refusal.assert_counted(stage, 2, 0).await;
}

fn knee() -> Config {
    Config { admission: AdmissionConfig::default(), ..unhurried() }
}

#[tokio::test]
async fn a_fleet_that_is_full_says_so() {
    let stage = stage_with(unhurried(), 1).await;
    let set = r#"{"mode": "static", "in_flight_max": 1}"#;
    assert_eq!(stage.admin(Method::PUT, "/admin/admission", set).await.status, 200);
    let _seat = take_the_seat(&stage, &[]).await;
    let asked = asked_of_replicas(&stage);
    both_are_told(&stage, &[], &Refusal::fleet("rejected-saturated", "fleet_saturated")).await;
    assert_eq!(stage.metric("sluice_admission_shed_total{gate=\"count\"}").await, 2);
    assert_eq!(asked_of_replicas(&stage), asked, "no GPU time was spent on them");
}

#[tokio::test]
async fn a_promise_that_no_replica_can_keep_is_named() {
    let stage = one_seat(knee(), "interactive", &[]).await;
    let _seat = take_the_seat(&stage, &[]).await;
    let refusal = Refusal::fleet("rejected-infeasible", "promise_infeasible");
    both_are_told(&stage, &[("x-sluice-slo-ttft-ms", "1")], &refusal).await;
}

#[tokio::test]
async fn who_waited_in_vain_is_told_so_and_never_sent() {
    let stage = one_seat(knee(), "interactive", &[]).await;
    let seat = take_the_seat(&stage, &[]).await;
    let asked = asked_of_replicas(&stage);
    let refusal = Refusal::fleet("rejected-ttl-expired", "fleet_saturated");
    both_are_told(&stage, &[("x-sluice-slo-ttft-ms", "1000")], &refusal).await;
    assert_eq!(waiting(&stage, "default").await, 0);
    drop(seat);
    stage.until_idle().await;
    assert_eq!(asked_of_replicas(&stage), asked, "what had expired went nowhere");
}

#[tokio::test]
async fn who_waits_in_a_full_queue_gives_way_to_the_more_urgent() {
    let mut config = knee();
    config.priority.max = Priority::System;
    config.admission.queue_max = 1;
    // To whom everybody here is less urgent, so that all wait at the router.
    let stage = one_seat(config, "system", &[]).await;
    let refusal = Refusal::fleet("evicted-priority", "fleet_saturated");
    let body = || chat("hi", 1, false).to_string();
    for path in [CHAT, MESSAGES] {
        let seat = take_the_seat(&stage, &[]).await;
        let waits = stage.post(path, &[PATIENT], body());
        let comes_later = async {
            until("one waits", async || waiting(&stage, "default").await == 1).await;
            let urgent = [PATIENT, ("x-sluice-priority", "interactive")];
            let answer = stage.post(CHAT, &urgent, body());
            let makes_room = async {
                until("it waits", async || waiting(&stage, "interactive").await == 1).await;
                drop(seat);
            };
            tokio::join!(answer, makes_room).0
        };
        let (evicted, urgent) = tokio::join!(waits, comes_later);
        refusal.assert_told(path, &evicted);
        assert_eq!(urgent.status, 200, "{urgent:?}");
        stage.until_idle().await;
    }
    // Whoever had the seat gave it up.
    refusal.assert_counted(&stage, 2, 2).await;
}

const ALICE: (&str, &str) = ("authorization", "Bearer alice");
const BOB: (&str, &str) = ("authorization", "Bearer bob");

/// Alice, who has a limit of her own or none, and Bob.
fn tenants(alices: Option<u32>) -> Vec<Tenant> {
    // SHA-256 of `alice` and `bob`.
    let alice = "2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90";
    let bob = "81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9";
    let tenant = |name: &str, hash: &str, limit| Tenant {
        name: name.to_owned(),
        keys: vec![Secret { sha256: Some(hash.to_owned()), ..Secret::default() }],
        requests_per_minute: limit,
        tokens_per_minute: None,
        concurrency: None,
    };
    vec![tenant("alice", alice, alices), tenant("bob", bob, None)]
}

#[tokio::test]
async fn a_tenant_at_its_own_limit_is_told_so_though_the_fleet_is_idle() {
    let stage = stage_with(Config { tenants: tenants(Some(1)), ..knee() }, 1).await;
    let answer = stage.post(CHAT, &[ALICE], chat("hi", 1, false).to_string()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let refusal = Refusal::tenant("rejected-quota", "rate_limit_exceeded");
    both_are_told(&stage, &[ALICE], &refusal).await;
}

#[tokio::test]
async fn who_had_most_of_a_full_fleet_is_told_to_slow_down_and_the_other_is_not() {
    let stage =
        one_seat(Config { tenants: tenants(None), ..knee() }, "interactive", &[ALICE]).await;
    let _seat = take_the_seat(&stage, &[ALICE]).await;
    let refusal = Refusal::tenant("rejected-over-share", "over_share");
    // Whoever would have to wait, and has no time to.
    let hurried = ("x-sluice-slo-ttft-ms", "1000");
    let ask = async |path: &str, key| {
        stage.post(path, &[key, hurried], chat("hi", 1, false).to_string()).await
    };
    for path in [CHAT, MESSAGES] {
        // Nobody is over its share while nobody else is there, and who came some seconds ago no longer is.
        let others = ask(path, BOB).await;
        assert_eq!(others.status, 503, "{others:?}");
        refusal.assert_told(path, &ask(path, ALICE).await);
    }
    let labels = "{reason=\"rejected-over-share\",priority=\"default\"}";
    assert_eq!(stage.metric(&format!("sluice_requests_rejected_total{labels}")).await, 2);
    assert_eq!(stage.metric("sluice_admission_shed_total{gate=\"seats\"}").await, 4);
}

/// Requests that hang on replicas when these die, and as many as may be sent again then.
const HANGING: usize = 210;
const SENT_AGAIN: u64 = 200;

#[tokio::test]
async fn what_a_dying_replica_leaves_is_sent_again_as_far_as_the_budget_goes() {
    let mut config = unhurried();
    config.admission = AdmissionConfig {
        in_flight_max: 10_000,
        retry_share: 0.0,
        ..AdmissionConfig::of(policy::admission::AdmissionMode::Static)
    };
    let stage = Arc::new(stage_with(config, 2).await);
    for replica in &stage.replicas {
        replica.set_fault(Fault::StallAfter(0)).await.unwrap();
    }
    let mut asked = tokio::task::JoinSet::new();
    for at in 0..2 * HANGING {
        let stage = Arc::clone(&stage);
        let body = chat(&format!("question {at}"), 1, false).to_string();
        asked.spawn(async move {
            let request = http::Request::post(format!("http://{}{CHAT}", stage.data));
            let request = request.body(http_body_util::Full::new(body.into())).unwrap();
            common::received(stage.client.request(request).await.unwrap()).await
        });
    }
    let hanging = async |at: usize| {
        let status = stage.admin(Method::GET, "/admin/replicas", "").await.json();
        status["replicas"][at]["in_flight"].as_u64().unwrap()
    };
    let all = async || hanging(0).await + hanging(1).await;
    until("replicas have them", async || all().await == 2 * HANGING as u64).await;
    let on_first = hanging(0).await;
    assert!(SENT_AGAIN < on_first, "{on_first} of {}", 2 * HANGING);
    stage.replicas[1].set_fault(Fault::None).await.unwrap();
    stage.replicas[0].set_fault(Fault::Down).await.unwrap();
    let refusal = Refusal::fleet("rejected-retries", "retries_used_up");
    let mut served = 0;
    for _ in 0..on_first {
        let answer = asked.join_next().await.unwrap().unwrap();
        if answer.status == 200 {
            served += 1;
        } else {
            refusal.assert_told(CHAT, &answer);
        }
    }
    assert_eq!(served, SENT_AGAIN);
    refusal.assert_counted(&stage, on_first - SENT_AGAIN, 0).await;
}

#[tokio::test]
async fn an_error_that_nobody_has_room_to_mend_is_passed_on_and_counted() {
    let stage = stage_with(unhurried(), 2).await;
    let set = r#"{"mode": "static", "in_flight_max": 1}"#;
    assert_eq!(stage.admin(Method::PUT, "/admin/admission", set).await.status, 200);
    let error = Fault::Status { code: 500, retry_after: None };
    stage.replicas[0].set_fault(error).await.unwrap();
    stage.replicas[1].set_fault(Fault::StallAfter(0)).await.unwrap();
    // Wherever it is placed first, it ends on the one that stands still.
    let body = chat("first", 1, false).to_string();
    let _hangs = raw::post(stage.data, CHAT, &body).await;
    until("the other one is full", async || {
        let status = stage.admin(Method::GET, "/admin/replicas", "").await.json();
        status["replicas"][1]["in_flight"] == 1
    })
    .await;
    let answer = stage.chat(&chat("second", 1, false)).await;
    assert_eq!((answer.status.as_u16(), answer.header("x-sluice-replica")), (500, "r0"));
    assert_eq!(answer.header("x-sluice-dropped-reason"), "");
    assert_eq!(stage.metric("sluice_retries_denied_total").await, 1);
    // The first may have been sent again; nothing was sent of the second, and nothing is paid for it.
    assert!(stage.fraction("sluice_retries_left").await > 9.1);
}

#[tokio::test]
async fn a_fleet_of_which_nobody_is_ready_says_so() {
    let stage = stage(RoundRobin, 1).await;
    stage.replicas[0].set_fault(Fault::Down).await.unwrap();
    until("it is known to be gone", async || stage.health(0).await != "ready").await;
    both_are_told(&stage, &[], &Refusal::fleet("rejected-no-replicas", "no_replicas")).await;
}

#[tokio::test]
async fn who_hangs_up_while_waiting_is_never_sent_and_is_no_refusal() {
    let stage = one_seat(knee(), "interactive", &[]).await;
    let seat = take_the_seat(&stage, &[]).await;
    let asked = asked_of_replicas(&stage);
    for path in [CHAT, MESSAGES] {
        let body = chat("hi", 1, false).to_string();
        tokio::select! {
            answer = stage.post(path, &[PATIENT], body) => panic!("{answer:?}"),
            () = until("it waits", async || waiting(&stage, "default").await == 1) => {}
        }
        until("nobody waits", async || waiting(&stage, "default").await == 0).await;
    }
    drop(seat);
    stage.until_idle().await;
    assert_eq!(asked_of_replicas(&stage), asked);
    // Two that waited, and the one that had the seat.
    until("all are counted", async || {
        stage.metric("sluice_requests_total{outcome=\"client-gone\"}").await == 3
    })
    .await;
    assert_eq!(stage.metric("sluice_requests_total{outcome=\"refused\"}").await, 0);
}

/// Clients that ask at once, and times that each mode is put in force.
const CLIENTS: usize = 16;
const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admission_is_switched_under_load_and_nobody_fails() {
    let config = Config { admission: AdmissionConfig::off(), ..config(LeastRequest) };
    let stage = Arc::new(stage_with(config, 2).await);
    let over = tokio_util::sync::CancellationToken::new();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let (stage, over) = (Arc::clone(&stage), over.clone());
        clients.spawn(async move {
            let (mut served, mut refused) = (0, 0);
            while !over.is_cancelled() {
                let body = chat(&format!("{client}, {served}"), 8, true).to_string();
                let answer = stage.post(CHAT, &[PATIENT], body).await;
                if answer.status == 200 {
                    assert!(answer.body.ends_with("data: [DONE]\n\n"), "{answer:?}");
                    served += 1;
                } else {
                    let reason = answer.header("x-sluice-dropped-reason");
                    assert_eq!((answer.status.as_u16(), reason), (503, "rejected-saturated"));
                    refused += 1;
                }
            }
            (served, refused)
        });
    }
    let complete = async || stage.metric("sluice_requests_total{outcome=\"complete\"}").await;
    for _ in 0..ROUNDS {
        for set in [
            r#"{"mode": "off"}"#,
            r#"{"mode": "static", "in_flight_max": 2}"#,
            r#"{"mode": "knee"}"#,
        ] {
            let before = complete().await;
            assert_eq!(stage.admin(Method::PUT, "/admin/admission", set).await.status, 200);
            until("some more are served", async || before + 20 <= complete().await).await;
        }
    }
    over.cancel();
    let (mut served, mut refused) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (client_served, client_refused) = client.unwrap();
        (served, refused) = (served + client_served, refused + client_refused);
    }
    stage.until_idle().await;
    let ended = async |outcome: &str| {
        stage.metric(&format!("sluice_requests_total{{outcome=\"{outcome}\"}}")).await
    };
    assert_eq!((ended("complete").await, ended("refused").await), (served, refused));
    for outcome in ["replica-failed", "client-gone", "client-timeout", "cut", "bad-request"] {
        assert_eq!(ended(outcome).await, 0, "{outcome}");
    }
    assert!(0 < refused, "two places a replica are too few for so many clients");
}

/// The reasons that `/metrics` begins at zero are all there are, and `docs/operating.md` explains each.
#[tokio::test]
async fn every_reason_is_explained_to_operators_and_no_other() {
    let stage = stage(RoundRobin, 1).await;
    let text = stage.admin(Method::GET, "/metrics", "").await.body;
    let exported: BTreeSet<&str> = text
        .lines()
        .filter_map(|it| {
            it.strip_prefix("sluice_requests_rejected_total{reason=\"")?.split('"').next()
        })
        .collect();
    let page = include_str!("../../../docs/operating.md");
    let explained: BTreeSet<&str> = page
        .lines()
        .filter_map(|it| it.strip_prefix("| 503 | `").or_else(|| it.strip_prefix("| 429 | `")))
        .filter_map(|it| it.split('`').next())
        .collect();
    assert_eq!(exported, explained);
    assert_eq!(exported.len(), 9);
}
