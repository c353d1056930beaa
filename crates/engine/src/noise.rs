//! Steps that take a little longer or shorter than the formula says.

use std::{f64::consts::TAU, time::Duration};

use serde::{Deserialize, Serialize};
use types::block::{BlockHash, hash_block};

/// How the factor that a step is longer or shorter by is distributed; its mean is one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Spread {
    /// `exp(σ·z − σ²/2)` with `z` standard normal: what measured steps look like.
    LogNormal {
        /// `σ`: standard deviation of the factor's logarithm, at least zero.
        sigma: f64,
    },
    /// Exponential: what textbooks compute with.
    Exponential,
}

impl Spread {
    /// What is wrong with the values.
    pub(crate) fn problem(self) -> Option<String> {
        match self {
            Self::LogNormal { sigma } if !(0.0..=SIGMA_MAX).contains(&sigma) => {
                Some(format!("spread.sigma is {sigma}: set it between 0 and {SIGMA_MAX}"))
            }
            Self::LogNormal { .. } | Self::Exponential => None,
        }
    }
}

/// A step in a million is then 17,000 times longer than the mean; beyond that nothing is simulated
/// but luck.
const SIGMA_MAX: f64 = 2.0;

/// Multiplies each step time by a factor of mean one.
///
/// The factor of a step depends on the seed and on the number of the step alone: engines of one
/// seed have the same luck, and steps that are planned twice take the same time twice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepNoise {
    /// How the factor is distributed.
    pub spread: Spread,
    /// What sets one engine's luck apart from that of others.
    pub seed: u64,
}

impl StepNoise {
    /// The factor of the `number`-th step.
    #[must_use]
    pub fn factor(&self, number: u64) -> f64 {
        let draw = |which: u8| {
            let mut content = [which; 9];
            content[1..].copy_from_slice(&number.to_le_bytes());
            // 53 bits, as a number above 0 and up to 1.
            let bits = hash_block(BlockHash(self.seed), &content).0 >> 11;
            (bits as f64 + 1.0) / (1_u64 << 53) as f64
        };
        match self.spread {
            Spread::LogNormal { sigma } => {
                // The transform of Box and Muller (1958).
                let normal = (-2.0 * draw(0).ln()).sqrt() * (TAU * draw(1)).cos();
                (sigma * normal - sigma * sigma / 2.0).exp()
            }
            Spread::Exponential => -draw(0).ln(),
        }
    }

    /// `step`, the `number`-th, as it turns out; never nothing.
    pub(crate) fn vary(&self, step: Duration, number: u64) -> Duration {
        let seconds = step.as_secs_f64() * self.factor(number);
        Duration::try_from_secs_f64(seconds).unwrap_or(step).max(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn log_normal(sigma: f64, seed: u64) -> StepNoise {
        StepNoise { spread: Spread::LogNormal { sigma }, seed }
    }

    #[test]
    fn an_exponential_step_has_the_mean_and_the_spread_of_one() {
        let noise = StepNoise { spread: Spread::Exponential, seed: 7 };
        let factors: Vec<f64> = (0..100_000_u64).map(|number| noise.factor(number)).collect();
        let mean = factors.iter().sum::<f64>() / 1e5;
        let variance = factors.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / 1e5;
        // Four standard errors: 4 / √100,000 of the mean, and √8 times as much of the variance.
        assert!((mean - 1.0).abs() < 0.013 && (variance - 1.0).abs() < 0.036, "{mean} {variance}");
    }

    #[test]
    fn the_mean_stays_and_the_spread_is_the_one_asked_for() {
        let noise = log_normal(0.3, 7);
        let steps = 0..100_000_u64;
        let factors: Vec<f64> = steps.map(|number| noise.factor(number)).collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / 100_000.0;
        let of_factors = mean(&mut factors.iter().copied());
        // Four standard errors of the mean: 4 · 0.307 / √100,000.
        assert!((of_factors - 1.0).abs() < 0.004, "{of_factors}");
        let of_logs = mean(&mut factors.iter().map(|it| it.ln()));
        let variance = mean(&mut factors.iter().map(|it| (it.ln() - of_logs).powi(2)));
        assert!((variance.sqrt() - 0.3).abs() < 0.003, "{variance}");
    }

    #[test]
    fn seeds_differ_and_a_step_keeps_its_luck() {
        let (one, two) = (log_normal(0.1, 1), log_normal(0.1, 2));
        assert!((one.factor(5) - two.factor(5)).abs() > 1e-9);
        assert!((one.factor(5) - one.factor(6)).abs() > 1e-9);
        let step = Duration::from_millis(10);
        assert_eq!(one.vary(step, 5), one.vary(step, 5));
        assert_eq!(log_normal(0.0, 1).vary(step, 5), step);
    }
}
