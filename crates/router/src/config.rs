//! The router's configuration: one YAML file, checked in full before anything starts.

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use fleet::{
    client::ClientConfig, fleet::FleetConfig, health::HealthConfig, kv::follow::BlockNaming,
};
use policy::{
    config::{
        CostWeights, DispatcherConfig, PrefixConfig, Routing, Saturation, SessionConfig,
        StrategyName,
    },
    estimate::EstimateConfig,
};
use serde::{Deserialize, Serialize};
use wire::headers::session::{SOURCES, Source, Sources};

pub use self::replica::Replica;
use types::block::HashKey;
pub use types::units;
use types::units::{ByteSize, TokenCount};

/// The router's configuration. Every field but `replicas` has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the data port.
    pub listen: SocketAddr,
    /// The admin port.
    pub admin: Admin,
    /// The replicas to route to.
    pub replicas: Vec<Replica>,
    /// How replicas are chosen.
    pub policy: Policy,
    /// How replicas are watched.
    pub health: Health,
    /// What clients may send.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Replicas that one request may be sent to, the first included; 1 turns retries off.
    pub attempts_max: u32,
    /// How the router ends.
    pub drain: Drain,
    /// Records every decision, for `sluice simulate --recording`. Absent: nothing is recorded.
    pub recording: Option<Recording>,
    /// Keys every hash; routers that share a fleet must share it. Drawn at random when absent.
    #[serde(skip_serializing)]
    pub hash_seed: Option<u64>,
    /// Folders of models' tokenizers (`tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`), by
    /// the names that clients give the models. Without one, text is counted in bytes.
    pub tokenizers: BTreeMap<String, PathBuf>,
    /// Header that names the tenant, which a trusted proxy in front must set; tenants then never
    /// share a prefix or a session. Absent: everyone is one tenant.
    pub tenant_header: Option<String>,
    /// Threads that serve; one for each core when absent.
    pub worker_threads: Option<NonZeroUsize>,
}

/// The admin port.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Its address, which must be a loopback one: nothing on it asks who is there.
    pub listen: SocketAddr,
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
    /// When the rule's choice gives way. Absent: for `sticky` and `prefix-aware` with the
    /// defaults, for the others never.
    pub saturation: Option<Saturation>,
    /// What `least-latency` weighs.
    pub cost: CostWeights,
    /// What predictions start from.
    pub estimate: EstimateConfig,
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
    /// For a client to send its head.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_head: Duration,
    /// For a client to send its body.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub client_body: Duration,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            admin: Admin::default(),
            replicas: Vec::new(),
            policy: Policy::default(),
            health: Health::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            attempts_max: 2,
            drain: Drain::default(),
            recording: None,
            hash_seed: None,
            tokenizers: BTreeMap::new(),
            tenant_header: None,
            worker_threads: None,
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 9090).into() }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: StrategyName::PrefixAware,
            prefix: Prefix::default(),
            session: Session::default(),
            saturation: None,
            cost: CostWeights::default(),
            estimate: EstimateConfig::default(),
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
            client_head: Duration::from_secs(10),
            client_body: Duration::from_secs(60),
            upstream_idle: idle_timeout,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self { lame_duck: Duration::from_secs(5), timeout: Duration::from_secs(120) }
    }
}

/// A configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read configuration {path}: {source}")]
    Read { path: String, source: std::io::Error },
    /// It is not YAML, or has a field that no configuration has.
    #[error("cannot parse configuration {path}: {source}")]
    Parse { path: String, source: serde_yaml::Error },
    /// Its values are wrong; all of them are listed.
    #[error("configuration {origin} is invalid:{problems}")]
    Invalid { origin: String, problems: Problems },
}

/// Everything wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads and checks the configuration at `path`.
///
/// # Errors
///
/// When it can't be read or parsed, or with everything that is wrong with its values.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    read(path)?.checked(&path.display().to_string())
}

/// Reads the configuration at `path`, to be completed and then [checked](Config::checked).
///
/// # Errors
///
/// When it can't be read or parsed.
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    serde_yaml::from_str(&text).map_err(|source| ConfigError::Parse { path: name, source })
}

