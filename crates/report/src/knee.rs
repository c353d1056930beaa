//! The knee: the offered rate past which more load brings no more.
//!
//! **The two-segment rule.** A broken line, continuous and straight on both sides of one bend, is
//! fitted to a curve by least squares; the bend is the knee. It is accepted on `guidellm`'s terms: five
//! points or more; past the bend the line rises at most a quarter as steeply as before it; the bend
//! explains at least half of what one straight line leaves unexplained; and at the bend the line
//! reaches at least 85 % of the curve's peak.
//!
//! Throughput levels off, and there the rule applies as it stands. Goodput does not: past its knee it
//! falls, in whatever shape, and a straight line through a collapse says more about the rates that
//! happened to be tried than about the knee. So for goodput the rule is applied to the curve's running
//! maximum, the goodput that can be had at up to that rate by turning the rest away.
//!
//! A running maximum alone would believe the luckiest of several rates on the slope, where runs scatter
//! most. So the curve is smoothed before, by the one thing that is known of its shape: the share of
//! requests that is good does not grow with the load. [`smoothed`] finds the goodput of the least
//! squared error whose share never grows; a rate that did better than a lower one is pooled with it.

use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};

use crate::stats::{count, quantile};

/// Fewest points that a knee is looked for in.
pub const POINTS_MIN: usize = 5;

/// Steepest rise past a knee, as a share of the rise before it.
const TAIL_RISE_MAX: f64 = 0.25;

/// Least share of the straight line's squared error that the bend must explain.
const EXPLAINED_MIN: f64 = 0.5;

/// Least share of the peak that the line must reach at the bend.
const PEAK_SHARE_MIN: f64 = 0.85;

/// Curves drawn anew for an interval.
const SAMPLES: usize = 1_000;

/// Seed of the draws: the same runs always have the same interval.
const SEED: u64 = 0x00c0_ffee;

/// A bend that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Knee {
    /// Offered rate, in requests per second.
    pub rate_per_s: f64,
    /// What the fitted line says is had there, in the curve's unit.
    pub value: f64,
}

/// Why a curve has no knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum NoKnee {
    /// There are fewer points than the rule asks for.
    #[error("fewer than five rates were measured")]
    TooFewPoints,
    /// More load never brought more.
    #[error("the curve does not rise at the lowest rates; measure lower ones")]
    NoRise,
    /// More load brought more to the end.
    #[error("the curve still rises at the highest rates; measure higher ones")]
    StillRising,
    /// A straight line does as well.
    #[error("the curve bends too little")]
    NoBend,
    /// The bend is far below the peak.
    #[error("the curve bends far below its peak")]
    BelowPeak,
}

/// Finds the knee of a curve of (offered rate, value), ascending in rate.
///
/// # Errors
/// Which term of the rule does not hold.
pub fn find(points: &[(f64, f64)]) -> Result<Knee, NoKnee> {
    if points.len() < POINTS_MIN {
        return Err(NoKnee::TooFewPoints);
    }
    let fit = best_fit(points).ok_or(NoKnee::TooFewPoints)?;
    let peak = points.iter().map(|it| it.1).fold(f64::NEG_INFINITY, f64::max);
    let straight = straight_error(points);
    if fit.rise <= 0.0 {
        return Err(NoKnee::NoRise);
    }
    if fit.tail > TAIL_RISE_MAX * fit.rise {
        return Err(NoKnee::StillRising);
    }
    if fit.error > (1.0 - EXPLAINED_MIN) * straight {
        return Err(NoKnee::NoBend);
    }
    if fit.at_bend < PEAK_SHARE_MIN * peak {
        return Err(NoKnee::BelowPeak);
    }
    Ok(Knee { rate_per_s: fit.bend, value: fit.at_bend })
}

