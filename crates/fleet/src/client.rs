//! The HTTP client that reaches one replica.

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, Error},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{connect::Connector, health::Failure, tls::Trust};

/// Most that is read ahead of a slow client, and so the longest head of an answer.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Most of one stream that is read ahead of a slow client over HTTP/2.
const H2_STREAM_BYTES_MAX: u32 = 64 << 10;

/// The same for all streams of a connection together: no bound of its own, for streams that wait for
/// slow clients must not hold up those that do not.
const H2_CONNECTION_BYTES_MAX: u32 = (1 << 31) - 1;

/// How often a replica that has requests over HTTP/2 is asked whether it is there, and how long it may
/// take to say so.
const H2_PING: Duration = Duration::from_secs(10);

/// The system's numbers for "too many open files", of this process and of all.
const OUT_OF_FILES: [i32; 2] = [24, 23];

/// Sends requests to one replica over kept connections.
pub type ReplicaClient = Client<Connector, Full<Bytes>>;

/// Connections to a replica that is spoken to by HTTP/2: most servers take 100 or 128 requests on each, and
/// engines have more at once. More than all of them take would wait where nobody sees it.
const H2_CONNECTIONS: usize = 4;

/// The clients of one replica, which take turns.
#[derive(Debug)]
pub(crate) struct Clients {
    first: ReplicaClient,
    others: Vec<ReplicaClient>,
    turn: AtomicUsize,
}

impl Clients {
    /// Clients with connections of their own; over HTTP/1.1 one has as many as it needs.
    pub(crate) fn new(config: &ClientConfig, reach: &Reach) -> Self {
        let others = if reach.http2 { H2_CONNECTIONS - 1 } else { 0 };
        Self {
            first: new(config, reach),
            others: (0..others).map(|_| new(config, reach)).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Whose turn it is.
    pub(crate) fn next(&self) -> &ReplicaClient {
        if self.others.is_empty() {
            return &self.first;
        }
        let at = self.turn.fetch_add(1, Ordering::Relaxed) % (self.others.len() + 1);
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

/// A client with connections of its own.
fn new(config: &ClientConfig, reach: &Reach) -> ReplicaClient {
    let connector = Connector::new(config.connect_timeout, reach.trust.clone());
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_only(reach.http2 && reach.trust.is_none())
        .http2_initial_stream_window_size(H2_STREAM_BYTES_MAX)
        .http2_initial_connection_window_size(H2_CONNECTION_BYTES_MAX)
        .http2_max_header_list_size(H2_STREAM_BYTES_MAX)
        .http2_keep_alive_interval(H2_PING)
        .http2_keep_alive_timeout(H2_PING)
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(config.idle_max)
        .http1_max_buf_size(BUFFER_BYTES_MAX)
        .build(connector)
}

/// What an error of the client says of the replica.
#[must_use]
pub fn failure_of(error: &Error) -> Failure {
    let otherwise = if error.is_connect() { Failure::Unconnected } else { Failure::Broken };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
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
        source = cause.source();
    }
    otherwise
}
