//! Takes connections of the data port, serves each, and has them end in order.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{rt::TokioTimer, server::graceful::GracefulConnection};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
};
use tokio_util::sync::CancellationToken;

use crate::{
    addresses::{Addresses, Place},
    app::{App, Signal},
    client_io::{ClientIo, Protocol},
    config::{Config, Timeouts},
    h2_streams::Streams,
    head_timer::HeadTimer,
    ports,
    reply::Reply,
    routes, visit,
};

/// Longest head of a request, in bytes. One that comes whole with what is read at once is measured by
/// [`routes`]; an idle connection holds up to twice as much.
pub(crate) const HEAD_BYTES_MAX: u32 = 32 << 10;

/// Most requests at once over one HTTP/2 connection.
const H2_STREAMS_MAX: u32 = 100;

/// Most bytes of an answer that wait for an HTTP/2 client.
const H2_SEND_BYTES_MAX: usize = 64 << 10;

/// How often an HTTP/2 client that says nothing is asked whether it is there.
const H2_PING_EVERY: Duration = Duration::from_secs(30);

/// How long a connection that has just come has for its first byte when the port closes.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How long one has that has said something and asked for nothing, for the rest of its first head or of what it agrees
/// on by TLS: a piece that was lost on its way comes again within that time.
const LAST_HEAD: Duration = Duration::from_secs(1);

/// How far the end has come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Phases {
    /// Clients are told to leave.
    pub(crate) ending: CancellationToken,
    /// The port closes, and connections that nobody uses.
    pub(crate) close: Signal,
}

impl Phases {
    /// Completes so long after the port closes.
    async fn closed_for(&self, long: Duration) {
        self.close.comes().await;
        tokio::time::sleep(long).await;
    }
}

/// Takes connections of the data port and serves each.
#[derive(Clone)]
pub(crate) struct Doors {
    app: Arc<App>,
    connections: Arc<Semaphore>,
    addresses: Arc<Addresses>,
    client_head: Duration,
    client_stall: Duration,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl Doors {
    pub(crate) fn new(config: &Config, app: Arc<App>) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .header_read_timeout(config.timeouts.client_head)
            .max_buf_size(HEAD_BYTES_MAX as usize);
        let mut http2 = http2::Builder::new(Streams::new(config.timeouts.client_stall));
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(H2_STREAMS_MAX)
            .max_header_list_size(HEAD_BYTES_MAX)
            .max_send_buf_size(H2_SEND_BYTES_MAX)
            .keep_alive_interval(H2_PING_EVERY);
        let connections_max = config.limits.connections_max.min(Semaphore::MAX_PERMITS);
        let Timeouts { client_head, client_stall, .. } = config.timeouts;
        let connections = Arc::new(Semaphore::new(connections_max));
        let addresses = Arc::default();
        Self { app, connections, addresses, client_head, client_stall, http1, http2 }
    }

    /// Serves until it is time to close, then until every connection has finished what it has.
    pub(crate) async fn serve(self, listener: TcpListener, phases: Phases) {
        let (open, mut all_closed) = mpsc::channel(1);
        tokio::select! {
            () = self.accept(&listener, &open, &phases) => {}
            () = phases.close.comes() => {}
        }
        // Whom the system has let in meanwhile is let in here.
        if let Ok(listener) = listener.into_std() {
            while let Ok((socket, from)) = listener.accept()
                && let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned()
                && socket.set_nonblocking(true).is_ok()
                && let Ok(socket) = TcpStream::from_std(socket)
            {
                ports::tune(&socket);
                self.take(socket, from, permit, &open, &phases);
            }
        }
        drop(open);
        // Each connection holds one end, and nothing is ever said over it.
        let _ = all_closed.recv().await;
    }

