//! The less loaded of two replicas drawn at random, which is Envoy's least-request at its default
//! of two choices: nearly as even as looking at all, and immune to everyone seeing the same
//! minimum.

use rand::{Rng, RngExt as _};

use super::{Candidate, least_request};

/// Chooses the better of two different replicas.
pub(super) fn choose(candidates: &[Candidate], rng: &mut impl Rng) -> Option<Candidate> {
    if candidates.len() < 2 {
        return candidates.first().copied();
    }
    let first = rng.random_range(0..candidates.len());
    let second = (first + rng.random_range(1..candidates.len())) % candidates.len();
    least_request::least_of([first, second].into_iter().filter_map(|at| candidates.get(at)), rng)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{candidate, tally};

    #[test]
    fn the_most_loaded_is_never_chosen_and_the_least_loaded_wins_its_draws() {
        let candidates = [0, 5, 9].map(|requests| candidate(requests, requests, 0));
        let tally = tally(|rng| choose(&candidates, rng), &candidates);
        assert_eq!(tally[2], 0);
        assert!((610..720).contains(&tally[0]), "two draws of three hold it: {tally:?}");
    }

    #[test]
    fn a_single_replica_is_chosen() {
        let candidates = [candidate(0, 5, 0)];
        assert_eq!(tally(|rng| choose(&candidates, rng), &candidates), [1_000]);
    }
}
