//! A client that sees every byte, and replicas to point it at.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::{net::SocketAddr, time::Duration};

use emulator::{EmulatorConfig, Handle};
use engine::{Profile, StepTime};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use types::quantity::Tokens;

/// A fast replica with the model, context and KV blocks of the captures.
pub(crate) fn profile() -> Profile {
    let built_in = Profile::named("llama-3-8b-h100").unwrap();
    Profile {
        step: StepTime { overhead_ms: 0.2, weights_ms: 0.8, ..built_in.step },
        block_size: Tokens(32),
        kv_tokens: Tokens(512 * 32),
        max_model_len: Tokens(8192),
        api_overhead_ms: 0.0,
        ..built_in
    }
}

pub(crate) async fn replica() -> Handle {
    replica_of(profile()).await
}

pub(crate) async fn replica_of(profile: Profile) -> Handle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    emulator::spawn(EmulatorConfig::new("tiny-llama", profile), listener).unwrap()
}

/// An answer as received.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The head, in lower case.
    pub(crate) head: String,
    /// The body without chunk sizes.
    pub(crate) body: String,
    /// Whether the body has the end that its framing promises.
    pub(crate) complete: bool,
}

impl Answer {
    /// Takes apart what was read until the end of the connection.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).unwrap_or(0);
        let head = head.to_lowercase();
        let (body, complete) = if head.contains("transfer-encoding: chunked") {
            unchunk(rest)
        } else {
            let length = head.split("content-length: ").nth(1);
            let length = length.and_then(|it| it.lines().next()).and_then(|it| it.parse().ok());
            (rest.to_owned(), length == Some(rest.len()))
        };
        Self { status, head, body, complete }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The data of each server-sent event.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect()
    }

    /// The text of a streamed chat.
    pub(crate) fn streamed_text(&self) -> String {
        let events = self.events().into_iter().filter_map(|it| serde_json::from_str(it).ok());
        let text =
            |event: Value| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned());
        events.filter_map(text).collect()
    }
}

fn unchunk(mut rest: &str) -> (String, bool) {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let Some(chunk) = after.get(..size) else { break };
        body.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}

/// Sends `request` as it stands and reads to the end of the connection.
pub(crate) async fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A connection that breaks is an answer too.
    let _ = stream.read_to_end(&mut bytes).await;
    Answer::parse(&bytes)
}

/// A request with a body.
pub(crate) fn post(path: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")).await
}

/// Asks a question of `words` words and wants exactly `tokens` tokens.
pub(crate) fn question(words: usize, tokens: u32) -> Value {
    let content = "word ".repeat(words);
    json!({
        "model": "tiny-llama",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "ignore_eos": true,
    })
}

/// The same, streamed.
pub(crate) fn streamed(words: usize, tokens: u32) -> Value {
    let mut body = question(words, tokens);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

pub(crate) async fn chat(replica: &Handle, body: &Value) -> Answer {
    send(replica.address(), &post("/v1/chat/completions", body)).await
}

/// Waits for what other tasks are about to bring about.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(holds(), "{what}");
}
