//! Bounds how much the router's own retries add to what replicas are asked, and spreads them.
//!
//! When replicas answer with errors, each retry is one more request for the others, and a fleet that
//! was merely full is then driven down. So a retry must have been earned: a fifth of one by each
//! request. What failed before any replica had it, or with a broken connection, costs nothing.
//!
//! A retry alone is made at once. The fewer are left, the more there have been of late, and what made
//! them happen may have happened to many at once: so each waits for a time by chance, which grows up to
//! [`SPREAD_LONGEST`] as they are used up.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};

/// What one retry costs.
const COST: i64 = 1_000;
/// What one request earns: a fifth.
const EARNED: i64 = 200;
/// Retries that may be saved up.
const SAVED_MAX: i64 = 10 * COST;

/// Longest time that a retry waits, when no other one is left.
const SPREAD_LONGEST: Duration = Duration::from_millis(25);

/// Retries that have been earned and not been made.
#[derive(Debug)]
pub(crate) struct Retries {
    saved: AtomicI64,
    denied: AtomicU64,
    random: Mutex<Xoshiro256PlusPlus>,
}

impl Retries {
    /// As many as may be saved up; `seed` tells this router's times from another's.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            saved: AtomicI64::new(SAVED_MAX),
            denied: AtomicU64::new(0),
            random: Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed)),
        }
    }

    /// Counts a request.
    pub(crate) fn earn(&self) {
        self.save(EARNED);
    }

    /// Adds to what is saved, as far as it may be.
    fn save(&self, more: i64) {
        let add =
            |saved: i64| (saved < SAVED_MAX).then(|| SAVED_MAX.min(saved.saturating_add(more)));
        // Where all is saved that may be, nothing changes.
        let _ = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// How long to wait before a retry, which is then paid for; nothing where it may not be made.
    pub(crate) fn spend(&self) -> Option<Duration> {
        let pay = |saved: i64| (COST <= saved).then(|| saved.saturating_sub(COST));
        let Ok(before) = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay) else {
            self.deny();
            return None;
        };
        let used = SAVED_MAX.saturating_sub(before) as f64 / (SAVED_MAX - COST) as f64;
        let part = used.clamp(0.0, 1.0) * self.random.lock().random_range(0.0..1.0);
        Some(SPREAD_LONGEST.mul_f64(part))
    }

    /// Gives back what was paid for a retry that is not made after all.
    pub(crate) fn give_back(&self) {
        self.save(COST);
    }

    /// Counts a retry that was wanted and is not made.
    pub(crate) fn deny(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// Retries that could be made now.
    pub(crate) fn saved(&self) -> f64 {
        self.saved.load(Ordering::Relaxed) as f64 / COST as f64
    }

    /// Retries that were wanted and had not been earned, or for which no replica had room.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_add_a_fifth_at_the_most_however_many_are_wanted() {
        let retries = Retries::new(1);
        let made = (0..10_000).filter(|_| {
            retries.earn();
            retries.spend().is_some()
        });
        let made = made.count();
        assert!((2_000..=2_020).contains(&made), "{made}");
        assert_eq!(retries.denied(), 10_000 - made as u64);
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let retries = Retries::new(1);
        (0..10_000).for_each(|_| retries.earn());
        assert_eq!(std::iter::from_fn(|| retries.spend()).count(), 10);
        assert!(retries.saved() < 1.0 && retries.denied() == 1);
    }

    #[test]
    fn what_was_paid_for_a_retry_that_is_not_made_is_there_for_the_next() {
        let retries = Retries::new(1);
        for _ in 0..100 {
            assert!(retries.spend().is_some());
            retries.give_back();
        }
        assert_eq!(std::iter::from_fn(|| retries.spend()).count(), 10);
    }

    #[test]
    fn what_is_given_back_after_more_was_earned_is_bounded_too() {
        let retries = Retries::new(1);
        for _ in 0..100 {
            assert!(retries.spend().is_some());
            (0..5).for_each(|_| retries.earn());
            retries.give_back();
        }
        assert!((retries.saved() - 10.0).abs() < 1e-9, "{}", retries.saved());
        assert_eq!(std::iter::from_fn(|| retries.spend()).count(), 10);
    }

    #[test]
    fn a_retry_alone_is_made_at_once_and_those_of_a_storm_are_spread() {
        let retries = Retries::new(1);
        assert_eq!(retries.spend(), Some(Duration::ZERO));
        let mut waits = Vec::new();
        while waits.len() < 4_000 {
            retries.earn();
            waits.extend(retries.spend());
        }
        // The first used up what was saved; of the rest, every part of the longest wait has its share.
        let mut parts = [0; 5];
        for wait in &waits[100..] {
            let part = 5 * wait.as_micros() / SPREAD_LONGEST.as_micros();
            parts[usize::try_from(part).unwrap()] += 1;
        }
        assert!(parts.iter().all(|it| (500..=1_300).contains(it)), "{parts:?}");
    }
}
