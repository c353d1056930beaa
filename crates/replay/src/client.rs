//! The HTTP client that requests are sent with.

use std::{error::Error as _, io, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, uri::Scheme};
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, ResponseFuture, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use crate::target::Target;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What each connection reads into, and so the longest head of an answer. The library would take at
/// least 8 KiB and grow from there; thousands of open streams that bring a token at a time need
/// neither, and heads are long at 2 KiB (nginx takes 4 or 8 from its upstreams).
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// The system's number for "too many open files".
const EMFILE: i32 = 24;

/// Sends requests to targets of either kind.
///
/// Plain targets have a client of their own: a connection that could be encrypted is as large as one
/// that is, two KiB more, and thousands of streams are open at once.
pub(crate) struct HttpClient {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// Where a target is encrypted.
    encrypted: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl HttpClient {
    pub(crate) fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        let is_https = request.uri().scheme() == Some(&Scheme::HTTPS);
        match self.encrypted.as_ref().filter(|_| is_https) {
            Some(encrypted) => encrypted.request(request),
            None => self.plain.request(request),
        }
    }
}

/// Why no encrypted connection can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTrust {
    /// The authorities that were given cannot be used.
    #[error("the certificate authorities given cannot be used: {0}; pass a PEM file with --ca")]
    Authorities(String),
    /// The system has none.
    #[error(
        "the system has no certificate authorities that could vouch for an https target; pass the \
         target's own with --ca FILE"
    )]
    NoneInSystem,
    /// The library does not offer what TLS needs.
    #[error("cannot set up TLS: {0}")]
    Unusable(String),
}

/// A client for `targets`. Certificates are checked against the authorities in `ca_pem`, else the
/// system's, which are only read where a target needs them.
///
/// # Errors
/// Authorities that are missing or cannot be read.
pub(crate) fn client(targets: &[Target], ca_pem: Option<&[u8]>) -> Result<HttpClient, BadTrust> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let mut builder = Client::builder(TokioExecutor::new());
    builder.http1_read_buf_exact_size(READ_BUFFER_BYTES);
    let encrypted = if ca_pem.is_some() || targets.iter().any(Target::is_https) {
        let roots = ca_pem.map_or_else(system_roots, given_roots)?;
        connector.enforce_http(false);
        Some(builder.build(encrypting(connector.clone(), roots)?))
    } else {
        None
    };
    Ok(HttpClient { plain: builder.build(connector), encrypted })
}

fn encrypting(
    connector: HttpConnector,
    roots: RootCertStore,
) -> Result<HttpsConnector<HttpConnector>, BadTrust> {
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| BadTrust::Unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only();
    Ok(builder.enable_http1().wrap_connector(connector))
}

fn given_roots(pem: &[u8]) -> Result<RootCertStore, BadTrust> {
    let unusable = |reason: String| BadTrust::Authorities(reason);
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        Err(unusable("no certificate in the file".to_owned()))
    } else {
        Ok(roots)
    }
}

fn system_roots() -> Result<RootCertStore, BadTrust> {
    let mut roots = RootCertStore::empty();
    // One that cannot be read is one that vouches for nobody.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(BadTrust::NoneInSystem) } else { Ok(roots) }
}

/// The error and what caused it, the part that tells a refused connection from a broken one.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Whether a request failed because this program may open no more files.
pub(crate) fn is_out_of_files(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let system = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if system == Some(EMFILE) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_that_cannot_be_used_are_named_with_the_cure() {
        for pem in ["", "not PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let error = client(&[], Some(pem.as_bytes())).err().unwrap().to_string();
            assert!(error.contains("with --ca"), "{error}");
        }
    }
}
