//! By how much predictions must be raised for only a few to be broken.

/// Step of the first observations, of the later ones, and how many are first.
const STEP_FIRST: f64 = 0.03;
const STEP_LATER: f64 = 0.0075;
const FIRST: u32 = 500;

const LEAST: f64 = 0.6;

/// Part of a step that an observation of another replica counts for.
const HEARD: f64 = 0.5;

/// Part by which an observation moves what share was missed of late.
const LATE_WEIGHT: f64 = 1.0 / 32.0;

/// A factor on predictions such that a share `ε` of observations exceeds the product.
///
/// After each observation `m ← m + γ·(1[observed > m·predicted] − ε)`: adaptive conformal inference
/// (Gibbs and Candès, 2021), whose long-run share of misses is `ε` whatever the predictions do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Margin {
    value: f64,
    misses: f64,
    most: f64,
    observations: u32,
    /// Share of its own observations that were missed of late.
    missed: f64,
}

impl Margin {
    /// A margin of `most` at the most that a share `misses` of observations may exceed.
    #[must_use]
    pub const fn new(misses: f64, most: f64) -> Self {
        Self { value: 1.0, misses, most, observations: 0, missed: 0.0 }
    }

    /// The factor.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// Whether no factor that is allowed makes up for how far predictions are off.
    #[must_use]
    pub fn is_at_its_end(&self) -> bool {
        self.most <= self.value
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
        self.missed += LATE_WEIGHT * (share(was_missed) - self.missed);
    }

    /// Learns from an observation that another one of its kind made, as long as its own are missed too: where they are not,
    /// what others miss is theirs, and one replica that is ill says nothing of those beside it.
    pub fn hear(&mut self, was_missed: bool) {
        if self.misses < self.missed {
            self.step(was_missed, HEARD);
        }
    }

    fn step(&mut self, was_missed: bool, part: f64) {
        let step = part * if self.observations < FIRST { STEP_FIRST } else { STEP_LATER };
        self.value =
            (self.value + step * (share(was_missed) - self.misses)).clamp(LEAST, self.most);
    }
}

const fn share(was_missed: bool) -> f64 {
    if was_missed { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_settles_where_the_allowed_share_misses() {
        let mut margin = Margin::new(0.05, 2.0);
        // Observations spread evenly from 0.5 to 1.5 times the prediction.
        let spread = |at: u32| 0.5 + f64::from(at.wrapping_mul(617) % 1_000) / 1_000.0;
        for at in 0..20_000 {
            margin.observe(margin.value() < spread(at));
        }
        assert!((margin.value() - 1.45).abs() < 0.03, "{margin:?}");
    }

    #[test]
    fn what_is_heard_counts_for_half_where_its_own_are_missed_too() {
        let heard = |own: bool| {
            let mut margin = Margin::new(0.01, 4.0);
            margin.observe(own);
            let before = margin.value();
            margin.hear(true);
            (margin.value() - before, margin.observations())
        };
        let (step, observations) = heard(true);
        assert!((step - 0.5 * STEP_FIRST * 0.99).abs() < 1e-9, "{step}");
        assert_eq!(observations, 1);
        assert!(heard(false).0.abs() < 1e-9);
    }
}
