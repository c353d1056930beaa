//! Takes a changed configuration into force without a restart.
//!
//! The whole new configuration is built and checked first, and what can't be used changes nothing.
//! Then replicas join and drain, the strategy is switched, and requests that come from now on see the
//! new limits, times and tenants; those on their way end as they began. What needs a restart is said.
//!
//! The file is looked at once a second rather than watched: mounted configurations are replaced by a
//! switch of links that file events tell in many ways, and a look costs microseconds.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use fleet::replica::ReplicaSpec;
use parking_lot::Mutex;
use policy::event::Event;
use serde::Serialize;

use crate::{
    app::{App, Settings},
    config::{
        Config, ConfigError, Prefix, Problems, exposed,
        tls::{self, Trusts},
    },
    registry::{self, Change},
};

/// When a file was changed, and its length.
type Stamp = (SystemTime, u64);

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where a configuration is read from, again and again.
pub struct Source {
    file: PathBuf,
    /// The file's state before it was read first.
    stamp: Option<Stamp>,
    read: Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

impl Source {
    /// `read` reads `file`, lays over it what was typed, and checks the whole. Made before the file is
    /// read for the first time, so that no change is missed.
    pub fn new(
        file: PathBuf,
        read: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        let stamp = stamp(&file);
        Self { file, stamp, read: Box::new(read) }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    ///
    /// When it can't be used.
    pub fn read(&self) -> Result<Config, ConfigError> {
        (self.read)()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("file", &self.file).finish_non_exhaustive()
    }
}

/// Reloads the configuration of a router.
#[derive(Debug)]
pub(crate) struct Reloader {
    source: Source,
    /// Held from before the file is read until what it says is in force and counted, so that the last text is what stays.
    in_force: Mutex<Config>,
    /// What the router was started with of that which a reload can't change.
    started: [Fixed; FIXED],
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    pub(crate) joined: Vec<String>,
    pub(crate) left: Vec<String>,
    /// What had been changed on the admin port, and is again as the file has it.
    pub(crate) restored: Vec<&'static str>,
    /// What differs from what the router was started with, and is taken into force by a restart only.
    pub(crate) needs_restart: Vec<&'static str>,
}

impl Reloader {
    pub(crate) fn new(source: Source, in_force: Config) -> Self {
        let started = fixed(&in_force);
        Self { source, in_force: Mutex::new(in_force), started }
    }

    /// Where the configuration is read from.
    pub(crate) fn file(&self) -> &Path {
        &self.source.file
    }

    /// Reads the configuration and takes it into force.
    ///
    /// # Errors
    ///
    /// When it can't be used; nothing has changed then.
    pub(crate) fn reload(&self, app: &Arc<App>) -> Result<Report, ConfigError> {
        let mut in_force = self.in_force.lock();
        let result = self.source.read().and_then(|config| self.apply(app, &mut in_force, config));
        app.telemetry.reloaded(result.as_ref().ok().map(|it| it.needs_restart.len()));
        drop(in_force);
        match &result {
            Ok(report) => tracing::info!(
                joined = report.joined.len(),
                left = report.left.len(),
                restored = ?report.restored,
                needs_restart = ?report.needs_restart,
                "configuration reloaded"
            ),
            Err(error) => tracing::error!(%error, "configuration not reloaded: the old one stays"),
        }
        result
    }

    fn apply(
        &self,
        app: &Arc<App>,
        in_force: &mut Config,
        config: Config,
    ) -> Result<Report, ConfigError> {
        let settings = Settings::new(&config, &app.settings.load()).map_err(|problems| {
            ConfigError::Invalid {
                origin: self.source.file.display().to_string(),
                problems: Problems(problems),
            }
        })?;
        let now = fixed(&config);
        let differs = self.started.iter().zip(&now).filter(|(started, now)| started != now);
        let needs_restart: Vec<_> = differs.map(|(started, _)| started.0).collect();
        let restored = decide_by(app, in_force, &config);
        // Before anybody is promised what they say.
        app.telemetry.begin_classes(config.slo.classes.keys().map(String::as_str));
        app.settings.store(Arc::new(settings));
        let Change { joined, left } =
            registry::sync(app, registry::Source::Configuration, &replicas(&config));
        registry::renew(app);
        exposed::warn(&config, Some(self.file()));
        *in_force = config;
        Ok(Report { joined, left, restored, needs_restart })
    }

