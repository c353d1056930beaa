//! By how much predictions must be raised for only a few to be broken.

/// Step of the first observations, of the later ones, and how many are first.
const STEP_FIRST: f64 = 0.03;
const STEP_LATER: f64 = 0.0075;
const FIRST: u32 = 500;

const LEAST: f64 = 0.6;
/// An answer of three tokens that is promised 50 ms for each is broken by one prompt beside it: where answers are that short,
/// promises hold only with several times what is predicted for the mean.
const MOST: f64 = 4.0;

/// Part of a step that an observation of another replica counts for.
const HEARD: f64 = 0.5;

/// A factor on predictions such that a share `ε` of observations exceeds the product.
///
/// After each observation `m ← m + γ·(1[observed > m·predicted] − ε)`: adaptive conformal inference
/// (Gibbs and Candès, 2021), whose long-run share of misses is `ε` whatever the predictions do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    value: f64,
    misses: f64,
    observations: u32,
}

impl Margin {
    /// A margin that a share `misses` of observations may exceed.
    #[must_use]
    pub const fn new(misses: f64) -> Self {
        Self { value: 1.0, misses, observations: 0 }
    }

    /// The factor.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// Whether no factor that is allowed makes up for how far predictions are off.
    #[must_use]
    pub fn is_at_its_end(&self) -> bool {
        MOST <= self.value
    }

    /// Observations so far.
    #[must_use]
    pub const fn observations(&self) -> u32 {
        self.observations
    }

    /// Learns whether an observation was beyond the raised prediction.
    pub fn observe(&mut self, was_missed: bool) {
        self.step(was_missed, 1.0);
        self.observations = self.observations.saturating_add(1);
    }

    /// Learns from an observation that another one of its kind made.
    pub fn hear(&mut self, was_missed: bool) {
        self.step(was_missed, HEARD);
    }

    fn step(&mut self, was_missed: bool, part: f64) {
        let step = part * if self.observations < FIRST { STEP_FIRST } else { STEP_LATER };
        let missed = if was_missed { 1.0 } else { 0.0 };
        self.value = (self.value + step * (missed - self.misses)).clamp(LEAST, MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_settles_where_the_allowed_share_misses() {
        let mut margin = Margin::new(0.05);
        // Observations spread evenly from 0.5 to 1.5 times the prediction.
        let spread = |at: u32| 0.5 + f64::from(at.wrapping_mul(617) % 1_000) / 1_000.0;
        for at in 0..20_000 {
            margin.observe(margin.value() < spread(at));
        }
        assert!((margin.value() - 1.45).abs() < 0.03, "{margin:?}");
    }

    #[test]
    fn what_is_heard_counts_for_half_and_not_as_an_observation() {
        let (mut own, mut heard) = (Margin::new(0.05), Margin::new(0.05));
        own.observe(true);
        heard.hear(true);
        assert!(
            (own.value() - 1.0 - 2.0 * (heard.value() - 1.0)).abs() < 1e-9,
            "{own:?} {heard:?}"
        );
        assert_eq!((own.observations(), heard.observations()), (1, 0));
    }
}
