//! The ways to send: encrypted, over Anthropic's API, bodies as given, conversations that wait for
//! answers, clients that hang up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use axum::Router;
use common::{Manner, arrivals, options, routes, run, serve, server};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use replay::{Conversations, HangUpAfter, HangUps, ReplayOptions, Target};
use report::{Ending, Terms};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};
use types::{quantity::Tokens, slo::Slo, time::Timestamp};
use wire::openai::Endpoint;
use workload::{Api, Arrival, Given, Prompt};

/// Serves `router` over TLS as `localhost`; returns the target and who vouches for it, in PEM.
async fn serve_tls(router: Router) -> (Target, Vec<u8>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let service = TowerToHyperService::new(router);
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (format!("https://localhost:{port}").parse().unwrap(), certified.cert.pem().into_bytes())
}

#[tokio::test]
async fn an_encrypted_target_is_trusted_for_its_authoritys_sake_alone() {
    let server = server(Manner::Tokens(Duration::from_millis(1)));
    let (target, ca_pem) = serve_tls(routes(&server)).await;
    let trusting = ReplayOptions { ca_pem: Some(ca_pem.clone()), ..options(target.clone()) };
    let recording = run(&trusting, arrivals(2, Duration::from_millis(1))).await;
    for record in &recording.records {
        assert_eq!((record.ending, record.error.as_deref()), (Ending::Completed, None));
    }
    assert_eq!(replay::models::first(&target, None, Some(&ca_pem)).await.unwrap(), "tiny");

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = Some(other.cert.pem().into_bytes());
    let recording =
        run(&ReplayOptions { ca_pem: other, ..options(target) }, arrivals(1, Duration::ZERO)).await;
    let error = recording.records[0].error.as_deref().unwrap();
    assert!(error.contains("certificate"), "{error}");
    assert_eq!(server.seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn anthropics_endpoint_is_spoken_to_as_it_wants() {
    let (server, target) = serve(Manner::Anthropic).await;
    let options = ReplayOptions {
        endpoint: Endpoint::Messages,
        api_key: Some("k".to_owned()),
        ..options(target)
    };
    let record = run(&options, arrivals(1, Duration::ZERO)).await.records.remove(0);
    assert_eq!((record.ending, record.error.as_deref()), (Ending::Completed, None));
    assert_eq!((record.input_tokens, record.output_tokens), (Tokens(40), Tokens(2)));
    assert_eq!(record.cached_tokens, Some(Tokens(10)));
    let (path, headers, body) = server.last.lock().unwrap().clone();
    assert_eq!(path, "/v1/messages");
    assert_eq!(headers["x-api-key"], "k");
    assert!(headers.contains_key("anthropic-version"));
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(body.get("ignore_eos").is_none() && body["messages"][0]["role"] == "user");
}

fn given(api: Option<Api>, body: &str) -> Vec<Arrival> {
    let given = Some(Arc::new(Given { api, body: body.to_owned() }));
    let mut arrivals = arrivals(1, Duration::ZERO);
    for arrival in &mut arrivals {
        arrival.prompt = Prompt { given: given.clone(), ..arrival.prompt.clone() };
    }
    arrivals
}

#[tokio::test]
async fn a_body_that_was_given_goes_out_as_it_is_and_may_be_answered_whole() {
    let (server, target) = serve(Manner::Whole).await;
    let body = "{\"model\":  \"own\", \"prompt\": \"Hi\", \"stream\": false}";
    let options = ReplayOptions { model: String::new(), ..options(target) };
    let record = run(&options, given(Some(Api::Completions), body)).await.records.remove(0);
    assert_eq!((record.ending, record.error.as_deref()), (Ending::Completed, None));
    assert_eq!((record.input_tokens, record.output_tokens), (Tokens(9), Tokens(3)));
    assert_eq!(record.ttft(), record.e2e());
    let (path, _, sent) = server.last.lock().unwrap().clone();
    assert_eq!((path.as_str(), &sent[..]), ("/v1/completions", body.as_bytes()));
}

/// Two conversations of three turns, scheduled as if answers took no time.
fn conversations() -> Vec<Arrival> {
    let mut arrivals = arrivals(6, Duration::from_millis(1));
    for (index, arrival) in (0_u32..).zip(&mut arrivals) {
        arrival.session = Some(u64::from(index % 2));
        arrival.turn = index / 2;
        arrival.think = Duration::from_millis(30);
    }
    arrivals
}

#[tokio::test]
async fn the_next_turn_of_a_closed_conversation_follows_the_answer_and_the_thought() {
    let (_, target) = serve(Manner::Tokens(Duration::from_millis(5))).await;
    let conversations_closed = Conversations::Closed;
    let options = ReplayOptions { conversations: conversations_closed, ..options(target) };
    let recording = run(&options, conversations()).await;
    assert_eq!((recording.records.len(), recording.left_out), (6, 0));
    for session in 0..2 {
        let turns: Vec<_> =
            recording.records.iter().filter(|it| it.session == Some(session)).collect();
        assert_eq!(turns.iter().map(|it| it.turn).collect::<Vec<_>>(), [0, 1, 2]);
        for pair in turns.windows(2) {
            assert_eq!(pair[1].scheduled, pair[0].ended + Duration::from_millis(30));
            assert!(pair[1].sent.unwrap() >= pair[1].scheduled);
        }
    }
}

#[tokio::test]
async fn turns_that_would_follow_after_the_end_are_left_out() {
    let (server, target) = serve(Manner::Tokens(Duration::from_millis(5))).await;
    let options = ReplayOptions {
        conversations: Conversations::Closed,
        send_for: Some(Duration::from_millis(40)),
        ..options(target)
    };
    let recording = run(&options, conversations()).await;
    // The first answers take at least 25 ms, the thought after them 30 ms.
    assert_eq!((recording.records.len(), recording.left_out), (2, 4));
    assert_eq!(server.seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn clients_that_hang_up_close_their_connections_and_count_as_cancelled() {
    for (after, told) in [
        (HangUpAfter::Tokens(2), "after 2 tokens"),
        (HangUpAfter::Time(Duration::from_millis(150)), "after 150ms"),
    ] {
        let (server, target) = serve(Manner::Stalled).await;
        let hang_ups = Some(HangUps { share: 1.0, after });
        let options = ReplayOptions { hang_ups, ..options(target) };
        let recording = run(&options, arrivals(3, Duration::from_millis(1))).await;
        for record in &recording.records {
            assert_eq!(record.ending, Ending::Cancelled);
            let error = record.error.as_deref().unwrap();
            assert!(error.contains(told), "{error}");
            assert!(record.ended > Timestamp::ZERO && !record.slo.good);
        }
        while server.hung_up.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_class_goes_out_with_its_request_and_is_what_it_is_judged_by() {
    let (server, target) = serve(Manner::Tokens(Duration::from_millis(1))).await;
    let terms = |slo: Slo| Terms { slo, retries_max: None };
    let impossible = terms(Slo { ttft: Some(Duration::from_nanos(1)), ..Slo::default() });
    let batch = terms(Slo { completion: Some(Duration::from_secs(60)), ..Slo::default() });
    let options = ReplayOptions {
        terms: impossible,
        classes: [("batch".to_owned(), batch)].into(),
        slo_class: Some("batch".to_owned()),
        headers: vec![("X-Tenant".to_owned(), "acme".to_owned())],
        ..options(target)
    };
    let mut plan = arrivals(2, Duration::from_millis(1));
    plan[1].slo_class = Some("made-up".into());
    let records = run(&options, plan).await.records;
    let told: Vec<_> = records.iter().map(|it| (it.slo_class.as_deref(), it.slo.good)).collect();
    assert_eq!(told, [(Some("batch"), true), (Some("made-up"), false)]);
    assert_eq!((records[0].slo.completion, records[0].slo.ttft), (Some(true), None));
    let (_, headers, _) = server.last.lock().unwrap().clone();
    assert_eq!(
        (headers["x-tenant"].as_bytes(), headers["x-sluice-slo-class"].as_bytes()),
        (&b"acme"[..], &b"made-up"[..])
    );
}
