//! The replica that holds the longest prefix of the prompt; least-request for a cold prompt.
//!
//! A prompt is cold when no replica holds a large enough share of it: a greeting that every prompt
//! begins with must not draw all of them to one replica. Replicas that hold equally much share by
//! load.

use rand::Rng;

use super::{Ask, Candidate, least_request};
use crate::event::Reason;

/// Chooses the replica with the longest prefix if that is at least `match_min` of the prompt.
pub(super) fn choose(
    match_min: f64,
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let longest = candidates.iter().map(|it| it.cached).max()?;
    if longest.0 == 0 || f64::from(longest.0) < match_min * f64::from(ask.prompt.0) {
        return Some((least_request::choose(candidates, rng)?, Reason::Load));
    }
    let holders = candidates.iter().filter(|it| it.cached == longest);
    Some((least_request::least_of(holders, rng)?, Reason::Prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{ask, candidate, tally};

    fn tallied(candidates: &[Candidate], reason: Reason) -> Vec<usize> {
        let chosen = |rng: &mut _| {
            let (chosen, why) = choose(0.3, &ask(1_000, None), candidates, rng)?;
            assert_eq!(why, reason);
            Some(chosen)
        };
        tally(chosen, candidates)
    }

    #[test]
    fn the_longest_prefix_wins_over_load() {
        let candidates = [candidate(0, 0, 600), candidate(1, 9, 664), candidate(2, 0, 0)];
        assert_eq!(tallied(&candidates, Reason::Prefix), [0, 1_000, 0]);
    }

    #[test]
    fn equal_holders_share_by_load() {
        let candidates = [candidate(0, 3, 600), candidate(1, 1, 600), candidate(2, 0, 0)];
        assert_eq!(tallied(&candidates, Reason::Prefix), [0, 1_000, 0]);
    }

    #[test]
    fn a_short_common_beginning_draws_nobody() {
        let candidates = [candidate(0, 9, 299), candidate(1, 1, 0)];
        assert_eq!(tallied(&candidates, Reason::Load), [0, 1_000]);
    }

    #[test]
    fn an_unknown_prompt_goes_where_load_is_least() {
        let candidates = [candidate(0, 9, 0), candidate(1, 1, 0)];
        assert_eq!(tallied(&candidates, Reason::Load), [0, 1_000]);
    }
}
