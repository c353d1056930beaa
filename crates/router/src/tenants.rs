//! Who a client is, and how much it may ask for.
//!
//! A key names a tenant. Keys are known by their hash; what a client shows is hashed and looked up,
//! and goes no further than that. Each tenant has a share: requests and tokens a minute, and
//! requests at once. Tokens are taken for the prompt when the request comes and for the answer when
//! it ends, as what really was produced, so an answer that is cancelled costs what it came to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use types::quantity::Tokens;

use crate::{
    config::{
        Tenant as Configured,
        secret::{KeyHash, hash_key},
    },
    reject::Refusal,
};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Longest key that is looked at.
const KEY_BYTES_MAX: usize = 512;

/// The tenants, by their keys. With none, nobody is asked for a key.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    by_key: FxHashMap<KeyHash, Arc<Tenant>>,
}

/// One tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    concurrency: Option<u32>,
    in_flight: Mutex<u32>,
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

impl Tenant {
    fn new(configured: &Configured) -> Self {
        Self {
            name: configured.name.clone(),
            requests: configured.requests_per_minute.map(Bucket::new),
            tokens: configured.tokens_per_minute.map(Bucket::new),
            concurrency: configured.concurrency,
            in_flight: Mutex::new(0),
        }
    }

    fn is_as(&self, configured: &Configured) -> bool {
        let per_minute = |bucket: &Option<Bucket>| bucket.as_ref().map(|it| it.per_minute);
        per_minute(&self.requests) == configured.requests_per_minute
            && per_minute(&self.tokens) == configured.tokens_per_minute
            && self.concurrency == configured.concurrency
    }

    /// Takes a request with `prompt` tokens out of the tenant's share.
    ///
    /// # Errors
    ///
    /// When its share is used up; nothing is taken then.
    pub(crate) fn admit(self: &Arc<Self>, prompt: Tokens) -> Result<Grant, Refusal> {
        let now = Instant::now();
        let refuse = |what, after| Err(Refusal::Quota { what, after });
        {
            let mut in_flight = self.in_flight.lock();
            if self.concurrency.is_some_and(|most| most <= *in_flight) {
                return refuse("requests at once", Duration::from_secs(1));
            }
            if let Some(wait) = self.tokens.as_ref().and_then(|it| it.take(now, prompt.0)) {
                return refuse("tokens a minute", wait);
            }
            if let Some(wait) = self.requests.as_ref().and_then(|it| it.take(now, 1)) {
                if let Some(tokens) = &self.tokens {
                    tokens.give_back(prompt.0);
                }
                return refuse("requests a minute", wait);
            }
            *in_flight = in_flight.saturating_add(1);
        }
        Ok(Grant { tenant: Arc::clone(self) })
    }

    /// Says in OpenAI's headers what is left of the share.
    pub(crate) fn write_headers(&self, head: &mut HeaderMap) {
        let now = Instant::now();
        let buckets = [("requests", &self.requests), ("tokens", &self.tokens)];
        for (what, bucket) in
            buckets.into_iter().filter_map(|(what, it)| Some((what, it.as_ref()?)))
        {
            let (left, full_in) = bucket.left(now);
            let values = [
                ("limit", bucket.per_minute.to_string()),
                ("remaining", left.to_string()),
                ("reset", format!("{}ms", full_in.as_millis())),
            ];
            for (part, value) in values {
                let name = HeaderName::try_from(format!("x-ratelimit-{part}-{what}"));
                if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value)) {
                    head.insert(name, value);
                }
            }
        }
    }
}

/// A request that was taken out of its tenant's share; gives its place back when dropped.
#[derive(Debug)]
pub(crate) struct Grant {
    tenant: Arc<Tenant>,
}

impl Grant {
    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Takes the tokens that were produced, which may put the tenant in debt.
    pub(crate) fn produced(&self, tokens: Tokens) {
        if let Some(bucket) = &self.tenant.tokens {
            bucket.charge(Instant::now(), tokens.0);
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut in_flight = self.tenant.in_flight.lock();
        *in_flight = in_flight.saturating_sub(1);
    }
}

/// Holds as much as comes in a minute, and fills evenly.
#[derive(Debug)]
struct Bucket {
    per_minute: u32,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    /// Below zero when more was produced than was there.
    amount: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_minute: u32) -> Self {
        let level = Level { amount: f64::from(per_minute), at: Instant::now() };
        Self { per_minute, level: Mutex::new(level) }
    }

    fn per_second(&self) -> f64 {
        f64::from(self.per_minute) / 60.0
    }

