//! The replica with the fewest requests in flight.
//!
//! Equals are told apart by the prompt tokens they have yet to compute, and only then by lot: a
//! fixed order among equals would send every request of a quiet fleet to the first replica.

use rand::{Rng, RngExt as _};

use super::Candidate;

/// Chooses the least loaded.
pub(super) fn choose(candidates: &[Candidate], rng: &mut impl Rng) -> Option<Candidate> {
    least_of(candidates.iter(), rng)
}

/// Chooses the least loaded of those that `candidates` yields.
pub(super) fn least_of<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    rng: &mut impl Rng,
) -> Option<Candidate> {
    let load = |it: &Candidate| (it.requests, it.queued_prefill);
    let mut best: Option<&Candidate> = None;
    let mut equals = 0_u32;
    for candidate in candidates {
        match best.map(|best| load(candidate).cmp(&load(best))) {
            Some(std::cmp::Ordering::Greater) => continue,
            Some(std::cmp::Ordering::Equal) => equals += 1,
            Some(std::cmp::Ordering::Less) | None => equals = 1,
        }
        // Reservoir sampling: the n-th of n equals replaces the choice with chance 1/n.
        if equals == 1 || rng.random_range(0..equals) == 0 {
            best = Some(candidate);
        }
    }
    best.copied()
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::strategy::testing::{candidate, tally};

    #[test]
    fn the_least_loaded_is_chosen_and_equals_share() {
        let candidates = [3, 1, 2, 1].map(|requests| candidate(requests + 10, requests, 0));
        let candidates = [candidates[0], candidates[1], candidates[2], candidate(20, 1, 0)];
        let tally = tally(|rng| choose(&candidates, rng), &candidates);
        assert_eq!((tally[0], tally[2]), (0, 0));
        assert!((430..570).contains(&tally[1]), "{tally:?}");
    }

    #[test]
    fn among_equals_the_one_with_less_to_compute_is_chosen() {
        let busy = Candidate { queued_prefill: Tokens(9_000), ..candidate(0, 1, 0) };
        let candidates = [busy, candidate(1, 1, 0)];
        assert_eq!(tally(|rng| choose(&candidates, rng), &candidates), [0, 1_000]);
    }
}
