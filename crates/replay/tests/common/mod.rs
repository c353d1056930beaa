//! A server in the same process, well-behaved or not, and requests to send to it.
#![allow(clippy::unwrap_used, dead_code, reason = "a test fails by panicking; each uses a part")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use http_body::Frame;
use replay::{Recording, ReplayOptions, Target};
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use types::{quantity::Tokens, time::Timestamp};
use workload::{Arrival, Prompt, Segment};

/// How the server answers.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    /// Tokens at this distance, the first after one.
    Tokens(Duration),
    /// One token, once this many requests have come.
    FrozenUntil(usize),
    /// Two tokens, then silence with the connection open.
    Stalled,
    /// Two tokens, then the end.
    Truncated,
    /// Two tokens, an error event and a clean end.
    ErrorInStream,
    /// A refusal with this status.
    Refused(u16),
    /// 200 and no stream.
    Unstreamed,
    /// A whole answer that is no stream.
    Whole,
    /// Two tokens, as Anthropic's API has them.
    Anthropic,
    /// One token, without a word of who gave it.
    Anonymous,
}

pub(crate) struct Server {
    manner: Manner,
    /// Requests that have come.
    pub(crate) seen: AtomicUsize,
    /// Answers that were broken off by the client.
    pub(crate) hung_up: AtomicUsize,
    /// What the last one's path, headers and body were.
    pub(crate) last: Mutex<(String, HeaderMap, Bytes)>,
}

const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\" cat\"}}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":5,\
                     \"prompt_tokens_details\":{\"cached_tokens\":96}}}\n\n";
const ANTHROPIC: [&str; 5] = [
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"content\":[],\"usage\":{\"input_tokens\":30,\"cache_read_input_tokens\":10,\"output_tokens\":1}}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a cat\"}}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":2}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
];
const DONE: &str = "data: [DONE]\n\n";

async fn complete(
    State(server): State<Arc<Server>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    server.seen.fetch_add(1, Ordering::SeqCst);
    *server.last.lock().unwrap() = (uri.path().to_owned(), headers, body);
    let pieces: &[&str] = match server.manner {
        Manner::Tokens(_) => &[TOKEN, TOKEN, TOKEN, TOKEN, TOKEN, USAGE, DONE],
        Manner::Stalled | Manner::Truncated => &[TOKEN, TOKEN],
        Manner::ErrorInStream => {
            &[TOKEN, TOKEN, "data: {\"error\":{\"message\":\"dead\"}}\n\n", DONE]
        }
        Manner::Refused(status) => {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, [("x-sluice-dropped-reason", "rejected-saturated")]).into_response();
        }
        Manner::Unstreamed => return Json("{}").into_response(),
        Manner::Whole => {
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 3});
            return Json(json!({"choices": [{"text": "Hi"}], "usage": usage})).into_response();
        }
        Manner::FrozenUntil(_) | Manner::Anonymous => &[TOKEN, DONE],
        Manner::Anthropic => &ANTHROPIC,
    };
    let manner = server.manner;
    let (sender, receiver) = mpsc::channel::<&'static str>(1);
    tokio::spawn(async move {
        if let Manner::FrozenUntil(count) = manner {
            while server.seen.load(Ordering::SeqCst) < count {
                sleep(Duration::from_millis(1)).await;
            }
        }
        for piece in pieces.iter().copied() {
            if let Manner::Tokens(gap) = manner {
                sleep(gap).await;
            }
            if sender.send(piece).await.is_err() {
                server.hung_up.fetch_add(1, Ordering::SeqCst);
                return;
            }
        }
        if matches!(manner, Manner::Stalled) {
            sender.closed().await;
            server.hung_up.fetch_add(1, Ordering::SeqCst);
        }
    });
    if matches!(manner, Manner::Anonymous) {
        let headers = [("content-type", "text/event-stream")];
        return (headers, Body::new(Pieces(receiver))).into_response();
    }
    let headers = [
        ("content-type", "text/event-stream"),
        ("x-sluice-replica", "gpu-3"),
        ("x-sluice-decision", "prefix"),
        ("x-sluice-attempts", "2"),
    ];
    (headers, Body::new(Pieces(receiver))).into_response()
}

struct Pieces(mpsc::Receiver<&'static str>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(context);
        piece.map(|it| it.map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}

/// What `server` answers to.
pub(crate) fn routes(server: &Arc<Server>) -> Router {
    let models = get(async || Json(json!({"data": [{"id": "tiny"}, {"id": "b"}]})));
    Router::new()
        .route("/v1/chat/completions", post(complete))
        .route("/v1/completions", post(complete))
        .route("/v1/messages", post(complete))
        .route("/v1/models", models)
        .with_state(Arc::clone(server))
}

pub(crate) fn server(manner: Manner) -> Arc<Server> {
    let (seen, hung_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
    Arc::new(Server { manner, seen, hung_up, last: Mutex::default() })
}

pub(crate) async fn serve(manner: Manner) -> (Arc<Server>, Target) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let server = server(manner);
    let router = routes(&server);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (server, target)
}

pub(crate) fn options(target: Target) -> ReplayOptions {
    ReplayOptions { targets: vec![target], model: "m".to_owned(), ..ReplayOptions::default() }
}

/// `count` requests at `gap` from each other, the first at once.
pub(crate) fn arrivals(count: u32, gap: Duration) -> Vec<Arrival> {
    (0..count)
        .map(|index| Arrival {
            at: Timestamp::from_elapsed(gap * index),
            session: Some(u64::from(index)),
            turn: 0,
            turns: None,
            workload_class: None,
            tenant: None,
            slo_class: None,
            prompt: Prompt::from_user(vec![Segment { id: index.into(), tokens: Tokens(120) }]),
            output: Tokens(5),
            answer: None,
            think: Duration::ZERO,
        })
        .collect()
}

pub(crate) async fn run(options: &ReplayOptions, arrivals: Vec<Arrival>) -> Recording {
    replay::run(options, arrivals, CancellationToken::new(), |_| {}).await.unwrap()
}
