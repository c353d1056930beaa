//! The parts of the configuration, each with its defaults.

use std::{
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use fleet::{client::ClientConfig, fleet::FleetConfig};
use policy::{
    config::{CostWeights, PrefixConfig, Routing, SessionConfig, StrategyName},
    estimate::EstimateConfig,
    explanation::ExplainConfig,
    slow_start::SlowStart,
};
use serde::{Deserialize, Serialize};
use types::units::{ByteSize, TokenCount};
use wire::headers::session::{SOURCES, Source, Sources};

use super::{pools::Pools, saturating::Saturating, secret::Secret, tls::Tls};
use crate::network::Network;

/// The admin port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Its address; a loopback one unless there is a key.
    pub listen: SocketAddr,
    /// The key that everything but /livez and /readyz asks for. Absent: nobody is asked.
    pub key: Option<Secret>,
    /// Its TLS. Absent: it is not encrypted.
    pub tls: Option<Tls>,
    /// Networks that a replica must be in to be registered at run time; empty, none can be.
    pub registrable: Vec<String>,
}

impl Admin {
    /// The networks that replicas may be registered in.
    pub(crate) fn networks(&self) -> Result<Vec<Network>, Vec<String>> {
        let (mut networks, mut problems) = (Vec::new(), Vec::new());
        for (at, text) in self.registrable.iter().enumerate() {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(problem) => problems.push(format!("admin.registrable[{at}]: {problem}")),
            }
        }
        if problems.is_empty() { Ok(networks) } else { Err(problems) }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.networks().err().unwrap_or_default();
        if !self.listen.ip().is_loopback() && self.key.is_none() {
            problems.push(format!(
                "admin.listen: {} is not a loopback address; set admin.key, or reach the admin port \
                 through a tunnel",
                self.listen
            ));
        }
        problems
    }
}

/// Where replicas are found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Discovery {
    /// A name and a port, `HOST:PORT`; each address that the name has is a replica.
    pub dns: String,
    /// The pool of all of them.
    #[serde(default = "Pools::default_name")]
    pub pool: String,
    /// Time between two lookups.
    #[serde(
        default = "Discovery::interval",
        with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required"
    )]
    pub interval: Duration,
    /// Whether they are reached by TLS, as `upstream.tls` says; their certificates must be for the name.
    #[serde(default)]
    pub https: bool,
}

impl Discovery {
    const fn interval() -> Duration {
        Duration::from_secs(10)
    }
}

/// Who may send requests, and how many.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tenant {
    /// Name in logs; tenants never share a prefix or a session.
    pub name: String,
    /// Its keys.
    pub keys: Vec<Secret>,
    /// Most requests a minute. Absent: no bound.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// Most tokens a minute, of prompts and answers. Absent: no bound.
    #[serde(default)]
    pub tokens_per_minute: Option<u32>,
    /// Most requests at once. Absent: no bound.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// How replicas are chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The rule.
    pub strategy: StrategyName,
    /// How prefixes are remembered.
    pub prefix: Prefix,
    /// How conversations are remembered.
    pub session: Session,
    /// When the rule's choice gives way; `off`: never. Absent: for `sticky`, `prefix-aware` and `kv-aware`
    /// with the defaults, for the others never.
    pub saturation: Saturating,
    /// What `least-latency` weighs.
    pub cost: CostWeights,
    /// What predictions start from.
    pub estimate: EstimateConfig,
    /// How the share of a replica grows that has just come.
    pub slow_start: SlowStart,
    /// How many decisions are explained at `/admin/decisions`.
    pub explain: ExplainConfig,
}

/// How prefixes are remembered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    /// Tokens in one block of the index.
    pub block: TokenCount,
    /// Most memory for the index, whatever the number of replicas.
    pub index_bytes_max: ByteSize,
    /// Most memory for what engines say they hold; none is claimed where none says anything.
    pub held_bytes_max: ByteSize,
    /// Replicas the index has room for at first.
    pub replicas: NonZeroUsize,
    /// Share of the prompt a replica must hold for `prefix-aware` to follow it, 0 to 1.
    pub match_min: f64,
    /// Whether tenants find each other's prompts, as they do in the engines' caches unless they send
    /// a `cache_salt`.
    pub shared_by_tenants: bool,
}

