//! One connection: a request is written, the head of its answer read, then the body piece by piece.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{Method, Response, StatusCode, header};
use hyper::rt::{Read as _, ReadBuf, Write as _};
use wire::{
    digits::extend_whole,
    http1::{BadAnswer, Framing, Head, take_head},
};

use super::Message;
use crate::connect::Stream;

/// Longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Most that is read at once, and so ahead of a slow client.
const READ_BYTES: usize = 16 << 10;

thread_local! {
    /// Where bytes are first read into: a connection that waits for some holds no room for them.
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into());
}

/// No answer came, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The replica closed it too soon.
    #[error("the connection was closed before the end of the answer")]
    Ended,
    /// What came is no answer.
    #[error("the answer is not understood")]
    Bad(#[from] BadAnswer),
    /// Its head does not end.
    #[error("the head of the answer is longer than {HEAD_BYTES_MAX} bytes")]
    HeadTooLong,
}

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) failed: Failed,
    /// Whether the connection was closed before one byte came back.
    pub(super) is_unheard: bool,
}

/// A connection to a replica; one request at a time.
pub(super) struct Connection {
    io: Stream,
    /// What has come and was not taken yet.
    unread: BytesMut,
    /// What is still to come of the answer.
    framing: Framing,
    /// Whether another request may follow it.
    keeps: bool,
}

/// A request under way.
struct Exchange {
    /// What is still to be sent of it.
    head: Bytes,
    body: Bytes,
    /// Why no more of it can be sent.
    failed: Option<io::Error>,
    /// Whether anything has come back.
    is_heard: bool,
}

impl Connection {
    pub(super) fn new(io: Stream) -> Self {
        Self { io, unread: BytesMut::new(), framing: Framing::Over, keeps: true }
    }

