//! The replicas of a configuration.

use std::collections::BTreeSet;

use fleet::{
    kv::follow::{KvEndpoint, KvSource},
    origin::{Origin, without_user},
    replica::ReplicaSpec,
    tls::TrustFiles,
};
use serde::{Deserialize, Serialize};
use types::units::TokenCount;

use super::{
    Config, Pools, name_problem, replica_name_problem,
    tls::{Trusts, Upstream},
};

/// A replica.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replica {
    /// Name in headers, logs and metrics; the host and port when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Where it is: `http://HOST:PORT`, or `https://HOST:PORT` where it is reached by TLS.
    pub url: String,
    /// Its pool; `default` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether it is spoken to by HTTP/2. Absent: what `upstream.http2` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http2: Option<bool>,
    /// Whom to trust and what to show it, all of it. Absent: what `upstream.tls` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TrustFiles>,
    /// Tokens that its KV cache has room for, where its metrics do not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<TokenCount>,
    /// Where its engine publishes KV-cache events: `tcp://HOST:PORT`, or `tcp://*:PORT` for one that
    /// connects to the router. Absent: what it holds is inferred from what was sent to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_events: Option<String>,
    /// Where its engine answers who missed such events. Absent: after a gap what it holds is inferred
    /// until it restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_replay: Option<String>,
    /// What the topics of such events begin with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub kv_topic: String,
    /// Its data-parallel ranks, which use the ports from those of `kv_events` and `kv_replay` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_ranks: Option<std::num::NonZeroU16>,
    /// The model as clients write it; the first one that the replica lists when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_model: Option<String>,
}

impl Replica {
    /// The replica at `url`, named for it.
    #[must_use]
    pub fn at(url: impl Into<String>) -> Self {
        Self { url: url.into(), ..Self::default() }
    }

    /// Its name: the one given, or the host and port.
    #[must_use]
    pub fn name(&self) -> &str {
        let address = || {
            let url = &self.url;
            let address = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
            address.unwrap_or(url).trim_end_matches('/')
        };
        self.name.as_deref().unwrap_or_else(address)
    }

    /// What the fleet is told; `None` where the configuration was not checked.
    pub(crate) fn spec(
        &self,
        pools: &Pools,
        upstream: &Upstream,
        trusts: &mut Trusts,
    ) -> Option<ReplicaSpec> {
        let origin = self.url.parse::<Origin>().ok()?;
        let reach = upstream.reach(self, &origin, trusts).ok()?;
        let spec = ReplicaSpec {
            kv: self.kv_source(),
            cache: self.cache.map(|it| it.0),
            ..ReplicaSpec::new(self.name().to_owned(), origin, reach)
        };
        Some(pools.member(spec, self.pool()))
    }

    /// The name of its pool.
    #[must_use]
    pub fn pool(&self) -> &str {
        self.pool.as_deref().unwrap_or(Pools::DEFAULT)
    }

    fn kv_source(&self) -> Option<KvSource> {
        Some(KvSource {
            endpoint: self.kv_events.as_ref()?.parse().ok()?,
            replay: self.kv_replay.as_ref().and_then(|it| it.parse().ok()),
            topic: self.kv_topic.clone(),
            ranks: self.kv_ranks.map_or(1, std::num::NonZeroU16::get),
            model: self.kv_model.clone(),
        })
    }

    /// Everything wrong with what is said of its events, each beginning with the field.
    pub(super) fn kv_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (field, endpoint) in [("kv_events", &self.kv_events), ("kv_replay", &self.kv_replay)] {
            if let Some(Err(error)) = endpoint.as_ref().map(|it| it.parse::<KvEndpoint>()) {
                problems.push(format!("{field}: {error}"));
            }
        }
        let has_rest = self.kv_replay.is_some()
            || !self.kv_topic.is_empty()
            || self.kv_ranks.is_some()
            || self.kv_model.is_some();
        if self.kv_events.is_none() && has_rest {
            problems.push(
                "kv_events: say where the events are, or leave the other kv_ fields out".to_owned(),
            );
        }
        if self.kv_ranks.is_some_and(|it| it.get() > 1) && self.kv_replay.is_none() {
            problems.push("kv_ranks: more than one needs kv_replay".to_owned());
        }
        problems
    }
}

/// Everything wrong with the replicas of `config`.
pub(super) fn problems(config: &Config) -> Vec<String> {
    if config.replicas.is_empty() && config.discovery.is_none() {
        return vec!["replicas: name at least one, or pass --replica URL".to_owned()];
    }
    let mut problems = config.pools.problems();
    if let Some(problem) = config.discovery.as_ref().and_then(|it| config.pools.problem(&it.pool)) {
        problems.push(format!("discovery.pool: {problem}"));
    }
    let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
    for (at, replica) in config.replicas.iter().enumerate() {
        match replica.url.parse::<Origin>() {
            Ok(origin) => {
                if !urls.insert(origin.to_string()) {
                    problems.push(format!("replicas[{at}].url: {origin} is there twice"));
                }
            }
            Err(error) => problems.push(format!("replicas[{at}].url: {error}")),
        }
        let name = replica.name();
        // A URL that is none is told of by itself.
        let check = if replica.name.is_some() { replica_name_problem } else { name_problem };
        if let Some(problem) = check(name) {
            problems.push(format!("replicas[{at}].name: {problem}"));
        }
        if !names.insert(name) {
            let name = without_user(name);
            problems.push(format!("replicas[{at}].name: `{name}` is there twice"));
        }
        let pool = config.pools.problem(replica.pool());
        problems.extend(pool.map(|it| format!("replicas[{at}].pool: {it}")));
        if replica.cache.is_some_and(|it| it.0.0 == 0) {
            problems.push(format!(
                "replicas[{at}].cache: must be more than zero; leave it out where it is not known"
            ));
        }
        problems.extend(replica.kv_problems().into_iter().map(|it| format!("replicas[{at}].{it}")));
        if replica.kv_events.is_some()
            && (config.tenant_header.is_some() || !config.tenants.is_empty())
            && !config.policy.prefix.shared_by_tenants
        {
            problems.push(format!(
                "replicas[{at}].kv_events: engines do not say whose a block is; set policy.prefix.shared_by_tenants, or leave tenants and tenant_header out"
            ));
        }
    }
    let in_pools = config.replicas.iter().map(Replica::pool);
    let members = in_pools.chain(config.discovery.iter().map(|it| it.pool.as_str())).collect();
    // Where replicas may be registered, one may yet come into it.
    if config.admin.registrable.is_empty() {
        let empty = config.pools.empty(&members).into_iter();
        problems
            .extend(empty.map(|it| format!("pools.{it}: no replica is in it, and none can come")));
    }
    problems
}
