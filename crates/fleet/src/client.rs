//! The HTTP client that reaches one replica.

use std::{io::ErrorKind, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use crate::health::Failure;

/// Most that is read ahead of a slow client, and so the longest head of an answer.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Sends requests to one replica over kept connections.
pub type ReplicaClient = Client<HttpConnector, Full<Bytes>>;

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
pub(crate) fn new(config: &ClientConfig) -> ReplicaClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(config.connect_timeout));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(15)));
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(config.idle_timeout)
        .pool_max_idle_per_host(config.idle_max)
        .http1_max_buf_size(BUFFER_BYTES_MAX)
        .build(connector)
}

/// What an error of the client says of the replica.
#[must_use]
pub fn failure_of(error: &Error) -> Failure {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return if io.kind() == ErrorKind::ConnectionRefused {
                Failure::Refused
            } else if io.kind() == ErrorKind::TimedOut {
                Failure::TimedOut
            } else {
                Failure::Broken
            };
        }
        source = cause.source();
    }
    Failure::Broken
}
