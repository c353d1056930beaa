//! Connections to a replica over HTTP/1.1, each moved on by whoever it serves.
//!
//! A connection needs somebody who reads and writes for it. Were that a task of its own, each piece of an
//! answer would go from that task to the one that serves the client, and each would wake the other:
//! more work than relaying the piece. So the task that waits for an answer reads the connection as
//! well, and nobody reads one that is not in use: before its next request it is looked at whether the
//! replica has closed it meanwhile.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;
use tower_service::Service as _;

use crate::{
    client::SendError,
    connect::Connector,
    pace::{Pace, Turn},
};

mod connection;
#[cfg(test)]
mod tests;

pub use connection::Failed;
use connection::{Connection, Unanswered};

/// How long after a request was sent on a kept connection the end of that connection means that it was being closed
/// meanwhile, and the request not seen: a round trip, and what a busy machine adds. What a replica had for longer it may
/// have worked on, or may be what it died of.
const CLOSING_SEEN_WITHIN: Duration = Duration::from_millis(50);

/// A request with its body.
type Message = Request<Bytes>;

/// Connections to one replica.
#[derive(Debug)]
pub(crate) struct Pool {
    connector: Connector,
    origin: Uri,
    /// What its `host` header says.
    host: String,
    idle_timeout: Duration,
    idle_max: usize,
    /// [`CLOSING_SEEN_WITHIN`], but for tests.
    closing_seen_within: Duration,
    /// Requests that were sent once more, probes apart.
    resent: AtomicU64,
    /// Those not in use, and since when; the last one used is the last.
    idle: Mutex<VecDeque<(Instant, Connection)>>,
    pace: Pace,
}

impl Pool {
    /// No connections yet to `origin`, which `connector` reaches.
    pub(crate) fn new(
        connector: Connector,
        origin: Uri,
        idle_timeout: Duration,
        idle_max: usize,
    ) -> Arc<Self> {
        let host = origin.authority().map_or("", http::uri::Authority::as_str).to_owned();
        let (idle, pace) = (Mutex::default(), Pace::default());
        let closing_seen_within = CLOSING_SEEN_WITHIN;
        Arc::new(Self {
            connector,
            origin,
            host,
            idle_timeout,
            idle_max,
            closing_seen_within,
            resent: AtomicU64::new(0),
            idle,
            pace,
        })
    }

    /// Sends a request, whose URI has neither scheme nor host, and waits for the head of its answer. A
    /// connection is made for it when it is its turn, or `at_once`. Where a kept connection was closing as it was
    /// sent, it is sent once more on a new one.
    pub(crate) async fn send(
        self: &Arc<Self>,
        request: &Message,
        at_once: bool,
    ) -> Result<Response<Body>, SendError> {
        let mut first_failure = None;
        loop {
            let is_again = first_failure.is_some();
            let kept = if is_again { None } else { self.take() };
            // What is new is rare, and boxed so that what is not does not carry its size.
            let Ready { mut connection, was_used, turn } = match kept {
                Some(kept) => kept,
                None => match Box::pin(self.open(at_once, is_again)).await {
                    Ok(new) => {
                        if is_again && !at_once {
                            self.resent.fetch_add(1, Ordering::Relaxed);
                        }
                        new
                    }
                    // A replica that had the request and is gone now may have died of it.
                    Err(error) => return Err(first_failure.map_or(error, SendError::Http1)),
                },
            };
            let sent = Instant::now();
            let answer = match turn {
                None => connection.exchange(request, &self.host).await,
                Some(turn) => {
                    Box::pin(turn.until_answered(connection.exchange(request, &self.host))).await
                }
            };
            match answer {
                Ok(response) => {
                    let lease = Lease { connection, pool: Arc::clone(self) };
                    return Ok(response.map(|()| Body::new(lease)));
                }
                // The replica was closing the connection just then. Its others it may close as well.
                Err(Unanswered { is_unheard: true, failed })
                    if was_used && !is_again && sent.elapsed() < self.closing_seen_within =>
                {
                    first_failure = Some(failed);
                }
                Err(Unanswered { failed, .. }) => return Err(failed.into()),
            }
        }
    }

