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

mod pace;
mod patience;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use fleet::{
    client::Body,
    health::Failure,
    replica::{COOLING_MAX, Replica},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use types::quantity::Tokens;
use wire::{
    error_body::{ErrorBody, ErrorKind},
    headers,
    openai::Endpoint,
    sse::Scanner,
    usage::{self, Answer as Account},
};

use self::{pace::Pace, patience::Patience};
use crate::{
    app::App,
    passage::{End, Passage},
    reply::Reply,
    upstream::{Answer, Begun},
};

/// Longest answer, other than a stream, that is kept to read what it cost.
const WHOLE_BYTES_MAX: usize = 256 << 10;

/// How often a replica's health is told that bytes flow.
const BYTES_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Sends `answer` on its way to the client.
pub(crate) fn stream(app: &App, answer: Answer, mut passage: Passage) -> Response<Reply> {
    let Answer { begun: Begun { response, first, is_weighed }, replica } = answer;
    let (mut head, body) = response.into_parts();
    headers::strip_hop_by_hop(&mut head.headers);
    headers::strip_own(&mut head.headers);
    if !head.status.is_success() {
        headers::bound_retry_after(&mut head.headers, COOLING_MAX, App::since_1970());
    }
    passage.answered(head.status);
    passage.write_headers(&mut head.headers);
    let form = Form::of(&head.headers);
    let stall = passage.settings().timeouts.stall;
    if matches!(form, Form::Events(_)) {
        head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // Should the stream break, the error that ends it would not fit into a length given before.
        head.headers.remove(header::CONTENT_LENGTH);
        let unbuffered = http::HeaderName::from_static("x-accel-buffering");
        head.headers.insert(unbuffered, HeaderValue::from_static("no"));
    }
    let now = Instant::now();
    let mut relay = Relay {
        held: first,
        upstream: body,
        endpoint: passage.endpoint(),
        watch: Watch {
            status: head.status,
            account: Account::new(passage.endpoint()),
            form,
            replica,
            is_weighed,
            last_byte: now,
            last_told: now,
            pace: Pace::new(now),
            has_token: false,
            tokens: 0,
            passage,
        },
        patience: Patience::new(stall, app.cut.clone()),
        breaking: None,
        is_over: false,
    };
    // An answer without a body is never asked for one.
    if relay.held.is_none() && relay.upstream.is_end_stream() && !relay.watch.is_broken() {
        relay.finish();
    }
    Response::from_parts(head, Reply::Relayed(Box::new(relay)))
}

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Relay {
    /// The first piece, where it has come already.
    held: Option<Bytes>,
    upstream: Body,
    endpoint: Endpoint,
    watch: Watch,
    patience: Patience,
    /// Why the connection is about to break.
    breaking: Option<Break>,
    is_over: bool,
}

/// What is seen of the answer.
#[derive(Debug)]
struct Watch {
    form: Form,
    status: StatusCode,
    account: Account,
    replica: Arc<Replica>,
    /// Whether it was decided what the answer says of the replica.
    is_weighed: bool,
    last_byte: Instant,
    last_told: Instant,
    pace: Pace,
    has_token: bool,
    /// Pieces of the answer so far; engines send a token in each.
    tokens: u32,
    passage: Passage,
}

/// How the answer is written.
#[derive(Debug)]
enum Form {
    /// Server-sent events.
    Events(Scanner),
    /// One JSON document, kept as far as it is short.
    Document(Bytes),
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
        if is_stream(head) {
            Self::Events(Scanner::new())
        } else if says(head, b"application/json") {
            Self::Document(Bytes::new())
        } else {
            Self::Opaque
        }
    }
}

/// Adds a piece to those that are kept. Most documents come in one, which is not copied.
fn keep(kept: &mut Bytes, piece: &Bytes) {
    if kept.is_empty() {
        *kept = piece.clone();
        return;
    }
    let mut all = BytesMut::from(std::mem::take(kept));
    all.extend_from_slice(piece);
    *kept = all.freeze();
}

/// Whether the answer with `head` is a stream of events that can be read.
pub(crate) fn is_stream(head: &HeaderMap) -> bool {
    says(head, b"text/event-stream")
}

