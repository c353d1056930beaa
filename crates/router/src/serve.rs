//! The ports, and how the router begins and ends.
//!
//! Ending has an order, so that a rolling update loses nothing: `/readyz` says no; requests are
//! still taken for the lame-duck time, until balancers have noticed; then the port closes and open
//! answers get until the deadline; what is left is cut off with an error that says so.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use fleet::{dispatch::Dispatch, fleet::Fleet, recorder::Recorder};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use policy::config::DispatcherConfig;
use rand::TryRng as _;
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use types::{block::HashKey, replica::Health};

use crate::{
    admin,
    app::App,
    config::{Config, ConfigError, Drain, Problems, Recording},
    intake::Reader,
    routes, telemetry,
    token_ratio::TokenRatios,
    tokenize::Tokenizers,
};

pub use crate::tokenize::TokenizerError;

/// Longest head of a request, in bytes, and so what one idle connection may hold.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long a refused `accept` (no file descriptors left, say) is waited out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Time between two looks at whether all replicas are ready.
const READY_POLL: Duration = Duration::from_millis(10);

/// How long answers that were cut off get to reach their clients.
const CUT_FLUSH: Duration = Duration::from_secs(1);

/// The router can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration can't be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A port can't be had.
    #[error("cannot listen on {address} (`{key}`): {source}; choose another address")]
    Port { address: SocketAddr, key: &'static str, source: io::Error },
    /// Decisions can't be recorded.
    #[error(
        "cannot make the recording {file} (`recording.directory`): {source}; name a folder that can be written"
    )]
    Recording { file: String, source: io::Error },
    /// A model's tokenizer can't be used.
    #[error("cannot use a tokenizer (`tokenizers`): {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The system gives no random numbers.
    #[error("cannot draw a random seed: {0}")]
    Random(String),
}

/// A router whose ports are open and whose replicas are watched; [`Router::run`] serves.
#[derive(Debug)]
pub struct Router {
    app: Arc<App>,
    config: Config,
    data: TcpListener,
    admin: TcpListener,
}

impl Router {
    /// Checks the configuration, opens both ports (port 0 takes a free one) and begins to watch the
    /// replicas. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the configuration can't be used, before any port opens; or when a port can't be had.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let config = config.checked("given")?;
        let data = bind(config.listen, "listen").await?;
        Self::open_on(config, data).await
    }

    /// As [`Self::open`], with a data port that is open already.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub async fn open_on(config: Config, data: TcpListener) -> Result<Self, StartError> {
        let config = config.checked("given")?;
        let admin = bind(config.admin.listen, "admin.listen").await?;
        let app = Arc::new(assemble(&config)?);
        Ok(Self { app, config, data, admin })
    }

    /// Address of the data port.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn data(&self) -> io::Result<SocketAddr> {
        self.data.local_addr()
    }

    /// Address of the admin port.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn admin(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Waits until every replica takes requests; pending for ever while one does not.
    pub async fn all_ready(&self) {
        let all = || self.app.fleet.status().iter().all(|it| it.health == Health::Ready);
        while !all() {
            tokio::time::sleep(READY_POLL).await;
        }
    }

    /// Serves until `shutdown` completes, and then until all open answers have ended or run out of
    /// time.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let Self { app, config, data, admin } = self;
        let _helpers = Helpers([
            tokio::spawn(serve_admin(admin, admin::routes(Arc::clone(&app)))),
            tokio::spawn(upkeep(Arc::clone(&app))),
        ]);
        let doors = Doors::new(&config, routes::data(Arc::clone(&app)));
        let close = CancellationToken::new();
        let open = doors.serve(data, close.clone());
        tokio::pin!(open);
        tokio::select! {
            () = &mut open => {}
            () = shutdown => end(&app, config.drain, close, open).await,
        }
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| StartError::Port { address, key, source })
}

/// Tasks that end with the router.
struct Helpers([JoinHandle<()>; 2]);

