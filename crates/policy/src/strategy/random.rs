//! Any replica, all equally likely.

use rand::{Rng, RngExt as _};

use super::Candidate;

/// Chooses at random.
pub(super) fn choose(candidates: &[Candidate], rng: &mut impl Rng) -> Option<Candidate> {
    if candidates.is_empty() {
        return None;
    }
    candidates.get(rng.random_range(0..candidates.len())).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{candidate, tally};

    #[test]
    fn all_are_equally_likely_whatever_their_load() {
        let candidates = [candidate(0, 50, 0), candidate(1, 0, 0), candidate(2, 0, 900)];
        let tally = tally(|rng| choose(&candidates, rng), &candidates);
        assert!(tally.iter().all(|it| (280..390).contains(it)), "{tally:?}");
    }
}