    fn fill(&self, level: &mut Level, now: Instant) {
        let gained = now.saturating_duration_since(level.at).as_secs_f64() * self.per_second();
        level.amount = (level.amount + gained).min(f64::from(self.per_minute));
        level.at = now;
    }

    /// Takes `amount`, or says when there will be as much. What is more than the bucket holds waits
    /// for a full one.
    fn take(&self, now: Instant, amount: u32) -> Option<Duration> {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        let amount = f64::from(amount);
        let missing = amount.min(f64::from(self.per_minute)) - level.amount;
        if missing <= 0.0 {
            level.amount -= amount;
            return None;
        }
        Some(Duration::try_from_secs_f64(missing / self.per_second()).unwrap_or(Duration::MAX))
    }

    fn give_back(&self, amount: u32) {
        self.level.lock().amount += f64::from(amount);
    }

    fn charge(&self, now: Instant, amount: u32) {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        level.amount -= f64::from(amount);
    }

    /// What is left, and the time until it is full again.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most what comes in a minute, at least zero"
    )]
    fn left(&self, now: Instant) -> (u32, Duration) {
        let mut level = self.level.lock();
        self.fill(&mut level, now);
        let missing = f64::from(self.per_minute) - level.amount;
        let full_in = Duration::try_from_secs_f64(missing / self.per_second());
        (level.amount.max(0.0) as u32, full_in.unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn configured(name: &str, key: &[u8]) -> Configured {
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
    async fn requests_a_minute_come_evenly() {
        let tenant = Arc::new(Tenant::new(&Configured {
            requests_per_minute: Some(60),
            ..configured("a", b"k")
        }));
        let grants: Vec<_> = (0..60).map(|_| tenant.admit(Tokens(1)).unwrap()).collect();
        let Err(Refusal::Quota { what, after }) = tenant.admit(Tokens(1)) else { panic!() };
        assert_eq!((what, after), ("requests a minute", Duration::from_secs(1)));
        drop(grants);
        assert!(tenant.admit(Tokens(1)).is_err(), "what has ended is not given back");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tenant.admit(Tokens(1)).is_ok() && tenant.admit(Tokens(1)).is_err());
        let mut head = HeaderMap::new();
        tenant.write_headers(&mut head);
        assert_eq!(head["x-ratelimit-limit-requests"], "60");
        assert_eq!(head["x-ratelimit-remaining-requests"], "0");
        assert_eq!(head["x-ratelimit-reset-requests"], "60000ms");
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_charged_as_they_are_produced() {
        let tenant = Arc::new(Tenant::new(&Configured {
            tokens_per_minute: Some(600),
            ..configured("a", b"k")
        }));
        let grant = tenant.admit(Tokens(500)).unwrap();
        assert!(tenant.admit(Tokens(200)).is_err());
        grant.produced(Tokens(300));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert!(tenant.admit(Tokens(1)).is_err(), "in debt: 600 - 500 - 300 + 200 = 0");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(tenant.admit(Tokens(10)).is_ok());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!(
            tenant.admit(Tokens(100_000)).is_ok(),
            "more than ever comes waits for all there is"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_given_back_when_its_request_leaves() {
        let tenant =
            Arc::new(Tenant::new(&Configured { concurrency: Some(2), ..configured("a", b"k") }));
        let (one, two) = (tenant.admit(Tokens(1)).unwrap(), tenant.admit(Tokens(1)).unwrap());
        assert!(matches!(tenant.admit(Tokens(1)), Err(Refusal::Quota { .. })));
        drop(one);
        assert!(tenant.admit(Tokens(1)).is_ok());
        drop(two);
        assert_eq!(*tenant.in_flight.lock(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_leaves_what_is_left_of_a_share_as_it_is() {
        let limited = Configured { requests_per_minute: Some(60), ..configured("a", b"k") };
        let before = Tenants::new(std::slice::from_ref(&limited), &Tenants::default()).unwrap();
        let tenant = before.by_key.values().next().unwrap();
        (0..60).for_each(|_| drop(tenant.admit(Tokens(1)).unwrap()));
        let after = Tenants::new(std::slice::from_ref(&limited), &before).unwrap();
        assert!(after.by_key.values().next().unwrap().admit(Tokens(1)).is_err());
        let more = Configured { requests_per_minute: Some(120), ..limited };
        let after = Tenants::new(&[more], &before).unwrap();
        assert!(after.by_key.values().next().unwrap().admit(Tokens(1)).is_ok());
    }
}
