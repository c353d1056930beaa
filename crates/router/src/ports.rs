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
    admin,
    app::{App, Settings},
    client_io::{ClientIo, Protocol},
    config::Timeouts,
};

/// How long a refused `accept` (no file descriptors left, say) is waited out.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Most bytes that the system takes for a client before it can send them; what is under way to the client comes on
/// top, so that no connection becomes slower by this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES_MAX: u32 = 64 << 10;

/// Most connections to the admin port at once.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// Of these, connections for who asks how the router fares, which anybody gets when all others are taken.
const ADMIN_CONNECTIONS_KEPT: usize = 16;

/// How long one of those may last: as long as Prometheus waits for what it scrapes.
const ADMIN_KEPT_LASTS: Duration = Duration::from_secs(10);

/// Longest time that a head may take on one of those.
const ADMIN_KEPT_HEAD: Duration = Duration::from_secs(1);

/// Most requests at once over one HTTP/2 connection to it.
const ADMIN_STREAMS_MAX: u32 = 16;

/// Longest head of a request to the admin port, in bytes.
const ADMIN_HEAD_BYTES_MAX: usize = 16 << 10;

/// Waits for the next connection; one that can't be had is told in the log and waited out.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                tune(&socket);
                return (socket, from);
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Has what is written leave at once, and what can't leave stay with who writes it: a client that reads slowly
/// is then felt up to its replica, where otherwise the system would take megabytes for each.
pub(crate) fn tune(socket: &TcpStream) {
    let _ = socket.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
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

/// Serves the admin port until the task is ended. Whoever takes all its connections can't keep others from
/// learning how the router fares.
pub(crate) async fn serve_admin(app: Arc<App>, listener: TcpListener) {
    let connections =
        Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX.saturating_sub(ADMIN_CONNECTIONS_KEPT)));
    let kept = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_KEPT));
    let (all, health) = (admin::routes(Arc::clone(&app)), admin::health_routes(Arc::clone(&app)));
    loop {
        let (socket, _) = accept(&listener).await;
        let settings = app.settings.load_full();
        if let Ok(permit) = Arc::clone(&connections).try_acquire_owned() {
            let routes = all.clone();
            tokio::spawn(async move {
                let _permit = permit;
                serve_admin_securely(socket, &settings, settings.timeouts, routes, true).await;
            });
            continue;
        }
        let Ok(permit) = Arc::clone(&kept).acquire_owned().await else { return };
        let routes = health.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let client_head = settings.timeouts.client_head.min(ADMIN_KEPT_HEAD);
            let timeouts = Timeouts { client_head, ..settings.timeouts };
            let served = serve_admin_securely(socket, &settings, timeouts, routes, false);
            let _ = tokio::time::timeout(ADMIN_KEPT_LASTS, served).await;
        });
    }
}

async fn serve_admin_securely(
    socket: TcpStream,
    settings: &Settings,
    timeouts: Timeouts,
    routes: axum::Router,
    is_kept_open: bool,
) {
    match &settings.admin_tls {
        None => serve_admin_on(socket, timeouts, routes, is_kept_open).await,
        Some(tls) => {
            let within = timeouts.client_handshake;
            if let Some(stream) = encrypted(socket, Arc::clone(tls), within).await {
                serve_admin_on(stream, timeouts, routes, is_kept_open).await;
            }
        }
    }
}

async fn serve_admin_on<T>(io: T, timeouts: Timeouts, routes: axum::Router, is_kept_open: bool)
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
            http1.keep_alive(is_kept_open);
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
