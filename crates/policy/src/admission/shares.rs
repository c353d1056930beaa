//! Who has had how much of the same replicas of late, in seconds of GPU time.
//!
//! Requests are not counted but what they cost: a tenant with few long prompts takes as much as one
//! with many short ones. What was had long ago is forgotten.

use std::{collections::BTreeMap, time::Duration};

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::{
    request::{Priority, TenantId},
    time::Timestamp,
};

use crate::{estimate::decay::Decayed, token_bucket::TokenBucket};

/// Over how long a tenant's use counts.
const USE_TIME: Duration = Duration::from_secs(20);

/// Tenants whose claims are remembered; the least recently seen gives way.
const TENANTS_MAX: usize = 4_096;

/// Multiple of its fair share above which a tenant is over it.
const OVER: f64 = 1.2;

/// How long a tenant counts as there after it last asked: for longer, nobody needs to be left room for.
const PRESENT: Duration = Duration::from_secs(5);

/// Requests of which one tenant may say at once that they were turned away before.
const CLAIMS_AT_ONCE: f64 = 50.0;

/// Size classes: powers of four of a hundredth of a second of GPU time.
pub(crate) const SIZES: usize = 6;

/// Share of what everybody gets let in that a size class gets at least.
const SIZE_SHARE_MIN: f64 = 0.5;

/// Urgencies.
const CLASSES: usize = Priority::ALL.len();

/// What each tenant had of the same replicas.
#[derive(Debug)]
pub(crate) struct Tenants {
    all: LruCache<TenantId, Tenant, FxBuildHasher>,
    /// Fair share of what was as urgent as each class or more, and when it was worked out.
    fair: [Option<(Timestamp, f64)>; CLASSES],
}

/// What one tenant had and when it last asked, by urgency.
#[derive(Debug)]
struct Tenant {
    had: [Decayed; CLASSES],
    asked: [Option<Timestamp>; CLASSES],
}

impl Default for Tenant {
    fn default() -> Self {
        Self { had: [Decayed::new(USE_TIME); CLASSES], asked: [None; CLASSES] }
    }
}

impl Tenant {
    /// Seconds a second that it had of what was as urgent as `class` or more.
    fn rate(&self, now: Timestamp, class: Priority) -> f64 {
        self.had.iter().skip(class as usize).map(|it| it.rate(now)).sum()
    }

    /// Whether it lately asked for anything as urgent as `class` or more.
    fn is_there(&self, now: Timestamp, class: Priority) -> bool {
        let mut asked = self.asked.iter().skip(class as usize).flatten();
        asked.any(|it| now.since(*it) <= PRESENT)
    }
}

/// How long a fair share is taken as it is.
const FAIR_AGE_MAX: Duration = Duration::from_millis(500);

impl Default for Tenants {
    fn default() -> Self {
        Self { all: LruCache::unbounded_with_hasher(FxBuildHasher), fair: [None; CLASSES] }
    }
}

impl Tenants {
    /// Notes that `tenant` asked, whether or not it is let in.
    pub(crate) fn asked(&mut self, now: Timestamp, tenant: TenantId, class: Priority) {
        let it = self.tenant(tenant);
        if let Some(asked) = it.asked.get_mut(class as usize) {
            *asked = Some(now);
        }
    }

    /// Counts `work_s` seconds that were given to `tenant`.
    pub(crate) fn gave(&mut self, now: Timestamp, tenant: TenantId, class: Priority, work_s: f64) {
        let it = self.tenant(tenant);
        if let Some(had) = it.had.get_mut(class as usize) {
            had.add(now, work_s);
        }
    }

    fn tenant(&mut self, tenant: TenantId) -> &mut Tenant {
        self.all.get_or_insert_mut(tenant, Tenant::default)
    }

    /// Whether anything is known of `tenant`.
    pub(crate) fn knows(&self, tenant: TenantId) -> bool {
        self.all.contains(&tenant)
    }

    /// Tenants of whom something is known.
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Forgets the tenant that was seen least recently.
    pub(crate) fn forget_one(&mut self) {
        self.all.pop_lru();
    }

    /// Whether `tenant` had clearly more than its fair share of what was given for requests of `class` and more
    /// urgent ones, among those who are there. What it had for less urgent ones gives way to these anyway.
    pub(crate) fn is_over(&mut self, now: Timestamp, tenant: TenantId, class: Priority) -> bool {
        if self.all.len() < 2 {
            return false;
        }
        let had = self.all.peek(&tenant).map_or(0.0, |it| it.rate(now, class));
        let fair = self.fair.get(class as usize).copied().flatten();
        if let Some((_, share)) = fair.filter(|it| now.since(it.0) < FAIR_AGE_MAX) {
            return OVER * share < had;
        }
        let share = self.fair_share(now, class);
        if let Some(fair) = self.fair.get_mut(class as usize) {
            *fair = Some((now, share));
        }
        OVER * share < had
    }

    /// What each would have if all who are there had as much.
    fn fair_share(&self, now: Timestamp, class: Priority) -> f64 {
        let there = self.all.iter().filter(|it| it.1.is_there(now, class));
        let had = there.map(|it| it.1.rate(now, class));
        let (sum, tenants) = had.fold((0.0, 0.0), |(sum, tenants), it| (sum + it, tenants + 1.0));
        if tenants < 2.0 { f64::INFINITY } else { sum / tenants }
    }
}

