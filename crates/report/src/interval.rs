//! How sure a mean is: bootstrap confidence intervals over runs with different seeds.

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};

use crate::stats::{count, quantile};

/// Fewest values that an interval is drawn from: of fewer, too few different samples can be drawn.
pub const VALUES_MIN: usize = 5;

/// Samples drawn with replacement.
const SAMPLES: usize = 4_000;

/// Seed of the draws: the same values always have the same interval.
const SEED: u64 = 0x5106_1ce5;

/// The confidence of every interval.
pub const CONFIDENCE: f64 = 0.95;

/// A mean and the interval that covers the true one with [`CONFIDENCE`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Mean of the values.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// The bootstrap-t interval of the mean of `values`; none of fewer than [`VALUES_MIN`].
    ///
    /// Each sample, drawn from the values with replacement, gives t* = (m* − m)/s*, with m the mean,
    /// m* the sample's mean and s* its standard error; the interval is from m − s·t*(0.975) to
    /// m − s·t*(0.025) (Efron and Tibshirani 1993, chapter 12). Plain percentiles of m* would be too
    /// narrow for the few seeds that people run.
    #[must_use]
    pub fn of_mean(values: &[f64]) -> Option<Self> {
        if values.len() < VALUES_MIN {
            return None;
        }
        let (mean, error) = mean_and_error(values);
        let mut draws = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let mut sample = vec![0.0; values.len()];
        let mut ts: Vec<f64> = (0..SAMPLES)
            .filter_map(|_| {
                for slot in &mut sample {
                    let drawn = draws.random_range(0..values.len());
                    *slot = values.get(drawn).copied().unwrap_or_default();
                }
                let (sample_mean, sample_error) = mean_and_error(&sample);
                // A sample of one value, many times over, says nothing about the spread.
                (sample_error > 0.0).then(|| (sample_mean - mean) / sample_error)
            })
            .collect();
        ts.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        let at = |q| quantile(&ts, q).unwrap_or_default();
        Some(Self { mean, low: mean - error * at(1.0 - tail), high: mean - error * at(tail) })
    }

    /// Whether the interval leaves zero out.
    #[must_use]
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The mean of `values` and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let n = count(values.len());
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|it| (it - mean) * (it - mean)).sum();
    // Equal values have no spread, whatever rounding makes of their mean.
    let is_constant = values.windows(2).all(|it| it.first() == it.last());
    let error = if is_constant { 0.0 } else { (squares / (n - 1.0) / n).sqrt() };
    (mean, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twelve uniforms minus six: close to normal, mean 0 and variance 1.
    fn nearly_normal(draws: &mut Xoshiro256PlusPlus) -> f64 {
        (0..12).map(|_| draws.random::<f64>()).sum::<f64>() - 6.0
    }

    #[test]
    fn the_interval_covers_the_truth_as_often_as_it_says() {
        let mut draws = Xoshiro256PlusPlus::seed_from_u64(1);
        let covered = (0..200)
            .filter(|_| {
                let values: Vec<f64> = (0..10).map(|_| nearly_normal(&mut draws)).collect();
                let interval = Interval::of_mean(&values).unwrap();
                interval.low <= 0.0 && 0.0 <= interval.high
            })
            .count();
        // 95 % of 200 is 190, with a standard deviation of 3.1.
        assert!((180..=199).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn equal_values_leave_no_doubt() {
        let interval = Interval::of_mean(&[0.1; 6]).unwrap();
        assert!((interval.high - interval.low).abs() < 1e-12 && interval.excludes_zero());
        assert!(!Interval::of_mean(&[0.0; 6]).unwrap().excludes_zero());
    }

    #[test]
    fn few_values_have_no_interval() {
        assert_eq!(Interval::of_mean(&[1.0; 4]), None);
    }
}
