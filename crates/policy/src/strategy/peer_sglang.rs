//! `cache_aware` of the SGLang gateway, as of `sglang_router` 0.3.2 (`src/policies/cache_aware.rs`).
//!
//! 1. Where loads differ by more than 64 requests *and* the largest is more than 1.5 times the least:
//!    the fewest requests in flight.
//! 2. Else, where the longest match is more than 0.3 of the prompt: the owner of the deepest match.
//! 3. Else the fewest requests in flight; the first of equals.
//!
//! The original matches characters and remembers one owner of each node, the first; here tokens are
//! matched by blocks, and of several holders the one that joined first stands for the owner.

use super::{Ask, Candidate};
use crate::event::Reason;

/// `cache_threshold`, `balance_abs_threshold` and `balance_rel_threshold` of the gateway.
const MATCH_MIN: f64 = 0.3;
const DIFFERENCE_MAX: u32 = 64;
const RATIO_MAX: f64 = 1.5;

/// Chooses as the gateway does.
pub(super) fn choose(ask: &Ask<'_>, candidates: &[Candidate]) -> Option<(Candidate, Reason)> {
    let least = *candidates.iter().min_by_key(|it| (it.requests, it.id))?;
    let most = candidates.iter().map(|it| it.requests).max()?;
    let is_imbalanced = most.saturating_sub(least.requests) > DIFFERENCE_MAX
        && f64::from(most) > RATIO_MAX * f64::from(least.requests);
    if is_imbalanced {
        return Some((least, Reason::Load));
    }
    let longest = candidates.iter().map(|it| it.cached).max()?;
    if f64::from(longest.0) > MATCH_MIN * f64::from(ask.prompt.0) {
        let owner = candidates.iter().filter(|it| it.cached == longest).min_by_key(|it| it.id)?;
        return Some((*owner, Reason::Prefix));
    }
    Some((least, Reason::Load))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{ask, candidate};

    fn chosen(candidates: &[Candidate]) -> (u32, Reason) {
        let (chosen, reason) = choose(&ask(1_000, None), candidates).unwrap();
        (chosen.id.0, reason)
    }

    #[test]
    fn the_owner_of_the_deepest_match_is_followed_up_to_a_difference_of_64() {
        let with = |requests| [candidate(0, 0, 0), candidate(1, requests, 400)];
        assert_eq!(chosen(&with(64)), (1, Reason::Prefix));
        assert_eq!(chosen(&with(65)), (0, Reason::Load));
    }

    #[test]
    fn a_large_difference_of_large_loads_is_no_imbalance() {
        let candidates = [candidate(0, 200, 0), candidate(1, 290, 400)];
        assert_eq!(chosen(&candidates), (1, Reason::Prefix));
    }

    #[test]
    fn a_match_of_three_tenths_is_too_short() {
        let candidates = [candidate(0, 5, 300), candidate(1, 2, 0), candidate(2, 2, 0)];
        assert_eq!(chosen(&candidates), (1, Reason::Load));
    }
}
