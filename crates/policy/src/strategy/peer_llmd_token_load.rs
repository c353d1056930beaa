//! llm-d's "sticky until saturated", its recommended default since August 2026:
//! `prefix-cache-affinity-filter` and `token-load-scorer`.
//!
//! The filter keeps replicas that hold at least 0.8 of the prompt; where there are none it keeps all.
//! It gives up when the best of those it keeps would answer more than 18 s after the best of the
//! others, time being uncached tokens in flight over a peak rate of 15,928 tokens/s (the shipped
//! calibration: Qwen3-32B on two H100). Among what is left the fewest uncached tokens win, those of
//! the request itself included. Equals share by lot.

use rand::Rng;

use super::{Ask, Candidate, pick};
use crate::event::Reason;

const AFFINITY_MIN: f64 = 0.8;
const PENALTY_MAX_S: f64 = 18.0;
const PEAK_TOKENS_PER_S: f64 = 15_928.0;

/// Chooses the fewest uncached tokens among the sticky ones.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let is_sticky =
        |it: &&Candidate| f64::from(it.cached.0) >= AFFINITY_MIN * f64::from(ask.prompt.0.max(1));
    let queued = |it: &Candidate| f64::from(it.queued_prefill.0);
    let tokens = |it: &Candidate| queued(it) + f64::from(ask.prompt.saturating_sub(it.cached).0);
    let least = |of: f64, it: &Candidate| of.min(queued(it));
    let warm = candidates.iter().filter(is_sticky).fold(f64::INFINITY, least);
    let cold = candidates.iter().filter(|it| !is_sticky(it)).fold(f64::INFINITY, least);
    let penalty_s = (warm - cold) / PEAK_TOKENS_PER_S;
    if warm.is_finite() && (cold.is_infinite() || penalty_s <= PENALTY_MAX_S) {
        let sticky = candidates.iter().filter(is_sticky);
        return Some((pick::least(sticky, tokens, rng)?, Reason::Prefix));
    }
    Some((pick::least(candidates.iter(), tokens, rng)?, Reason::Load))
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::strategy::testing::{ask, candidate, chosen};

    fn with(id: u32, cached: u32, queued: u32) -> Candidate {
        Candidate { queued_prefill: Tokens(queued), ..candidate(id, 0, cached) }
    }

    fn best(candidates: &[Candidate]) -> u32 {
        chosen(|rng| choose(&ask(1_000, None), candidates, rng)).id.0
    }

    #[test]
    fn who_holds_four_fifths_is_kept_until_eighteen_seconds_of_tokens_are_ahead() {
        // 18 s at 15,928 tokens/s are 286,704 tokens.
        assert_eq!(best(&[with(0, 800, 286_000), with(1, 799, 0)]), 0);
        assert_eq!(best(&[with(0, 800, 287_000), with(1, 799, 0)]), 1);
    }

    #[test]
    fn among_the_sticky_the_fewest_uncached_tokens_win() {
        assert_eq!(best(&[with(0, 999, 500), with(1, 800, 200), with(2, 0, 0)]), 1);
    }

    #[test]
    fn without_a_holder_the_fewest_tokens_win() {
        assert_eq!(best(&[with(0, 700, 900), with(1, 0, 500)]), 0);
        assert_eq!(best(&[with(0, 700, 1_300), with(1, 0, 500)]), 1);
    }
}