impl Drop for Helpers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn assemble(config: &Config) -> Result<App, StartError> {
    let mut random = rand::rngs::SysRng;
    let mut draw = || random.try_next_u64().map_err(|it| StartError::Random(it.to_string()));
    let hash_key = HashKey(match config.hash_seed {
        Some(seed) => seed,
        None => draw()?,
    });
    let origin = "given".to_owned();
    let sources = config
        .policy
        .sources()
        .map_err(|problems| ConfigError::Invalid { origin, problems: Problems(problems) })?;
    let run = u32::try_from(draw()? >> 32).unwrap_or_default();
    let dispatcher = config.dispatcher(draw()?);
    let recording = config.recording.as_ref();
    let recorder = recording.map(|it| record(it, run, dispatcher)).transpose()?;
    let fleet = Fleet::new(config.fleet(hash_key), Dispatch::recorded(dispatcher, recorder));
    for replica in &config.replicas {
        if let Some(spec) = replica.spec() {
            fleet.join(spec);
        }
    }
    let prefix = &config.policy.prefix;
    let tenants_share = prefix.shared_by_tenants;
    let reader = Reader {
        hash_key,
        block: prefix.block.0,
        sources,
        tenants_share,
        tokenizers: Tokenizers::load(&config.tokenizers, hash_key)?,
        ratios: TokenRatios::default(),
    };
    Ok(App::new(fleet, config, reader, run))
}

/// Begins this run's recording, in a file that is named for when it began.
fn record(
    recording: &Recording,
    run: u32,
    dispatcher: DispatcherConfig,
) -> Result<Recorder, StartError> {
    let began = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
    let file = recording.directory.join(format!("decisions-{began}-{run:08x}.jsonl"));
    let bytes_max = recording.bytes_max.0 as u64;
    let recorder = Recorder::create(&file, bytes_max, dispatcher)
        .map_err(|source| StartError::Recording { file: file.display().to_string(), source })?;
    tracing::info!(file = %file.display(), "recording decisions");
    Ok(recorder)
}

/// Ends in order; see the head of this file.
async fn end(app: &App, drain: Drain, close: CancellationToken, open: impl Future<Output = ()>) {
    tracing::info!(lame_duck = ?drain.lame_duck, timeout = ?drain.timeout, "shutting down");
    app.ending.store(true, std::sync::atomic::Ordering::Relaxed);
    tokio::pin!(open);
    let _ = tokio::time::timeout(drain.lame_duck, &mut open).await;
    close.cancel();
    if tokio::time::timeout(drain.timeout, &mut open).await.is_err() {
        tracing::warn!("cutting off the answers that are still open");
        app.cut.cancel();
        let _ = tokio::time::timeout(CUT_FLUSH, open).await;
    }
}

async fn serve_admin(listener: TcpListener, routes: axum::Router) {
    if let Err(error) = axum::serve(listener, routes).await {
        tracing::error!(%error, "admin port failed");
    }
}

async fn upkeep(app: Arc<App>) {
    let mut ticks = tokio::time::interval(telemetry::UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        app.telemetry.upkeep();
    }
}

/// Takes connections of the data port and serves each.
struct Doors {
    routes: axum::Router,
    connections: Arc<Semaphore>,
    builder: auto::Builder<TokioExecutor>,
}

impl Doors {
    fn new(config: &Config, routes: axum::Router) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(config.timeouts.client_head)
            .max_buf_size(HEAD_BYTES_MAX);
        builder.http2().timer(TokioTimer::new());
        let connections_max = config.limits.connections_max.min(Semaphore::MAX_PERMITS);
        Self { routes, connections: Arc::new(Semaphore::new(connections_max)), builder }
    }

    /// Serves until `close` is cancelled, then until every connection has finished what it has.
    async fn serve(self, listener: TcpListener, close: CancellationToken) {
        let graceful = GracefulShutdown::new();
        tokio::select! {
            () = self.accept(&listener, &graceful) => {}
            () = close.cancelled() => {}
        }
        drop(listener);
        graceful.shutdown().await;
    }

    async fn accept(&self, listener: &TcpListener, graceful: &GracefulShutdown) {
        loop {
            let Ok(permit) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let _ = socket.set_nodelay(true);
            let service = TowerToHyperService::new(self.routes.clone());
            let serving = self.builder.serve_connection(TokioIo::new(socket), service).into_owned();
            let serving = graceful.watch(serving);
            tokio::spawn(async move {
                // What goes wrong here is the client's doing: it hung up, or it does not speak HTTP.
                if let Err(error) = serving.await {
                    tracing::debug!(error, "connection ended");
                }
                drop(permit);
            });
        }
    }
}
