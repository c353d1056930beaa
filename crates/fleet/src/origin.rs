//! Where a replica is.

use std::net::{IpAddr, Ipv6Addr};

use http::{
    Uri,
    uri::{Authority, PathAndQuery},
};

/// Scheme, host and port of a replica: `http://HOST:PORT`, or `https://` where it is reached by TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(Uri);

/// A text is no replica's URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{url}` is no replica URL: {problem}")]
pub struct BadOrigin {
    url: String,
    problem: &'static str,
}

impl std::str::FromStr for Origin {
    type Err = BadOrigin;

    fn from_str(url: &str) -> Result<Self, BadOrigin> {
        let bad = |problem| BadOrigin { url: without_user(url), problem };
        let uri: Uri = url.parse().map_err(|_| bad("write http://HOST:PORT"))?;
        match uri.scheme_str() {
            Some("http" | "https") => {}
            Some(_) | None => return Err(bad("write http://HOST:PORT")),
        }
        if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
            return Err(bad("it must not carry a user or a password"));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || url.contains('#') {
            return Err(bad("write http://HOST:PORT without a path"));
        }
        if !uri.authority().is_some_and(has_good_port) {
            return Err(bad("its port must be a number from 1 to 65535"));
        }
        Ok(Self(as_usual(&uri).unwrap_or(uri)))
    }
}

/// The same with its IPv6 address as it is usually written, or as the IPv4 address that it stands for: one
/// engine has one name. None where it is written so, or has a name.
fn as_usual(uri: &Uri) -> Option<Uri> {
    let host = uri.host()?.strip_prefix('[')?.strip_suffix(']')?;
    let host = match host.parse::<Ipv6Addr>().ok()?.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let port = uri.port().map_or_else(String::new, |it| format!(":{it}"));
    format!("{}://{host}{port}", uri.scheme_str()?).parse().ok()
}

/// `url` as it may be shown: without a user and a password.
#[must_use]
pub fn without_user(url: &str) -> String {
    let Some((before, rest)) = url.rsplit_once('@') else { return url.to_owned() };
    let scheme = before.split_once("://").map_or(String::new(), |it| format!("{}://", it.0));
    format!("{scheme}…@{rest}")
}

/// Whether the port is one that can be reached, or left out. The parser passes over one that it can't
/// read, and the usual one would then be taken instead.
fn has_good_port(authority: &Authority) -> bool {
    let Some(rest) = authority.as_str().strip_prefix(authority.host()) else { return false };
    let Some(written) = rest.strip_prefix(':') else { return rest.is_empty() };
    let port = written.parse().ok().filter(|it: &u16| *it > 0);
    port.is_some_and(|it| it.to_string() == written)
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.is_encrypted() { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Origin {
    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme() == Some(&http::uri::Scheme::HTTPS)
    }

    /// The URI of `path` on the replica.
    #[must_use]
    pub fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = self.0.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).unwrap_or_else(|_| self.0.clone())
    }

    /// The host without the brackets of an IPv6 address, and the port.
    #[must_use]
    pub fn host_and_port(&self) -> (&str, u16) {
        let host = self.0.host().unwrap_or_default();
        let usual = if self.is_encrypted() { 443 } else { 80 };
        (host.trim_start_matches('[').trim_end_matches(']'), self.0.port_u16().unwrap_or(usual))
    }

    /// What a `host` header to the replica says.
    #[must_use]
    pub fn authority(&self) -> &str {
        self.0.authority().map_or("", Authority::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_with_and_without_a_slash() {
        for (url, base) in [
            ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
            ("http://10.0.0.1:8000/", "http://10.0.0.1:8000"),
            ("https://gpu.example/", "https://gpu.example"),
        ] {
            let origin: Origin = url.parse().unwrap();
            let uri = origin.uri(PathAndQuery::from_static("/v1/models?a=b"));
            assert_eq!(uri.to_string(), format!("{base}/v1/models?a=b"));
            assert_eq!(origin.to_string(), base);
        }
        let origin: Origin = "http://[fd00::1]:65535".parse().unwrap();
        assert_eq!(origin.host_and_port(), ("fd00::1", 65_535));
        let origin: Origin = "https://[fd00::1]".parse().unwrap();
        assert_eq!(origin.host_and_port(), ("fd00::1", 443));
    }

    #[test]
    fn one_address_is_written_in_one_way() {
        for (url, usual) in [
            ("http://[::ffff:127.0.0.1]:1", "http://127.0.0.1:1"),
            ("https://[::FFFF:7f00:1]", "https://127.0.0.1"),
            ("http://[0:0:0:0:0:0:0:1]:1", "http://[::1]:1"),
            ("http://[FD00::1]:1", "http://[fd00::1]:1"),
        ] {
            let (one, other): (Origin, Origin) = (url.parse().unwrap(), usual.parse().unwrap());
            assert_eq!(one, other);
            assert_eq!(one.to_string(), usual);
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("http://u:hunter2@a:1", "http://…@a:1"),
            ("http://u:hun/ter2@x@a:1", "http://…@a:1"),
            ("u:hunter2@a:1", "…@a:1"),
            ("ftp://hunter2@a:1", "ftp://…@a:1"),
        ] {
            let error = url.parse::<Origin>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{shown}`")) && !error.contains("unter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_replica_url_is_told_the_cure() {
        for (url, cure) in [
            ("10.0.0.1:8000", "write http://HOST:PORT"),
            ("localhost", "write http://HOST:PORT"),
            ("http://u:p@a:1", "password"),
            ("http://a:1/v1", "without a path"),
            ("file:///etc/passwd", "write http://HOST:PORT"),
            ("http://a:1#x", "without a path"),
            ("http://127.0.0.1:99999", "1 to 65535"),
            ("http://127.0.0.1:65536", "1 to 65535"),
            ("http://127.0.0.1:0", "1 to 65535"),
            ("http://127.0.0.1:080", "1 to 65535"),
            ("http://127.0.0.1:", "1 to 65535"),
            ("https://[::1]:99999", "1 to 65535"),
            ("http://[::1]:", "1 to 65535"),
        ] {
            let error = url.parse::<Origin>().unwrap_err().to_string();
            let shown = url.replace("u:p@", "…@");
            assert!(error.contains(cure) && error.contains(&shown), "{error}");
        }
    }
}
