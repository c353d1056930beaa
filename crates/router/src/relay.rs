//! Relays an answer to the client as its bytes come, and watches them go by.
//!
//! The bytes are not touched. A copy of the view is kept on them: when the first token came, what
//! the answer says that it cost, whether it came to its end. A stream that breaks off after its
//! head is ended with an error event in the client's dialect; any other answer by breaking the
//! connection, so that it can't be taken for a whole one.
//!
//! There is no task and no channel between the two connections: the client's connection polls the
//! replica's. So a slow client slows the replica down, and a client that hangs up drops this body,
//! which closes the replica's connection and gives the ticket back.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use fleet::{health::Failure, replica::Replica};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use types::quantity::Tokens;
use wire::{
    error_body::{ErrorBody, ErrorKind},
    headers,
    openai::Endpoint,
    sse::Scanner,
    usage::{self, Answer as Account},
};

use crate::{
    app::App,
    passage::{End, Passage},
    upstream::Answer,
};

/// Longest answer, other than a stream, that is kept to read what it cost.
const WHOLE_BYTES_MAX: usize = 256 << 10;

/// How often a replica's health is told that bytes flow.
const BYTES_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Sends `answer` on its way to the client.
pub(crate) fn stream(app: &App, answer: Answer, mut passage: Passage) -> Response {
    let Answer { response, replica } = answer;
    let (mut head, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    passage.answered(head.status);
    passage.write_headers(&mut head.headers);
    let form = Form::of(&head.headers);
    if matches!(form, Form::Events(_)) {
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Should the stream break, the error that ends it would not fit into a length given before.
        head.headers.remove(header::CONTENT_LENGTH);
        let unbuffered = http::HeaderName::from_static("x-accel-buffering");
        head.headers.insert(unbuffered, HeaderValue::from_static("no"));
    }
    let now = Instant::now();
    let mut relay = Relay {
        upstream: body,
        endpoint: passage.endpoint(),
        watch: Watch {
            status: head.status,
            account: Account::new(passage.endpoint()),
            form,
            replica,
            last_byte: now,
            last_told: now,
            has_token: false,
            tokens: 0,
            passage,
        },
        patience: Patience::new(app, now),
        is_over: false,
    };
    // An answer without a body is never asked for one.
    if relay.upstream.is_end_stream() && !relay.watch.is_broken() {
        relay.finish();
    }
    Response::from_parts(head, Body::new(relay))
}

/// An answer on its way.
struct Relay {
    upstream: Incoming,
    endpoint: Endpoint,
    watch: Watch,
    patience: Patience,
    is_over: bool,
}

/// What is seen of the answer.
struct Watch {
    form: Form,
    status: StatusCode,
    account: Account,
    replica: Arc<Replica>,
    last_byte: Instant,
    last_told: Instant,
    has_token: bool,
    /// Pieces of the answer so far; engines send a token in each.
    tokens: u32,
    passage: Passage,
}

/// How the answer is written.
enum Form {
    /// Server-sent events.
    Events(Scanner),
    /// One JSON document, kept as far as it is short.
    Document(Vec<u8>),
    /// Something that is not read.
    Opaque,
}

/// Why an answer breaks off.
#[derive(Clone, Copy, Debug)]
enum Break {
    /// The replica broke off, or ended without saying that it is done.
    Replica,
    /// The replica fell silent.
    Silence,
    /// The router ends.
    Cut,
}

impl Form {
    fn of(head: &HeaderMap) -> Self {
        let content_type = head.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        let is = |prefix: &[u8]| content_type.is_some_and(|it| it.starts_with(prefix));
        if head.contains_key(header::CONTENT_ENCODING) {
            Self::Opaque
        } else if is(b"text/event-stream") {
            Self::Events(Scanner::new())
        } else if is(b"application/json") {
            Self::Document(Vec::new())
        } else {
            Self::Opaque
        }
    }
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = self.get_mut();
        if this.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut this.upstream).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(bytes) = frame.data_ref() {
                    this.watch.see(bytes);
                }
                // A client that knows the length may never ask for the end.
                if this.upstream.is_end_stream() && !this.watch.is_broken() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.break_off(Break::Replica),
            Poll::Ready(None) if this.watch.is_broken() => this.break_off(Break::Replica),
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let reason = ready!(this.patience.poll(cx, this.watch.last_byte));
                this.break_off(reason)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        match self.watch.form {
            Form::Events(_) => SizeHint::default(),
            Form::Document(_) | Form::Opaque => self.upstream.size_hint(),
        }
    }
}

impl Relay {
    fn finish(&mut self) {
        self.is_over = true;
        self.watch.finish();
    }

