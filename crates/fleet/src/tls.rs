//! Encrypted connections: whom the router trusts, and what it shows of itself.
//!
//! The files are PEM. They are read when a configuration is, never on the way of a request; a renewed
//! certificate is taken into force for the connections that come after, without touching the replica.

use std::{
    fmt,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::{Deserialize, Serialize};

/// Longest file that is read: the system's authorities take a fifth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// HTTP/2, as it is called when a connection is encrypted.
pub const H2: &[u8] = b"h2";

/// HTTP/1.1, as it is called when a connection is encrypted.
pub const HTTP_1: &[u8] = b"http/1.1";

/// Whom to trust when a replica is reached, and what to show it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrustFiles {
    /// Certificates of the authorities that vouch for replicas. Absent: the system's.
    pub ca: Option<PathBuf>,
    /// The router's own certificate, and those that lead to its authority, for replicas that ask.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
    /// The name that a replica's certificate must have. Absent: the host of its URL.
    pub server_name: Option<String>,
}

impl TrustFiles {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The files that are named.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.ca, &self.cert, &self.key].into_iter().flatten().map(PathBuf::as_path)
    }

    /// Reads the files; `http2` is offered beside HTTP/1.1 where it is wanted.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong with them, each line beginning with the field.
    pub fn read(&self, http2: bool) -> Result<Arc<ClientConfig>, Vec<String>> {
        let roots = match &self.ca {
            Some(ca) => authorities(ca).map_err(|it| format!("ca: {it}")),
            None => system_authorities().map_err(|it| format!("ca: {it}")),
        };
        let own = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((
                certificates(cert).map_err(|it| format!("cert: {it}")),
                private_key(key).map_err(|it| format!("key: {it}")),
            )),
            (None, None) => None,
            (Some(_), None) => return Err(vec!["key: name the key of `cert`".to_owned()]),
            (None, Some(_)) => return Err(vec!["cert: name the certificate of `key`".to_owned()]),
        };
        let (roots, own) = match (roots, own) {
            (Ok(roots), None) => (roots, None),
            (Ok(roots), Some((Ok(cert), Ok(key)))) => (roots, Some((cert, key))),
            (roots, own) => {
                let (cert, key) = own.map_or((None, None), |(a, b)| (a.err(), b.err()));
                return Err([roots.err(), cert, key].into_iter().flatten().collect());
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| vec![format!("cannot set up TLS: {error}")])?
            .with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                builder.with_client_auth_cert(cert, key).map_err(|it| vec![mismatch(&it)])?
            }
        };
        let protocols: &[&[u8]] = if http2 { &[H2, HTTP_1] } else { &[HTTP_1] };
        config.alpn_protocols = protocols.iter().map(|it| it.to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// What is wrong with a certificate and a key that can each be read.
#[must_use]
pub fn mismatch(error: &rustls::Error) -> String {
    if matches!(error, rustls::Error::InconsistentKeys(_)) {
        "key: it is not the key of `cert`".to_owned()
    } else {
        format!("cert: {error}")
    }
}

/// The cryptography that all TLS here uses.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Whom one replica's connections trust. Equal where the same is said, whatever the files hold by now.
#[derive(Clone)]
pub struct Trust {
    files: TrustFiles,
    name: ServerName<'static>,
    /// What the files held when they were last read; shared with the replica's connections.
    config: Arc<ArcSwap<ClientConfig>>,
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("files", &self.files).field("name", &self.name).finish()
    }
}

impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files && self.name == other.name
    }
}

impl Eq for Trust {}

impl Trust {
    /// Trust in whom `files` say, of whom `config` was read, for the replica at `host`.
    ///
    /// # Errors
    ///
    /// When the name that the replica's certificate must have can't be one.
    pub fn new(files: TrustFiles, host: &str, config: Arc<ClientConfig>) -> Result<Self, String> {
        let name = files.server_name.as_deref().unwrap_or(host);
        let wrong = |_| format!("server_name: `{}` is no name of a host", name.escape_debug());
        let name = ServerName::try_from(name.to_owned()).map_err(wrong)?;
        Ok(Self { files, name, config: Arc::new(ArcSwap::new(config)) })
    }

    /// What it was read from.
    #[must_use]
    pub const fn files(&self) -> &TrustFiles {
        &self.files
    }

    /// Takes what the files hold now for the connections that come after.
    pub fn renew(&self, config: Arc<ClientConfig>) {
        self.config.store(config);
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.load_full()
    }

    pub(crate) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

/// The certificates in `file`.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = contents(file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(format!("there is no certificate in {}; it must be PEM", file.display())),
        Err(error) => Err(format!("cannot read {} as PEM: {error}", file.display())),
    }
}

/// The private key in `file`.
///
/// # Errors
///
/// Says what is wrong with it, and nothing of what it holds.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = contents(file)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| format!("there is no private key in {}; it must be PEM", file.display()))
}

/// The authorities in `file`.
///
/// # Errors
///
/// Says what is wrong with it.
pub fn authorities(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{} holds no authority: {error}", file.display()))?;
    }
    Ok(roots)
}

fn system_authorities() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // One that can't be read is one that vouches for nobody.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("the system has no certificate authorities; name a file with them".to_owned());
    }
    Ok(roots)
}

fn contents(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: io::Error| format!("cannot read {}: {error}", file.display());
    // A device or a pipe has no end, or is waited for already when it is opened.
    if !std::fs::metadata(file).map_err(cannot)?.is_file() {
        return Err(format!("{} is no file", file.display()));
    }
    let opened = File::open(file).map_err(cannot)?;
    let mut bytes = Vec::new();
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if FILE_BYTES_MAX < bytes.len() as u64 {
        return Err(format!("{} is longer than {FILE_BYTES_MAX} bytes", file.display()));
    }
    Ok(bytes)
}