/// How conversations are remembered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    /// How long a conversation stays bound after it was last served.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ttl: Duration,
    /// Most conversations remembered.
    pub sessions_max: NonZeroUsize,
    /// Where a request's session is looked for, first to last; `x-sluice-session-id` goes before
    /// all of them.
    pub keys: Vec<String>,
}

/// How replicas are watched.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Path of the probe.
    pub path: String,
    /// Time between two probes of a replica that is well; others are probed five times as often.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub interval: Duration,
    /// Longest time a probe may take.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
    /// Failed probes in a row that eject.
    pub probe_failures: u32,
    /// Failed requests in a row that eject; a refused connection ejects at once.
    pub request_failures: u32,
    /// Answered probes in a row that readmit.
    pub probe_successes: u32,
    /// Shortest ejection; doubles with each, up to eight times this.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub ejection: Duration,
    /// Longest time without a sign of life (a byte, an answered probe) from a replica that has
    /// requests.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub silence: Duration,
    /// Longest time in which all streams of a replica stand still together, though it answers probes.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub standstill: Duration,
    /// Time between two readings of a replica's metrics.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub scrape_interval: Duration,
}

/// What clients may send.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Longest body.
    pub body_bytes_max: ByteSize,
    /// Most memory for all bodies at once; more is refused with 503.
    pub body_bytes_in_flight_max: ByteSize,
    /// Most connections at once; more wait to be accepted.
    pub connections_max: usize,
    /// Most connections at once from one address (of IPv6, from one network of 64 bits); more are closed.
    /// Absent: no bound, for behind a balancer all clients have its address.
    pub connections_per_address_max: Option<NonZeroUsize>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// For a connection to a replica to come about.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect: Duration,
    /// From a request's last byte to its answer's head, which comes last when it does not stream.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub answer: Duration,
    /// Between two pieces of an answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub stall: Duration,
    /// For a client to agree on TLS.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_handshake: Duration,
    /// For a client to send its head.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_head: Duration,
    /// For a client to send its body.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_body: Duration,
    /// For a client to take the next byte of its answer.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_stall: Duration,
    /// How long an unused connection to a replica is kept; shorter than the replica keeps it.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub upstream_idle: Duration,
}

/// How the router ends.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long it takes requests after it said that it is not ready, so that balancers notice.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub lame_duck: Duration,
    /// Longest time that open answers get after that.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub timeout: Duration,
}

/// Where decisions are recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recording {
    /// Folder, which must exist; each run makes a file of its own in it.
    pub directory: PathBuf,
    /// Length at which a recording ends.
    #[serde(default = "Recording::bytes_max")]
    pub bytes_max: ByteSize,
}

impl Recording {
    /// A recording in `directory` that ends at the default length.
    #[must_use]
    pub const fn into_directory(directory: PathBuf) -> Self {
        Self { directory, bytes_max: Self::bytes_max() }
    }

    const fn bytes_max() -> ByteSize {
        ByteSize(1 << 30)
    }
}

impl Default for Admin {
    fn default() -> Self {
        let listen = (Ipv4Addr::LOCALHOST, 9090).into();
        Self { listen, key: None, tls: None, registrable: Vec::new() }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: StrategyName::LeastLatency,
            prefix: Prefix::default(),
            session: Session::default(),
            saturation: Saturating::Usual,
            cost: CostWeights::default(),
            estimate: EstimateConfig::default(),
            slow_start: SlowStart::default(),
            explain: ExplainConfig::default(),
        }
    }
}