    /// Reloads whenever the file has changed, or one with a certificate or a key.
    pub(crate) async fn watch(self: Arc<Self>, app: Arc<App>) {
        let mut seen = self.source.stamp;
        let mut seen_tls = self.tls_stamps();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let (now, now_tls) = (stamp(&self.source.file), self.tls_stamps());
            let is_renewed = now_tls != seen_tls && now_tls.iter().all(|it| it.1.is_some());
            // A file that is not there is being replaced.
            if (now != seen && now.is_some()) || is_renewed {
                seen = now;
                let _ = self.reload(&app);
                // Those of the configuration that is in force from now on; one that was replaced
                // meanwhile differs at the next look.
                seen_tls = if is_renewed { now_tls } else { self.tls_stamps() };
            }
        }
    }

    fn tls_stamps(&self) -> Vec<(PathBuf, Option<Stamp>)> {
        let paths = tls::paths(&self.in_force.lock());
        paths.into_iter().map(|it| (stamp(&it), it)).map(|(stamp, it)| (it, stamp)).collect()
    }
}

/// Takes into force how `config` says that replicas are chosen and requests let in. The file goes before what
/// was changed on the admin port since the last one, `before`; names what was.
fn decide_by(app: &App, before: &Config, config: &Config) -> Vec<&'static str> {
    let (routing, admission) = (config.policy.routing(), config.admission);
    let mut restored = Vec::new();
    let dispatch = app.fleet.dispatch();
    let (routed, admitted) = dispatch.inspect(|_, it| (it.routing(), it.admission()));
    if routed != routing {
        if routed != before.policy.routing() {
            restored.push("policy");
        }
        dispatch.observe(Event::RoutingChanged(routing));
    }
    if admitted != admission {
        if admitted != before.admission {
            restored.push("admission");
        }
        dispatch.observe(Event::AdmissionChanged(admission));
    }
    restored
}

/// The replicas that `config` names.
pub(crate) fn replicas(config: &Config) -> BTreeMap<String, ReplicaSpec> {
    let mut trusts = Trusts::default();
    let specs = config
        .replicas
        .iter()
        .filter_map(|it| it.spec(&config.pools, &config.upstream, &mut trusts));
    specs.map(|it| (it.name.clone(), it)).collect()
}

/// What tells one state of a file from the next, links followed.
fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

/// A setting that is read at the start only: its name, and its value in a form that can be compared.
type Fixed = (&'static str, String);

/// How many there are.
const FIXED: usize = 20;

fn fixed(config: &Config) -> [Fixed; FIXED] {
    let Config { policy, limits, timeouts, .. } = config;
    [
        ("listen", config.listen.to_string()),
        ("admin.listen", config.admin.listen.to_string()),
        // All but `match_min`, which is part of how replicas are chosen.
        ("policy.prefix", format!("{:?}", Prefix { match_min: 0.0, ..policy.prefix })),
        ("policy.session", format!("{:?}", (policy.session.ttl, policy.session.sessions_max))),
        ("health", format!("{:?}", config.health)),
        ("limits.connections_max", limits.connections_max.to_string()),
        ("limits.body_bytes_in_flight_max", limits.body_bytes_in_flight_max.to_string()),
        ("policy.estimate", format!("{:?}", policy.estimate)),
        ("policy.explain", format!("{:?}", policy.explain)),
        ("tokenizers", format!("{:?}", config.tokenizers)),
        ("hash_seed", format!("{:?}", config.hash_seed)),
        ("discovery", format!("{:?}", config.discovery)),
        ("peers", format!("{:?}", config.peers)),
        ("timeouts.connect", format!("{:?}", timeouts.connect)),
        ("timeouts.upstream_idle", format!("{:?}", timeouts.upstream_idle)),
        ("timeouts.client_head", format!("{:?}", timeouts.client_head)),
        ("timeouts.client_stall", format!("{:?}", timeouts.client_stall)),
        ("drain.lame_duck", format!("{:?}", config.drain.lame_duck)),
        ("recording", format!("{:?}", config.recording)),
        ("worker_threads", format!("{:?}", config.worker_threads)),
    ]
}
