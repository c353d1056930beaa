//! How requests are spaced around a rate, and the times that follow.
//!
//! Whatever the rate does, gaps are drawn for a rate of one and then stretched by the rate's own
//! clock: a gap of `g` lasts until the rate has brought about `g` requests on average. So a ramp of
//! Poisson arrivals is an inhomogeneous Poisson process, and evenly spaced arrivals stay even.

use rand::{RngExt as _, rngs::Xoshiro256PlusPlus};
use rand_distr::{Exp1, Gamma};
use serde::{Deserialize, Serialize};
use types::time::Timestamp;

use crate::{
    rates::{Piece, Rates},
    schedule::timestamp_from_s,
    seed::{Purpose, generator},
};

/// Bounds of a sensible burstiness; beyond them all requests come at once or all gaps are equal.
const BURSTINESS: std::ops::RangeInclusive<f64> = 0.01..=1_000.0;

/// How requests are spaced around a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pacing {
    /// At random, independently of each other, as many users do.
    #[default]
    Poisson,
    /// At equal distances.
    Constant,
    /// At gaps drawn from a gamma distribution.
    Gamma {
        /// The distribution's shape, as `vllm bench serve` and AIPerf mean it: 1 is Poisson, less
        /// comes in bursts, more is steadier. The gaps' coefficient of variation is its square
        /// root's inverse.
        burstiness: f64,
    },
}

impl Pacing {
    /// What is wrong with the values.
    pub(crate) fn problem(self) -> Option<String> {
        match self {
            Self::Gamma { burstiness } if !BURSTINESS.contains(&burstiness) => Some(format!(
                "burstiness: needs {} to {}, has {burstiness}",
                BURSTINESS.start(),
                BURSTINESS.end()
            )),
            Self::Poisson | Self::Constant | Self::Gamma { .. } => None,
        }
    }
}

/// Times of arrivals, in order; without end, unless the rate falls to zero for good.
#[derive(Debug)]
pub(crate) struct Times {
    gaps: Gaps,
    pieces: Vec<Piece>,
    piece: usize,
    elapsed_s: f64,
}

/// Gaps with a mean of one.
#[derive(Debug)]
enum Gaps {
    Even,
    Exponential(Xoshiro256PlusPlus),
    Gamma(Xoshiro256PlusPlus, Gamma<f64>),
}

impl Gaps {
    fn next(&mut self) -> f64 {
        match self {
            Self::Even => 1.0,
            Self::Exponential(generator) => generator.sample(Exp1),
            Self::Gamma(generator, gamma) => generator.sample(*gamma),
        }
    }
}

impl Times {
    pub(crate) fn new(pacing: Pacing, rates: &Rates, seed: u64) -> Self {
        let draws = || generator(seed, Purpose::Arrivals);
        let gaps = match pacing {
            Pacing::Constant => Gaps::Even,
            Pacing::Poisson => Gaps::Exponential(draws()),
            Pacing::Gamma { burstiness } => match Gamma::new(burstiness, burstiness.recip()) {
                Ok(gamma) => Gaps::Gamma(draws(), gamma),
                // Out of bounds, which whoever plans a run has said already.
                Err(_) => Gaps::Exponential(draws()),
            },
        };
        Self { gaps, pieces: rates.pieces(), piece: 0, elapsed_s: 0.0 }
    }
}

impl Iterator for Times {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let mut work = self.gaps.next();
        while let Some(piece) = self.pieces.get(self.piece) {
            let rate_per_s = piece.rate_at(self.elapsed_s);
            let left_s = piece.end_s - self.elapsed_s;
            let needed_s = piece.time_for(work, rate_per_s);
            if needed_s <= left_s && needed_s.is_finite() {
                self.elapsed_s += needed_s;
                return Some(timestamp_from_s(self.elapsed_s));
            }
            if left_s.is_infinite() {
                return None;
            }
            work = (work - piece.work(rate_per_s, left_s)).max(0.0);
            self.elapsed_s = piece.end_s;
            self.piece = self.piece.saturating_add(1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::rates::RatePoint;

    fn seconds(pacing: Pacing, rates: &Rates, count: usize) -> Vec<f64> {
        Times::new(pacing, rates, 3).take(count).map(|it| it.elapsed().as_secs_f64()).collect()
    }

    #[test]
    fn burstiness_is_the_shape_of_the_gaps() {
        for burstiness in [0.25, 1.0, 4.0] {
            let pacing = Pacing::Gamma { burstiness };
            let times = seconds(pacing, &Rates::constant(10.0), 50_001);
            let gaps: Vec<f64> = times.windows(2).map(|it| it[1] - it[0]).collect();
            let mean = gaps.iter().sum::<f64>() / 50_000.0;
            let variance = gaps.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / 50_000.0;
            let shape = mean * mean / variance;
            assert!((mean - 0.1).abs() < 0.002, "{mean}");
            assert!((shape / burstiness - 1.0).abs() < 0.06, "{shape} for {burstiness}");
        }
        assert!(Pacing::Gamma { burstiness: 0.0 }.problem().is_some());
        assert!(Pacing::Gamma { burstiness: f64::NAN }.problem().is_some());
    }

    #[test]
    fn even_arrivals_on_a_ramp_come_where_the_area_says() {
        // From 0 to 10 a second in 10 s: the n-th comes when t²/2 = n.
        let rates = Rates::ramp(0.0, 10.0, Duration::from_secs(10));
        let times = seconds(Pacing::Constant, &rates, 52);
        for (at, n) in times.iter().zip(1..=50_u32) {
            assert!((at - f64::from(2 * n).sqrt()).abs() < 1e-6, "{at} for {n}");
        }
        // From there on ten a second.
        assert!((times[51] - times[50] - 0.1).abs() < 1e-6);
    }

    #[test]
    fn a_pause_holds_requests_back_and_an_end_ends_them() {
        let at = |at: u64, rate_per_s| RatePoint { at: Duration::from_secs(at), rate_per_s };
        let rates = Rates(vec![at(0, 1.0), at(2, 1.0), at(2, 0.0), at(5, 0.0), at(5, 1.0)]);
        let times = seconds(Pacing::Constant, &rates, 4);
        for (actual, expected) in times.iter().zip([1.0, 2.0, 6.0, 7.0]) {
            assert!((actual - expected).abs() < 1e-6, "{times:?}");
        }
        let ending = Rates(vec![at(0, 2.0), at(3, 0.0)]);
        assert_eq!(Times::new(Pacing::Constant, &ending, 1).count(), 3);
    }

    proptest! {
        /// However the rate goes, as many come in a window as its area says, give or take one.
        #[test]
        fn even_arrivals_follow_any_series(
            points in prop::collection::vec((0.1..20.0_f64, 0.0..50.0_f64), 1..8),
            window_s in 1.0..60.0_f64,
        ) {
            let mut at = Duration::ZERO;
            let rates = Rates(points.into_iter().map(|(gap_s, rate_per_s)| {
                at += Duration::from_secs_f64(gap_s);
                RatePoint { at, rate_per_s }
            }).collect());
            prop_assume!(rates.problems().is_empty());
            let times = Times::new(Pacing::Constant, &rates, 1).take(10_000);
            let count = times.take_while(|it| it.elapsed().as_secs_f64() < window_s).count();
            prop_assert!((count as f64 - rates.total(window_s)).abs() <= 1.0 + 1e-6);
        }
    }
}