fn says(head: &HeaderMap, media_type: &[u8]) -> bool {
    let content_type = head.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let begins = |it: &[u8]| {
        it.get(..media_type.len()).is_some_and(|it| it.eq_ignore_ascii_case(media_type))
    };
    content_type.is_some_and(begins) && !head.contains_key(header::CONTENT_ENCODING)
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
        if let Some(reason) = this.breaking {
            return this.break_off(cx, reason);
        }
        let next = match this.held.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut this.upstream).poll_frame(cx),
        };
        match next {
            Poll::Ready(Some(Ok(mut frame))) => {
                let mut is_over = this.upstream.is_end_stream();
                if let Some(bytes) = frame.data_mut() {
                    if this.watch.account.is_over() {
                        this.finish();
                        return Poll::Ready(None);
                    }
                    let seen = this.watch.see(bytes);
                    is_over |= seen < bytes.len();
                    bytes.truncate(seen);
                    if this.watch.has_ended_well() {
                        this.patience.hurry();
                    }
                }
                // A client that knows the length may never ask for the end.
                if is_over && !this.watch.is_broken() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.break_off(cx, Break::Replica),
            Poll::Ready(None) if this.watch.is_broken() => this.break_off(cx, Break::Replica),
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                this.watch.pace.waits();
                let reason = ready!(this.patience.poll(cx, this.watch.last_byte));
                this.break_off(cx, reason)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        match self.watch.form {
            Form::Events(_) => SizeHint::default(),
            Form::Document(_) | Form::Opaque => {
                let held = self.held.as_ref().map_or(0, |it| it.len() as u64);
                let rest = self.upstream.size_hint();
                let mut hint = SizeHint::new();
                hint.set_lower(rest.lower().saturating_add(held));
                if let Some(upper) = rest.upper() {
                    hint.set_upper(upper.saturating_add(held));
                }
                hint
            }
        }
    }
}

impl Relay {
    fn finish(&mut self) {
        self.is_over = true;
        self.watch.finish();
    }

    /// Ends the answer in a way that no client takes for its proper end, unless that has come.
    fn break_off(
        &mut self,
        cx: &mut Context<'_>,
        reason: Break,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.watch.has_ended() {
            self.finish();
            return Poll::Ready(None);
        }
        if !matches!(self.watch.form, Form::Events(_)) && self.breaking.is_none() {
            // What came before is sent before the connection breaks: it may have come just now.
            self.breaking = Some(reason);
            cx.waker().wake_by_ref();
            return Poll::Pending;
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

impl Drop for Watch {
    fn drop(&mut self) {
        self.passage.left_off(self.account.usage());
    }
}

impl Watch {
    /// Looks at the next bytes of the answer; returns how many of them belong to it.
    fn see(&mut self, bytes: &Bytes) -> usize {
        let now = Instant::now();
        let had_token = self.has_token;
        let mut pieces = 0_u32;
        let mut seen = bytes.len();
        match &mut self.form {
            Form::Events(scanner) => {
                seen = scanner.push_until(bytes, |event| {
                    // What follows the first token are tokens, but for a last few.
                    self.has_token = self.has_token || usage::carries_output(&event);
                    pieces = pieces.saturating_add(u32::from(self.has_token));
                    self.account.event(&event);
                    self.account.is_over()
                });
            }
            Form::Document(kept) if kept.len() + bytes.len() <= WHOLE_BYTES_MAX => {
                keep(kept, bytes);
            }
            Form::Document(_) | Form::Opaque => {}
        }
        self.passage.relayed(seen);
        self.tokens = self.tokens.saturating_add(pieces);
        if self.has_token {
            self.passage.streamed(Tokens(self.tokens));
        }
        if had_token {
            self.passage.gap(now.duration_since(self.last_byte));
            if let Some((tokens, waited)) = self.pace.came(now, pieces) {
                self.replica.tokens_came(now, tokens, waited);
            }
        } else {
            self.pace.begins(now);
            if self.has_token {
                self.passage.first_token(now);
            }
        }
        self.last_byte = now;
        if BYTES_TOLD_EVERY <= now.duration_since(self.last_told) {
            self.last_told = now;
            self.replica.byte();
        }
        seen
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

    /// Whether a stream has come to what ends a good answer, with nothing wrong before.
    fn has_ended_well(&self) -> bool {
        matches!(self.form, Form::Events(_)) && self.account.end() == Some(usage::End::Complete)
            || self.account.is_over()
    }

    /// Takes stock of an answer that came to its end.
    fn finish(&mut self) {
        if let Form::Document(kept) = &self.form {
            self.account.body(kept);
        }
        self.passage.was_held(self.pace.held(Instant::now()));
        let end = self.end();
        if matches!(end, End::Complete | End::BadRequest) {
            self.replica.answered();
        } else if self.status.is_success()
            && self.account.end() == Some(usage::End::Failed)
            && !self.is_weighed
        {
            // Behind a server that still answers, the engine is dead.
            self.replica.request_failed(Failure::Broken);
        }
        self.passage.ended(end, self.account.usage());
    }

    fn end(&self) -> End {
        match (self.status, self.account.end()) {
            (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, _) => End::Refused,
            (status, _) if status.is_server_error() => End::ReplicaFailed,
            (status, _) if status.is_client_error() => End::BadRequest,
            (status, Some(usage::End::Aborted | usage::End::Failed)) if status.is_success() => {
                End::ReplicaFailed
            }
            (_, Some(_) | None) => End::Complete,
        }
    }
}
