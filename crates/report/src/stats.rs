//! Mean and percentiles of a set of numbers that is held whole.

use serde::{Deserialize, Serialize};

/// Mean, percentiles and maximum of a quantity, in the quantity's unit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation, as numpy computes it by default: over n, not n − 1.
    #[serde(default)]
    pub std: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest value.
    pub max: f64,
}

impl Stats {
    /// The statistics of `values`, exact, none for no values.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        let max = values.iter().copied().max_by(f64::total_cmp)?;
        let mean = values.iter().sum::<f64>() / count(values.len());
        let squares: f64 = values.iter().map(|it| (it - mean) * (it - mean)).sum();
        let std = (squares / count(values.len())).sqrt();
        let [p50, p90, p95, p99] = quantiles(&mut values, [0.50, 0.90, 0.95, 0.99]);
        let or_max = |it: Option<f64>| it.unwrap_or(max);
        Some(Self {
            mean,
            std,
            p50: or_max(p50),
            p90: or_max(p90),
            p95: or_max(p95),
            p99: or_max(p99),
            max,
        })
    }
}

/// The `q`-quantile of ascending `sorted`, interpolated between neighbours as numpy does by default:
/// at position `q · (n − 1)`, n being the number of values. `q` is from 0 to 1.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let position = q.clamp(0.0, 1.0) * count(last);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the last index"
    )]
    let below = position as usize;
    let low = *sorted.get(below)?;
    let high = sorted.get(below.saturating_add(1)).copied().unwrap_or(low);
    Some((high - low).mul_add(position.fract(), low))
}

/// The same of `values` in any order, which it changes; it takes linear time.
#[must_use]
pub(crate) fn quantile_unsorted(values: &mut [f64], q: f64) -> Option<f64> {
    let [only] = quantiles(values, [q]);
    only
}

/// Several quantiles of `values` in any order, which it changes. `qs` ascend, so that each is looked for
/// among what lies beyond the one before: all of them take little more time than the first.
pub(crate) fn quantiles<const N: usize>(values: &mut [f64], qs: [f64; N]) -> [Option<f64>; N] {
    let Some(last) = values.len().checked_sub(1) else { return [None; N] };
    // What lies below `done` is sorted away.
    let (mut rest, mut done) = (values, 0_usize);
    qs.map(|q| {
        let position = q.clamp(0.0, 1.0) * count(last);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the last index"
        )]
        let below = (position as usize).saturating_sub(done);
        if below >= rest.len() {
            return None;
        }
        let (_, low, above) = rest.select_nth_unstable_by(below, f64::total_cmp);
        let low = *low;
        let high = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
        let cut = below.min(rest.len());
        rest = std::mem::take(&mut rest).get_mut(cut..).unwrap_or_default();
        done = done.saturating_add(cut);
        Some((high - low).mul_add(position.fract(), low))
    })
}

/// A part of a whole; none of nothing.
pub(crate) fn ratio(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

/// A count as a number to divide by; exact up to 2^53.
pub(crate) const fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_numpys() {
        // numpy.percentile([1, 2, 4, 8], [50, 90, 95, 99])
        let stats = Stats::of(vec![8.0, 1.0, 4.0, 2.0]).unwrap();
        let actual = [stats.mean, stats.p50, stats.p90, stats.p95, stats.p99, stats.max];
        for (actual, expected) in actual.into_iter().zip([3.75, 3.0, 6.8, 7.4, 7.88, 8.0]) {
            assert!((actual - expected).abs() < 1e-12, "{actual} is not {expected}");
        }
        // numpy.std([1, 2, 4, 8])
        assert!((stats.std - 7.187_5_f64.sqrt()).abs() < 1e-12, "{}", stats.std);
    }

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!(Stats::of(Vec::new()), None);
    }

    proptest! {
        /// Order does not matter.
        #[test]
        fn quantiles_need_no_order(mut values in prop::collection::vec(-1e9..1e9_f64, 1..60), q in 0.0..=1.0_f64) {
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            prop_assert_eq!(quantile_unsorted(&mut values, q), quantile(&sorted, q));
        }

        /// Several at once are each what it is alone.
        #[test]
        fn quantiles_taken_together_are_those_taken_alone(mut values in prop::collection::vec(-1e9..1e9_f64, 1..60)) {
            let mut sorted = values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let qs = [0.0, 0.5, 0.5, 0.9, 0.99, 1.0];
            let together = quantiles(&mut values, qs);
            prop_assert_eq!(together, qs.map(|q| quantile(&sorted, q)));
        }

        /// Percentiles ascend and stay within the values.
        #[test]
        fn percentiles_ascend(values in prop::collection::vec(-1e9..1e9_f64, 1..200)) {
            let min = values.iter().copied().fold(f64::INFINITY, f64::min);
            let stats = Stats::of(values).unwrap();
            let line = [min, stats.p50, stats.p90, stats.p95, stats.p99, stats.max];
            prop_assert!(line.is_sorted(), "{line:?}");
        }
    }
}
