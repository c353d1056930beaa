//! What the routers of one fleet tell each other: each listens to all others, and learns from them where
//! their requests went.
//!
//! `told` is what this router tells, on its admin port; `follow` how it listens to one other. Here are those
//! who are listened to, found in the configuration or by DNS, and what came of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fleet::origin::Origin;
use parking_lot::Mutex;
use policy::event::PeerId;
use sha2::{Digest as _, Sha256};
use tokio::task::{AbortHandle, JoinHandle};
use wire::placements::Fingerprint;

use crate::{app::App, config::Peers as Configured, intake::Reader};

mod follow;
pub(crate) mod told;

/// Most routers that are listened to.
const PEERS_MAX: usize = 64;

/// What is known of the other routers.
#[derive(Debug)]
pub(crate) struct Peers {
    /// Tells this run of this router from every other.
    run: u64,
    /// Runs that are listened to, so that one that is found by two addresses is heard once.
    heard: Mutex<BTreeSet<u64>>,
    next: AtomicU64,
    wanted: AtomicUsize,
    received: AtomicU64,
    unknown: AtomicU64,
    failures: [AtomicU64; Failure::ALL.len()],
}

/// Why another router is not listened to, or no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It can't be reached, or hung up.
    Unreachable,
    /// It does not take the key.
    Key,
    /// It has too many who listen, or does not tell what it places.
    Declined,
    /// It names blocks otherwise: another `hash_seed`, or another cut of prompts.
    Names,
    /// What it says is not understood.
    Malformed,
    /// It said nothing for too long.
    Silent,
}

impl Failure {
    pub(crate) const ALL: [Self; 6] =
        [Self::Unreachable, Self::Key, Self::Declined, Self::Names, Self::Malformed, Self::Silent];

    /// The word in metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Key => "key",
            Self::Declined => "declined",
            Self::Names => "names",
            Self::Malformed => "malformed",
            Self::Silent => "silent",
        }
    }
}

/// What came of listening, for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Routers that should be listened to, this one itself not told apart.
    pub(crate) wanted: usize,
    /// Routers that are.
    pub(crate) connected: usize,
    /// Pieces of news that came.
    pub(crate) received: u64,
    /// Placements among them on replicas that this router does not have.
    pub(crate) unknown: u64,
    /// Failures, in the order of [`Failure::ALL`].
    pub(crate) failures: [u64; Failure::ALL.len()],
}

impl Peers {
    /// Listens to nobody yet; `run` is this run's and no other's.
    pub(crate) fn new(run: u64) -> Self {
        Self {
            run,
            heard: Mutex::default(),
            next: AtomicU64::new(0),
            wanted: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            failures: Failure::ALL.map(|_| AtomicU64::new(0)),
        }
    }

    /// What came of listening so far.
    pub(crate) fn counts(&self) -> Counts {
        let read = |it: &AtomicU64| it.load(Ordering::Relaxed);
        let mut failures = [0; Failure::ALL.len()];
        for (count, failure) in failures.iter_mut().zip(&self.failures) {
            *count = read(failure);
        }
        Counts {
            wanted: self.wanted.load(Ordering::Relaxed),
            connected: self.heard.lock().len(),
            received: read(&self.received),
            unknown: read(&self.unknown),
            failures,
        }
    }

    fn failed(&self, failure: Failure) {
        let count = Failure::ALL.iter().zip(&self.failures).find(|it| *it.0 == failure);
        if let Some((_, count)) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number that no other router has had for a long time.
    fn next_id(&self) -> PeerId {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        PeerId(u16::try_from(next & u64::from(u16::MAX)).unwrap_or_default())
    }
}

/// What is equal where two routers name blocks and conversations alike, and says nothing of the key.
fn fingerprint(reader: &Reader) -> Fingerprint {
    let mut hash = Sha256::new();
    hash.update(b"sluice placements");
    hash.update(reader.hash_key.0.to_le_bytes());
    hash.update(reader.block.0.to_le_bytes());
    hash.update([u8::from(reader.tenants_share)]);
    let mut fingerprint = Fingerprint::default();
    fingerprint.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    fingerprint
}

/// A router that is listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    /// Its admin port.
    origin: Origin,
    /// The name that its certificate must have.
    host: String,
}

/// Those who are listened to, each by a task that ends when it is dropped.
#[derive(Default)]
struct Followed(BTreeMap<String, Task>);

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Followed {
    /// Listens to those who are `wanted` and to nobody else.
    fn set(&mut self, app: &Arc<App>, configured: &Arc<Configured>, wanted: Vec<Target>) {
        let wanted: BTreeMap<String, Target> =
            wanted.into_iter().take(PEERS_MAX).map(|it| (it.origin.to_string(), it)).collect();
        app.peers.wanted.store(wanted.len(), Ordering::Relaxed);
        self.0.retain(|url, _| wanted.contains_key(url));
        for (url, target) in wanted {
            self.0.entry(url).or_insert_with(|| {
                let id = app.peers.next_id();
                let follow = follow::follow(Arc::clone(app), Arc::clone(configured), target, id);
                Task(tokio::spawn(follow).abort_handle())
            });
        }
    }
}

/// Begins to listen to the routers that are configured; nothing where there are none. The task ends when
/// it is aborted, and with it all that it began.
pub(crate) fn start(app: &Arc<App>, configured: &Configured) -> Option<JoinHandle<()>> {
    if configured.is_empty() {
        return None;
    }
    let (app, configured) = (Arc::clone(app), Arc::new(configured.clone()));
    Some(tokio::spawn(async move {
        let mut followed = Followed::default();
        let named: Vec<Target> = configured.urls.iter().filter_map(|it| named(it)).collect();
        followed.set(&app, &configured, named.clone());
        let Some(dns) = &configured.dns else { return std::future::pending().await };
        look_up(&app, &configured, dns, &named, &mut followed).await;
    }))
}

fn named(url: &str) -> Option<Target> {
    let origin: Origin = url.parse().ok()?;
    let host = origin.host_and_port().0.to_owned();
    Some(Target { origin, host })
}

/// Looks the name up again and again. A lookup that fails, or finds nobody, changes nothing.
async fn look_up(
    app: &Arc<App>,
    configured: &Arc<Configured>,
    dns: &str,
    named: &[Target],
    followed: &mut Followed,
) {
    let mut ticks = tokio::time::interval(configured.interval.max(Duration::from_millis(100)));
    let scheme = if configured.https { "https" } else { "http" };
    let host = dns.rsplit_once(':').map_or(dns, |it| it.0);
    let mut is_failing = false;
    loop {
        ticks.tick().await;
        let found = tokio::net::lookup_host(dns).await;
        let found: Vec<Target> = found
            .into_iter()
            .flatten()
            .filter_map(|it| format!("{scheme}://{it}").parse().ok())
            .map(|origin| Target { origin, host: host.to_owned() })
            .collect();
        if found.is_empty() {
            if !std::mem::replace(&mut is_failing, true) {
                tracing::warn!(dns, "no other router is found by the name; those known stay");
            }
            continue;
        }
        is_failing = false;
        followed.set(app, configured, named.iter().cloned().chain(found).collect());
    }
}
