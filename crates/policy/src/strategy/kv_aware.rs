//! The replica with the least to compute before the answer: what of the prompt its cache lacks, and
//! the prompts that wait there already.
//!
//! The rule needs hits that are true, for a hit that is not there costs exactly what it was said to
//! save; it is meant for replicas whose engines publish what they hold. Both terms are tokens of the
//! same prefill queue, so they add up without a weight. Replicas with equally much to do share by
//! load.

use rand::Rng;

use super::{Ask, Candidate, least_request};
use crate::event::Reason;

/// Chooses the replica with the fewest prompt tokens to compute, this prompt's included.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let work = |it: &Candidate| it.queued_prefill + ask.prompt.saturating_sub(it.cached);
    let least = candidates.iter().map(work).min()?;
    let best = candidates.iter().filter(|it| work(it) == least);
    let chosen = least_request::least_of(best, rng)?;
    let reason = if chosen.cached.0 > 0 { Reason::Prefix } else { Reason::Load };
    Some((chosen, reason))
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::strategy::testing::{ask, candidate, tally};

    fn tallied(candidates: &[Candidate]) -> Vec<usize> {
        tally(|rng| Some(choose(&ask(1_000, None), candidates, rng)?.0), candidates)
    }

    #[test]
    fn a_hit_counts_as_much_as_the_queue_it_saves() {
        let waiting = |cached, queued| Candidate {
            queued_prefill: Tokens(queued),
            ..candidate(queued, 0, cached)
        };
        assert_eq!(tallied(&[waiting(600, 500), waiting(0, 0)]), [1_000, 0]);
        assert_eq!(tallied(&[waiting(600, 700), waiting(0, 0)]), [0, 1_000]);
    }

    #[test]
    fn replicas_with_equally_much_to_do_share_by_load() {
        assert_eq!(tallied(&[candidate(0, 3, 600), candidate(1, 1, 600)]), [0, 1_000]);
        let even = tallied(&[candidate(0, 1, 0), candidate(1, 1, 0)]);
        assert!(even.iter().all(|it| *it > 400), "{even:?}");
    }
}
