//! What the live layer keeps of a replica: where it is, how it is reached, how it fares.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use policy::event::Event;
use tokio::{sync::Notify, time::Instant};
use types::{
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::ModelId,
    time::Timestamp,
};

use crate::{
    client::{ClientConfig, Reach, ReplicaClient},
    dispatch::Dispatch,
    ejections::Ejections,
    health::{Failure, HealthConfig, HealthTracker, Work},
    kv::{
        follow::KvSource,
        status::{Feed, Following, KvStatus},
    },
    origin::Origin,
};

mod cooling;

pub use self::cooling::COOLING_MAX;

/// A replica as the operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// Name for people, headers and metrics.
    pub name: String,
    /// Where it is.
    pub origin: Origin,
    /// How it is spoken to.
    pub reach: Reach,
    /// Where its engine publishes what it holds.
    pub kv: Option<KvSource>,
    /// Tokens that its cache has room for, where its metrics do not say so.
    pub cache: Option<Tokens>,
    /// Its pool, for people.
    pub pool: String,
    /// The longest prompt that this pool takes; none where any.
    pub prompt_max: Option<Tokens>,
}

impl ReplicaSpec {
    /// A replica called `name` at `origin`, spoken to by `reach`, of which nothing else is known.
    #[must_use]
    pub fn new(name: String, origin: Origin, reach: Reach) -> Self {
        let pool = "default".to_owned();
        Self { name, origin, reach, kv: None, cache: None, pool, prompt_max: None }
    }
}

/// Tokens whose computing fills a block of any engine, so that there must be an event of it.
const COMPUTED_MIN: Tokens = Tokens(512);

/// One replica.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    spec: ReplicaSpec,
    client: ReplicaClient,
    dispatch: Arc<Dispatch>,
    state: Mutex<State>,
    stream: Stream,
    feed: Option<Arc<Feed>>,
    ejections: Arc<Ejections>,
    /// Told when the replica is found hung.
    hung: Notify,
}

/// Tokens that came and of which the dispatcher was not told: counted apart, because there are many
/// for each thing that it needs to be told.
#[derive(Debug, Default)]
struct Stream {
    tokens: AtomicU32,
    waited_us: AtomicU64,
    /// When the dispatcher was last told, in nanoseconds of its time.
    told: AtomicU64,
}

/// Time between two occasions at which the dispatcher is told of tokens that came.
const TOKENS_TOLD_EVERY: Duration = Duration::from_millis(100);

/// What changes.
#[derive(Debug)]
struct State {
    tracker: HealthTracker,
    /// Until when it wants to be left alone.
    cooled_until: Option<Instant>,
    load: Option<LoadReport>,
    implausible: u64,
    models: Arc<[Model]>,
}

/// A model as a replica lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The entry of `GET /v1/models`, as received.
    pub entry: serde_json::Value,
}

impl Model {
    /// Whether it is an adapter to another model, as vLLM lists them.
    fn is_adapter(&self) -> bool {
        self.entry.get("parent").is_some_and(serde_json::Value::is_string)
    }
}

/// How a replica fares, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// Which replica.
    pub id: ReplicaId,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// Its pool.
    pub pool: String,
    /// Whether it takes requests.
    pub health: Health,
    /// Names of its models.
    pub models: Vec<String>,
    /// What it last said of its load.
    pub load: Option<LoadReport>,
    /// Samples of its metrics that can't be true.
    pub implausible: u64,
    /// Requests that were sent to it once more, because a kept connection was closing as they were sent.
    pub resent: u64,
}

impl Replica {
    /// A replica that joins the fleet, not ready yet.
    pub(crate) fn join(
        dispatch: &Arc<Dispatch>,
        id: ReplicaId,
        spec: ReplicaSpec,
        health: HealthConfig,
        client: &ClientConfig,
        ejections: &Arc<Ejections>,
    ) -> Arc<Self> {
        dispatch.observe(Event::ReplicaJoined(id));
        if let Some(tokens) = spec.cache {
            dispatch.observe(Event::CacheSized { replica: id, tokens });
        }
        if let Some(prompt_max) = spec.prompt_max {
            dispatch.observe(Event::PromptsBounded { replica: id, prompt_max });
        }
        let tracker = HealthTracker::new(health);
        Arc::new(Self {
            id,
            feed: spec.kv.as_ref().map(|_| Arc::default()),
            client: ReplicaClient::new(client, &spec.reach, spec.origin.clone()),
            dispatch: Arc::clone(dispatch),
            spec,
            state: Mutex::new(State {
                tracker,
                cooled_until: None,
                load: None,
                implausible: 0,
                models: Arc::default(),
            }),
            stream: Stream::default(),
            ejections: Arc::clone(ejections),
            hung: Notify::new(),
        })
    }

