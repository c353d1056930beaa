//! The HTTP client that reaches one replica.

use std::{error::Error, io::ErrorKind, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;

use crate::{health::Failure, http1::Pool};

pub use crate::http1::{Body, SendError};

/// Sends requests to one replica over kept connections.
#[derive(Clone, Debug)]
pub struct ReplicaClient(Arc<Pool>);

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
    pub(crate) fn new(config: &ClientConfig, origin: Uri) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.connect_timeout));
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(15)));
        Self(Pool::new(connector, origin, config.idle_timeout, config.idle_max))
    }

    /// Sends a request, whose URI has neither scheme nor host, and waits for the head of its answer.
    ///
    /// # Errors
    ///
    /// [`SendError`] when no answer began.
    pub async fn request(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Body>, SendError> {
        self.0.send(request).await
    }
}

/// What an error of the client says of the replica.
#[must_use]
pub fn failure_of(error: &SendError) -> Failure {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return if io.kind() == ErrorKind::ConnectionRefused {
                Failure::Refused
            } else if io.kind() == ErrorKind::TimedOut {
                Failure::TimedOut
            } else {
                Failure::Broken
            };
        }
        cause = error.source();
    }
    Failure::Broken
}
