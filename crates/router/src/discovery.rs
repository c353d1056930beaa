//! Finds replicas by a name that DNS knows several addresses of, as Kubernetes' headless services do.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use fleet::replica::ReplicaSpec;

use crate::{
    app::{App, Settings},
    config::{Discovery, Upstream, tls::Trusts},
    registry::{self, Change, Source},
};

/// Looks the name up again and again, and has replicas join and leave as its addresses do.
///
/// A lookup that fails, or finds nobody, changes nothing: a fleet must not vanish with its DNS.
pub(crate) async fn watch(app: Arc<App>, discovery: Discovery) {
    let mut ticks = tokio::time::interval(discovery.interval);
    let mut is_failing = false;
    loop {
        ticks.tick().await;
        let found = tokio::net::lookup_host(&discovery.dns).await;
        let found = found.map(|it| replicas(it, &discovery, &app.settings.load().upstream));
        match found {
            Ok(wanted) if !wanted.is_empty() => {
                is_failing = false;
                let wanted = in_pool(wanted, &app.settings.load(), &discovery.pool);
                let Change { joined, left } = registry::sync(&app, Source::Dns, &wanted);
                if !joined.is_empty() || !left.is_empty() {
                    tracing::info!(joined = joined.len(), left = left.len(), "replicas discovered");
                }
            }
            Ok(_) | Err(_) if is_failing => {}
            Ok(_) => {
                is_failing = true;
                tracing::warn!(dns = discovery.dns, "the name has no address; replicas stay");
            }
            Err(error) => {
                is_failing = true;
                tracing::warn!(dns = discovery.dns, %error, "cannot look up the name; replicas stay");
            }
        }
    }
}

/// The same replicas, as members of that pool.
fn in_pool(
    found: BTreeMap<String, ReplicaSpec>,
    settings: &Settings,
    pool: &str,
) -> BTreeMap<String, ReplicaSpec> {
    let member = |it: ReplicaSpec| settings.pools.member(it, pool);
    found.into_iter().map(|(name, it)| (name, member(it))).collect()
}

/// Replicas by their addresses, which are their names too.
fn replicas(
    addresses: impl Iterator<Item = SocketAddr>,
    discovery: &Discovery,
    upstream: &Upstream,
) -> BTreeMap<String, ReplicaSpec> {
    let scheme = if discovery.https { "https" } else { "http" };
    let host = discovery.dns.rsplit_once(':').map_or(discovery.dns.as_str(), |it| it.0);
    let mut trusts = Trusts::default();
    let replica = |it: SocketAddr| {
        let (name, origin) = (it.to_string(), format!("{scheme}://{it}").parse().ok()?);
        let reach = trusts.reach(&origin, host, upstream.http2, &upstream.tls).ok()?;
        Some((name.clone(), ReplicaSpec::new(name, origin, reach)))
    };
    addresses.filter_map(replica).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_is_a_replica_of_that_name() {
        let addresses = ["10.0.0.1:8000", "[fd00::1]:8000", "10.0.0.1:8000"];
        let discovery = Discovery {
            dns: "engines.example:8000".to_owned(),
            interval: std::time::Duration::from_secs(1),
            pool: "default".to_owned(),
            https: false,
        };
        let addresses = addresses.into_iter().map(|it| it.parse().unwrap());
        let found = replicas(addresses, &discovery, &Upstream::default());
        let seen: Vec<_> = found.iter().map(|(name, it)| format!("{name} {}", it.origin)).collect();
        assert_eq!(
            seen,
            ["10.0.0.1:8000 http://10.0.0.1:8000", "[fd00::1]:8000 http://[fd00::1]:8000"]
        );
    }
}
