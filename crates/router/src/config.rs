//! The router's configuration: one YAML file, checked in full before anything starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use fleet::{
    client::ClientConfig, fleet::FleetConfig, health::HealthConfig, kv::follow::BlockNaming,
    origin::without_user,
};
use policy::{
    admission::AdmissionConfig,
    config::{DispatcherConfig, PrefixConfig, SessionConfig},
};
use report::cost::Prices;
use serde::{Deserialize, Serialize};

use types::block::HashKey;

pub(crate) use self::promises::{Asked, read as read_promise};
pub use self::{
    draft::Draft,
    exposed::{Exposed, exposed},
    peers::Peers,
    pools::{Pool, Pools},
    promises::{Bounds, Priorities, Promises},
    replica::Replica,
    saturating::Saturating,
    secret::Secret,
    sections::{
        Admin, Discovery, Drain, Health, Limits, Policy, Prefix, Recording, Session, Tenant,
        Timeouts,
    },
    tls::{Tls, Upstream},
};
pub use types::units;

mod draft;
pub(crate) mod exposed;
mod peers;
mod pools;
mod promises;
mod replica;
mod saturating;
pub(crate) mod secret;
mod sections;
mod surroundings;
pub(crate) mod tls;

/// Characters of a name that is none that are told.
const NAME_CHARS_TOLD: usize = 80;

/// The router's configuration. Every field but `replicas` has a default.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Address of the data port.
    pub listen: SocketAddr,
    /// TLS of the data port. Absent: it is not encrypted.
    pub tls: Option<Tls>,
    /// The admin port.
    pub admin: Admin,
    /// The replicas to route to.
    pub replicas: Vec<Replica>,
    /// Groups of replicas by the prompts that they are meant for.
    pub pools: Pools,
    /// How replicas are reached.
    pub upstream: Upstream,
    /// Where more replicas are found. Absent: nowhere.
    pub discovery: Option<Discovery>,
    /// Other routers of the fleet, with whom this one shares what it knows of the caches. Absent: none.
    pub peers: Peers,
    /// Who may send requests, and how many. Absent: everyone, without a key.
    pub tenants: Vec<Tenant>,
    /// How replicas are chosen.
    pub policy: Policy,
    /// What requests are promised.
    pub slo: Promises,
    /// How urgent requests may say they are.
    pub priority: Priorities,
    /// What the fleet costs, for the cost of an accepted answer. Absent: nothing is said of costs.
    pub costs: Option<Prices>,
    /// How requests are let in.
    pub admission: AdmissionConfig,
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

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 8080).into(),
            tls: None,
            admin: Admin::default(),
            replicas: Vec::new(),
            pools: Pools::default(),
            upstream: Upstream::default(),
            discovery: None,
            peers: Peers::default(),
            tenants: Vec::new(),
            policy: Policy::default(),
            slo: Promises::default(),
            priority: Priorities::default(),
            costs: None,
            admission: AdmissionConfig::default(),
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

/// A configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("cannot read configuration {path}: {source}")]
    Read { path: String, source: std::io::Error },
    /// It is not YAML, or not of the kind that is asked for.
    #[error("cannot parse configuration {path}: {source}")]
    Parse { path: String, source: serde_yaml::Error },
    /// Keys that nobody knows, values of the wrong kind, values that are wrong: all of them are listed.
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
/// When it can't be read or is no YAML, or with everything that is wrong with its keys and values.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    read(path)?.checked(&path.display().to_string())
}