    /// How many requests were sent once more, because a kept connection was closing as they were sent; probes apart.
    pub(crate) fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// A connection that is not in use and still open.
    fn take(&self) -> Option<Ready> {
        loop {
            let (since, mut connection) = self.idle.lock().pop_back()?;
            if since.elapsed() < self.idle_timeout && connection.is_free() {
                return Some(Ready { connection, was_used: true, turn: None });
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

    /// Closes what has been kept for too long, where nothing else comes that would.
    pub(crate) fn tidy(&self) {
        let now = Instant::now();
        let is_fresh = |it: &(Instant, _)| now.duration_since(it.0) < self.idle_timeout;
        let mut idle = self.idle.lock();
        let stale = idle.iter().position(is_fresh).unwrap_or(idle.len());
        let stale: Vec<_> = idle.drain(..stale).collect();
        // Closing takes its time, and nobody should wait for it.
        drop(idle);
        drop(stale);
    }

    /// Sends away those who wait for a connection to be made for them.
    pub(crate) fn give_up(&self) {
        self.pace.give_up();
    }

    /// A new connection, or, unless it `must_be_new`, a kept one that has come free while its turn was waited for.
    async fn open(&self, at_once: bool, must_be_new: bool) -> Result<Ready, SendError> {
        let turn = match at_once {
            true => None,
            false => Some(self.pace.turn().await.ok_or(SendError::GivenUp)?),
        };
        match if must_be_new { None } else { self.take() } {
            Some(kept) => Ok(kept),
            None => Ok(Ready { connection: self.connect().await?, was_used: false, turn }),
        }
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(SendError::Connect)?;
        let io = connector.call(self.origin.clone()).await.map_err(SendError::Connect)?;
        Ok(Connection::new(io))
    }
}

/// A connection that can take a request.
struct Ready {
    connection: Connection,
    /// Whether it has had one before, and may just be closing.
    was_used: bool,
    /// Where it was made in turn: over once it is answered on.
    turn: Option<Turn>,
}

/// The body of an answer. Dropped before its end, it closes its connection.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    /// Over a connection that is this answer's alone, until all has come.
    Own(Option<Lease>),
    /// Over one that others move on.
    Shared(Incoming),
}

#[derive(Debug)]
struct Lease {
    connection: Connection,
    pool: Arc<Pool>,
}

/// The rest of an answer can't be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over HTTP/1.1.
    #[error(transparent)]
    Http1(#[from] Failed),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl Body {
    fn new(lease: Lease) -> Self {
        let mut lease = Some(lease);
        // An empty one is never asked for what it has.
        give_back_if_over(&mut lease);
        Self(Kind::Own(lease))
    }

    /// One whose connection is moved on by others.
    pub(crate) const fn shared(incoming: Incoming) -> Self {
        Self(Kind::Shared(incoming))
    }
}

/// Gives the connection back once its answer is over, if another request can be sent on it.
fn give_back_if_over(lease: &mut Option<Lease>) {
    if let Some(Lease { connection, pool }) = lease.take_if(|it| it.connection.is_over())
        && connection.may_be_kept()
    {
        pool.keep(connection);
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Shared(incoming) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx));
                Poll::Ready(frame.map(|it| it.map_err(BodyError::Http2)))
            }
            Kind::Own(lease) => {
                let Some(Lease { connection, .. }) = lease else { return Poll::Ready(None) };
                let piece = ready!(connection.poll_piece(cx)).map_err(BodyError::Http1);
                if piece.is_err() {
                    *lease = None;
                }
                give_back_if_over(lease);
                Poll::Ready(piece.map(|it| it.map(Frame::data)).transpose())
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Own(lease) => lease.is_none(),
            Kind::Shared(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Own(None) => SizeHint::with_exact(0),
            Kind::Own(Some(Lease { connection, .. })) => {
                connection.left().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Kind::Shared(incoming) => incoming.size_hint(),
        }
    }
}
