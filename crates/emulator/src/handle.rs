//! Starts replicas and keeps hold of them.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use engine::{Counters, InvalidProfile, UnknownProfile};
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use types::replica::LoadReport;

use crate::{
    completion::App,
    config::{EmulatorConfig, Options},
    drive::Replica,
    faults::Fault,
    kv_events::{KvEvents, Outlet, Publisher, Sockets},
    serve::{Switch, serve},
};

/// A replica that runs until it is shut down or its handle dropped.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    replica: Arc<Replica>,
    switches: mpsc::Sender<Switch>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
    kv_events: Option<KvEvents>,
}

/// What a replica shows of itself at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    /// What it says of its own load.
    pub load: LoadReport,
    /// What its engine has done since it started.
    pub counters: Counters,
    /// Answers that somebody waits for; falls at once when a client hangs up, while the engine
    /// frees the blocks at the next step boundary.
    pub in_flight: usize,
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its address can't be had.
    #[error("cannot listen on {address}: choose a free port, or port 0")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// An address for its KV events can't be had.
    #[error("cannot publish KV events on {endpoint}: {source}; choose a free port")]
    KvEvents {
        /// The address.
        endpoint: String,
        /// What the system says.
        source: io::Error,
    },
    /// There are not as many ports.
    #[error("no port is left for replica {replica} of {replicas} from port {first} on")]
    NoPort {
        /// The replica without a port, counted from one.
        replica: u16,
        /// Number of replicas.
        replicas: u16,
        /// The first port.
        first: u16,
    },
    /// The listener does not know its own address.
    #[error("the listener has no address")]
    Address(#[source] io::Error),
    /// No profile has the name.
    #[error(transparent)]
    UnknownProfile(#[from] UnknownProfile),
    /// The profile can't run.
    #[error(transparent)]
    InvalidProfile(#[from] InvalidProfile),
}

/// Runs a replica on `listener`, within the current Tokio runtime.
///
/// The longest context is cut to what the KV cache holds, so that every request that is taken can
/// also be finished.
///
/// # Errors
///
/// The profile can't run, or the listener has no address.
pub fn spawn(config: EmulatorConfig, listener: TcpListener) -> Result<Handle, StartError> {
    spawn_with(config, listener, None)
}

/// As [`spawn`], and publishes what the engine caches.
///
/// # Errors
///
/// As [`spawn`], or an address of `kv_events` can't be had.
pub async fn spawn_publishing(
    config: EmulatorConfig,
    listener: TcpListener,
    kv_events: &KvEvents,
) -> Result<Handle, StartError> {
    let sockets = Sockets::open(kv_events)
        .await
        .map_err(|source| StartError::KvEvents { endpoint: kv_events.endpoint.clone(), source })?;
    spawn_with(config, listener, Some(sockets))
}

fn spawn_with(
    config: EmulatorConfig,
    listener: TcpListener,
    sockets: Option<Sockets>,
) -> Result<Handle, StartError> {
    let EmulatorConfig { model, mut profile, fault } = config;
    let address = listener.local_addr().map_err(StartError::Address)?;
    let kv = profile.kv_blocks().tokens(profile.block_size);
    profile.max_model_len = profile.max_model_len.min(kv);
    let (publisher, publishing) = match sockets {
        Some(sockets) => {
            let (publisher, outlet) = Publisher::new(profile.block_size);
            (Some(publisher), Some((sockets, outlet)))
        }
        None => (None, None),
    };
    let kv_events = publishing.as_ref().map(|it| it.0.bound.clone());
    let publishes = publisher.is_some();
    let replica = Arc::new(Replica::new(profile.clone(), address.port().into(), publisher)?);
    let id_seed = id_seed(address);
    let app = App { model, profile, replica: Arc::clone(&replica), id_seed, publishes };
    let (switches, receiver) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let task = {
        let (replica, stop) = (Arc::clone(&replica), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = replica.drive() => {}
                () = publish(publishing) => {}
                () = serve(Arc::new(app), listener, address, receiver, fault) => {}
            }
        })
    };
    Ok(Handle { address, replica, switches, stop, task: Some(task), kv_events })
}

/// Publishes for ever, be there anything to publish or not.
async fn publish(publishing: Option<(Sockets, Outlet)>) {
    match publishing {
        Some((sockets, outlet)) => sockets.serve(outlet).await,
        None => std::future::pending().await,
    }
}

/// Differs between processes and between replicas of one process.
fn id_seed(address: SocketAddr) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
    nanoseconds.rotate_left(16) ^ u64::from(address.port())
}

impl Handle {
    /// Where the replica listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of its API.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it publishes what its engine caches, free ports as they were given.
    #[must_use]
    pub const fn kv_events(&self) -> Option<&KvEvents> {
        self.kv_events.as_ref()
    }

    /// Keeps the next `batches` of KV events from those who listen; whoever asks for them gets them.
    pub fn lose_kv_events(&self, batches: u32) {
        self.replica.lose_kv_events(batches);
    }

    /// KV events published so far, those kept from who listens included.
    #[must_use]
    pub fn kv_events_published(&self) -> u64 {
        self.replica.kv_events_published()
    }

    /// Becomes what a new process would be, without a connection breaking.
    pub fn restart_unseen(&self) {
        self.replica.restart();
    }

    /// Forgets what is cached, unless something runs.
    #[must_use]
    pub fn reset_prefix_cache(&self) -> bool {
        self.replica.reset_prefix_cache()
    }

    /// Makes something go wrong, or right again; returns once it is in force.
    ///
    /// # Errors
    ///
    /// The replica was down and its port can't be had back, or it is shut down.
    pub async fn set_fault(&self, fault: Fault) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotConnected, "the replica is shut down");
        let (switched, wait) = oneshot::channel();
        self.switches.send((fault, switched)).await.map_err(|_| gone())?;
        wait.await.map_err(|_| gone())?
    }

    /// What the replica shows of itself now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let snapshot = self.replica.snapshot();
        Stats { load: snapshot.load, counters: snapshot.counters, in_flight: snapshot.in_flight }
    }

    /// Stops at once: connections break, answers under way are lost.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            // A panic in the task was reported when it happened.
            let _ = task.await;
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts the replicas that the command line asks for.
///
/// # Errors
///
/// An address is taken, or the profile unknown or unable to run.
pub async fn start(options: &Options) -> Result<Vec<Handle>, StartError> {
    let config = options.replica()?;
    // All ports before the first replica says that it is ready.
    let mut listeners = Vec::new();
    for index in 0..options.replicas {
        let address = options.address(index).ok_or_else(|| StartError::NoPort {
            replica: index.saturating_add(1),
            replicas: options.replicas,
            first: options.listen.port(),
        })?;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| StartError::Listen { address, source })?;
        listeners.push((index, listener));
    }
    let mut handles = Vec::new();
    for (index, listener) in listeners {
        let handle = match &options.kv_events {
            None => spawn(config.clone(), listener)?,
            Some(first) => {
                spawn_publishing(config.clone(), listener, &first.of_replica(index)).await?
            }
        };
        let (model, profile) = (&config.model, &config.profile.name);
        tracing::info!(url = handle.url(), model, profile, "emulated replica is ready");
        handles.push(handle);
    }
    Ok(handles)
}

/// Runs the replicas that the command line asks for until `shutdown` is ready.
///
/// # Errors
///
/// As [`start`].
pub async fn run(options: &Options, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
    let handles = start(options).await?;
    shutdown.await;
    for handle in handles {
        handle.shutdown().await;
    }
    Ok(())
}