/// Reads the configuration at `path`, to be completed and then [checked](Draft::checked).
///
/// # Errors
///
/// When it can't be read or is no YAML.
pub fn read(path: &Path) -> Result<Draft, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    Draft::parse(&text).map_err(|source| ConfigError::Parse { path: name, source })
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
        problems.extend(self.slo.problems());
        let costs = self.costs.iter().flat_map(Prices::problems);
        problems.extend(costs.map(|it| format!("costs.{it}")));
        problems.extend(self.admission.problems().into_iter().map(|it| format!("admission.{it}")));
        problems.extend(self.admin.problems());
        problems.extend(tls::problems(self));
        problems.extend(peers::problems(self));
        problems.extend(self.tenant_problems());
        problems.extend(surroundings::problems(self));
        if self.listen == self.admin.listen && self.listen.port() != 0 {
            problems.push(format!("admin.listen: {} is the data port too", self.listen));
        }
        if !self.health.path.starts_with('/') || self.health.path.parse::<http::Uri>().is_err() {
            problems.push(format!("health.path: `{}` is no path, write /health", self.health.path));
        }
        if self.tenant_header.is_some() && self.tenant_header().is_none() {
            problems.push("tenant_header: must be a header name, such as x-tenant-id".to_owned());
        }
        #[cfg(not(feature = "tokenizer"))]
        if let Err(error) = crate::tokenize::Tokenizers::load(&self.tokenizers, HashKey(0)) {
            problems.push(format!("tokenizers: {error}"));
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
            ("timeouts.client_handshake", timeouts.client_handshake),
            ("timeouts.client_head", timeouts.client_head),
            ("timeouts.client_body", timeouts.client_body),
            ("timeouts.client_stall", timeouts.client_stall),
            ("health.silence", health.silence),
            ("health.standstill", health.standstill),
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

    fn tenant_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (mut names, mut keys) = (BTreeSet::new(), Vec::new());
        for (at, tenant) in self.tenants.iter().enumerate() {
            let mut wrong =
                |field, problem| problems.push(format!("tenants[{at}].{field}: {problem}"));
            if let Some(problem) = name_problem(&tenant.name) {
                wrong("name", problem);
            }
            if !names.insert(&tenant.name) {
                wrong("name", format!("`{}` is there twice", tenant.name.escape_debug()));
            }
            if tenant.keys.is_empty() {
                wrong("keys", "name at least one".to_owned());
            }
            for key in &tenant.keys {
                if keys.iter().any(|it| key.is_written_as(it)) {
                    wrong("keys", "one of them is there before: whose would it be?".to_owned());
                }
                keys.push(key.clone());
            }
            for (field, value) in [
                ("requests_per_minute", tenant.requests_per_minute),
                ("tokens_per_minute", tenant.tokens_per_minute),
                ("concurrency", tenant.concurrency),
            ] {
                if value == Some(0) {
                    wrong(field, "must be more than zero".to_owned());
                }
            }
        }
        // Behind a header, anybody may be one.
        if self.tenant_header.is_none() {
            let unknown = self.priority.tenants.keys().filter(|it| !names.contains(it));
            problems.extend(unknown.map(|it| {
                format!("priority.tenants: `{}` is no tenant's name", it.escape_debug())
            }));
        }
        if !self.tenants.is_empty() && self.tenant_header.is_some() {
            problems.push(
                "tenant_header: a tenant is known by its key where tenants are listed".to_owned(),
            );
        }
        problems
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
            admission: self.admission,
            explain: self.policy.explain,
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
                silence: health.silence,
                standstill: health.standstill,
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

/// What is wrong with a name, if anything.
pub(crate) fn name_problem(name: &str) -> Option<String> {
    let fits = (1..=64).contains(&name.len()) && name.bytes().all(|it| it.is_ascii_graphic());
    let told = || format!("`{}` must be 1 to 64 printable characters without spaces", shown(name));
    (!fits).then(told)
}

/// So much of a name that is none as can be shown.
fn shown(name: &str) -> String {
    let name = without_user(name);
    let mut shown: String =
        name.chars().take(NAME_CHARS_TOLD).flat_map(char::escape_debug).collect();
    if NAME_CHARS_TOLD < name.chars().count() {
        shown.push('…');
    }
    shown
}

/// What is wrong with a replica's name, if anything. It is part of paths of the admin port.
pub(crate) fn replica_name_problem(name: &str) -> Option<String> {
    let told = || format!("`{}` must be without `/`, `?`, `#` and `%`", shown(name));
    name_problem(name).or_else(|| name.contains(['/', '?', '#', '%']).then(told))
}

#[cfg(test)]
mod tests;