/// The curve with a share (value over rate) that never grows with the rate, by least squares: where
/// a rate has more of its requests good than a lower one, all rates between them have the share of their
/// sum. What has no scatter is left as it is.
#[must_use]
pub fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    /// Rates that share a share: how many, the sum of the rates and that of the values.
    struct Pool(usize, f64, f64);
    let mut pools: Vec<Pool> = Vec::with_capacity(points.len());
    for (rate, value) in points {
        let mut pool = Pool(1, *rate, *value);
        while let Some(last) = pools.pop_if(|last| pool.2 * last.1 > last.2 * pool.1) {
            pool = Pool(last.0.saturating_add(pool.0), last.1 + pool.1, last.2 + pool.2);
        }
        pools.push(pool);
    }
    let shares = pools.iter().flat_map(|pool| std::iter::repeat_n(pool.2 / pool.1, pool.0));
    points.iter().zip(shares).map(|((rate, _), share)| (*rate, rate * share)).collect()
}

/// The highest value at each rate or below it.
#[must_use]
pub fn running_maximum(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut highest = f64::NEG_INFINITY;
    points
        .iter()
        .map(|(rate, value)| {
            highest = highest.max(*value);
            (*rate, highest)
        })
        .collect()
}

/// The value at `rate`, on a straight line between the points beside it; none outside of them.
#[must_use]
pub fn value_at(points: &[(f64, f64)], rate: f64) -> Option<f64> {
    let after = points.iter().position(|it| it.0 >= rate)?;
    let (high_rate, high) = *points.get(after)?;
    let Some((low_rate, low)) = after.checked_sub(1).and_then(|it| points.get(it)).copied() else {
        return (high_rate <= rate).then_some(high);
    };
    let share = (rate - low_rate) / (high_rate - low_rate);
    Some((high - low).mul_add(share, low))
}

/// A figure of a curve and where it lies in 95 % of the curves that the seeds could have given.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Of the mean over the seeds.
    pub value: f64,
    /// Lower end of the interval; none with too few seeds.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
}

/// A curve measured with several seeds: at each rate, ascending, a value from each run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve(pub Vec<(f64, Vec<f64>)>);

impl Curve {
    /// The mean at each rate.
    #[must_use]
    pub fn mean(&self) -> Vec<(f64, f64)> {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / count(values.len());
        let measured = self.0.iter().filter(|it| !it.1.is_empty());
        measured.map(|(rate, values)| (*rate, mean(values))).collect()
    }

    /// Estimates what `figure` says of the curve: of its mean, with the percentile interval of the
    /// bootstrap. Each drawn curve has at every rate as many runs as were measured there, drawn from
    /// them with replacement; a curve that `figure` says nothing of does not count, and where that is
    /// most of them, or a rate has fewer than three runs, there is no interval.
    #[must_use]
    pub fn estimate(&self, figure: impl Fn(&[(f64, f64)]) -> Option<f64>) -> Option<Estimate> {
        let value = figure(&self.mean())?;
        let fewest = self.0.iter().map(|it| it.1.len()).min().unwrap_or_default();
        if fewest < 3 {
            return Some(Estimate { value, low: None, high: None });
        }
        let mut draws = Xoshiro256PlusPlus::seed_from_u64(SEED);
        let mut drawn: Vec<f64> = (0..SAMPLES)
            .filter_map(|_| {
                let curve: Vec<(f64, f64)> =
                    self.0.iter().map(|(rate, of)| (*rate, resampled(of, &mut draws))).collect();
                figure(&curve)
            })
            .collect();
        drawn.sort_unstable_by(f64::total_cmp);
        let is_told = drawn.len() * 2 > SAMPLES;
        let at = |q| quantile(&drawn, q).filter(|_| is_told);
        Some(Estimate { value, low: at(0.025), high: at(0.975) })
    }
}

/// The mean of as many values drawn from `values`, with replacement.
fn resampled(values: &[f64], draws: &mut Xoshiro256PlusPlus) -> f64 {
    let drawn = |draws: &mut Xoshiro256PlusPlus| {
        values.get(draws.random_range(0..values.len())).copied().unwrap_or_default()
    };
    (0..values.len()).map(|_| drawn(draws)).sum::<f64>() / count(values.len())
}

/// A broken line.
#[derive(Clone, Copy, Debug)]
struct Fit {
    bend: f64,
    at_bend: f64,
    /// Slope before the bend.
    rise: f64,
    /// Slope after it.
    tail: f64,
    /// Sum of squared errors.
    error: f64,
}

