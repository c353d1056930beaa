//! Connections to a replica over HTTP/1.1, each moved on by whoever it serves.
//!
//! A connection needs somebody who reads and writes for it. Were that a task of its own, each piece of an
//! answer would go from that task to the one that serves the client, and each would wake the other:
//! more work than relaying the piece. So the task that waits for an answer moves the connection as
//! well, and nobody moves one that is not in use: before its next request it is looked at whether the
//! replica has closed it meanwhile.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{
        TrySendError,
        http1::{self, SendRequest},
    },
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_service::Service as _;

use crate::{
    client::SendError,
    connect::{Connector, Stream},
};

#[cfg(test)]
mod tests;

/// Most that is read ahead of a slow client, and so the longest head of an answer.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Times that a connection is moved on at once before the others of its thread get their turn.
const TURNS_MAX: u32 = 4;

/// What reads and writes for a connection.
type Moving = http1::Connection<Stream, Full<Bytes>>;
type Message = Request<Full<Bytes>>;

/// Connections to one replica.
#[derive(Debug)]
pub(crate) struct Pool {
    connector: Connector,
    origin: Uri,
    host: HeaderValue,
    idle_timeout: Duration,
    idle_max: usize,
    /// Those not in use, and since when; the last one used is the last.
    idle: Mutex<VecDeque<(Instant, Connection)>>,
}

impl Pool {
    /// No connections yet to `origin`, which `connector` reaches.
    pub(crate) fn new(
        connector: Connector,
        origin: Uri,
        idle_timeout: Duration,
        idle_max: usize,
    ) -> Arc<Self> {
        let authority = origin.authority().map_or("", http::uri::Authority::as_str);
        let host = HeaderValue::try_from(authority).unwrap_or(HeaderValue::from_static(""));
        let idle = Mutex::default();
        Arc::new(Self { connector, origin, host, idle_timeout, idle_max, idle })
    }

    /// Sends a request, whose URI has neither scheme nor host, and waits for the head of its answer.
    pub(crate) async fn send(
        self: &Arc<Self>,
        mut request: Message,
    ) -> Result<Response<Body>, SendError> {
        request.headers_mut().insert(header::HOST, self.host.clone());
        loop {
            let (mut connection, was_used) = match self.take() {
                Some(kept) => (kept, true),
                // Rare, and boxed so that what is not does not carry its size.
                None => (Box::pin(self.connect()).await?, false),
            };
            match connection.exchange(request).await {
                Ok(response) => {
                    let lease = Lease { connection, pool: Arc::clone(self) };
                    return Ok(response.map(|incoming| Body::new(incoming, lease)));
                }
                Err(mut error) => match error.take_message().filter(|_| was_used) {
                    // The replica was closing the connection just then, and has seen nothing of it.
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// A connection that is not in use and still open.
    fn take(&self) -> Option<Connection> {
        loop {
            let (since, mut connection) = self.idle.lock().pop_back()?;
            if since.elapsed() < self.idle_timeout && connection.is_free() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection that is free for the next request, and drops those kept for too long.
    fn keep(&self, connection: Connection) {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        while idle.front().is_some_and(|it| self.idle_timeout <= now.duration_since(it.0)) {
            idle.pop_front();
        }
        if idle.len() < self.idle_max {
            idle.push_back((now, connection));
        }
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(SendError::Connect)?;
        let io = connector.call(self.origin.clone()).await.map_err(SendError::Connect)?;
        let mut builder = http1::Builder::new();
        let (sender, io) = builder.max_buf_size(BUFFER_BYTES_MAX).handshake(io).await?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(Arc::clone(&bell));
        Ok(Connection { sender, io: Some(Box::pin(io)), bell, waker })
    }
}

/// One connection: what takes a request, and what reads and writes.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Absent once it is closed.
    io: Option<Pin<Box<Moving>>>,
    bell: Arc<Bell>,
    /// What rings the bell.
    waker: Waker,
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    async fn exchange(
        &mut self,
        request: Message,
    ) -> Result<Response<Incoming>, TrySendError<Message>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| self.poll(cx, |cx| answer.as_mut().poll(cx))).await
    }

    /// Moves the connection on, and looks with `look` whether that brought about what is waited for.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.bell.is_waiting_for(cx.waker()) {
            // Nothing has happened since it was looked at last.
            return Poll::Pending;
        }
        self.bell.rings_for(cx.waker());
        for _ in 0..TURNS_MAX {
            self.bell.mute();
            self.move_on();
            // Nothing comes about but by moving on, which rings no later than now.
            let looked = look(&mut Context::from_waker(&self.waker));
            if looked.is_ready() || self.bell.unmute() {
                return looked;
            }
        }
        self.bell.mute();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn move_on(&mut self) {
        let Some(io) = &mut self.io else { return };
        if io.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready() {
            // Whoever waits for something of it is told when it goes.
            self.io = None;
        }
    }

    /// Whether the last answer has come to its end and the next request can be sent.
    fn is_free(&mut self) -> bool {
        self.move_on();
        self.io.is_some() && self.sender.is_ready()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("is_open", &self.io.is_some()).finish_non_exhaustive()
    }
}

/// Wakes the task that a connection serves, unless that task is just moving it: taking a piece out of
/// the connection rings as well, and would have the task look again for nothing.
#[derive(Debug)]
struct Bell {
    state: AtomicU8,
    task: Mutex<Waker>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { state: AtomicU8::new(Self::MUTED), task: Mutex::new(Waker::noop().clone()) }
    }
}

impl Bell {
    /// The task waits and is to be woken.
    const LOUD: u8 = 0;
    /// The task looks, or nobody waits.
    const MUTED: u8 = 1;
    /// It has rung, or would have, since it was muted.
    const RUNG: u8 = 2;

    fn rings_for(&self, task: &Waker) {
        self.task.lock().clone_from(task);
    }

    /// Whether `task` is to be woken and has not been.
    fn is_waiting_for(&self, task: &Waker) -> bool {
        self.state.load(Ordering::SeqCst) == Self::LOUD && self.task.lock().will_wake(task)
    }

    fn mute(&self) {
        self.state.store(Self::MUTED, Ordering::SeqCst);
    }

    /// Has it ring again, unless it would have rung since it was muted; returns whether it does.
    fn unmute(&self) -> bool {
        let (muted, loud, order) = (Self::MUTED, Self::LOUD, Ordering::SeqCst);
        self.state.compare_exchange(muted, loud, order, order).is_ok()
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(Self::RUNG, Ordering::SeqCst) == Self::LOUD {
            self.task.lock().wake_by_ref();
        }
    }
}

/// The body of an answer. Dropped before its end, it closes its connection.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    /// The connection, until all has come; none where it is not this answer's alone.
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
}

impl Body {
    fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self { incoming, lease: Some(lease) };
        // An empty one is never asked for what it has.
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    /// One whose connection is moved on by others.
    pub(crate) const fn shared(incoming: Incoming) -> Self {
        Self { incoming, lease: None }
    }

    /// Gives the connection back if another request can be sent on it.
    fn give_back(&mut self) {
        if let Some(Lease { mut connection, pool }) = self.lease.take()
            && connection.is_free()
        {
            pool.keep(connection);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let mut incoming = Pin::new(&mut this.incoming);
        let frame = match &mut this.lease {
            Some(lease) => lease.connection.poll(cx, |cx| incoming.as_mut().poll_frame(cx)),
            None => incoming.poll_frame(cx),
        };
        if matches!(frame, Poll::Ready(None)) || this.incoming.is_end_stream() {
            this.give_back();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