    /// Sends a request to `host` and waits for the head of its answer.
    pub(super) async fn exchange(
        &mut self,
        request: &Message,
        host: &str,
    ) -> Result<Response<()>, Unanswered> {
        let (head, body) = (Bytes::from(head_of(request, host)), request.body().clone());
        let mut exchange = Exchange { head, body, failed: None, is_heard: false };
        let answer = poll_fn(|cx| self.poll_answer(cx, &mut exchange)).await;
        let Head { status, version, headers, framing, keeps_connection } = match answer {
            Ok(head) => head,
            Err(failed) => {
                let is_closed = matches!(failed, Failed::Io(_) | Failed::Ended);
                return Err(Unanswered { failed, is_unheard: is_closed && !exchange.is_heard });
            }
        };
        // One that answers before it has been told all will not find the end of what it was told.
        self.keeps =
            keeps_connection && exchange.is_empty() && status != StatusCode::SWITCHING_PROTOCOLS;
        self.framing = framing;
        let mut response = Response::new(());
        (*response.status_mut(), *response.version_mut()) = (status, version);
        *response.headers_mut() = headers;
        Ok(response)
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        exchange: &mut Exchange,
    ) -> Poll<Result<Head, Failed>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx, exchange) {
            // It may have answered before it closed.
            exchange.failed = Some(error);
        }
        loop {
            while !self.unread.is_empty() {
                match take_head(&mut self.unread)? {
                    // Others come before the answer.
                    Some(head)
                        if head.status.is_informational()
                            && head.status != StatusCode::SWITCHING_PROTOCOLS => {}
                    Some(head) => return Poll::Ready(Ok(head)),
                    None if HEAD_BYTES_MAX <= self.unread.len() => {
                        return Poll::Ready(Err(Failed::HeadTooLong));
                    }
                    None => break,
                }
            }
            let read = ready!(self.poll_read(cx));
            match (read, exchange.failed.take()) {
                (Ok(0) | Err(_), Some(error)) | (Err(error), None) => {
                    return Poll::Ready(Err(error.into()));
                }
                (Ok(0), None) => return Poll::Ready(Err(Failed::Ended)),
                (Ok(_), failed) => (exchange.failed, exchange.is_heard) = (failed, true),
            }
        }
    }

    /// Sends what is left of a request.
    fn poll_send(&mut self, cx: &mut Context<'_>, exchange: &mut Exchange) -> Poll<io::Result<()>> {
        if exchange.failed.is_some() {
            return Poll::Pending;
        }
        while !exchange.is_empty() {
            let pieces = [IoSlice::new(&exchange.head), IoSlice::new(&exchange.body)];
            let sent = if exchange.head.is_empty() {
                ready!(Pin::new(&mut self.io).poll_write(cx, &exchange.body))?
            } else {
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &pieces))?
            };
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            exchange.advance(sent);
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// The next piece of the answer's body; none at its end.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Failed>> {
        loop {
            while !self.unread.is_empty() && self.framing != Framing::Over {
                let piece = self.framing.next(&self.unread)?;
                self.unread.advance(piece.skipped);
                if 0 < piece.data {
                    let data = self.unread.split_to(piece.data).freeze();
                    self.let_go();
                    return Poll::Ready(Ok(Some(data)));
                }
            }
            self.let_go();
            if self.framing == Framing::Over {
                return Poll::Ready(Ok(None));
            }
            if ready!(self.poll_read(cx))? == 0 {
                if self.framing != Framing::UntilClose {
                    return Poll::Ready(Err(Failed::Ended));
                }
                self.framing = Framing::Over;
            }
        }
    }

    /// Gives back the room of what has been read.
    fn let_go(&mut self) {
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
    }

    /// Reads some of what has come; 0 where the replica has closed the connection.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Self { io, unread, .. } = self;
        ROOM.with_borrow_mut(|room| {
            let mut room = ReadBuf::new(room);
            ready!(Pin::new(io).poll_read(cx, room.unfilled()))?;
            unread.extend_from_slice(room.filled());
            Poll::Ready(Ok(room.filled().len()))
        })
    }

    /// Whether the answer has come to its end.
    pub(super) fn is_over(&self) -> bool {
        self.framing == Framing::Over
    }

    /// Bytes of the answer that are still to come, where that is known.
    pub(super) const fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            Framing::Over => Some(0),
            Framing::Chunked(_) | Framing::UntilClose => None,
        }
    }

    /// Whether the last answer has come to its end, with nothing behind it that has been read, and the replica takes
    /// another request. Whether it `is_free` is asked when that comes.
    pub(super) fn may_be_kept(&self) -> bool {
        self.keeps && self.is_over() && self.unread.is_empty()
    }

    /// Whether the next request can be sent.
    pub(super) fn is_free(&mut self) -> bool {
        self.may_be_kept()
            // Closed, or with bytes that nobody asked for: there is nothing to read from one that waits.
            && self.poll_read(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("framing", &self.framing).finish_non_exhaustive()
    }
}

impl Exchange {
    const fn is_empty(&self) -> bool {
        self.head.is_empty() && self.body.is_empty()
    }

    fn advance(&mut self, sent: usize) {
        let of_head = sent.min(self.head.len());
        self.head.advance(of_head);
        self.body.advance((sent - of_head).min(self.body.len()));
    }
}

/// The head of a request; where it goes and how it is framed is not what its headers say but what is done.
fn head_of(request: &Message, host: &str) -> Vec<u8> {
    let path = request.uri().path_and_query().map_or("/", |it| it.as_str());
    let mut head = Vec::with_capacity(512);
    for piece in [request.method().as_str(), " ", path, " HTTP/1.1\r\nhost: ", host, "\r\n"] {
        head.extend_from_slice(piece.as_bytes());
    }
    let ours = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    for (name, value) in request.headers().iter().filter(|it| !ours.contains(it.0)) {
        for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(piece);
        }
    }
    let length = request.body().len();
    if 0 < length || request.method() != Method::GET {
        head.extend_from_slice(b"content-length: ");
        extend_whole(&mut head, length as u64);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