/// The broken line of the least squared error, with two points or more on each side of its bend.
///
/// Between two neighbouring points the best bend is where the lines through the points on either side
/// meet; where they meet elsewhere, it is one of the two points (Hudson 1966). So trying both is exact.
fn best_fit(points: &[(f64, f64)]) -> Option<Fit> {
    let inner = 1..points.len().checked_sub(1)?;
    let bends = inner.flat_map(|at| {
        let (left, right) = points.split_at_checked(at.saturating_add(1)).unwrap_or_default();
        let (from, to) = (left.last().map(|it| it.0), right.first().map(|it| it.0));
        let meeting = line(left).zip(line(right)).and_then(|(left, right)| left.meets(right));
        let between = meeting.filter(|it| from.is_some_and(|from| from <= *it));
        [from, between.filter(|it| to.is_some_and(|to| *it <= to))]
    });
    let fits = bends.flatten().filter_map(|bend| fitted(points, bend));
    fits.min_by(|a, b| a.error.total_cmp(&b.error))
}

/// A straight line: its value at `x` is `mean.1 + slope·(x − mean.0)`.
#[derive(Clone, Copy, Debug)]
struct Line {
    mean: (f64, f64),
    slope: f64,
}

impl Line {
    /// Where it meets another that is not parallel.
    fn meets(self, other: Self) -> Option<f64> {
        let apart =
            other.mean.1 - self.mean.1 + self.slope * self.mean.0 - other.slope * other.mean.0;
        let at = apart / (self.slope - other.slope);
        at.is_finite().then_some(at)
    }
}

/// The straight line of the least squared error through two points or more.
fn line(points: &[(f64, f64)]) -> Option<Line> {
    let n = count(points.len());
    let mean_x = points.iter().map(|it| it.0).sum::<f64>() / n;
    let mean_y = points.iter().map(|it| it.1).sum::<f64>() / n;
    let (mut xx, mut xy) = (0.0, 0.0);
    for (x, y) in points {
        xx += (x - mean_x) * (x - mean_x);
        xy += (x - mean_x) * (y - mean_y);
    }
    (xx > 0.0).then(|| Line { mean: (mean_x, mean_y), slope: xy / xx })
}

/// The broken line with its bend at `bend`: value there and both slopes, by the normal equations.
fn fitted(points: &[(f64, f64)], bend: f64) -> Option<Fit> {
    // y = v + r·min(x − bend, 0) + t·max(x − bend, 0)
    let (mut n, mut sum_l, mut sum_r, mut sum_ll, mut sum_rr) = (0.0, 0.0, 0.0, 0.0, 0.0);
    let (mut sum_y, mut sum_ly, mut sum_ry) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        let (l, r) = ((x - bend).min(0.0), (x - bend).max(0.0));
        n += 1.0;
        sum_l += l;
        sum_r += r;
        sum_ll += l * l;
        sum_rr += r * r;
        sum_y += y;
        sum_ly += l * y;
        sum_ry += r * y;
    }
    if sum_ll <= 0.0 || sum_rr <= 0.0 {
        return None;
    }
    // The two slopes follow from the value, because no point lies on both sides.
    let rest = n - sum_l * sum_l / sum_ll - sum_r * sum_r / sum_rr;
    if rest <= 0.0 {
        return None;
    }
    let at_bend = (sum_y - sum_l * sum_ly / sum_ll - sum_r * sum_ry / sum_rr) / rest;
    let (rise, tail) = ((sum_ly - at_bend * sum_l) / sum_ll, (sum_ry - at_bend * sum_r) / sum_rr);
    let error = points.iter().map(|(x, y)| {
        let line = tail.mul_add((x - bend).max(0.0), rise.mul_add((x - bend).min(0.0), at_bend));
        (y - line) * (y - line)
    });
    Some(Fit { bend, at_bend, rise, tail, error: error.sum() })
}

/// Squared error of the best straight line.
fn straight_error(points: &[(f64, f64)]) -> f64 {
    let Some(Line { mean, slope }) = line(points) else { return 0.0 };
    points.iter().map(|(x, y)| (y - mean.1 - slope * (x - mean.0)).powi(2)).sum()
}

#[cfg(test)]
mod tests;
