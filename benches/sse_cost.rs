//! A replica that streams and clients that read, to measure what lies between them.
//!
//! `sse-cost replica ADDRESS` answers every POST with a stream of 200 events of 242 bytes, one each
//! 10 ms; `sse-cost read ADDRESS STREAMS` opens as many streams there and prints how many events
//! came and how long it took.

#![expect(clippy::print_stdout, reason = "the result is for a script to read")]

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use http::{HeaderValue, header};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, interval},
};

const EVENTS: usize = 200;
const PAUSE: Duration = Duration::from_millis(10);
const EVENT: &str = "data: {\"id\":\"chatcmpl-b42e0e14cc889f3c\",\"object\":\"chat.completion.chunk\",\
\"created\":1795422329,\"model\":\"tiny-llama\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\
\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n";

/// The events of a stream as they become due.
struct Events(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|it| it.map(|bytes| Ok(hyper::body::Frame::data(bytes))))
    }
}

async fn stream() -> Response {
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut ticks = interval(PAUSE);
        for _ in 0..EVENTS {
            ticks.tick().await;
            if sender.send(Bytes::from_static(EVENT.as_bytes())).await.is_err() {
                return;
            }
        }
        // Fails only when the client has gone.
        let _ = sender.send(Bytes::from_static(b"data: [DONE]\n\n")).await;
    });
    let mut response = Response::new(Body::new(Events(receiver)));
    let events = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, events);
    response
}

async fn replica(address: &str) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/health", get(async || ""))
        // What other routers want to know of a replica before they send it anything.
        .route(
            "/v1/models",
            get(async || r#"{"object":"list","data":[{"id":"m","object":"model"}]}"#),
        )
        .route("/get_model_info", get(async || r#"{"model_path":"m","is_generation":true}"#))
        .route("/get_server_info", get(async || r#"{"model_path":"m"}"#))
        .route("/v1/chat/completions", axum::routing::post(stream));
    axum::serve(TcpListener::bind(address).await?, routes).await
}

/// Reads one stream to its end and counts its events.
async fn read(address: String) -> std::io::Result<usize> {
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"go"}]}"#;
    let mut socket = TcpStream::connect(&address).await?;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).matches("\"delta\"").count())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [verb, address, rest @ ..] = arguments.as_slice() else {
        return Err(std::io::Error::other(
            "usage: sse-cost replica ADDRESS | read ADDRESS STREAMS",
        ));
    };
    if verb == "replica" {
        return replica(address).await;
    }
    let streams = rest.first().and_then(|it| it.parse().ok()).unwrap_or(100);
    let started = Instant::now();
    let reading: Vec<_> =
        (0..streams).map(|_: usize| tokio::spawn(read(address.clone()))).collect();
    let mut events = 0;
    for stream in reading {
        events += stream.await.map_err(std::io::Error::other)??;
    }
    println!("events={events} seconds={:.2}", started.elapsed().as_secs_f64());
    Ok(())
}
