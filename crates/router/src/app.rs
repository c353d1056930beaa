//! What all requests share.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use fleet::fleet::Fleet;
use http::{HeaderName, HeaderValue};
use report::{cost::Prices, rolling::View};
use rustls::ServerConfig;
use tokio_util::sync::{
    CancellationToken, WaitForCancellationFuture, WaitForCancellationFutureOwned,
};
use types::block::HashKey;
use wire::digits::push_hex;

use crate::{
    admin::decisions::RequestNames,
    body::Budget,
    config::{
        Config, Limits, Pools, Priorities, Promises, Secret, Timeouts, Upstream, secret::KeyHash,
        tls,
    },
    goodput::Goodput,
    intake::Reader,
    network::{Network, OwnPorts},
    peers::Peers,
    quarantine::Quarantine,
    registry::Registry,
    reload::Reloader,
    retries::Retries,
    telemetry::Telemetry,
    tenants::Tenants,
    token_ratio::TokenRatios,
    tokenize::Tokenizers,
};

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) fleet: Fleet,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) goodput: Arc<Goodput>,
    /// What a reload changes; a request keeps what it began with.
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) registry: Registry,
    /// Set where the router was started with a file.
    pub(crate) reloader: OnceLock<Arc<Reloader>>,
    /// Memory for the bodies of all requests.
    pub(crate) bodies: Budget,
    pub(crate) quarantine: Quarantine,
    pub(crate) retries: Retries,
    /// What clients call the requests of late, for those who ask after decisions.
    pub(crate) request_names: RequestNames,
    /// Set when the router has begun to end: it still serves, and says that it is not ready.
    pub(crate) ending: AtomicBool,
    /// Comes when the time for open answers is over.
    pub(crate) cut: Signal,
    /// Where this router listens itself.
    pub(crate) own_ports: OwnPorts,
    /// What is known of the other routers of the fleet.
    pub(crate) peers: Peers,
    /// Comes when the router has ended.
    pub(crate) over: CancellationToken,
    request_ids: RequestIds,
}

/// What a reload changes.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) attempts_max: u32,
    pub(crate) reader: Arc<Reader>,
    pub(crate) tenant_header: Option<HeaderName>,
    pub(crate) promises: Promises,
    pub(crate) priorities: Priorities,
    pub(crate) prices: Option<Prices>,
    pub(crate) tenants: Tenants,
    pub(crate) admin_key: Option<KeyHash>,
    /// What other routers are shown, as a header has it.
    pub(crate) peer_key: Option<HeaderValue>,
    pub(crate) registrable: Vec<Network>,
    pub(crate) pools: Pools,
    pub(crate) upstream: Upstream,
    /// TLS of the data port; a connection keeps what it was made with.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    pub(crate) admin_tls: Option<Arc<ServerConfig>>,
    pub(crate) drain_timeout: Duration,
}

impl Settings {
    /// What `config` says. Hashes and the cut into blocks stay as they were `before`: what is known
    /// of caches and conversations is worth as much as they agree.
    ///
    /// # Errors
    ///
    /// Lists everything that can't be had.
    pub(crate) fn new(config: &Config, before: &Self) -> Result<Self, Vec<String>> {
        let reader = Reader {
            sources: config.policy.sources()?,
            tokenizers: before.reader.tokenizers.clone(),
            ratios: before.reader.ratios.clone(),
            ..*before.reader
        };
        Self::build(config, reader, &before.tenants)
    }

    /// As [`Self::new`], with nothing before.
    pub(crate) fn first(
        config: &Config,
        hash_key: HashKey,
        tokenizers: Tokenizers,
    ) -> Result<Self, Vec<String>> {
        let prefix = &config.policy.prefix;
        let reader = Reader {
            hash_key,
            block: prefix.block.0,
            sources: config.policy.sources()?,
            tenants_share: prefix.shared_by_tenants,
            tokenizers: Arc::new(tokenizers),
            ratios: TokenRatios::default(),
        };
        Self::build(config, reader, &Tenants::default())
    }

