//! TLS of the ports, and how replicas are reached.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use fleet::{
    client::Reach,
    origin::Origin,
    tls::{self, Trust, TrustFiles},
};
use rustls::{ClientConfig, ServerConfig, server::WebPkiClientVerifier};
use serde::{Deserialize, Serialize};

use super::{Config, Replica};

/// TLS of a port. The files are PEM, and read again with the configuration or when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate that is shown, and those that lead from it to its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authorities, one of which must vouch for a client. Absent: no client shows a certificate.
    #[serde(default)]
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// What the port needs.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong with the files, each line beginning with the field.
    pub(crate) fn read(&self) -> Result<Arc<ServerConfig>, Vec<String>> {
        let cert = tls::certificates(&self.cert).map_err(|it| format!("cert: {it}"));
        let key = tls::private_key(&self.key).map_err(|it| format!("key: {it}"));
        let clients = self.client_ca.as_deref().map(tls::authorities).transpose();
        let clients = clients.map_err(|it| format!("client_ca: {it}"));
        let (cert, key, clients) = match (cert, key, clients) {
            (Ok(cert), Ok(key), Ok(clients)) => (cert, key, clients),
            (cert, key, clients) => {
                let problems = [cert.err(), key.err(), clients.err()];
                return Err(problems.into_iter().flatten().collect());
            }
        };
        let provider = tls::provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| vec![format!("cannot set up TLS: {error}")])?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(clients), provider)
                        .build()
                        .map_err(|error| vec![format!("client_ca: {error}")])?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config =
            builder.with_single_cert(cert, key).map_err(|error| vec![tls::mismatch(&error)])?;
        config.alpn_protocols = vec![tls::H2.to_vec(), tls::HTTP_1.to_vec()];
        Ok(Arc::new(config))
    }
}

/// The TLS of a port, by the name of its field, if it has any.
///
/// # Errors
///
/// As [`Tls::read`], each line beginning with `name`.
pub(crate) fn read(
    name: &str,
    tls: Option<&Tls>,
) -> Result<Option<Arc<ServerConfig>>, Vec<String>> {
    let read = tls.map(Tls::read).transpose();
    read.map_err(|problems| problems.into_iter().map(|it| format!("{name}.{it}")).collect())
}

/// How replicas are reached that do not say otherwise, those that are discovered or registered included.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// HTTP/2 rather than HTTP/1.1: over TLS where the replica agrees, else without asking.
    pub http2: bool,
    /// Whom to trust where the URL is `https://`.
    pub tls: TrustFiles,
}

/// What was read of the files, once for all who name the same ones.
#[derive(Debug, Default)]
pub(crate) struct Trusts(BTreeMap<(TrustFiles, bool), Result<Arc<ClientConfig>, Vec<String>>>);

impl Trusts {
    /// What `files` hold.
    pub(crate) fn read(
        &mut self,
        files: &TrustFiles,
        http2: bool,
    ) -> Result<Arc<ClientConfig>, Vec<String>> {
        // By what name a replica goes makes no difference to what is read.
        let files = TrustFiles { server_name: None, ..files.clone() };
        let read = |(files, http2): &(TrustFiles, bool)| files.read(*http2);
        let key = (files, http2);
        self.0.entry(key.clone()).or_insert_with(|| read(&key)).clone()
    }

    /// How to reach the replica at `origin`, whose certificate must be that of `host`.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong with `files`.
    pub(crate) fn reach(
        &mut self,
        origin: &Origin,
        host: &str,
        http2: bool,
        files: &TrustFiles,
    ) -> Result<Reach, Vec<String>> {
        if !origin.is_encrypted() {
            return Ok(Reach { http2, trust: None });
        }
        let config = self.read(files, http2)?;
        let trust = Trust::new(files.clone(), host, config).map_err(|it| vec![it])?;
        Ok(Reach { http2, trust: Some(trust) })
    }
}

impl Upstream {
    /// How to reach `replica` at `origin`.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong with the files, each line beginning with the field, and says
    /// whether they are the replica's own.
    pub(super) fn reach(
        &self,
        replica: &Replica,
        origin: &Origin,
        trusts: &mut Trusts,
    ) -> Result<Reach, (bool, Vec<String>)> {
        let files = replica.tls.as_ref().unwrap_or(&self.tls);
        let http2 = replica.http2.unwrap_or(self.http2);
        let reach = trusts.reach(origin, origin.host_and_port().0, http2, files);
        reach.map_err(|problems| (replica.tls.is_some(), problems))
    }
}

/// Everything wrong with the TLS of `config`.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = read("tls", config.tls.as_ref()).err().unwrap_or_default();
    problems.extend(read("admin.tls", config.admin.tls.as_ref()).err().unwrap_or_default());
    let mut trusts = Trusts::default();
    for (at, replica) in config.replicas.iter().enumerate() {
        let Ok(origin) = replica.url.parse::<Origin>() else { continue };
        if replica.tls.is_some() && !origin.is_encrypted() {
            problems.push(format!("replicas[{at}].tls: {origin} is not reached by TLS"));
        }
        let Err((is_own, found)) = config.upstream.reach(replica, &origin, &mut trusts) else {
            continue;
        };
        let name = if is_own { format!("replicas[{at}].tls") } else { "upstream.tls".to_owned() };
        problems.extend(found.into_iter().map(|it| format!("{name}.{it}")));
    }
    let is_discovered = config.discovery.as_ref().is_some_and(|it| it.https);
    if is_discovered || !config.upstream.tls.is_empty() {
        let found = trusts.read(&config.upstream.tls, config.upstream.http2).err();
        problems.extend(found.into_iter().flatten().map(|it| format!("upstream.tls.{it}")));
    }
    let mut seen = std::collections::BTreeSet::new();
    problems.retain(|it| seen.insert(it.clone()));
    problems
}

/// Every file that says who is trusted and how the router shows itself.
pub(crate) fn paths(config: &Config) -> Vec<PathBuf> {
    let ports = [config.tls.as_ref(), config.admin.tls.as_ref()].into_iter().flatten();
    let replicas = config.replicas.iter().filter_map(|it| it.tls.as_ref());
    let mut paths: Vec<PathBuf> = ports
        .flat_map(Tls::paths)
        .chain(replicas.chain([&config.upstream.tls]).flat_map(TrustFiles::paths))
        .chain(config.peers.paths())
        .map(Path::to_owned)
        .collect();
    paths.sort();
    paths.dedup();
    paths
}
