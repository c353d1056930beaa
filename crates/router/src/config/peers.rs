//! The other routers of the fleet.

use std::{collections::BTreeSet, path::Path, time::Duration};

use fleet::{
    origin::{Origin, without_user},
    tls::TrustFiles,
};
use serde::{Deserialize, Serialize};

use super::{Config, Secret, surroundings::names_a_port, tls::Trusts};

/// The other routers of the fleet, whose placements this one learns of as they do of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Peers {
    /// Base URLs of their admin ports: `http://HOST:PORT`, or `https://HOST:PORT`.
    pub urls: Vec<String>,
    /// A name and a port, `HOST:PORT`; each address that the name has is the admin port of a router, this
    /// one itself passed over. Absent: none is looked for.
    pub dns: Option<String>,
    /// Time between two lookups.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub interval: Duration,
    /// Whether those that are found by the name are reached by TLS; their certificates must be for it.
    pub https: bool,
    /// The key of their admin ports. Absent: that of this one.
    pub key: Option<Secret>,
    /// Whom to trust where they are reached by TLS.
    pub tls: TrustFiles,
}

impl Default for Peers {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            dns: None,
            interval: Duration::from_secs(10),
            https: false,
            key: None,
            tls: TrustFiles::default(),
        }
    }
}

impl Peers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.urls.is_empty() && self.dns.is_none()
    }

    /// The key that they are shown, where there is one; `admin` is this router's own.
    ///
    /// # Errors
    ///
    /// Says what is wrong and never what the key is.
    pub(crate) fn shown_key(&self, admin: Option<&Secret>) -> Result<Option<String>, String> {
        let key = self.key.as_ref().or(admin).filter(|_| !self.is_empty());
        key.map(Secret::reveal).transpose()
    }

    /// The files that are named.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.tls.paths()
    }
}

/// Everything wrong with what `config` says of other routers.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let peers = &config.peers;
    if peers.is_empty() {
        return Vec::new();
    }
    let mut problems = Vec::new();
    if config.hash_seed.is_none() {
        problems.push(
            "peers: routers that tell each other where prompts went must name them alike; set \
             hash_seed, to one number for all of them"
                .to_owned(),
        );
    }
    let mut seen = BTreeSet::new();
    for (at, url) in peers.urls.iter().enumerate() {
        match url.parse::<Origin>() {
            Ok(origin) if seen.insert(origin.to_string()) => {}
            Ok(origin) => problems.push(format!("peers.urls[{at}]: {origin} is there twice")),
            Err(_) => problems.push(format!(
                "peers.urls[{at}]: `{}` is no admin port; write http://HOST:PORT",
                without_user(url).escape_debug()
            )),
        }
    }
    if let Some(dns) = peers.dns.as_ref().filter(|it| !names_a_port(it)) {
        problems
            .push(format!("peers.dns: `{}` names no port; write HOST:PORT", dns.escape_debug()));
    }
    if peers.interval.is_zero() {
        problems.push("peers.interval: must be more than zero".to_owned());
    }
    if let Err(problem) = peers.shown_key(config.admin.key.as_ref()) {
        let field = if peers.key.is_some() { "" } else { " (admin.key, as peers.key is absent)" };
        problems.push(format!("peers.key{field}: {problem}"));
    }
    let is_encrypted = peers.https || peers.urls.iter().any(|it| it.starts_with("https:"));
    if is_encrypted || !peers.tls.is_empty() {
        let found = Trusts::default().read(&peers.tls, false).err();
        problems.extend(found.into_iter().flatten().map(|it| format!("peers.tls.{it}")));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::super::tests::told;

    #[test]
    fn peers_need_a_common_seed_and_a_key_that_can_be_shown() {
        let peers = "peers: { urls: ['http://10.0.0.2:9090'] }";
        assert!(told(peers).contains("set hash_seed"), "{}", told(peers));
        assert_eq!(told(&format!("{peers}\nhash_seed: 7")), "");
        let key = "admin: { key: { sha256: \
            2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae } }";
        let hashed = told(&format!("{peers}\nhash_seed: 7\n{key}"));
        assert!(
            hashed.contains("peers.key") && hashed.contains("a hash opens nothing"),
            "{hashed}"
        );
        let shown = "peers: { urls: ['http://10.0.0.2:9090'], key: { env: PATH } }";
        assert_eq!(told(&format!("{shown}\nhash_seed: 7\n{key}")), "");
        assert_eq!(told("peers: {}"), "", "nobody needs nothing");
    }

    #[test]
    fn what_is_wrong_with_peers_is_told_at_once() {
        let told = told(
            "hash_seed: 7\npeers: { urls: ['ftp://a', 'http://b:1', 'http://b:1/'], dns: routers, \
             interval: 0s, tls: { ca: no/such/file } }",
        );
        for culprit in
            ["peers.urls[0]", "peers.urls[2]", "peers.dns", "peers.interval", "peers.tls.ca"]
        {
            assert!(told.contains(culprit), "{culprit} is missing from: {told}");
        }
    }
}