    async fn accept(&self, listener: &TcpListener, open: &mpsc::Sender<()>, phases: &Phases) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let (socket, from) = ports::accept(listener).await;
            self.take(socket, from, permit, open, phases);
        }
    }

    /// Serves a connection in a task of its own, unless its address has as many as it may.
    fn take(
        &self,
        socket: TcpStream,
        from: SocketAddr,
        permit: OwnedSemaphorePermit,
        open: &mpsc::Sender<()>,
        phases: &Phases,
    ) {
        let settings = self.app.settings.load();
        let most = settings.limits.connections_per_address_max;
        let Some(place) = self.addresses.enter(from.ip(), most) else { return };
        let held = Held { _permit: permit, _place: place, _open: open.clone() };
        let phases = phases.clone();
        match &settings.tls {
            None => {
                let serving = self.serving(socket, phases, held);
                tokio::spawn(serving);
            }
            Some(tls) => {
                let (tls, within) = (Arc::clone(tls), settings.timeouts.client_handshake);
                let doors = self.clone();
                tokio::spawn(async move {
                    let agreed = tokio::select! {
                        biased;
                        agreed = ports::encrypted(socket, tls, within) => agreed,
                        () = phases.closed_for(LAST_HEAD) => None,
                    };
                    if let Some(stream) = agreed {
                        // Boxed, so that one that has yet to agree takes little.
                        Box::pin(doors.serving(stream, phases, held)).await;
                    }
                });
            }
        }
    }

    /// Serves one connection to its end, and gives up what it `held` then.
    fn serving<T>(
        &self,
        io: T,
        phases: Phases,
        held: Held,
    ) -> impl Future<Output = ()> + Send + use<T>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (app, shared) = (Arc::clone(&self.app), Arc::clone(&self.app));
        let asked = Arc::new(Asked::default());
        let noted = Arc::clone(&asked);
        // Boxed for each request, so that what a request needs before its answer begins is
        // given back then: a connection lives on, and so may its stream.
        // The request stays where it is, and is lent: handed on, it would be in there once for each step.
        let service = service_fn(move |mut request| {
            let (app, asked) = (Arc::clone(&shared), Arc::clone(&noted));
            Box::pin(
                async move { Ok::<_, Infallible>(serve_one(&app, &mut request, &asked).await) },
            )
        });
        let (mut http1, http2) = (self.http1.clone(), self.http2.clone());
        http1.timer(HeadTimer::default());
        let greeted = ClientIo::greeted(io, self.client_head, self.client_stall);
        async move {
            let _held = held;
            let greeted = tokio::select! {
                biased;
                greeted = greeted => greeted,
                () = phases.closed_for(LAST_WORD) => return,
            };
            // Boxed, because what serves is large and would be there twice: before it runs, and while it does.
            let ended = match greeted {
                Ok((io, Protocol::Http1)) => {
                    let connection = http1.serve_connection(io, service);
                    let close = &phases.close;
                    let closing = close.comes();
                    let has_come = || close.has_come();
                    Box::pin(until_closed(connection, closing, has_come, &phases, &asked)).await
                }
                Ok((io, Protocol::Http2)) => {
                    let connection = http2.serve_connection(io, service);
                    let leaving = leaving(&phases, &asked.late);
                    Box::pin(until_closed(connection, leaving, || true, &phases, &asked)).await
                }
                Err(_) => return,
            };
            // What goes wrong here is the client's doing: it hung up, or it does not speak HTTP.
            if let Err(error) = ended {
                visit::unread(&app, &error);
                tracing::debug!(%error, "connection ended");
            }
        }
    }
}

/// What a connection gives back when it ends.
struct Held {
    _permit: OwnedSemaphorePermit,
    _place: Place,
    /// By which it is known that it has not ended.
    _open: mpsc::Sender<()>,
}

/// What is known of the requests of a connection.
#[derive(Debug, Default)]
struct Asked {
    /// Whether the head of one has come.
    any: AtomicBool,
    /// Told of one that was answered after the router had begun to end.
    late: Notify,
}

/// Serves a request. Once the router ends, the answer tells the client to come back over another
/// connection: over HTTP/1 by itself, over HTTP/2 by what the connection does when it learns that there
/// was one late.
async fn serve_one(app: &App, request: &mut Request<Incoming>, asked: &Asked) -> Response<Reply> {
    asked.any.store(true, Ordering::Relaxed);
    let is_http1 = request.version() <= Version::HTTP_11;
    let mut answer = routes::route(app, request).await;
    if app.ending.load(Ordering::Relaxed) {
        asked.late.notify_one();
        if is_http1 {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    answer
}

/// Completes when the client of an HTTP/2 connection is to be told to leave: when the router begins to
/// end; for one that comes later, once it has been answered a request; at the latest when all closes.
async fn leaving(phases: &Phases, late: &Notify) {
    let told = async {
        match phases.ending.is_cancelled() {
            true => late.notified().await,
            false => phases.ending.cancelled().await,
        }
    };
    tokio::select! {
        () = told => {}
        () = phases.close.comes() => {}
    }
}

/// Serves `connection` to its end; from `closing` on it takes no request but those that are on their way. Whether that
/// has come is looked at when it `may_have`: a look takes locks that all connections share, and a connection is
/// moved on with every event that it relays. One that has `asked` for nothing is given up soon after the port closes,
/// which may be long after `closing`: until then what it asks for is served.
async fn until_closed<C: GracefulConnection>(
    connection: C,
    closing: impl Future<Output = ()>,
    may_have: impl Fn() -> bool,
    phases: &Phases,
    asked: &Asked,
) -> Result<(), C::Error> {
    let (mut connection, mut closing) = (pin!(connection), pin!(closing));
    let mut told: Option<Waker> = None;
    let ended = poll_fn(|cx| {
        // What has come is read first.
        if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        let would_tell = told.as_ref().is_some_and(|it| it.will_wake(cx.waker()));
        if would_tell && !may_have() {
            return Poll::Pending;
        }
        told = Some(cx.waker().clone());
        closing.as_mut().poll(cx).map(|()| None)
    });
    if let Some(ended) = ended.await {
        return ended;
    }
    connection.as_mut().graceful_shutdown();
    let given_up = async {
        phases.closed_for(LAST_HEAD).await;
        if asked.any.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        ended = connection => ended,
        () = given_up => Ok(()),
    }
}
