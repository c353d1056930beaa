//! The ports, and how the router begins and ends.
//!
//! Ending has an order, so that a rolling update loses nothing: `/readyz` says no, and every answer
//! tells its client to come back over another connection; requests are still taken for the lame-duck
//! time, until balancers have noticed; then the port closes and open answers get until the deadline;
//! what is left is cut off with an error that says so.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use fleet::{dispatch::Dispatch, fleet::Fleet, recorder::Recorder};
use policy::config::DispatcherConfig;
use rand::TryRng as _;
use tokio::{net::TcpListener, task::JoinHandle};
use types::{block::HashKey, replica::Health};

use crate::{
    app::{App, Settings},
    config::{Config, ConfigError, Drain, Problems, Recording, exposed},
    discovery,
    doors::{Doors, Phases},
    peers, ports, registry,
    reload::{self, Reloader},
    telemetry,
    tokenize::Tokenizers,
};

pub use crate::tokenize::TokenizerError;

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
        let app = assemble(&config)?;
        app.own_ports.learn([&data, &admin]);
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

    /// Has the configuration read again from `source`: when its file has changed, when
    /// [`Self::run_reloading`]'s hint comes, and at the admin port's bidding.
    #[must_use]
    pub fn reloading(self, source: reload::Source) -> Self {
        let reloader = Reloader::new(source, self.config.clone());
        let _ = self.app.reloader.set(Arc::new(reloader));
        self
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
        self.run_reloading(shutdown, std::future::pending).await;
    }

    /// As [`Self::run`]; reads the configuration again whenever `hint` completes.
    pub async fn run_reloading<H>(
        self,
        shutdown: impl Future<Output = ()> + Send,
        hint: impl Fn() -> H + Send + 'static,
    ) where
        H: Future<Output = ()> + Send,
    {
        let Self { app, config, data, admin } = self;
        exposed::warn(&config, app.reloader.get().map(|it| it.file()));
        let mut helpers = vec![
            tokio::spawn(ports::serve_admin(Arc::clone(&app), admin)),
            tokio::spawn(upkeep(Arc::clone(&app))),
            tokio::spawn(tend(Arc::clone(&app))),
        ];
        if let Some(reloader) = app.reloader.get() {
            let (reloader, app) = (Arc::clone(reloader), Arc::clone(&app));
            helpers.push(tokio::spawn(Arc::clone(&reloader).watch(Arc::clone(&app))));
            helpers.push(tokio::spawn(async move {
                loop {
                    hint().await;
                    let _ = reloader.reload(&app);
                }
            }));
        }
        if let Some(discovery) = &config.discovery {
            helpers.push(tokio::spawn(discovery::watch(Arc::clone(&app), discovery.clone())));
        }
        helpers.extend(peers::start(&app, &config.peers));
        let _helpers = Helpers(helpers);
        let _over = app.over.clone().drop_guard();
        let doors = Doors::new(&config, Arc::clone(&app));
        let phases = Phases::default();
        let open = doors.serve(data, phases.clone());
        tokio::pin!(open);
        tokio::select! {
            () = &mut open => {}
            () = shutdown => end(&app, config.drain, phases, open).await,
        }
        // Connections that end later keep the fleet, and with it what was not written yet.
        let dispatch = Arc::clone(app.fleet.dispatch());
        let written = tokio::task::spawn_blocking(move || dispatch.end_recording());
        if let Err(error) = written.await {
            tracing::error!(%error, "the recording may lack its end");
        }
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|source| StartError::Port { address, key, source })
}

/// Tasks that end with the router.
struct Helpers(Vec<JoinHandle<()>>);

impl Drop for Helpers {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

fn assemble(config: &Config) -> Result<Arc<App>, StartError> {
    let mut random = rand::rngs::SysRng;
    let mut draw = || random.try_next_u64().map_err(|it| StartError::Random(it.to_string()));
    let hash_key = HashKey(match config.hash_seed {
        Some(seed) => seed,
        None => draw()?,
    });
    let settings = settings(config, hash_key)?;
    let run = draw()?;
    let dispatcher = config.dispatcher(draw()?);
    let recording = config.recording.as_ref();
    let recorder = recording
        .map(|it| record(it, u32::try_from(run >> 32).unwrap_or_default(), dispatcher))
        .transpose()?;
    let fleet = Fleet::new(config.fleet(hash_key), Dispatch::recorded(dispatcher, recorder));
    let app = Arc::new(App::new(fleet, config, settings, run));
    registry::sync(&app, registry::Source::Configuration, &reload::replicas(config));
    Ok(app)
}

/// Does with a configuration what a start does, but for ports, replicas and recordings, which are left alone.
///
/// # Errors
///
/// When the router can't be started with it.
pub fn try_out(config: &Config) -> Result<(), StartError> {
    settings(config, HashKey(0)).map(drop)
}

fn settings(config: &Config, hash_key: HashKey) -> Result<Settings, StartError> {
    let tokenizers = Tokenizers::load(&config.tokenizers, hash_key)?;
    let settings = Settings::first(config, hash_key, tokenizers);
    Ok(settings.map_err(|problems| ConfigError::Invalid {
        origin: "given".to_owned(),
        problems: Problems(problems),
    })?)
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

/// Looks at the requests that wait for a replica when it is time to.
async fn tend(app: Arc<App>) {
    app.fleet.dispatch().tend().await;
}

/// Ends in order; see the head of this file.
async fn end(app: &App, drain: Drain, phases: Phases, open: impl Future<Output = ()>) {
    tracing::info!(lame_duck = ?drain.lame_duck, timeout = ?drain.timeout, "shutting down");
    app.ending.store(true, Ordering::Relaxed);
    phases.ending.cancel();
    tokio::pin!(open);
    let _ = tokio::time::timeout(drain.lame_duck, &mut open).await;
    phases.close.now();
    if tokio::time::timeout(drain.timeout, &mut open).await.is_err() {
        tracing::warn!("cutting off the answers that are still open");
        app.cut.now();
        let _ = tokio::time::timeout(CUT_FLUSH, open).await;
    }
}

async fn upkeep(app: Arc<App>) {
    let mut ticks = tokio::time::interval(telemetry::UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        app.telemetry.upkeep(&app.fleet);
        app.goodput.paid(app.replicas());
    }
}
