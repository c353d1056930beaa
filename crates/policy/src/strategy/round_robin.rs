//! Each replica in turn.
//!
//! The turn is remembered as the replica chosen last rather than as a position, so that replicas
//! that come and go neither shift it nor have it twice.

use types::replica::ReplicaId;

use super::Candidate;

/// Whose turn it was last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Turn(Option<ReplicaId>);

impl Turn {
    /// Chooses the replica after the one chosen last, by number.
    pub(super) fn choose(&mut self, candidates: &[Candidate]) -> Option<Candidate> {
        let first = candidates.iter().min_by_key(|it| it.id)?;
        let later = candidates.iter().filter(|it| self.0.is_some_and(|last| last < it.id));
        let next = *later.min_by_key(|it| it.id).unwrap_or(first);
        self.0 = Some(next.id);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::candidate;

    #[test]
    fn everyone_has_a_turn_and_a_gap_shifts_nobody() {
        let all: Vec<_> = [4, 1, 7].map(|id| candidate(id, 0, 0)).to_vec();
        let mut turn = Turn::default();
        let mut next = |candidates: &[Candidate]| turn.choose(candidates).unwrap().id.0;
        assert_eq!([next(&all), next(&all), next(&all), next(&all)], [1, 4, 7, 1]);
        let without_4 = [all[1], all[2]];
        assert_eq!([next(&without_4), next(&all), next(&all)], [7, 1, 4]);
    }
}
