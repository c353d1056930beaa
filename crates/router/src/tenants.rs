//! Who a client is, and how much it may ask for.
//!
//! A key names a tenant. Keys are known by their hash; what a client shows is hashed and looked up,
//! and goes no further than that. Each tenant has a [share](share): requests and tokens a minute, and
//! requests at once.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderName, header};
use rustc_hash::FxHashMap;

pub(crate) use self::share::{Grant, Tenant};
use crate::{
    config::{
        Tenant as Configured,
        secret::{KeyHash, hash_key},
    },
    reject::Refusal,
};

mod share;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest key that is looked at.
const KEY_BYTES_MAX: usize = 512;

/// The tenants, by their keys. With none, nobody is asked for a key.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_key: FxHashMap<KeyHash, Arc<Tenant>>,
}

impl Tenants {
    /// The tenants as configured; who was there before keeps what is left of its share.
    ///
    /// # Errors
    ///
    /// Lists every key that can't be had.
    pub(crate) fn new(configured: &[Configured], before: &Self) -> Result<Self, Vec<String>> {
        let (mut by_key, mut problems) = (FxHashMap::default(), Vec::new());
        let mut known: BTreeMap<&str, &Arc<Tenant>> = BTreeMap::new();
        for tenant in before.by_key.values() {
            known.insert(&tenant.name, tenant);
        }
        for (at, tenant) in configured.iter().enumerate() {
            let kept = known.get(tenant.name.as_str()).filter(|it| it.is_as(tenant));
            let shared = kept.map_or_else(|| Arc::new(Tenant::new(tenant)), |it| Arc::clone(it));
            for (key, secret) in tenant.keys.iter().enumerate() {
                match secret.hash() {
                    Ok(hash) if by_key.insert(hash, Arc::clone(&shared)).is_some() => {
                        problems.push(format!("tenants[{at}].keys[{key}]: is there twice"));
                    }
                    Ok(_) => {}
                    Err(problem) => problems.push(format!("tenants[{at}].keys[{key}].{problem}")),
                }
            }
        }
        if problems.is_empty() { Ok(Self { by_key }) } else { Err(problems) }
    }

    /// Whether a tenant has that key.
    pub(crate) fn knows(&self, key: &KeyHash) -> bool {
        self.by_key.contains_key(key)
    }

    /// Whose request it is, if anybody is asked; takes the key off, which is none of the replica's
    /// business.
    ///
    /// # Errors
    ///
    /// When a key is asked for and none, or a wrong one, is shown.
    pub(crate) fn identify(&self, headers: &mut HeaderMap) -> Result<Option<Arc<Tenant>>, Refusal> {
        if self.by_key.is_empty() {
            return Ok(None);
        }
        let found = shown_key(headers).and_then(|key| self.by_key.get(&hash_key(key)));
        let tenant = found.cloned().ok_or(Refusal::NoKey)?;
        headers.remove(header::AUTHORIZATION);
        headers.remove(API_KEY);
        Ok(Some(tenant))
    }
}

/// The key that a request shows, as OpenAI's clients do or as Anthropic's do. Two are none: which one
/// counted would be up to who looks.
pub(crate) fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter().chain(headers.get_all(API_KEY));
    let value = values.next()?.as_bytes();
    if values.next().is_some() {
        return None;
    }
    let key = match value.split_at_checked(b"bearer ".len()) {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"bearer ") => key.trim_ascii(),
        _ if headers.contains_key(header::AUTHORIZATION) => return None,
        _ => value,
    };
    (1..=KEY_BYTES_MAX).contains(&key.len()).then_some(key)
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::config::Secret;

    pub(super) fn configured(name: &str, key: &[u8]) -> Configured {
        let hex: String = hash_key(key).iter().map(|it| format!("{it:02x}")).collect();
        let keys = vec![Secret { sha256: Some(hex), ..Secret::default() }];
        let name = name.to_owned();
        Configured {
            name,
            keys,
            requests_per_minute: None,
            tokens_per_minute: None,
            concurrency: None,
        }
    }

    fn tenants() -> Tenants {
        let both = [configured("a", b"key-a"), configured("b", b"key-b")];
        Tenants::new(&both, &Tenants::default()).unwrap()
    }

    fn identify(headers: &[(&'static str, &str)]) -> Result<String, Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let tenant = tenants().identify(&mut map)?.unwrap();
        assert!(map.is_empty(), "no key goes on to a replica");
        Ok(tenant.name.clone())
    }

    #[tokio::test]
    async fn a_key_names_its_tenant_however_it_is_shown() {
        assert_eq!(identify(&[("authorization", "Bearer key-a")]).unwrap(), "a");
        assert_eq!(identify(&[("authorization", "bearer  key-b ")]).unwrap(), "b");
        assert_eq!(identify(&[("x-api-key", "key-b")]).unwrap(), "b");
    }

    #[tokio::test]
    async fn no_key_and_a_wrong_one_and_two_are_refused() {
        let long = "x".repeat(100_000);
        for headers in [
            &[][..],
            &[("authorization", "Bearer key-c")],
            &[("authorization", "key-a")],
            &[("authorization", "Basic key-a")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer' OR 1=1 --")],
            &[("x-api-key", long.as_str())],
            &[("authorization", "Bearer key-a"), ("x-api-key", "key-b")],
            &[("authorization", "Bearer key-a"), ("authorization", "Bearer key-b")],
        ] {
            assert_eq!(identify(headers), Err(Refusal::NoKey), "{headers:?}");
        }
        assert!(Tenants::default().identify(&mut HeaderMap::new()).unwrap().is_none());
    }

    #[tokio::test]
    async fn one_key_belongs_to_one_tenant() {
        let both = [configured("a", b"same"), configured("b", b"same")];
        let problems = Tenants::new(&both, &Tenants::default()).unwrap_err();
        assert_eq!(problems, ["tenants[1].keys[0]: is there twice"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_leaves_what_is_left_of_a_share_as_it_is() {
        let limited = Configured { requests_per_minute: Some(60), ..configured("a", b"k") };
        let before = Tenants::new(std::slice::from_ref(&limited), &Tenants::default()).unwrap();
        let tenant = before.by_key.values().next().unwrap();
        (0..60).for_each(|_| drop(tenant.admit(Tokens(1), None).unwrap()));
        let after = Tenants::new(std::slice::from_ref(&limited), &before).unwrap();
        assert!(after.by_key.values().next().unwrap().admit(Tokens(1), None).is_err());
        let more = Configured { requests_per_minute: Some(120), ..limited };
        let after = Tenants::new(&[more], &before).unwrap();
        assert!(after.by_key.values().next().unwrap().admit(Tokens(1), None).is_ok());
    }
}
