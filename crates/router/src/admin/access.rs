//! Who may use the admin port.
//!
//! With a key configured, everything but the two health paths and the bare page asks for it. Without one the port is
//! open to whoever can reach a loopback address; that includes web pages in a browser on the same
//! machine, so a request that another site sends, or that came by another name, is turned away.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};

use crate::{
    app::App,
    config::secret::{KeyHash, hash_key},
    tenants::shown_key,
};

/// Lets a request through, or says why not.
pub(super) async fn check(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // The page has nothing to hide: what it shows, it asks for with the key.
    let is_open = matches!(request.uri().path(), "/" | "/livez" | "/readyz");
    let settings = app.settings.load_full();
    let verdict = if is_open {
        Ok(())
    } else {
        // HTTP/2 says in its target which host is meant.
        let target = request.uri().authority().map(|it| it.as_str());
        may_enter(settings.admin_key, target, request.headers())
    };
    match verdict {
        Ok(()) => next.run(request).await,
        Err((status, why)) => {
            let mut response = super::errors::told(status, why);
            if status == StatusCode::UNAUTHORIZED {
                let scheme = header::HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

fn may_enter(
    key: Option<KeyHash>,
    target: Option<&str>,
    headers: &HeaderMap,
) -> Result<(), (StatusCode, &'static str)> {
    if let Some(key) = key {
        return match shown_key(headers) {
            Some(shown) if hash_key(shown) == key => Ok(()),
            Some(_) => Err((StatusCode::FORBIDDEN, "this is not the admin key")),
            None => {
                Err((StatusCode::UNAUTHORIZED, "send `authorization: Bearer` and the admin key"))
            }
        };
    }
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    if ![host, target].into_iter().flatten().all(is_own_name) {
        return Err((
            StatusCode::FORBIDDEN,
            "without an admin key this is served to localhost only",
        ));
    }
    let origin = headers.get(header::ORIGIN).map(|it| it.to_str().unwrap_or_default());
    let own = host.or(target).unwrap_or_default();
    if origin.is_some_and(|it| site(it) != Some(own)) {
        return Err((StatusCode::FORBIDDEN, "this is not served to other sites"));
    }
    Ok(())
}

/// Host and port of an origin.
fn site(origin: &str) -> Option<&str> {
    origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
}

/// Whether `host` is a name that only this machine has for itself, or an address: a name could have
/// been made to mean this one by anybody.
fn is_own_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|it| it.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.is_empty()
        || name.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(key: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let headers = headers
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), value.parse().unwrap()));
        let key = key.map(|it| hash_key(it.as_bytes()));
        may_enter(key, None, &headers.collect()).err().map_or(200, |it| it.0.as_u16())
    }

    #[test]
    fn the_admin_key_opens_and_nothing_else_does() {
        let key = Some("root");
        assert_eq!(entered(key, &[]), 401);
        assert_eq!(entered(key, &[("authorization", "Bearer tenant")]), 403);
        assert_eq!(entered(key, &[("host", "localhost:9090")]), 401);
        assert_eq!(entered(key, &[("authorization", "Bearer root"), ("host", "a.example")]), 200);
    }

    #[test]
    fn without_a_key_other_sites_and_other_names_stay_out() {
        for host in ["127.0.0.1:9090", "localhost:9090", "localhost", "[::1]:9090"] {
            assert_eq!(entered(None, &[("host", host)]), 200, "{host}");
        }
        for host in ["evil.example:9090", "evil.example", "localhost.evil.example:9090"] {
            assert_eq!(entered(None, &[("host", host)]), 403, "{host}");
        }
        let host = ("host", "127.0.0.1:9090");
        assert_eq!(entered(None, &[host, ("origin", "http://evil.example")]), 403);
        assert_eq!(entered(None, &[host, ("origin", "null")]), 403);
        assert_eq!(entered(None, &[host, ("origin", "http://127.0.0.1:9090")]), 200);
        assert_eq!(entered(None, &[host, ("origin", "https://127.0.0.1:9090")]), 200);
        assert!(may_enter(None, Some("evil.example"), &HeaderMap::new()).is_err());
    }
}
