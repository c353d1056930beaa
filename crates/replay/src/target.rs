//! A server's address: `http://HOST:PORT` or `https://HOST`, with or without the `/v1` that SDKs
//! append.

use std::{fmt, str::FromStr};

use http::{Uri, uri};

/// Where requests are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    scheme: uri::Scheme,
    authority: uri::Authority,
    /// What comes before `/v1`.
    prefix: String,
}

/// Why an address is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No address at all.
    #[error("target '{0}' is no address; write http://HOST:PORT or https://HOST")]
    Address(String),
    /// An address of another protocol.
    #[error("target '{0}' is neither http nor https; write http://HOST:PORT or https://HOST")]
    Scheme(String),
}

impl Target {
    /// The URI of `path` on the server; none where `path` is not one.
    pub(crate) fn uri(&self, path: &str) -> Option<Uri> {
        let path = format!("{}{path}", self.prefix);
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }

    /// Whether the connection is encrypted.
    pub(crate) fn is_https(&self) -> bool {
        self.scheme == uri::Scheme::HTTPS
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || BadTarget::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| address())?;
        let scheme = uri.scheme().cloned().ok_or_else(address)?;
        if scheme != uri::Scheme::HTTP && scheme != uri::Scheme::HTTPS {
            return Err(BadTarget::Scheme(text.to_owned()));
        }
        let authority = uri.authority().cloned().ok_or_else(address)?;
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).to_owned();
        Ok(Self { scheme, authority, prefix })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_or_without_v1() {
        for (text, uri) in [
            ("http://a:1", "http://a:1/v1/models"),
            ("http://a:1/", "http://a:1/v1/models"),
            ("http://a:1/v1", "http://a:1/v1/models"),
            ("https://a/llm/v1/", "https://a/llm/v1/models"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.uri("/v1/models").unwrap(), uri);
            assert_eq!(target.is_https(), text.starts_with("https"));
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_cure() {
        for text in ["", "a:1", "localhost", "http://"] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error, BadTarget::Address(text.to_owned()));
        }
        let error = "ftp://a".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("neither http nor https"), "{error}");
    }
}
