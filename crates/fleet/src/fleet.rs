//! The replicas together, and the tasks that watch over them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;
use policy::event::Event;
use rustc_hash::FxBuildHasher;
use tokio::task::AbortHandle;
use types::{
    replica::{Health, ReplicaId},
    request::ModelId,
};

use crate::{
    client::ClientConfig,
    dispatch::Dispatch,
    ejections::Ejections,
    health::HealthConfig,
    kv::follow::{BlockNaming, follow},
    probe,
    replica::{Replica, ReplicaSpec, ReplicaStatus},
    scrape,
};

/// How replicas are watched and reached.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// When they are ejected and readmitted.
    pub health: HealthConfig,
    /// Path of the health probe.
    pub health_path: String,
    /// Time between two readings of their metrics.
    pub scrape_interval: Duration,
    /// How they are reached.
    pub client: ClientConfig,
    /// How blocks are named, for replicas whose engines say what they hold.
    pub naming: BlockNaming,
}

impl Default for FleetConfig {
    fn default() -> Self {
        Self {
            health: HealthConfig::default(),
            health_path: "/health".to_owned(),
            scrape_interval: Duration::from_secs(1),
            client: ClientConfig::default(),
            naming: BlockNaming::default(),
        }
    }
}

/// The replicas, the dispatcher that chooses among them, and the tasks that watch over them.
#[derive(Debug)]
pub struct Fleet {
    config: FleetConfig,
    dispatch: Arc<Dispatch>,
    members: DashMap<ReplicaId, Member, FxBuildHasher>,
    next_id: AtomicU32,
    ejections: Arc<Ejections>,
}

#[derive(Debug)]
struct Member {
    replica: Arc<Replica>,
    /// Ended when the member is dropped.
    watchers: Vec<AbortHandle>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.watchers.iter().for_each(AbortHandle::abort);
    }
}

impl Fleet {
    /// A fleet of nobody, among whom `dispatch` chooses.
    #[must_use]
    pub fn new(config: FleetConfig, dispatch: Arc<Dispatch>) -> Self {
        Self {
            config,
            dispatch,
            members: DashMap::default(),
            next_id: AtomicU32::new(0),
            ejections: Arc::default(),
        }
    }

    /// Adds a replica and starts to watch over it; must be called within a tokio runtime.
    pub fn join(&self, spec: ReplicaSpec) -> ReplicaId {
        let id = ReplicaId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let FleetConfig { health, client, .. } = self.config;
        let replica = Replica::join(&self.dispatch, id, spec, health, &client, &self.ejections);
        let probe = probe::watch(
            Arc::clone(&replica),
            self.config.health_path.clone(),
            self.config.health.timeout,
        );
        let scrape = scrape::watch(
            Arc::clone(&replica),
            self.config.scrape_interval,
            self.config.health.timeout,
        );
        let mut watchers =
            vec![tokio::spawn(probe).abort_handle(), tokio::spawn(scrape).abort_handle()];
        if let Some((feed, source)) = replica.feed().zip(replica.kv_source()) {
            let (feed, source) = (Arc::clone(feed), source.clone());
            let follow = follow(Arc::clone(&replica), feed, source, self.config.naming);
            watchers.push(tokio::spawn(follow).abort_handle());
        }
        self.members.insert(id, Member { replica, watchers });
        id
    }

    /// Removes a replica; what is on its way there ends as it will.
    pub fn leave(&self, id: ReplicaId) {
        if self.members.remove(&id).is_some() {
            self.dispatch.observe(Event::ReplicaLeft(id));
            self.ejections.over(id);
        }
    }

    /// Requests on replica `id` whose last byte has not come.
    #[must_use]
    pub fn in_flight(&self, id: ReplicaId) -> u32 {
        self.dispatch.inspect(|_, it| it.fleet().get(id).map_or(0, |it| it.load.in_flight))
    }

    /// The dispatcher that chooses among the replicas.
    #[must_use]
    pub const fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// Replica `id`, if it belongs to the fleet.
    #[must_use]
    pub fn replica(&self, id: ReplicaId) -> Option<Arc<Replica>> {
        self.members.get(&id).map(|it| Arc::clone(&it.replica))
    }

    /// Every replica, in the order in which they joined.
    #[must_use]
    pub fn replicas(&self) -> Vec<Arc<Replica>> {
        let mut replicas: Vec<_> =
            self.members.iter().map(|it| Arc::clone(&it.value().replica)).collect();
        replicas.sort_by_key(|it| it.id());
        replicas
    }

    /// Whether any replica takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.members.iter().any(|it| it.value().replica.health() == Health::Ready)
    }

    /// How long it is until a replica that serves `model`, and is well, need no longer be left alone; none
    /// where there is no such replica.
    #[must_use]
    pub fn cools_for(&self, model: ModelId) -> Option<Duration> {
        let all = self.members.iter();
        all.filter_map(|it| {
            let replica = &it.value().replica;
            replica.cools_for().filter(|_| replica.serves(model))
        })
        .min()
    }

    /// How every replica fares, in the order in which they joined.
    #[must_use]
    pub fn status(&self) -> Vec<ReplicaStatus> {
        self.replicas().iter().map(|it| it.status()).collect()
    }
}