    /// Ends the answer in a way that no client takes for its proper end, unless that has come.
    fn break_off(&mut self, reason: Break) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.watch.has_ended() {
            self.finish();
            return Poll::Ready(None);
        }
        self.is_over = true;
        let watch = &mut self.watch;
        let (end, failure) = match reason {
            Break::Replica => (End::ReplicaFailed, Some(Failure::Broken)),
            Break::Silence => (End::ReplicaFailed, Some(Failure::TimedOut)),
            Break::Cut => (End::Cut, None),
        };
        if let Some(failure) = failure {
            watch.replica.request_failed(failure);
        }
        watch.passage.ended(end, watch.account.usage());
        let error = reason.told();
        Poll::Ready(Some(match watch.form {
            Form::Events(_) => Ok(Frame::data(error.stream_end(self.endpoint).into())),
            Form::Document(_) | Form::Opaque => Err(io::Error::other(error.message)),
        }))
    }
}

impl Break {
    const fn told(self) -> ErrorBody<'static> {
        let (kind, message, code) = match self {
            Self::Replica => (
                ErrorKind::Upstream,
                "the replica broke off in the middle of its answer",
                "upstream_disconnect",
            ),
            Self::Silence => (
                ErrorKind::Timeout,
                "the replica fell silent in the middle of its answer",
                "upstream_timeout",
            ),
            Self::Cut => {
                (ErrorKind::Overloaded, "the router is shutting down", "router_shutting_down")
            }
        };
        ErrorBody { kind, message, param: None, code: Some(code) }
    }
}

impl Watch {
    /// Looks at the next bytes of the answer.
    fn see(&mut self, bytes: &Bytes) {
        let now = Instant::now();
        self.passage.relayed(bytes.len());
        let had_token = self.has_token;
        let mut pieces = 0_u32;
        match &mut self.form {
            Form::Events(scanner) => scanner.push(bytes, |event| {
                // What follows the first token are tokens, but for a last few.
                self.has_token = self.has_token || usage::carries_output(&event);
                pieces = pieces.saturating_add(u32::from(self.has_token));
                self.account.event(&event);
            }),
            Form::Document(kept) if kept.len() + bytes.len() <= WHOLE_BYTES_MAX => {
                kept.extend_from_slice(bytes);
            }
            Form::Document(_) | Form::Opaque => {}
        }
        self.tokens = self.tokens.saturating_add(pieces);
        if had_token {
            let gap = now.duration_since(self.last_byte);
            self.passage.gap(gap);
            self.replica.tokens_came(now, pieces, gap);
        } else if self.has_token {
            self.passage.first_token(now);
        }
        self.last_byte = now;
        if BYTES_TOLD_EVERY <= now.duration_since(self.last_told) {
            self.last_told = now;
            self.replica.byte();
        }
    }

    /// Whether the answer, were it to end here, would lack its end.
    fn is_broken(&self) -> bool {
        matches!(self.form, Form::Events(_))
            && self.status.is_success()
            && self.account.end().is_none()
    }

    /// Whether a stream has said that it is at its end, though its connection is not.
    fn has_ended(&self) -> bool {
        matches!(self.form, Form::Events(_)) && self.account.end().is_some()
    }

    /// Takes stock of an answer that came to its end.
    fn finish(&mut self) {
        if let Form::Document(kept) = &self.form {
            self.account.body(kept);
        }
        let end = self.end();
        if end == End::Complete {
            self.replica.answered();
        } else if self.status.is_success() && self.account.end() == Some(usage::End::Failed) {
            // Behind a server that still answers, the engine is dead.
            self.replica.request_failed(Failure::Broken);
        }
        let pieces = self.has_token.then_some(Tokens(self.tokens));
        self.passage.streamed(pieces);
        self.passage.ended(end, self.account.usage());
    }

    fn end(&self) -> End {
        match (self.status, self.account.end()) {
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => End::Refused,
            (status, _) if status.is_server_error() => End::ReplicaFailed,
            (status, Some(usage::End::Aborted | usage::End::Failed)) if status.is_success() => {
                End::ReplicaFailed
            }
            (_, Some(_) | None) => End::Complete,
        }
    }
}

/// How long a silent replica is waited for, and until when the router serves at all.
struct Patience {
    stall: Duration,
    silence: Pin<Box<Sleep>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Patience {
    fn new(app: &App, now: Instant) -> Self {
        let stall = app.timeouts.stall;
        Self {
            stall,
            silence: Box::pin(tokio::time::sleep_until(now + stall)),
            cut: Box::pin(app.cut.clone().cancelled_owned()),
        }
    }

    /// Ready when patience is over. The timer is not set anew with every byte, which would cost
    /// more than relaying it: when it fires, it is set to what is left since the last byte.
    fn poll(&mut self, cx: &mut Context<'_>, last_byte: Instant) -> Poll<Break> {
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Break::Cut);
        }
        loop {
            ready!(self.silence.as_mut().poll(cx));
            let deadline = last_byte + self.stall;
            if deadline <= Instant::now() {
                return Poll::Ready(Break::Silence);
            }
            self.silence.as_mut().reset(deadline);
        }
    }
}
