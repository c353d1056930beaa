//! Gaps between tokens, counted in buckets: there are too many of them to keep.

use std::time::Duration;

use crate::{
    record::Gaps,
    stats::{Stats, quantile_unsorted},
};

/// Longest gap that is told apart from a longer one: an hour, in microseconds.
const GAP_US_MAX: u64 = 3_600_000_000;

/// Significant decimal digits that are kept.
const DIGITS: u8 = 3;

/// Counts of durations by length: each is told to a microsecond or to one part in a thousand, whichever
/// is coarser, and so are the percentiles read from it. Histograms of parts add up to that of the whole.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: hdrhistogram::Histogram<u64>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the bounds are constants that a test has tried")]
    pub fn new() -> Self {
        let counts = hdrhistogram::Histogram::new_with_bounds(1, GAP_US_MAX, DIGITS);
        Self { counts: counts.expect("constant bounds are valid") }
    }

    /// Counts `gap`; one of more than an hour counts as an hour.
    pub fn record(&mut self, gap: Duration) {
        let micros = u64::try_from(gap.as_micros()).unwrap_or(u64::MAX);
        self.counts.saturating_record(micros);
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        // The bounds of both are the same constants, so there is nothing that cannot be added.
        let added = self.counts.add(&other.counts);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    /// How many gaps were counted.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.counts.len()
    }

    /// Whether nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Statistics in milliseconds, none where nothing was counted.
    #[must_use]
    pub fn stats_ms(&self) -> Option<Stats> {
        if self.is_empty() {
            return None;
        }
        let at = |q| micros_to_ms(self.counts.value_at_quantile(q));
        Some(Stats {
            mean: self.counts.mean() / 1_000.0,
            std: self.counts.stdev() / 1_000.0,
            p50: at(0.50),
            p90: at(0.90),
            p95: at(0.95),
            p99: at(0.99),
            max: micros_to_ms(self.counts.max()),
        })
    }
}

impl Gaps {
    /// What is kept of the `gaps` of one answer, none where there are none.
    #[must_use]
    pub fn of(gaps: &[Duration]) -> Option<Self> {
        let mut millis: Vec<f64> = gaps.iter().map(|it| it.as_secs_f64() * 1_000.0).collect();
        let mean_ms = millis.iter().sum::<f64>() / crate::stats::count(millis.len());
        let max_ms = millis.iter().copied().max_by(f64::total_cmp)?;
        let min_ms = millis.iter().copied().min_by(f64::total_cmp)?;
        Some(Self { mean_ms, min_ms, p95_ms: quantile_unsorted(&mut millis, 0.95)?, max_ms })
    }
}

fn micros_to_ms(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_true_to_a_thousandth() {
        let mut histogram = Histogram::new();
        (1..=10_000).for_each(|it| histogram.record(Duration::from_micros(it * 10)));
        let stats = histogram.stats_ms().unwrap();
        let actual = [stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max];
        for (actual, expected) in actual.into_iter().zip([50.005, 50.0, 90.0, 95.0, 99.0, 100.0]) {
            assert!((actual / expected - 1.0).abs() < 0.001_1, "{actual} is not {expected}");
        }
    }

    #[test]
    fn a_gap_beyond_the_bound_counts_as_the_bound() {
        let mut histogram = Histogram::new();
        histogram.record(Duration::MAX);
        histogram.record(Duration::ZERO);
        assert_eq!(histogram.len(), 2);
        let max = histogram.stats_ms().unwrap().max;
        assert!((max / 3_600_000.0 - 1.0).abs() < 0.001, "{max}");
    }

    #[test]
    fn merging_counts_everything() {
        let (mut one, mut two) = (Histogram::new(), Histogram::new());
        one.record(Duration::from_millis(1));
        two.record(Duration::from_millis(3));
        one.merge(&two);
        assert_eq!(one.len(), 2);
        assert!((one.stats_ms().unwrap().mean - 2.0).abs() < 0.01);
    }

    #[test]
    fn one_answers_gaps_are_exact() {
        let gaps = Gaps::of(&[1, 2, 3].map(Duration::from_millis)).unwrap();
        assert!((gaps.mean_ms - 2.0).abs() < 1e-9 && (gaps.p95_ms - 2.9).abs() < 1e-9);
        assert!((gaps.min_ms - 1.0).abs() < 1e-9 && (gaps.max_ms - 3.0).abs() < 1e-9);
        assert_eq!(Gaps::of(&[]), None);
    }
}
