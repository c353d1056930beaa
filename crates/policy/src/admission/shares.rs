//! Who has had how much of the fleet of late, in seconds of GPU time.
//!
//! Requests are not counted but what they cost: a tenant with few long prompts takes as much as one
//! with many short ones. What was had long ago is forgotten.

use std::{collections::BTreeMap, time::Duration};

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::{request::TenantId, time::Timestamp};

use crate::estimate::decay::Decayed;

/// Over how long a tenant's use counts.
const USE_TIME: Duration = Duration::from_secs(20);

/// Tenants that are remembered; the least recently seen gives way.
const TENANTS_MAX: usize = 4_096;

/// Multiple of its fair share above which a tenant is over it.
const OVER: f64 = 1.2;

/// A tenant that had less than this of a second of GPU time a second does not count as there.
const PRESENT: f64 = 1e-4;

/// Size classes: powers of four of a hundredth of a second of GPU time.
pub(crate) const SIZES: usize = 6;

/// Share of what everybody gets let in that a size class gets at least.
const SIZE_SHARE_MIN: f64 = 0.5;

/// What each tenant had.
#[derive(Debug)]
pub(crate) struct Tenants {
    had: LruCache<TenantId, Decayed, FxBuildHasher>,
    /// Fair share, and when it was worked out.
    fair: (Timestamp, f64),
}

/// How long a fair share is taken as it is.
const FAIR_AGE_MAX: Duration = Duration::from_millis(500);

impl Default for Tenants {
    fn default() -> Self {
        Self {
            had: LruCache::unbounded_with_hasher(FxBuildHasher),
            fair: (Timestamp::ZERO, f64::INFINITY),
        }
    }
}

impl Tenants {
    /// Counts `work_s` seconds that were given to `tenant`.
    pub(crate) fn gave(&mut self, now: Timestamp, tenant: TenantId, work_s: f64) {
        self.had.get_or_insert_mut(tenant, || Decayed::new(USE_TIME)).add(now, work_s);
        if TENANTS_MAX < self.had.len() {
            self.had.pop_lru();
        }
    }

    /// Whether `tenant` had clearly more than its fair share of what was given.
    pub(crate) fn is_over(&mut self, now: Timestamp, tenant: TenantId) -> bool {
        if self.had.len() < 2 {
            return false;
        }
        let had = self.had.peek(&tenant).map_or(0.0, |it| it.rate(now));
        if FAIR_AGE_MAX <= now.since(self.fair.0) || self.fair.1.is_infinite() {
            self.fair = (now, self.fair_share(now));
        }
        OVER * self.fair.1 < had
    }

    /// What each would have if all who are there had as much.
    fn fair_share(&self, now: Timestamp) -> f64 {
        let had = self.had.iter().map(|it| it.1.rate(now)).filter(|it| PRESENT < *it);
        let (sum, tenants) = had.fold((0.0, 0.0), |(sum, tenants), it| (sum + it, tenants + 1.0));
        if tenants < 2.0 { f64::INFINITY } else { sum / tenants }
    }
}

/// What each size class asked for and what was let in of it, in requests.
#[derive(Debug)]
pub(crate) struct Sizes {
    classes: [(Decayed, Decayed); SIZES],
}

impl Default for Sizes {
    fn default() -> Self {
        let none = || (Decayed::new(USE_TIME), Decayed::new(USE_TIME));
        Self { classes: [none(), none(), none(), none(), none(), none()] }
    }
}

impl Sizes {
    /// Counts a request of `work_s` that was decided on.
    pub(crate) fn decided(&mut self, now: Timestamp, work_s: f64, was_let_in: bool) {
        if let Some((asked, let_in)) = self.classes.get_mut(size_of(work_s)) {
            asked.add(now, 1.0);
            if was_let_in {
                let_in.add(now, 1.0);
            }
        }
    }

    /// Whether requests of this size get in much more rarely than others.
    pub(crate) fn is_starved(&self, now: Timestamp, work_s: f64) -> bool {
        let sums = self.classes.iter().map(|it| (it.0.sum(now), it.1.sum(now)));
        let (asked, let_in) = sums.fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        let Some(own) = self.classes.get(size_of(work_s)) else { return false };
        let (own_asked, own_let_in) = (own.0.sum(now), own.1.sum(now));
        asked > 0.0 && own_asked > 1.0 && own_let_in / own_asked < SIZE_SHARE_MIN * let_in / asked
    }
}

/// The size class of a request that takes `work_s`.
pub(crate) fn size_of(work_s: f64) -> usize {
    let mut bound = 0.01;
    for class in 0..SIZES {
        if work_s < bound {
            return class;
        }
        bound *= 4.0;
    }
    SIZES - 1
}

/// Promises of a time per token made to the requests on one replica.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Promises(BTreeMap<Duration, u32>);

impl Promises {
    /// Adds what was promised to one request, if anything was.
    pub fn add(&mut self, tpot: Option<Duration>) {
        if let Some(tpot) = tpot {
            let count = self.0.entry(tpot).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// Takes off what was promised to a request that left.
    pub fn remove(&mut self, tpot: Option<Duration>) {
        let Some(tpot) = tpot else { return };
        if let Some(count) = self.0.get_mut(&tpot) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(&tpot);
            }
        }
    }

    /// The shortest time per token that was promised to anybody there.
    #[must_use]
    pub fn tightest(&self) -> Option<Duration> {
        self.0.keys().next().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn who_takes_ten_times_as_much_is_over_its_share_and_nobody_else() {
        let mut tenants = Tenants::default();
        for step in 0..2_000 {
            for tenant in 1..=3 {
                let work_s = if tenant == 1 { 0.05 } else { 0.005 };
                tenants.gave(at(step * 10), TenantId(tenant), work_s);
            }
        }
        let mut is_over = |id| tenants.is_over(at(20_000), TenantId(id));
        assert!(is_over(1) && !is_over(2) && !is_over(3) && !is_over(4));
    }

    #[test]
    fn whoever_is_alone_may_have_all() {
        let mut tenants = Tenants::default();
        (0..1_000).for_each(|step| tenants.gave(at(step * 10), TenantId(1), 0.05));
        assert!(!tenants.is_over(at(10_000), TenantId(1)));
        tenants.gave(at(10_000), TenantId(2), 0.05);
        assert!(tenants.is_over(at(11_000), TenantId(1)));
    }

    #[test]
    fn a_size_of_which_hardly_anything_gets_in_is_starved() {
        let mut sizes = Sizes::default();
        for step in 0..1_000 {
            sizes.decided(at(step * 10), 0.02, true);
            sizes.decided(at(step * 10), 1.0, step % 10 == 0);
        }
        assert!(sizes.is_starved(at(10_000), 1.0));
        assert!(!sizes.is_starved(at(10_000), 0.02));
    }

    #[test]
    fn the_tightest_promise_is_known_until_its_request_leaves() {
        let mut promises = Promises::default();
        let ms = Duration::from_millis;
        promises.add(Some(ms(50)));
        promises.add(Some(ms(20)));
        promises.add(Some(ms(20)));
        promises.add(None);
        promises.remove(Some(ms(20)));
        assert_eq!(promises.tightest(), Some(ms(20)));
        promises.remove(Some(ms(20)));
        assert_eq!(promises.tightest(), Some(ms(50)));
    }
}
