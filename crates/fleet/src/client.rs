//! The HTTP client that reaches one replica.

use std::{error::Error, io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, uri::PathAndQuery};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};

use crate::{connect::Connector, health::Failure, http1, replica::Origin, tls::Trust};

pub use crate::http1::Body;

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
#[derive(Clone, Debug)]
pub enum ReplicaClient {
    /// Each connection has one request at a time.
    Http1(Arc<http1::Pool>),
    /// Requests share connections, where the replica speaks HTTP/2.
    Http2 {
        /// Reaches the replica.
        client: Client<Connector, Full<Bytes>>,
        /// Where the replica is.
        origin: Origin,
    },
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

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// The connection failed before an answer began.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// No connection, or one that failed before an answer began.
    #[error(transparent)]
    Http2(#[from] legacy::Error),
}

impl ReplicaClient {
    /// A client with connections of its own to `origin`.
    pub(crate) fn new(config: &ClientConfig, reach: &Reach, origin: &Origin) -> Self {
        let connector = Connector::new(config.connect_timeout, reach.trust.clone());
        let ClientConfig { idle_timeout, idle_max, .. } = *config;
        if !reach.http2 {
            let uri = origin.uri(PathAndQuery::from_static("/"));
            return Self::Http1(http1::Pool::new(connector, uri, idle_timeout, idle_max));
        }
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_only(reach.trust.is_none())
            .http2_initial_stream_window_size(H2_STREAM_BYTES_MAX)
            .http2_initial_connection_window_size(H2_CONNECTION_BYTES_MAX)
            .http2_max_header_list_size(H2_STREAM_BYTES_MAX)
            .http2_keep_alive_interval(H2_PING)
            .http2_keep_alive_timeout(H2_PING)
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(idle_timeout)
            .pool_max_idle_per_host(idle_max)
            .http1_max_buf_size(http1::BUFFER_BYTES_MAX)
            .build(connector);
        Self::Http2 { client, origin: origin.clone() }
    }

    /// Sends a request, whose URI has neither scheme nor host, and waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// [`SendError`] when no answer began.
    pub async fn request(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, SendError> {
        match self {
            Self::Http1(pool) => pool.send(request).await,
            Self::Http2 { client, origin } => {
                let path = request.uri().path_and_query().cloned();
                *request.uri_mut() = origin.uri(path.unwrap_or(PathAndQuery::from_static("/")));
                // Rare, and boxed so that what is not does not carry its size.
                Ok(Box::pin(client.request(request)).await?.map(Body::shared))
            }
        }
    }
}

/// What an error of the client says of the replica.
#[must_use]
pub fn failure_of(error: &SendError) -> Failure {
    let is_connect = match error {
        SendError::Connect(_) => true,
        SendError::Http1(_) => false,
        SendError::Http2(error) => error.is_connect(),
    };
    let otherwise = if is_connect { Failure::Unconnected } else { Failure::Broken };
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
