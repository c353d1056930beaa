//! A replica that speaks HTTP/2 without being asked first, and HTTP/1.1 as well.

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, time::Interval};

/// Time between two tokens.
const TOKEN_EVERY: Duration = Duration::from_millis(5);

/// Tokens from which an answer is endless, and comes slowly, for many of them at once are to cost little.
const ENDLESS_MIN: u64 = 10_000;

/// Time between two tokens of an endless answer.
const ENDLESS_EVERY: Duration = Duration::from_secs(1);

/// Tokens from which an answer comes as fast as it is taken.
pub const FLOOD_MIN: u64 = 1_000_000;

/// What the replica saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub connections: AtomicUsize,
    /// Streams whose last byte has not gone out.
    pub open: AtomicUsize,
    pub over_h2: AtomicUsize,
    pub over_http_1: AtomicUsize,
}

/// Starts one; a request gets as many tokens as its `max_tokens` says, and from `FLOOD_MIN` on large ones
/// as fast as they are taken.
pub async fn replica() -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let told = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let service = service_fn(move |it| serve(it, Arc::clone(&seen)));
                let builder = auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    (address, told)
}

async fn serve(
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Result<Response<Either<Full<Bytes>, Tokens>>, Infallible> {
    if request.method() != Method::POST {
        return Ok(Response::new(Either::Left(Full::default())));
    }
    let by = if request.version() == Version::HTTP_2 { &seen.over_h2 } else { &seen.over_http_1 };
    by.fetch_add(1, Ordering::Relaxed);
    let body = request.into_body().collect().await.map(|it| it.to_bytes()).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let left = body["max_tokens"].as_u64().unwrap();
    seen.open.fetch_add(1, Ordering::Relaxed);
    let every = if ENDLESS_MIN <= left { ENDLESS_EVERY } else { TOKEN_EVERY };
    let every = tokio::time::interval(every);
    let tokens = Tokens { every, left, floods: FLOOD_MIN <= left, over: false, seen };
    let response = Response::builder().header("content-type", "text/event-stream");
    Ok(response.body(Either::Right(tokens)).unwrap())
}

/// A stream of tokens.
pub struct Tokens {
    every: Interval,
    left: u64,
    floods: bool,
    over: bool,
    seen: Arc<Seen>,
}

impl Drop for Tokens {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl http_body::Body for Tokens {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.floods {
            let text = "a".repeat(16 << 10);
            let piece =
                format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
            return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
        }
        ready!(self.every.poll_tick(cx));
        let piece = if self.left == 0 {
            self.over = true;
            "data: [DONE]\n\n"
        } else {
            self.left -= 1;
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"
        };
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes())))))
    }
}
