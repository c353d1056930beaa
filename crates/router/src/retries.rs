//! Bounds how much the router's own retries add to what replicas are asked.
//!
//! When replicas answer with errors, each retry is one more request for the others, and a fleet that
//! was merely full is then driven down. So a retry must have been earned: a fifth of one by each
//! request. What failed before any replica had it, or with a broken connection, costs nothing.

use std::sync::atomic::{AtomicI64, Ordering};

/// What one retry costs.
const COST: i64 = 1_000;
/// What one request earns: a fifth.
const EARNED: i64 = 200;
/// Retries that may be saved up.
const SAVED_MAX: i64 = 10 * COST;

/// Retries that have been earned and not been made.
#[derive(Debug)]
pub(crate) struct Retries(AtomicI64);

impl Default for Retries {
    fn default() -> Self {
        Self(AtomicI64::new(SAVED_MAX))
    }
}

impl Retries {
    /// Counts a request.
    pub(crate) fn earn(&self) {
        if self.0.load(Ordering::Relaxed) < SAVED_MAX {
            self.0.fetch_add(EARNED, Ordering::Relaxed);
        }
    }

    /// Whether a retry may be made, which is then paid for.
    pub(crate) fn spend(&self) -> bool {
        let pay = |saved: i64| (COST <= saved).then(|| saved.saturating_sub(COST));
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_add_a_fifth_at_the_most_however_many_are_wanted() {
        let retries = Retries::default();
        let made = (0..10_000).filter(|_| {
            retries.earn();
            retries.spend()
        });
        let made = made.count();
        assert!((2_000..=2_020).contains(&made), "{made}");
    }

    #[test]
    fn what_is_saved_up_is_bounded() {
        let retries = Retries::default();
        (0..10_000).for_each(|_| retries.earn());
        assert_eq!(std::iter::from_fn(|| retries.spend().then_some(())).count(), 10);
    }
}
