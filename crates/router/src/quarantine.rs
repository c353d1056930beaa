//! Keeps requests away from the fleet that break the replicas they are sent to.
//!
//! SGLang 0.5 dies of one prompt with a token id out of its vocabulary. A router that sends such a
//! request on takes the fleet down with it, and so does a client that tries again. A request whose
//! replicas broke before they answered, two of them and with no success in between, is turned away
//! for a while. So is one that two replicas answered with a server error, for a shorter while: nothing
//! died of it, and the fault may have been theirs.
//!
//! What a request breaks is its own affair: it is known by who asks and on which path as well as by its
//! body, so that nobody can have another's requests turned away, and a path that a replica does not serve
//! well says nothing of the same body on another.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;
use types::{block::HashKey, replica::ReplicaId, request::TenantId};
use wire::openai::Endpoint;
use xxhash_rust::xxh3::Xxh3;

/// Different replicas that a request must have broken.
const REPLICAS_BROKEN: usize = 2;

/// What a replica did when it had a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strike {
    /// Its connection broke.
    Broke,
    /// It answered with a server error.
    Erred,
}

impl Strike {
    /// How long the request is turned away, and how long a first strike is remembered.
    const fn lasts(self) -> Duration {
        match self {
            Self::Broke => Duration::from_secs(600),
            Self::Erred => Duration::from_secs(60),
        }
    }
}

/// What makes one request the same as another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suspect<'a> {
    /// Who asks.
    pub(crate) tenant: TenantId,
    /// What for.
    pub(crate) endpoint: Endpoint,
    pub(crate) body: &'a [u8],
}

/// Requests that are remembered; of more, those longest remembered give way.
const REQUESTS_MAX: usize = 1_024;

/// Requests that broke replicas.
#[derive(Debug)]
pub(crate) struct Quarantine {
    key: HashKey,
    /// As many as there are strikes. Read by every request, which must not wait for a lock.
    len: AtomicUsize,
    strikes: Mutex<FxHashMap<u128, Strikes>>,
}

#[derive(Debug)]
struct Strikes {
    replicas: Vec<ReplicaId>,
    last: Instant,
    lasts: Duration,
}

impl Quarantine {
    /// Nobody is in it; requests are told apart by a hash with `key`.
    pub(crate) fn new(key: HashKey) -> Self {
        Self { key, len: AtomicUsize::new(0), strikes: Mutex::default() }
    }

    /// Whether such a request is kept away.
    pub(crate) fn holds(&self, suspect: Suspect<'_>) -> bool {
        self.is_in_use() && {
            let strikes = self.strikes.lock();
            strikes.get(&self.name(suspect)).is_some_and(|it| it.is_enough() && !it.is_over())
        }
    }

    /// Learns what `replica` did when it had the request; returns whether that is kept away from now on.
    pub(crate) fn strike(&self, suspect: Suspect<'_>, replica: ReplicaId, strike: Strike) -> bool {
        let name = self.name(suspect);
        let mut strikes = self.strikes.lock();
        if REQUESTS_MAX <= strikes.len() {
            strikes.retain(|_, it| !it.is_over());
            let oldest = strikes.iter().min_by_key(|it| it.1.last).map(|it| *it.0);
            if REQUESTS_MAX <= strikes.len()
                && let Some(oldest) = oldest
            {
                strikes.remove(&oldest);
            }
        }
        let lasts = strike.lasts();
        let fresh = || Strikes { replicas: Vec::new(), last: Instant::now(), lasts };
        let entry = strikes.entry(name).or_insert_with(fresh);
        if entry.is_over() {
            *entry = fresh();
        }
        if !entry.replicas.contains(&replica) && !entry.is_enough() {
            entry.replicas.push(replica);
        }
        entry.last = Instant::now();
        entry.lasts = entry.lasts.max(lasts);
        let enough = entry.is_enough();
        self.len.store(strikes.len(), Ordering::Release);
        enough
    }

