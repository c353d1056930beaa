//! By how much memory in use must be raised for few requests to lose theirs to others.
//!
//! What is placed is counted by the lengths that answers are expected to have, against a size that the engine stated
//! or that its reports told. Answers turn out longer, and sizes are wrong or shared with work of others; then an engine
//! takes a running request's memory and computes it anew, which costs it more than a wait would have. Engines count that
//! (vLLM's `num_preemptions_total`). A count that rises says that more was placed than fits, whatever the sizes say.

/// Requests that may lose their memory, of those that end.
const MISSES: f64 = 0.01;

/// Step for each one that does: a tenth is learned from a few at once, and takes five hundred that end well to forget.
const STEP: f64 = 0.02;

/// Requests of one report that count, at most: those who gave way together did so for one reason.
const AT_ONCE_MAX: u32 = 10;

/// Sizes are not off by more.
const MOST: f64 = 4.0;

/// A factor on memory in use such that a share `ε` of requests loses theirs, and no less than 1: with room to spare
/// nothing is learned of how much more there may be.
///
/// `m ← m + γ·(preempted − ε)` for each request that ends, as margins learn
/// ([`Margin`](super::margin::Margin)).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Overrun {
    factor: f64,
    /// How many the engine has counted so far.
    counted: Option<u32>,
}

/// What a count says that was not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// How many are new.
    pub new: u32,
    /// Whether it is that of another process.
    pub is_anew: bool,
}

impl Default for Overrun {
    fn default() -> Self {
        Self { factor: 1.0, counted: None }
    }
}

impl Overrun {
    /// The factor.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// Learns how many requests lost their memory since the engine started. The first count is of what was before, and
    /// so is one that is less than the last.
    pub fn count(&mut self, preemptions: u32) -> Counted {
        let before = self.counted.replace(preemptions).unwrap_or(preemptions);
        let new = preemptions.saturating_sub(before);
        self.factor = (self.factor + STEP * f64::from(new.min(AT_ONCE_MAX))).min(MOST);
        Counted { new, is_anew: preemptions < before }
    }

    /// Learns that a request ended.
    pub fn ended(&mut self) {
        self.factor = (self.factor - STEP * MISSES).max(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_overrun_is_learned_at_once_and_forgotten_slowly() {
        let mut overrun = Overrun::default();
        assert_eq!(overrun.count(700).new, 0, "what was before says nothing of what is there");
        assert_eq!(overrun.count(705).new, 5);
        assert!((overrun.factor() - 1.1).abs() < 1e-9, "{overrun:?}");
        (0..100).for_each(|_| overrun.ended());
        assert!(1.07 < overrun.factor(), "{overrun:?}");
        (0..400).for_each(|_| overrun.ended());
        assert!((overrun.factor() - 1.0).abs() < 1e-9, "{overrun:?}");
    }

    #[test]
    fn an_engine_that_started_anew_counts_from_there() {
        let mut overrun = Overrun::default();
        overrun.count(40);
        let counted = [3, 4].map(|it| overrun.count(it));
        assert_eq!(counted, [(0, true), (1, false)].map(|(new, is_anew)| Counted { new, is_anew }));
    }

    #[test]
    fn it_settles_where_one_in_a_hundred_gives_way() {
        // Those beyond the size lose their memory: 130 requests where 100 fit.
        let mut overrun = Overrun::default();
        let (mut preemptions, mut late) = (0_u32, 0_u32);
        for round in 0..20_000_u32 {
            let placed = 130.0 / overrun.factor();
            // The one that fits least, in some of the rounds the more of them the more are too many.
            let excess = (placed - 100.0) / 30.0;
            let is_lost = f64::from(round.wrapping_mul(617) % 1_000) / 1_000.0 < excess;
            preemptions += u32::from(is_lost);
            overrun.count(preemptions);
            overrun.ended();
            late += u32::from(is_lost && round >= 10_000);
        }
        assert!((50..200).contains(&late), "{late} of 10,000 with {overrun:?}");
    }
}
