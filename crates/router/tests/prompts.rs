//! That what clients write stays between them and their replicas, however a request fails: no part of it is logged,
//! recorded, counted or shown to an operator.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{CHAT, Stage, config, log::Log, raw, stage_with, until};
use http::Method;
use policy::config::StrategyName::RoundRobin;
use router::config::{Recording, Replica};
use tokio::io::AsyncWriteExt as _;

/// What is looked for.
const PROMPT: &str = "what-nobody-else-is-to-read";

/// What a replica answers to who asks for it, each time with the prompt in it.
fn answers() -> Vec<(&'static str, String)> {
    let whole = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
    };
    let error = format!(
        "{{\"error\":{{\"message\":\"{PROMPT}\",\"type\":\"{PROMPT}\",\"code\":\"{PROMPT}\"}}}}"
    );
    let stream = |events: &str| {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{events}")
    };
    let token = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{PROMPT}\"}}}}]}}\n\n");
    let event = format!("data: {error}\n\n");
    vec![
        ("fine", whole("200 OK", "", &format!("{{\"choices\":\"{PROMPT}\"}}"))),
        ("bad", whole("400 Bad Request", "", &error)),
        ("denied", whole("401 Unauthorized", "", &error)),
        ("forbidden", whole("403 Forbidden", "", &error)),
        ("too-many", whole("429 Too Many Requests", &format!("retry-after: {PROMPT}\r\n"), &error)),
        ("failed", whole("500 Internal Server Error", "", &error)),
        ("reasoned", whole(&format!("500 {PROMPT}"), &format!("x-error: {PROMPT}\r\n"), &error)),
        ("away", whole("503 Service Unavailable", "", &error)),
        ("garbage", format!("{PROMPT} {PROMPT}\r\n{PROMPT}\r\n\r\n")),
        ("half-a-head", format!("HTTP/1.1 200 OK\r\nx: {PROMPT}")),
        ("headers", whole("200 OK", &format!("{PROMPT} : {PROMPT}\r\n"), "{}")),
        ("length", whole("200 OK", &format!("content-length: {PROMPT}\r\n"), "{}")),
        ("short", format!("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n{error}")),
        (
            "chunks",
            format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{PROMPT}\r\n{PROMPT}"),
        ),
        ("first-event", stream(&event)),
        ("later-event", stream(&format!("{token}{event}data: [DONE]\n\n"))),
        ("breaks", stream(&token)),
        (
            "odd-events",
            stream(&format!("{PROMPT}\n\nevent: {PROMPT}\ndata: {{{PROMPT}\n\ndata: [DONE]\n\n")),
        ),
        (
            "odd-usage",
            stream(&format!("data: {{\"usage\":\"{PROMPT}\",\"choices\":[]}}\n\ndata: [DONE]\n\n")),
        ),
    ]
}

/// Bodies that the router itself refuses.
fn refused() -> Vec<String> {
    vec![
        format!("{PROMPT}"),
        format!("{{\"{PROMPT}"),
        format!("\"{PROMPT}\""),
        format!("{{\"model\":\"m\",\"messages\":\"{PROMPT}\"}}"),
        format!("{{\"model\":\"m\",\"stream\":\"{PROMPT}\",\"messages\":[]}}"),
        format!("{{\"model\":\"m\",\"cache_salt\":[\"{PROMPT}\"],\"messages\":[]}}"),
        format!("{{\"model\":\"m\",\"messages\":[\"{PROMPT}\"],\"messages\":[]}}"),
        format!("{{\"model\":\"m\",\"messages\":[{{\"content\":\"{PROMPT}\\ud8\"}}]}}"),
        format!("{{\"messages\":[{{\"content\":\"{PROMPT}\"}}]}}"),
    ]
}

async fn ask(stage: &Stage, body: String) {
    // Some answers break off, and some are none.
    let asked = stage.post(CHAT, &[], body);
    let _ = tokio::time::timeout(Duration::from_secs(5), asked).await;
}

#[tokio::test]
async fn no_part_of_a_prompt_is_logged_recorded_or_shown_however_its_request_fails() {
    let log = Log::default();
    let _kept = tracing::subscriber::set_default(log.clone());
    let asked: Arc<Mutex<BTreeSet<&'static str>>> = Arc::default();
    let url = async || {
        let asked = Arc::clone(&asked);
        raw::replica(move |mut socket, request| {
            let is_way = |it: &(&str, String)| request.contains(&format!("way-{}\"", it.0));
            let (way, answer) = answers().into_iter().find(is_way).unwrap();
            asked.lock().unwrap().insert(way);
            async move {
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        })
        .await
    };
    let recording = tempfile::tempdir().unwrap();
    let mut config = config(RoundRobin);
    config.recording = Some(Recording::into_directory(recording.path().to_owned()));
    config.replicas.extend([Replica::at(url().await), Replica::at(url().await)]);
    let mut stage = stage_with(config, 0).await;
    for (way, _) in answers() {
        for stream in [false, true] {
            let body = format!(
                "{{\"model\":\"m\",\"stream\":{stream},\"user\":\"way-{way}\",\
                 \"messages\":[{{\"role\":\"user\",\"content\":\"{PROMPT}\"}}]}}"
            );
            ask(&stage, body).await;
            until("both are ready again", async || {
                stage.health(0).await == "ready" && stage.health(1).await == "ready"
            })
            .await;
        }
    }
    assert_eq!(asked.lock().unwrap().len(), answers().len(), "a replica was asked for each");
    for body in refused() {
        ask(&stage, body).await;
    }
    let mut shown = String::new();
    for path in ["/metrics", "/admin/decisions", "/admin/replicas", "/admin/goodput"] {
        shown.push_str(&stage.admin(Method::GET, path, "").await.body);
    }
    stage.stop.cancel();
    (&mut stage.router).await.unwrap();

    let logged = log.0.lock().unwrap().clone();
    let files = std::fs::read_dir(recording.path()).unwrap();
    let recorded: String =
        files.map(|it| std::fs::read_to_string(it.unwrap().path()).unwrap()).collect();
    let lines = logged.matches("message=request ").count();
    println!("G3: {lines} requests in {} bytes of logs, prompts in 0 of them", logged.len());
    assert_eq!(lines, 2 * answers().len() + refused().len(), "one each");
    for end in ["\"replica-failed\"", "\"bad-request\"", "\"complete\"", "replica ejected"] {
        assert!(logged.contains(end), "{end} is not among: {logged}");
    }
    for (where_, text) in [("the log", logged), ("a recording", recorded), ("an operator", shown)] {
        assert!(!text.is_empty() && !text.contains(PROMPT), "it reached {where_}: {text}");
    }
}
