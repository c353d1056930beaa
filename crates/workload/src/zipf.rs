//! Zipf's law: the n-th most popular of things is chosen in proportion to 1/n^skew.

use rand::{Rng, RngExt as _};

/// Draws things by popularity, the most popular being 0.
#[derive(Debug)]
pub(crate) struct Zipf {
    /// At each thing, the weight of it and all before it.
    weights: Vec<f64>,
}

impl Zipf {
    /// `count` things; at a `skew` of 0 all are equal.
    pub(crate) fn new(count: u32, skew: f64) -> Self {
        let weights = (1..=count.max(1)).scan(0.0, |sum, rank| {
            *sum += f64::from(rank).powf(-skew);
            Some(*sum)
        });
        Self { weights: weights.collect() }
    }

    /// Draws a thing.
    pub(crate) fn draw(&self, draws: &mut impl Rng) -> u32 {
        let total = self.weights.last().copied().unwrap_or_default();
        let point = draws.random::<f64>() * total;
        let thing = self.weights.partition_point(|weight| *weight <= point);
        let last = self.weights.len().saturating_sub(1);
        u32::try_from(thing.min(last)).unwrap_or(u32::MAX)
    }

    /// What is wrong with the skew called `key`.
    pub(crate) fn problem(key: &str, skew: f64) -> Option<String> {
        (!(0.0..=10.0).contains(&skew)).then(|| format!("{key}: needs 0 to 10, has {skew}"))
    }
}