    /// Learns that a replica answered the request and lives.
    pub(crate) fn absolve(&self, suspect: Suspect<'_>) {
        if self.is_in_use() {
            let mut strikes = self.strikes.lock();
            strikes.remove(&self.name(suspect));
            self.len.store(strikes.len(), Ordering::Release);
        }
    }

    fn is_in_use(&self) -> bool {
        self.len.load(Ordering::Acquire) != 0
    }

    fn name(&self, suspect: Suspect<'_>) -> u128 {
        let mut hasher = Xxh3::with_seed(self.key.0);
        hasher.update(&suspect.tenant.0.to_le_bytes());
        hasher.update(suspect.endpoint.path().as_bytes());
        hasher.update(&[0]);
        hasher.update(suspect.body);
        hasher.digest128()
    }
}

impl Strikes {
    fn is_enough(&self) -> bool {
        REPLICAS_BROKEN <= self.replicas.len()
    }

    fn is_over(&self) -> bool {
        self.lasts <= self.last.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: Suspect<'static> = of(br#"{"prompt":[999999]}"#);

    const fn of(body: &[u8]) -> Suspect<'_> {
        Suspect { tenant: TenantId(7), endpoint: Endpoint::Completions, body }
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_two_replicas_is_kept_away_for_a_while() {
        let quarantine = Quarantine::new(HashKey(1));
        assert!(!quarantine.holds(BODY));
        assert!(!quarantine.strike(BODY, ReplicaId(0), Strike::Broke));
        assert!(
            !quarantine.strike(BODY, ReplicaId(0), Strike::Broke),
            "one replica may be broken by itself"
        );
        assert!(!quarantine.holds(BODY));
        assert!(quarantine.strike(BODY, ReplicaId(1), Strike::Broke) && quarantine.holds(BODY));
        assert!(!quarantine.holds(of(b"another")));
        tokio::time::advance(Strike::Broke.lasts()).await;
        assert!(!quarantine.holds(BODY));
        assert!(!quarantine.strike(BODY, ReplicaId(2), Strike::Broke), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_two_replicas_answered_with_an_error_is_kept_away_for_less_long() {
        let quarantine = Quarantine::new(HashKey(1));
        assert!(!quarantine.strike(BODY, ReplicaId(0), Strike::Erred));
        assert!(quarantine.strike(BODY, ReplicaId(1), Strike::Erred) && quarantine.holds(BODY));
        tokio::time::advance(Strike::Erred.lasts()).await;
        assert!(!quarantine.holds(BODY) && Strike::Erred.lasts() < Strike::Broke.lasts());
    }

    #[tokio::test(start_paused = true)]
    async fn the_same_body_of_another_tenant_or_on_another_path_is_another_request() {
        let quarantine = Quarantine::new(HashKey(1));
        quarantine.strike(BODY, ReplicaId(0), Strike::Broke);
        quarantine.strike(BODY, ReplicaId(1), Strike::Broke);
        let of_another = Suspect { tenant: TenantId(8), ..BODY };
        let elsewhere = Suspect { endpoint: Endpoint::ChatCompletions, ..BODY };
        assert!(quarantine.holds(BODY));
        assert!(!quarantine.holds(of_another) && !quarantine.holds(elsewhere));
        quarantine.absolve(of_another);
        quarantine.absolve(elsewhere);
        assert!(quarantine.holds(BODY), "nor does another's answer absolve it");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_absolves() {
        let quarantine = Quarantine::new(HashKey(1));
        quarantine.strike(BODY, ReplicaId(0), Strike::Broke);
        quarantine.absolve(BODY);
        assert!(!quarantine.strike(BODY, ReplicaId(1), Strike::Broke));
        assert_eq!(quarantine.len.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn it_remembers_no_more_than_it_may() {
        let quarantine = Quarantine::new(HashKey(1));
        for at in 0..3_000_u32 {
            quarantine.strike(of(&at.to_le_bytes()), ReplicaId(0), Strike::Broke);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(quarantine.strikes.lock().len(), REQUESTS_MAX);
        assert!(
            quarantine.strike(of(&2_999_u32.to_le_bytes()), ReplicaId(1), Strike::Broke),
            "the latest are kept"
        );
    }
}
