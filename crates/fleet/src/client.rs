//! The HTTP client that reaches one replica.

use std::{
    error::Error,
    io::ErrorKind,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, uri::PathAndQuery};
use http_body_util::Full;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioTimer},
};

use crate::{connect::Connector, health::Failure, http1::Pool, origin::Origin, tls::Trust};

pub use crate::http1::{Body, BodyError, Failed};

/// Most of one stream that is read ahead of a slow client over HTTP/2, and the longest head.
const H2_STREAM_BYTES_MAX: u32 = 64 << 10;

/// The same for all streams of a connection together: no bound of its own, for streams that wait for
/// slow clients must not hold up those that do not.
const H2_CONNECTION_BYTES_MAX: u32 = (1 << 31) - 1;

/// How often a replica that has requests over HTTP/2 is asked whether it is there, and how long it may
/// take to say so.
const H2_PING: Duration = Duration::from_secs(10);

/// The system's numbers for "too many open files", of this process and of all.
const OUT_OF_FILES: [i32; 2] = [24, 23];

/// What is asked for where nothing is said.
const ROOT: PathAndQuery = PathAndQuery::from_static("/");

/// Sends requests to one replica over kept connections.
#[derive(Clone, Debug)]
pub struct ReplicaClient {
    origin: Origin,
    connections: Connections,
}

/// Connections to one replica.
#[derive(Clone, Debug)]
enum Connections {
    /// Over HTTP/1.1, a request at a time on each.
    Http1(Arc<Pool>),
    /// Over HTTP/2; over HTTP/1.1 where that is what the replica agrees to.
    Http2(Arc<Turns>),
}

/// Connections to a replica that is spoken to by HTTP/2: most servers take 100 or 128 requests on each, and
/// engines have more at once. More than all of them take would wait where nobody sees it.
const H2_CONNECTIONS: usize = 4;

/// A client with one connection over HTTP/2.
type H2Client = legacy::Client<Connector, Full<Bytes>>;

/// Clients that take turns.
#[derive(Debug)]
struct Turns {
    first: H2Client,
    others: Vec<H2Client>,
    turn: AtomicUsize,
}

impl Turns {
    fn new(client: impl Fn() -> H2Client) -> Self {
        let others = (1..H2_CONNECTIONS).map(|_| client()).collect();
        Self { first: client(), others, turn: AtomicUsize::new(0) }
    }

    /// Whose turn it is.
    fn next(&self) -> &H2Client {
        let at = self.turn.fetch_add(1, Ordering::Relaxed) % H2_CONNECTIONS;
        self.others.get(at).unwrap_or(&self.first)
    }
}

/// How one replica is spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// HTTP/2 rather than HTTP/1.1: over TLS where the replica agrees, else without asking.
    pub http2: bool,
    /// Whom to trust, for a replica that is reached by TLS.
    pub trust: Option<Trust>,
}

/// How replicas are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// Longest time for a connection to come about.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept. Shorter than the replica keeps it (uvicorn, which
    /// serves vLLM and SGLang: 5 s), or requests would meet connections that are just closing.
    pub idle_timeout: Duration,
    /// Most unused connections kept to one replica.
    pub idle_max: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(4),
            idle_max: 1_024,
        }
    }
}

impl ReplicaClient {
    /// A client with connections of its own to `origin`.
    #[must_use]
    pub fn new(config: &ClientConfig, reach: &Reach, origin: Origin) -> Self {
        let connector = Connector::new(config.connect_timeout, reach.trust.clone());
        let connections = if reach.http2 {
            Connections::Http2(Arc::new(Turns::new(|| {
                legacy::Client::builder(TokioExecutor::new())
                    .timer(TokioTimer::new())
                    .http2_only(reach.trust.is_none())
                    .http2_initial_stream_window_size(H2_STREAM_BYTES_MAX)
                    .http2_initial_connection_window_size(H2_CONNECTION_BYTES_MAX)
                    .http2_max_header_list_size(H2_STREAM_BYTES_MAX)
                    .http2_keep_alive_interval(H2_PING)
                    .http2_keep_alive_timeout(H2_PING)
                    .pool_timer(TokioTimer::new())
                    .pool_idle_timeout(config.idle_timeout)
                    .pool_max_idle_per_host(config.idle_max)
                    .build(connector.clone())
            })))
        } else {
            let (timeout, max) = (config.idle_timeout, config.idle_max);
            Connections::Http1(Pool::new(connector, origin.uri(ROOT), timeout, max))
        };
        Self { origin, connections }
    }

    /// Sends a request, whose URI has neither scheme nor host, and waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// [`SendError`] when no answer began.
    pub async fn request(&self, request: &Request<Bytes>) -> Result<Response<Body>, SendError> {
        self.send(request, false).await
    }

    /// As [`Self::request`], for what must not wait behind requests that want connections of their own.
    pub(crate) async fn probe(
        &self,
        request: &Request<Bytes>,
    ) -> Result<Response<Body>, SendError> {
        self.send(request, true).await
    }

    async fn send(
        &self,
        request: &Request<Bytes>,
        at_once: bool,
    ) -> Result<Response<Body>, SendError> {
        match &self.connections {
            Connections::Http1(pool) => pool.send(request, at_once).await,
            Connections::Http2(turns) => {
                let path = request.uri().path_and_query().cloned().unwrap_or(ROOT);
                let mut request = request.clone().map(Full::new);
                *request.uri_mut() = self.origin.uri(path);
                // Rarer, and boxed so that what is not does not carry its size.
                Ok(Box::pin(turns.next().request(request)).await?.map(Body::shared))
            }
        }
    }

    /// How many requests were sent once more, on a new connection, because a kept one was closing as they were sent.
    /// Probes are not among them, nor what is sent over HTTP/2.
    pub(crate) fn resent(&self) -> u64 {
        match &self.connections {
            Connections::Http1(pool) => pool.resent(),
            Connections::Http2(_) => 0,
        }
    }

    /// Closes connections that have not been used for too long.
    pub(crate) fn tidy(&self) {
        match &self.connections {
            Connections::Http1(pool) => pool.tidy(),
            // Those have a timer of their own.
            Connections::Http2(_) => {}
        }
    }

    /// Sends away the requests that wait for a connection to be made.
    pub(crate) fn give_up(&self) {
        match &self.connections {
            Connections::Http1(pool) => pool.give_up(),
            Connections::Http2(_) => {}
        }
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The replica was ejected while the request waited for a connection to be made.
    #[error("given up before it was connected to")]
    GivenUp,
    /// The connection failed before an answer began.
    #[error(transparent)]
    Http1(#[from] Failed),
    /// The same, or none came about, where connections are shared.
    #[error(transparent)]
    Http2(#[from] legacy::Error),
}

impl SendError {
    /// Whether no connection came about.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        match self {
            Self::Connect(_) | Self::GivenUp => true,
            Self::Http2(error) => error.is_connect(),
            Self::Http1(_) => false,
        }
    }
}

/// What an error of the client says of the replica.
#[must_use]
pub fn failure_of(error: &SendError) -> Failure {
    let otherwise = if error.is_connect() { Failure::Unconnected } else { Failure::Broken };
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return if io.raw_os_error().is_some_and(|it| OUT_OF_FILES.contains(&it)) {
                Failure::OutOfFiles
            } else if io.kind() == ErrorKind::ConnectionRefused {
                Failure::Refused
            } else if io.kind() == ErrorKind::TimedOut {
                Failure::TimedOut
            } else {
                otherwise
            };
        }
        cause = error.source();
    }
    otherwise
}
