//! The replica that a request's key hashes to, as long as its load is near the mean.
//!
//! Consistent hashing with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018) over rendezvous
//! hashing in place of a ring: each key has an order of all replicas of its own, and goes to the
//! first whose load stays within 1.25 times the mean, `KubeAI`'s default. A replica that comes or
//! goes moves only the keys that are first there. The key is the conversation, and the beginning of
//! the prompt where there is none.

use rand::Rng;
use types::block::{BlockHash, hash_block};

use super::{Ask, Candidate, Key, random};
use crate::event::Reason;

/// Multiple of the mean load that a replica may have.
const LOAD_MAX: f64 = 1.25;

/// Chooses the first replica in the key's order that is not above the bound.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let Some(key) = ask.key else {
        return Some((random::choose(candidates, rng)?, Reason::Load));
    };
    let all: f64 = candidates.iter().map(|it| f64::from(it.requests)).sum();
    // The request itself counts, or nobody could take the first one.
    let bound = (LOAD_MAX * (all + 1.0) / candidates.len().max(1) as f64).ceil();
    let rank = |it: &Candidate| hash_block(BlockHash(key.hash()), &it.id.0.to_le_bytes()).0;
    let free = candidates.iter().filter(|it| f64::from(it.requests) + 1.0 <= bound);
    let chosen = *free.max_by_key(|it| rank(it))?;
    let first = candidates.iter().max_by_key(|it| rank(it))?;
    let reason = match key {
        _ if chosen.id != first.id => Reason::Load,
        Key::Conversation(_) => Reason::Session,
        Key::Beginning(_) => Reason::Prefix,
    };
    Some((chosen, reason))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};

    use super::*;
    use crate::strategy::testing::{ask, candidate, chosen, tally};

    fn keyed(key: u64) -> Ask<'static> {
        Ask { key: Some(Key::Conversation(key)), ..ask(100, None) }
    }

    #[test]
    fn a_key_has_one_home_and_a_replica_that_leaves_moves_no_other_key() {
        let all: Vec<_> = (0..8).map(|id| candidate(id, 0, 0)).collect();
        let home = |key, among: &[Candidate]| chosen(|rng| choose(&keyed(key), among, rng)).id.0;
        let mut homes = [0; 8];
        for key in 0..800 {
            let at = home(key, &all);
            homes[at as usize] += 1;
            let without_7 = home(key, &all[..7]);
            assert!(at == 7 || at == without_7);
        }
        assert!(homes.iter().all(|it| (60..150).contains(it)), "{homes:?}");
    }

    #[test]
    fn a_home_above_its_bound_is_passed_over_for_the_next_in_order() {
        let idle: Vec<_> = (0..4).map(|id| candidate(id, 8, 0)).collect();
        let home = chosen(|rng| choose(&keyed(5), &idle, rng)).id;
        let at = |requests| {
            let mut loaded = idle.clone();
            loaded[home.0 as usize].requests = requests;
            chosen(|rng| choose(&keyed(5), &loaded, rng)).id
        };
        // Mean 8.25 with the request: at most 11 of them.
        assert_eq!(at(10), home);
        assert_ne!(at(12), home);
    }

    #[test]
    fn what_is_said_to_have_decided_is_what_the_key_is_of() {
        let idle: Vec<_> = (0..4).map(|id| candidate(id, 0, 0)).collect();
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(7);
        for (key, reason) in
            [(Key::Conversation(5), Reason::Session), (Key::Beginning(5), Reason::Prefix)]
        {
            let ask = Ask { key: Some(key), ..ask(100, None) };
            let (home, said) = choose(&ask, &idle, &mut rng).unwrap();
            assert_eq!(said, reason);
            let mut loaded = idle.clone();
            loaded[home.id.0 as usize].requests = 40;
            assert_eq!(choose(&ask, &loaded, &mut rng).unwrap().1, Reason::Load);
        }
    }

    #[test]
    fn without_a_key_any_will_do() {
        let all = [candidate(0, 0, 0), candidate(1, 0, 0)];
        let tally = tally(|rng| choose(&ask(1, None), &all, rng).map(|it| it.0), &all);
        assert!(tally.iter().all(|it| 430 < *it), "{tally:?}");
    }
}