/// What may wait of all that clients say they send again, whichever replicas it is for. A claim costs nothing to make: so it
/// takes nothing from those whose replica failed them, and one tenant's take of the others' no more than all have.
#[derive(Debug)]
pub(crate) struct Claims {
    all: TokenBucket,
    tenants: LruCache<TenantId, TokenBucket, FxBuildHasher>,
}

impl Claims {
    /// Of all tenants together, `at_once` may come at once.
    pub(crate) fn new(at_once: f64) -> Self {
        let tenants = LruCache::unbounded_with_hasher(FxBuildHasher);
        Self { all: TokenBucket::full(at_once), tenants }
    }

    /// Adds what a request brings for all.
    pub(crate) fn earn(&mut self, share: f64) {
        self.all.add(share);
    }

    /// Adds what a request of `tenant` brings for it.
    pub(crate) fn earn_for(&mut self, tenant: TenantId, share: f64) {
        self.tenant(tenant).add(share);
    }

    /// Whether one more of `tenant` may wait.
    pub(crate) fn take(&mut self, tenant: TenantId) -> bool {
        self.all.has_one() && self.tenant(tenant).take() && self.all.take()
    }

    /// Gives back what was taken for one of `tenant` that does not wait after all.
    pub(crate) fn give_back(&mut self, tenant: TenantId) {
        self.tenant(tenant).add(1.0);
        self.all.add(1.0);
    }

    fn tenant(&mut self, tenant: TenantId) -> &mut TokenBucket {
        if TENANTS_MAX <= self.tenants.len() && !self.tenants.contains(&tenant) {
            self.tenants.pop_lru();
        }
        self.tenants.get_or_insert_mut(tenant, || TokenBucket::full(CLAIMS_AT_ONCE))
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

    /// The sizes that get in much more rarely than others, the largest first.
    pub(crate) fn starved(&self, now: Timestamp) -> impl Iterator<Item = usize> {
        let sums = self.classes.each_ref().map(|it| (it.0.sum(now), it.1.sum(now)));
        let (asked, let_in) = sums.iter().fold((0.0, 0.0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
        let share_min = SIZE_SHARE_MIN * let_in / asked;
        let is_starved = move |it: &(usize, (f64, f64))| {
            let (own_asked, own_let_in) = it.1;
            own_asked > 1.0 && own_let_in / own_asked < share_min
        };
        sums.into_iter().enumerate().rev().filter(is_starved).map(|it| it.0)
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

    const CLASS: Priority = Priority::Default;

    /// Has `tenant` ask for `work_s` and get it, at `ms`.
    fn let_in(tenants: &mut Tenants, ms: u64, (tenant, class): (u64, Priority), work_s: f64) {
        tenants.asked(at(ms), TenantId(tenant), class);
        tenants.gave(at(ms), TenantId(tenant), class, work_s);
    }

    #[test]
    fn who_takes_ten_times_as_much_is_over_its_share_and_nobody_else() {
        let mut tenants = Tenants::default();
        for step in 0..2_000 {
            for tenant in 1..=3 {
                let work_s = if tenant == 1 { 0.05 } else { 0.005 };
                let_in(&mut tenants, step * 10, (tenant, CLASS), work_s);
            }
        }
        let mut is_over = |id| tenants.is_over(at(20_000), TenantId(id), CLASS);
        assert!(is_over(1) && !is_over(2) && !is_over(3) && !is_over(4));
    }

    #[test]
    fn whoever_is_alone_may_have_all_and_who_left_is_not_there() {
        let mut tenants = Tenants::default();
        let is_over = |tenants: &mut Tenants, ms| tenants.is_over(at(ms), TenantId(1), CLASS);
        (0..1_000).for_each(|step| let_in(&mut tenants, step * 10, (1, CLASS), 0.05));
        assert!(!is_over(&mut tenants, 10_000));
        let_in(&mut tenants, 10_000, (2, CLASS), 0.05);
        assert!(is_over(&mut tenants, 11_000));
        (1_100..1_700).for_each(|step| let_in(&mut tenants, step * 10, (1, CLASS), 0.05));
        assert!(!is_over(&mut tenants, 17_000), "the other has not asked for seven seconds");
        // Who gets nothing is there all the same.
        tenants.asked(at(17_100), TenantId(2), CLASS);
        assert!(!is_over(&mut tenants, 17_150), "who is there was looked at a moment ago");
        assert!(is_over(&mut tenants, 17_600));
    }

    #[test]
    fn what_is_urgent_does_not_pay_for_the_same_tenants_work_for_later() {
        let mut tenants = Tenants::default();
        for step in 0..2_000 {
            let_in(&mut tenants, step * 10, (1, Priority::Batch), 0.05);
            let_in(&mut tenants, step * 10, (1, Priority::Interactive), 0.005);
            let_in(&mut tenants, step * 10, (2, Priority::Interactive), 0.005);
        }
        let mut is_over = |class| tenants.is_over(at(20_000), TenantId(1), class);
        assert!(!is_over(Priority::Interactive), "of the urgent it had as much as the other");
        assert!(is_over(Priority::Batch), "it is its batch that gives way");
    }

    #[test]
    fn a_size_of_which_hardly_anything_gets_in_is_starved() {
        let mut sizes = Sizes::default();
        for step in 0..1_000 {
            sizes.decided(at(step * 10), 0.02, true);
            sizes.decided(at(step * 10), 1.0, step % 10 == 0);
        }
        assert_eq!(sizes.starved(at(10_000)).collect::<Vec<_>>(), [size_of(1.0)]);
        assert_eq!(Sizes::default().starved(at(10_000)).count(), 0, "nobody asked");
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
