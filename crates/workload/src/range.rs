//! Ranges that lengths and waits are drawn from, evenly.

use std::time::Duration;

use rand::{Rng, RngExt, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use serde::{Deserialize, Serialize};
use types::quantity::Tokens;

/// Longest prompt or answer that a workload may ask for, in tokens.
///
/// Ten times the longest context that models offer; a bound so that one wrong figure in a file
/// cannot fill the memory.
pub const TOKENS_MAX: u32 = 10_000_000;

/// A range of token counts, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRange {
    /// Fewest tokens.
    pub min: u32,
    /// Most tokens.
    pub max: u32,
}

/// A range of durations, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DurationRange {
    /// Shortest duration.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub min: Duration,
    /// Longest duration.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub max: Duration,
}

impl TokenRange {
    /// Draws a count.
    pub(crate) fn draw(self, generator: &mut impl Rng) -> Tokens {
        Tokens(generator.random_range(self.min..=self.max.max(self.min)))
    }

    /// The count that belongs to the text called `id`: drawn, but the same each time.
    pub(crate) fn of(self, id: u64) -> Tokens {
        self.draw(&mut Xoshiro256PlusPlus::seed_from_u64(id))
    }

    /// The mean of what is drawn.
    pub(crate) fn mean(self) -> f64 {
        f64::midpoint(f64::from(self.min), f64::from(self.max))
    }

    /// What is wrong with the range called `key`.
    pub(crate) fn problem(self, key: &str) -> Option<String> {
        if self.min == 0 || self.min > self.max {
            Some(format!("{key}: needs 1 <= min <= max, has min {} and max {}", self.min, self.max))
        } else if self.max > TOKENS_MAX {
            Some(format!("{key}: max is {}, more than {TOKENS_MAX} tokens", self.max))
        } else {
            None
        }
    }
}

impl DurationRange {
    /// Draws a duration.
    pub(crate) fn draw(self, generator: &mut impl Rng) -> Duration {
        generator.random_range(self.min..=self.max.max(self.min))
    }

    /// What is wrong with the range called `key`.
    pub(crate) fn problem(self, key: &str) -> Option<String> {
        (self.min > self.max).then(|| {
            format!("{key}: needs min <= max, has min {:?} and max {:?}", self.min, self.max)
        })
    }
}