impl Config {
    /// Returns the configuration if it can be used; `origin` says where it came from.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong with its values.
    pub fn checked(self, origin: &str) -> Result<Self, ConfigError> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(self);
        }
        Err(ConfigError::Invalid { origin: origin.to_owned(), problems: Problems(problems) })
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = replica::problems(self);
        problems.extend(self.policy.problems());
        if !self.admin.listen.ip().is_loopback() {
            problems.push(format!(
                "admin.listen: {} is not a loopback address; nothing on the admin port asks who is \
                 there, so reach it through a tunnel",
                self.admin.listen
            ));
        }
        if self.listen == self.admin.listen && self.listen.port() != 0 {
            problems.push(format!("admin.listen: {} is the data port too", self.listen));
        }
        if !self.health.path.starts_with('/') || self.health.path.parse::<http::Uri>().is_err() {
            problems.push(format!("health.path: `{}` is no path, write /health", self.health.path));
        }
        if self.tenant_header.is_some() && self.tenant_header().is_none() {
            problems.push("tenant_header: must be a header name, such as x-tenant-id".to_owned());
        }
        let limits = &self.limits;
        if limits.body_bytes_in_flight_max < limits.body_bytes_max {
            problems.push(format!(
                "limits.body_bytes_in_flight_max: {} is less than one body may have ({})",
                limits.body_bytes_in_flight_max, limits.body_bytes_max
            ));
        }
        problems.extend(self.zeros().map(|name| format!("{name}: must be more than zero")));
        problems
    }

    /// Names of the fields that are zero and must not be.
    fn zeros(&self) -> impl Iterator<Item = &'static str> {
        let (health, timeouts) = (&self.health, &self.timeouts);
        let durations = [
            ("policy.session.ttl", self.policy.session.ttl),
            ("health.interval", health.interval),
            ("health.timeout", health.timeout),
            ("health.ejection", health.ejection),
            ("health.scrape_interval", health.scrape_interval),
            ("timeouts.connect", timeouts.connect),
            ("timeouts.answer", timeouts.answer),
            ("timeouts.stall", timeouts.stall),
            ("timeouts.client_head", timeouts.client_head),
            ("timeouts.client_body", timeouts.client_body),
            ("timeouts.upstream_idle", timeouts.upstream_idle),
        ]
        .map(|(name, value)| (name, value.is_zero()));
        let numbers = [
            ("attempts_max", self.attempts_max == 0),
            ("health.probe_failures", health.probe_failures == 0),
            ("health.request_failures", health.request_failures == 0),
            ("health.probe_successes", health.probe_successes == 0),
            ("limits.body_bytes_max", self.limits.body_bytes_max.0 == 0),
            ("limits.connections_max", self.limits.connections_max == 0),
        ];
        durations.into_iter().chain(numbers).filter(|it| it.1).map(|it| it.0)
    }

    /// The header that names the tenant.
    #[must_use]
    pub fn tenant_header(&self) -> Option<http::HeaderName> {
        self.tenant_header.as_ref()?.parse().ok()
    }

    /// What the dispatcher is told; `seed` breaks ties.
    #[must_use]
    pub fn dispatcher(&self, seed: u64) -> DispatcherConfig {
        let Policy { prefix, session, .. } = &self.policy;
        DispatcherConfig {
            seed,
            routing: self.policy.routing(),
            prefix: PrefixConfig {
                block: prefix.block.0,
                index_bytes_max: prefix.index_bytes_max.0,
                held_bytes_max: prefix.held_bytes_max.0,
                replicas: prefix.replicas,
            },
            session: SessionConfig { ttl: session.ttl, sessions_max: session.sessions_max },
            estimate: self.policy.estimate,
        }
    }

    /// What the fleet is told.
    #[must_use]
    pub fn fleet(&self, key: HashKey) -> FleetConfig {
        let health = &self.health;
        FleetConfig {
            health: HealthConfig {
                interval: health.interval,
                timeout: health.timeout,
                probe_failures: health.probe_failures,
                request_failures: health.request_failures,
                probe_successes: health.probe_successes,
                ejection: health.ejection,
            },
            health_path: health.path.clone(),
            scrape_interval: health.scrape_interval,
            client: ClientConfig {
                connect_timeout: self.timeouts.connect,
                idle_timeout: self.timeouts.upstream_idle,
                ..ClientConfig::default()
            },
            naming: BlockNaming { key, block: self.policy.prefix.block.0 },
        }
    }
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

    fn problems(&self) -> Vec<String> {
        let mut problems = self.sources().err().unwrap_or_default();
        let saturation = self.saturation.iter().flat_map(Saturation::problems);
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
        let block = self.prefix.block.0.0;
        if !(1..=4_096).contains(&block) {
            problems.push(format!("policy.prefix.block: must be 1 to 4096 tokens, not {block}"));
        }
        let bytes = self.prefix.index_bytes_max;
        if bytes.0 < 1 << 16 {
            problems.push(format!("policy.prefix.index_bytes_max: {bytes} is less than 64KiB"));
        }
        problems
    }
}

mod replica;
#[cfg(test)]
mod tests;
