//! What both ports do with a connection before a request comes: TLS, and its bounds.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::{http1, http2};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    app::App,
    client_io::{ClientIo, Protocol},
    config::Timeouts,
};

/// How long a refused `accept` (no file descriptors left, say) is waited out.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most connections to the admin port at once.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Most requests at once over one HTTP/2 connection to it.
const ADMIN_STREAMS_MAX: u32 = 16;

/// Longest head of a request to the admin port, in bytes.
const ADMIN_HEAD_BYTES_MAX: usize = 16 << 10;

/// Waits for the next connection; one that can't be had is told in the log and waited out.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                let _ = socket.set_nodelay(true);
                return (socket, from);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Agrees on TLS with a client, who gets `within` for it; nothing when that fails, which is the
/// client's doing.
pub(crate) async fn encrypted(
    socket: TcpStream,
    config: Arc<ServerConfig>,
    within: Duration,
) -> Option<TlsStream<TcpStream>> {
    let agreeing = async {
        // Who says nothing gets nothing made ready, not even in memory.
        socket.readable().await?;
        Box::pin(TlsAcceptor::from(config).accept(socket)).await
    };
    match tokio::time::timeout(within, agreeing).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%error, "no TLS came about");
            None
        }
        Err(_) => {
            tracing::debug!("a client took too long to agree on TLS");
            None
        }
    }
}

/// Serves the admin port until the task is ended.
pub(crate) async fn serve_admin(app: Arc<App>, listener: TcpListener, routes: axum::Router) {
    let connections = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let (socket, _) = accept(&listener).await;
        let (settings, routes) = (app.settings.load_full(), routes.clone());
        tokio::spawn(async move {
            let _permit = permit;
            let timeouts = &settings.timeouts;
            match &settings.admin_tls {
                None => serve_admin_on(socket, timeouts, routes).await,
                Some(tls) => {
                    let within = timeouts.client_handshake;
                    if let Some(stream) = encrypted(socket, Arc::clone(tls), within).await {
                        serve_admin_on(stream, timeouts, routes).await;
                    }
                }
            }
        });
    }
}

async fn serve_admin_on<T>(io: T, timeouts: &Timeouts, routes: axum::Router)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeted = ClientIo::greeted(io, timeouts.client_head, timeouts.client_stall).await;
    let Ok((io, protocol)) = greeted else { return };
    let service = TowerToHyperService::new(routes);
    let served = match protocol {
        Protocol::Http1 => {
            let mut http1 = http1::Builder::new();
            http1.timer(TokioTimer::new()).header_read_timeout(timeouts.client_head);
            http1.max_buf_size(ADMIN_HEAD_BYTES_MAX).serve_connection(io, service).await
        }
        Protocol::Http2 => {
            let mut http2 = http2::Builder::new(TokioExecutor::new());
            http2.timer(TokioTimer::new()).max_concurrent_streams(ADMIN_STREAMS_MAX);
            http2.serve_connection(io, service).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}
