//! Replicas that have just come take their share little by little.
//!
//! A replica that restarted answers slowly at first: its cache is empty, its kernels are not compiled,
//! its connections not open. Whatever looks at load sees an idle replica and sends it everything. So
//! its share of the requests it might take grows over a window, from a tenth to all of what is fair,
//! whatever the strategy. Shares are counted, not drawn: each request that might have gone to the
//! replica adds its share to an allowance, and each that goes there takes one off. Replicas that came
//! together are not held back from each other, so that a fleet that starts is not slowed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::time::Timestamp;

/// Share of the warmest replica's weight from which a replica is held back no more.
pub(crate) const WARM: f64 = 0.95;

/// How much longer another one has been there when a replica that comes is held back.
pub(crate) const HEAD_START: Duration = Duration::from_secs(1);

/// Bounds of an allowance: what is not used does not add up, nor does what was taken in need.
const ALLOWANCE_MOST: f64 = 4.0;
const ALLOWANCE_LEAST: f64 = -2.0;

/// How a replica's share grows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlowStart {
    /// How long it takes until a replica gets all of its share; zero turns slow start off.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub window: Duration,
    /// Part of its share that it gets at first, above 0 to 1.
    pub least: f64,
}

impl Default for SlowStart {
    fn default() -> Self {
        Self { window: Duration::from_secs(30), least: 0.1 }
    }
}

impl SlowStart {
    /// Every replica has its whole share at once.
    #[must_use]
    pub const fn off() -> Self {
        Self { window: Duration::ZERO, least: 1.0 }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        if 0.001 <= self.least && self.least <= 1.0 {
            return Vec::new();
        }
        vec![format!("least: must be a share from 0.001 to 1, not {}", self.least)]
    }

    /// The part of its share that a replica gets that came `age` ago.
    #[must_use]
    pub fn weight(&self, age: Duration) -> f64 {
        if self.window <= age {
            return 1.0;
        }
        (age.as_secs_f64() / self.window.as_secs_f64()).clamp(self.least, 1.0)
    }
}

/// A replica that has come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Warming {
    since: Timestamp,
    /// Requests that it may take now.
    allowance: f64,
}

impl Warming {
    pub(crate) const fn from(since: Timestamp) -> Self {
        Self { since, allowance: 0.0 }
    }

    pub(crate) const fn age(&self, now: Timestamp) -> Duration {
        now.since(self.since)
    }

    pub(crate) const fn may_take_one(&self) -> bool {
        self.allowance >= 1.0
    }

    /// Learns that a request came of which `share` is this replica's, and whether it went here.
    pub(crate) fn count(&mut self, share: f64, went_here: bool) {
        let taken = if went_here { 1.0 } else { 0.0 };
        self.allowance = (self.allowance + share - taken).clamp(ALLOWANCE_LEAST, ALLOWANCE_MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_grows_from_a_tenth_to_all_over_the_window() {
        let it = SlowStart::default();
        let weight = |seconds| it.weight(Duration::from_secs(seconds));
        assert_eq!([0, 1, 3].map(weight), [0.1; 3]);
        assert_eq!([15, 30, 1_000].map(weight), [0.5, 1.0, 1.0]);
        assert!((SlowStart::off().weight(Duration::ZERO) - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn what_goes_to_a_replica_is_the_sum_of_its_shares() {
        let mut it = Warming::from(Timestamp::ZERO);
        let mut taken = 0;
        for _ in 0..1_000 {
            let takes = it.may_take_one();
            taken += u32::from(takes);
            it.count(0.025, takes);
        }
        assert_eq!(taken, 24);
        (0..1_000).for_each(|_| it.count(0.025, false));
        assert!(it.allowance <= ALLOWANCE_MOST, "what is not used does not add up");
    }

    #[test]
    fn a_share_of_nothing_is_a_problem() {
        for least in [0.0, -1.0, 1.5, f64::NAN] {
            assert_eq!(SlowStart { least, ..SlowStart::default() }.problems().len(), 1);
        }
        assert!(SlowStart::default().problems().is_empty());
    }
}
