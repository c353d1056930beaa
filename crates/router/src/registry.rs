//! Which replicas there are, by name, and who said so: the configuration, the admin port, or DNS.
//!
//! One that goes is drained first: it gets no more requests, and leaves when its last one has ended,
//! or when the time for that is over. So a change of the fleet costs no request.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fleet::replica::ReplicaSpec;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use types::replica::ReplicaId;

use crate::{app::App, config::tls::Trusts};

/// How often a replica that drains is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(50);

/// Most replicas of a fleet.
const REPLICAS_MAX: usize = 4_096;

/// Who said that a replica belongs to the fleet, and so who may say that it does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Configuration,
    AdminPort,
    Dns,
}

/// The replicas by name.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    members: Mutex<BTreeMap<String, Member>>,
    /// Their numbers by their base URLs, by which other routers name them.
    urls: Mutex<FxHashMap<String, ReplicaId>>,
}

impl Registry {
    /// The replica at `url`.
    pub(crate) fn at(&self, url: &str) -> Option<ReplicaId> {
        self.urls.lock().get(url).copied()
    }
}

#[derive(Clone, Debug)]
struct Member {
    id: ReplicaId,
    spec: ReplicaSpec,
    source: Source,
}

/// A replica can't join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CannotJoin {
    #[error("a replica called `{0}` is there already")]
    NameTaken(String),
    #[error("{0} is in the fleet already")]
    UrlTaken(String),
    #[error("the fleet has {REPLICAS_MAX} replicas, which is as many as there may be")]
    Full,
}

/// What a change of the fleet came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) joined: Vec<String>,
    pub(crate) left: Vec<String>,
}

/// Adds a replica.
pub(crate) fn join(app: &App, spec: ReplicaSpec, source: Source) -> Result<(), CannotJoin> {
    let mut members = app.registry.members.lock();
    if members.contains_key(&spec.name) {
        return Err(CannotJoin::NameTaken(spec.name));
    }
    if members.values().any(|it| it.spec.origin == spec.origin) {
        return Err(CannotJoin::UrlTaken(spec.origin.to_string()));
    }
    if REPLICAS_MAX <= members.len() {
        return Err(CannotJoin::Full);
    }
    let id = app.fleet.join(spec.clone());
    app.registry.urls.lock().insert(spec.origin.to_string(), id);
    if let Some(replica) = app.fleet.replica(id) {
        // Its counters begin at zero, not with its first request.
        app.telemetry.replica(&replica);
    }
    members.insert(spec.name.clone(), Member { id, spec, source });
    Ok(())
}

/// Makes the replicas of `source` those that are `wanted`; the others stay as they are.
pub(crate) fn sync(
    app: &Arc<App>,
    source: Source,
    wanted: &BTreeMap<String, ReplicaSpec>,
) -> Change {
    let gone: Vec<String> = {
        let members = app.registry.members.lock();
        let is_gone = |(name, member): &(&String, &Member)| {
            member.source == source && wanted.get(*name) != Some(&member.spec)
        };
        members.iter().filter(is_gone).map(|(name, _)| name.clone()).collect()
    };
    let mut change = Change::default();
    for name in gone {
        if remove(app, &name) {
            change.left.push(name);
        }
    }
    for (name, spec) in wanted {
        match join(app, spec.clone(), source) {
            Ok(()) => change.joined.push(name.clone()),
            // It was there before.
            Err(CannotJoin::NameTaken(_)) => {}
            Err(error @ (CannotJoin::UrlTaken(_) | CannotJoin::Full)) => {
                tracing::warn!(replica = name, %error, "replica cannot join");
            }
        }
    }
    change
}

/// Reads again whom replicas are trusted by, for the connections that come after. What can't be read
/// changes nothing.
pub(crate) fn renew(app: &App) {
    let specs: Vec<ReplicaSpec> =
        app.registry.members.lock().values().map(|it| it.spec.clone()).collect();
    let mut trusts = Trusts::default();
    for ReplicaSpec { name, reach, .. } in specs {
        let Some(trust) = reach.trust else { continue };
        match trusts.read(trust.files(), reach.http2) {
            Ok(config) => trust.renew(config),
            Err(problems) => tracing::warn!(
                replica = name,
                problems = problems.join("; "),
                "certificates not renewed: the old ones stay"
            ),
        }
    }
}

/// Sends the replica called `name` no more requests; it stays in the fleet. Says whether it is there.
pub(crate) fn drain(app: &App, name: &str) -> bool {
    let member = app.registry.members.lock().get(name).cloned();
    let Some(replica) = member.and_then(|it| app.fleet.replica(it.id)) else { return false };
    replica.drain();
    tracing::info!(replica = name, "replica drains");
    true
}

/// Has the replica called `name` leave once its requests have ended. Says whether it was there.
pub(crate) fn remove(app: &Arc<App>, name: &str) -> bool {
    let member = app.registry.members.lock().remove(name);
    let Some(Member { id, spec, .. }) = member else { return false };
    app.registry.urls.lock().remove(&spec.origin.to_string());
    let Some(replica) = app.fleet.replica(id) else { return false };
    replica.drain();
    let app = Arc::clone(app);
    tokio::spawn(async move {
        let deadline = Instant::now() + app.settings.load().drain_timeout;
        while 0 < app.fleet.in_flight(id) && Instant::now() < deadline {
            tokio::time::sleep(DRAIN_LOOK).await;
        }
        app.fleet.leave(id);
        app.telemetry.forget_gone(&app.fleet);
        tracing::info!(replica = replica.name(), "replica left");
    });
    true
}