    fn build(config: &Config, reader: Reader, tenants: &Tenants) -> Result<Self, Vec<String>> {
        let key = config.admin.key.as_ref().map(Secret::hash).transpose();
        let admin_key = key.map_err(|problem| vec![format!("admin.key.{problem}")])?;
        let tenants = Tenants::new(&config.tenants, tenants)?;
        if admin_key.is_some_and(|it| tenants.knows(&it)) {
            return Err(vec!["admin.key: a tenant has the same key; give it another".to_owned()]);
        }
        let peer_key = config.peers.shown_key(config.admin.key.as_ref());
        let peer_key = peer_key.and_then(|it| it.map(|it| bearer(&it)).transpose());
        Ok(Self {
            limits: config.limits,
            timeouts: config.timeouts,
            attempts_max: config.attempts_max,
            reader: Arc::new(reader),
            tenant_header: config.tenant_header(),
            promises: config.slo.clone(),
            priorities: config.priority.clone(),
            prices: config.costs.clone(),
            tenants,
            admin_key,
            peer_key: peer_key.map_err(|problem| vec![format!("peers.key: {problem}")])?,
            registrable: config.admin.networks()?,
            pools: config.pools.clone(),
            upstream: config.upstream.clone(),
            tls: tls::read("tls", config.tls.as_ref())?,
            admin_tls: tls::read("admin.tls", config.admin.tls.as_ref())?,
            drain_timeout: config.drain.timeout,
        })
    }
}

/// The header that shows `key`.
fn bearer(key: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(format!("Bearer {key}"))
        .map_err(|_| "holds what no header may hold".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// A moment that comes once: from which answers that are still open are cut off, or connections closed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signal {
    /// Read with every event of every stream, where the token's lock would be contended.
    has_come: Arc<AtomicBool>,
    token: CancellationToken,
}

impl Signal {
    /// Makes it now.
    pub(crate) fn now(&self) {
        self.has_come.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(crate) fn has_come(&self) -> bool {
        self.has_come.load(Ordering::Acquire)
    }

    /// Completes when it comes.
    pub(crate) fn comes(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// The same, for what outlives the call.
    pub(crate) fn comes_owned(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }
}

/// Room for such a name.
const REQUEST_ID_BYTES: usize = 32;

/// Names requests that come without a name.
#[derive(Debug)]
struct RequestIds {
    /// How the names of this run begin.
    run: String,
    next: AtomicU64,
}

impl RequestIds {
    fn of(run: u32) -> Self {
        let mut text = "req-".to_owned();
        push_hex(&mut text, run.into(), 8);
        text.push('-');
        Self { run: text, next: AtomicU64::new(0) }
    }
}

impl App {
    /// Puts together what requests share; `run` tells this run's request ids from another's.
    pub(crate) fn new(fleet: Fleet, config: &Config, settings: Settings, run: u64) -> Self {
        let telemetry = Telemetry::new();
        telemetry.begin_classes(config.slo.classes.keys().map(String::as_str));
        Self {
            fleet,
            telemetry: Arc::new(telemetry),
            goodput: Arc::new(Goodput::new()),
            quarantine: Quarantine::new(settings.reader.hash_key),
            retries: Retries::new(run),
            request_names: RequestNames::new(config.policy.explain.keep),
            settings: ArcSwap::from_pointee(settings),
            registry: Registry::default(),
            reloader: OnceLock::new(),
            bodies: Budget::new(config.limits.body_bytes_in_flight_max.0),
            ending: AtomicBool::new(false),
            cut: Signal::default(),
            own_ports: OwnPorts::default(),
            peers: Peers::new(run),
            over: CancellationToken::new(),
            request_ids: RequestIds::of(u32::try_from(run >> 32).unwrap_or_default()),
        }
    }

    /// The time that has passed since 1970 began, as dates in headers count it.
    pub(crate) fn since_1970() -> Duration {
        std::time::UNIX_EPOCH.elapsed().unwrap_or_default()
    }

    /// A name for a request that came without one.
    pub(crate) fn request_id(&self) -> HeaderValue {
        let RequestIds { run, next } = &self.request_ids;
        let number = next.fetch_add(1, Ordering::Relaxed);
        let mut text = String::with_capacity(REQUEST_ID_BYTES);
        text.push_str(run);
        push_hex(&mut text, number, 1);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("req"))
    }

    /// Goodput since the router started, with what is paid for up to now.
    pub(crate) fn goodput(&self) -> View {
        self.goodput.paid(self.replicas());
        self.goodput.view(self.settings.load().prices.as_ref())
    }

    /// Replicas that are paid for: all that are there, whatever their health.
    pub(crate) fn replicas(&self) -> u32 {
        u32::try_from(self.fleet.replicas().len()).unwrap_or(u32::MAX)
    }

    /// Whether requests sent here can be served.
    pub(crate) fn is_ready(&self) -> bool {
        !self.ending.load(Ordering::Relaxed) && self.fleet.is_ready()
    }
}
