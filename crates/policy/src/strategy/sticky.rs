//! The replica that served the conversation before; least-request for a new conversation.

use rand::Rng;

use super::{Ask, Candidate, least_request};
use crate::event::Reason;

/// Chooses the conversation's replica if it still takes requests.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let bound = candidates.iter().find(|it| ask.bound == Some(it.id));
    match bound {
        Some(bound) => Some((*bound, Reason::Session)),
        None => Some((least_request::choose(candidates, rng)?, Reason::Load)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{ask, candidate, tally};

    #[test]
    fn a_conversation_returns_to_its_replica() {
        let candidates = [candidate(0, 0, 0), candidate(1, 9, 0)];
        let chosen = |rng: &mut _| choose(&ask(100, Some(1)), &candidates, rng);
        assert_eq!(tally(|rng| chosen(rng).map(|it| it.0), &candidates), [0, 1_000]);
    }

    #[test]
    fn a_new_one_or_one_whose_replica_is_gone_goes_where_load_is_least() {
        let candidates = [candidate(0, 0, 0), candidate(1, 9, 0)];
        for bound in [None, Some(7)] {
            let chosen = |rng: &mut _| choose(&ask(100, bound), &candidates, rng);
            let tally = tally(|rng| chosen(rng).map(|it| it.0), &candidates);
            assert_eq!(tally, [1_000, 0]);
        }
    }
}