    /// Which replica.
    #[must_use]
    pub const fn id(&self) -> ReplicaId {
        self.id
    }

    /// Its name for people, headers and metrics.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where it is.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.spec.origin
    }

    /// How it is reached.
    #[must_use]
    pub const fn client(&self) -> &ReplicaClient {
        &self.client
    }

    /// The models it lists.
    #[must_use]
    pub fn models(&self) -> Arc<[Model]> {
        Arc::clone(&self.state.lock().models)
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn health(&self) -> Health {
        self.state.lock().tracker.health()
    }

    /// How it fares, for people.
    #[must_use]
    pub fn status(&self) -> ReplicaStatus {
        let state = self.state.lock();
        ReplicaStatus {
            id: self.id,
            name: self.spec.name.clone(),
            url: self.spec.origin.to_string(),
            pool: self.spec.pool.clone(),
            health: state.tracker.health(),
            models: state.models.iter().map(|it| it.name.clone()).collect(),
            load: state.load,
            implausible: state.implausible,
            resent: self.client.resent(),
        }
    }

    /// How the following of its engine's events goes; `None` where it publishes none.
    #[must_use]
    pub fn kv_status(&self) -> Option<KvStatus> {
        self.feed.as_ref().map(|it| it.status())
    }

    pub(crate) const fn feed(&self) -> Option<&Arc<Feed>> {
        self.feed.as_ref()
    }

    pub(crate) const fn kv_source(&self) -> Option<&KvSource> {
        self.spec.kv.as_ref()
    }

    pub(crate) fn observe(&self, event: Event) {
        self.dispatch.observe(event);
    }

    /// Learns that the replica computed so many tokens of a prompt.
    pub fn computed(&self, prompt: Tokens) {
        if let Some(feed) = self.feed.as_ref().filter(|_| prompt > COMPUTED_MIN) {
            feed.computed();
        }
    }

    /// Whether it serves `model`, as far as it says.
    #[must_use]
    pub fn serves(&self, model: ModelId) -> bool {
        let models = self.models();
        models.is_empty()
            || model == ModelId::ANY
            || models.iter().any(|it| ModelId::from_name(&it.name) == model)
    }

    /// Learns that the replica answered a request, be it with a refusal.
    pub fn answered(&self) {
        let now = self.dispatch.now();
        self.state.lock().tracker.answered(now);
    }

    /// Learns that bytes of an answer came.
    pub fn byte(&self) {
        let now = self.dispatch.now();
        self.state.lock().tracker.byte(now);
    }

    /// Learns that `tokens` of an answer came at `now`, after the stream had waited `waited`. The
    /// dispatcher is told ten times a second, of all streams at once.
    pub fn tokens_came(&self, now: Instant, tokens: u32, waited: Duration) {
        let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let stream = &self.stream;
        stream.tokens.fetch_add(tokens, Ordering::Relaxed);
        stream.waited_us.fetch_add(waited_us, Ordering::Relaxed);
        let now = u64::try_from(self.dispatch.at(now).elapsed().as_nanos()).unwrap_or(u64::MAX);
        let told = stream.told.load(Ordering::Relaxed);
        let is_due = u128::from(now.saturating_sub(told)) >= TOKENS_TOLD_EVERY.as_nanos();
        let order = Ordering::Relaxed;
        if !is_due || stream.told.compare_exchange(told, now, order, order).is_err() {
            return;
        }
        // A token that comes between the two is counted with the next ones: once, in any case.
        let tokens = stream.tokens.swap(0, Ordering::Relaxed);
        let waited = Duration::from_micros(stream.waited_us.swap(0, Ordering::Relaxed));
        self.dispatch.observe(Event::TokensCame { replica: self.id, tokens, waited });
    }

    /// Learns that a request failed on the replica.
    pub fn request_failed(&self, failure: Failure) {
        let now = self.dispatch.now();
        let may_eject = self.dispatch.inspect(|_, it| self.ejections.may_eject(self.id, it));
        let (change, is_spared) = {
            let tracker = &mut self.state.lock().tracker;
            let had_enough = tracker.has_failed_enough();
            let change = tracker.request_failed(now, failure, may_eject);
            (change, change.is_none() && !had_enough && tracker.has_failed_enough())
        };
        if change.is_some() && failure != Failure::Refused {
            self.ejections.ejected(self.id);
        }
        if is_spared && !may_eject {
            let replica = self.name();
            tracing::warn!(
                replica,
                ?failure,
                "requests fail, and too few others are left to eject it"
            );
        }
        self.health_changed(change, failure);
    }

    /// Completes when the replica is found hung: whoever waits there for the head of an answer waits
    /// in vain.
    pub fn hangs(&self) -> impl Future<Output = ()> + '_ {
        self.hung.notified()
    }

    /// Whether it has requests and has been silent for too long.
    pub(crate) fn is_suspect(&self) -> bool {
        let (now, work) = self.work();
        let change = self.state.lock().tracker.look(now, work);
        if change.is_some() {
            self.found_hung(change);
            return false;
        }
        self.state.lock().tracker.is_suspect(now, work)
    }

    /// Learns that a probe failed which was sent because it was silent.
    pub(crate) fn suspect_failed(&self, failure: Failure) {
        let now = self.dispatch.now();
        let change = self.state.lock().tracker.suspect_failed(now, failure);
        self.found_hung(change);
    }

    /// How often to look whether it is suspect, and how long a probe may then take.
    pub(crate) fn suspicion(&self) -> (Duration, Duration) {
        let state = self.state.lock();
        (state.tracker.look_every(), state.tracker.suspect_timeout())
    }

    fn work(&self) -> (Timestamp, Work) {
        self.dispatch.inspect(|now, dispatcher| {
            let load = dispatcher.fleet().get(self.id).map(|it| it.load).unwrap_or_default();
            let is_prefilling = load.queued_prefill > Tokens::ZERO;
            (now, Work { in_flight: load.in_flight, is_prefilling })
        })
    }

    fn found_hung(&self, change: Option<Health>) {
        self.health_changed(change, Failure::TimedOut);
        if change == Some(Health::Ejected) {
            self.hung.notify_waiters();
        }
    }

    /// Learns the result of a probe.
    pub(crate) fn probed(&self, result: Result<(), Failure>) {
        let now = self.dispatch.now();
        let change = self.state.lock().tracker.probed(now, result);
        self.health_changed(change, result.err().unwrap_or(Failure::Broken));
    }

    /// Sends it no more requests, for good.
    pub fn drain(&self) {
        let change = self.state.lock().tracker.drain();
        self.health_changed(change, Failure::Broken);
    }

    /// Time until the next probe is due.
    pub(crate) fn probe_in(&self) -> Duration {
        self.state.lock().tracker.probe_in()
    }

    /// Learns from its metrics that another process counts. What the engine itself publishes says so
    /// sooner and better.
    pub(crate) fn restarted(&self) {
        match &self.feed {
            Some(feed) if feed.status().following == Following::Followed => feed.lost(),
            Some(_) | None => self.lost_cache(),
        }
    }

    /// Learns that nothing is left in the replica's cache.
    pub(crate) fn lost_cache(&self) {
        self.dispatch.observe(Event::CacheLost(self.id));
        if let Some(feed) = &self.feed {
            feed.lost();
        }
    }

    /// Learns what the replica says of its load; `None` when it says nothing any more.
    pub(crate) fn reported(&self, load: Option<LoadReport>) {
        self.state.lock().load = load;
        if let Some(report) = load {
            self.dispatch.observe(Event::LoadReported { replica: self.id, report });
        }
    }

    /// Learns that so many samples of its metrics can't be true, which is told once.
    pub(crate) fn told_nonsense(&self, samples: u32) {
        if samples == 0 {
            return;
        }
        let before = {
            let state = &mut *self.state.lock();
            let before = state.implausible;
            state.implausible = before.saturating_add(u64::from(samples));
            before
        };
        if before == 0 {
            let replica = self.name();
            tracing::warn!(
                replica,
                samples,
                "samples of its metrics can't be true and are left out"
            );
        }
    }

    /// Learns which models the replica serves.
    pub(crate) fn lists(&self, models: Vec<Model>) {
        let ids = models.iter().map(|it| ModelId::from_name(&it.name)).collect();
        let adapters = models.iter().filter(|it| it.is_adapter());
        let adapters = adapters.map(|it| ModelId::from_name(&it.name)).collect();
        {
            let mut state = self.state.lock();
            if *state.models == *models {
                return;
            }
            state.models = models.into();
        }
        self.dispatch.observe(Event::ModelsListed { replica: self.id, models: ids });
        self.dispatch.observe(Event::AdaptersListed { replica: self.id, adapters });
    }

    fn health_changed(&self, change: Option<Health>, failure: Failure) {
        let Some(health) = change else { return };
        self.tell_health(&self.state.lock());
        let name = self.name();
        match health {
            Health::Ejected => {
                self.client.give_up();
                if failure == Failure::Refused {
                    // Nothing listens: the process is gone, and its KV cache with it.
                    self.lost_cache();
                }
                tracing::warn!(replica = name, ?failure, "replica ejected");
            }
            Health::Ready => {
                self.ejections.over(self.id);
                tracing::info!(replica = name, "replica ready");
            }
            Health::Starting | Health::Draining => self.ejections.over(self.id),
        }
    }
}