impl Default for Prefix {
    fn default() -> Self {
        let PrefixConfig { block, index_bytes_max, held_bytes_max, replicas } =
            PrefixConfig::default();
        Self {
            block: TokenCount(block),
            index_bytes_max: ByteSize(index_bytes_max),
            held_bytes_max: ByteSize(held_bytes_max),
            replicas,
            match_min: Routing::MATCH_MIN,
            shared_by_tenants: false,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        let SessionConfig { ttl, sessions_max } = SessionConfig::default();
        Self { ttl, sessions_max, keys: SOURCES.map(str::to_owned).to_vec() }
    }
}

impl Default for Health {
    fn default() -> Self {
        let FleetConfig { health, health_path, scrape_interval, client: _, naming: _ } =
            FleetConfig::default();
        Self {
            path: health_path,
            interval: health.interval,
            timeout: health.timeout,
            probe_failures: health.probe_failures,
            request_failures: health.request_failures,
            probe_successes: health.probe_successes,
            ejection: health.ejection,
            silence: health.silence,
            standstill: health.standstill,
            scrape_interval,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: ByteSize(32 << 20),
            body_bytes_in_flight_max: ByteSize(512 << 20),
            connections_max: 10_000,
            connections_per_address_max: None,
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        let ClientConfig { connect_timeout, idle_timeout, idle_max: _ } = ClientConfig::default();
        Self {
            connect: connect_timeout,
            answer: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            client_handshake: Duration::from_secs(5),
            client_head: Duration::from_secs(10),
            client_body: Duration::from_secs(60),
            client_stall: Duration::from_secs(60),
            upstream_idle: idle_timeout,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { lame_duck: Duration::from_secs(5), timeout: Duration::from_secs(120) }
    }
}

/// Whether the system gives so much memory to one who asks for it at once, as an index does: where it does
/// not, the process would be ended. It is given back untouched.
fn can_be_had(bytes: ByteSize) -> bool {
    Vec::<u8>::new().try_reserve_exact(bytes.0).is_ok()
}

impl Policy {
    /// How replicas are chosen.
    #[must_use]
    pub fn routing(&self) -> Routing {
        let default = Routing::new(self.strategy);
        Routing {
            saturation: self.saturation.or(default.saturation),
            match_min: self.prefix.match_min,
            cost: self.cost,
            slow_start: self.slow_start,
            ..default
        }
    }

    /// Where sessions are looked for.
    ///
    /// # Errors
    ///
    /// With a line for each source that is none.
    pub fn sources(&self) -> Result<Sources, Vec<String>> {
        let (mut sources, mut problems) = (Vec::new(), Vec::new());
        for (at, text) in self.session.keys.iter().enumerate() {
            match text.parse::<Source>() {
                Ok(source) => sources.push(source),
                Err(error) => problems.push(format!("policy.session.keys[{at}]: {error}")),
            }
        }
        if problems.is_empty() { Ok(Sources::new(sources)) } else { Err(problems) }
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = self.sources().err().unwrap_or_default();
        let saturation = self.saturation.problems().into_iter();
        problems.extend(saturation.map(|it| format!("policy.saturation.{it}")));
        if !(0.0..=1.0).contains(&self.prefix.match_min) {
            problems.push(format!(
                "policy.prefix.match_min: must be a share from 0 to 1, not {}",
                self.prefix.match_min
            ));
        }
        problems.extend(self.cost.problems().into_iter().map(|it| format!("policy.cost.{it}")));
        let estimate = self.estimate.problems().into_iter();
        problems.extend(estimate.map(|it| format!("policy.estimate.coefficients.{it}")));
        let slow_start = self.slow_start.problems().into_iter();
        problems.extend(slow_start.map(|it| format!("policy.slow_start.{it}")));
        let explain = self.explain.problems().into_iter();
        problems.extend(explain.map(|it| format!("policy.explain.{it}")));
        let block = self.prefix.block.0.0;
        if !(1..=4_096).contains(&block) {
            problems.push(format!("policy.prefix.block: must be 1 to 4096 tokens, not {block}"));
        }
        let bytes = self.prefix.index_bytes_max;
        if bytes.0 < 1 << 16 {
            problems.push(format!("policy.prefix.index_bytes_max: {bytes} is less than 64KiB"));
        }
        let budgets = [("index_bytes_max", bytes), ("held_bytes_max", self.prefix.held_bytes_max)];
        for (name, bytes) in budgets.into_iter().filter(|it| !can_be_had(it.1)) {
            problems.push(format!(
                "policy.prefix.{name}: this machine does not give {bytes} of memory; ask for less"
            ));
        }
        problems
    }
}
