//! Conversations, put together from their turns.
//!
//! One rule holds wherever conversations are counted. A conversation is *good* when all its turns are. A
//! turn whose client hung up on purpose is neither good nor bad, and a conversation of such turns alone is
//! no conversation. One that was not whole is *unfinished*: turns of it came before counting began, or
//! were to come after the run's end. Nobody knows what would have become of it, so it is left out,
//! whatever its turns were, and told apart.

use std::collections::BTreeSet;

use types::time::Timestamp;

use crate::record::{Ending, RequestRecord};

/// A whole conversation from its first turn to its last token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    pub(crate) is_good: bool,
}

/// The conversations of a run.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    /// Those that were whole.
    pub(crate) whole: Vec<Session>,
    /// The names of those that were not.
    pub(crate) unfinished: BTreeSet<u64>,
}

impl Sessions {
    /// Puts together what `records` belong to.
    pub(crate) fn of<'a>(records: impl Iterator<Item = &'a RequestRecord>) -> Self {
        let mut turns: Vec<(u64, &RequestRecord)> =
            records.filter_map(|it| Some((it.session?, it))).collect();
        turns.sort_by_key(|it| it.0);
        let mut all = Self::default();
        for turns in turns.chunk_by(|one, other| one.0 == other.0) {
            let planned = turns.iter().filter_map(|it| it.1.turns).max();
            // Where nobody said how many turns there are to be, those that came are all.
            if planned.is_some_and(|it| usize::try_from(it).is_ok_and(|it| turns.len() < it)) {
                all.unfinished.extend(turns.first().map(|it| it.0));
            } else {
                all.whole.extend(Session::of(turns.iter().map(|it| it.1)));
            }
        }
        all
    }
}

impl Session {
    /// The conversation of these turns; none where its client hung up on each.
    pub(crate) fn of<'a>(turns: impl Iterator<Item = &'a RequestRecord>) -> Option<Self> {
        let mut whole: Option<Self> = None;
        for turn in turns.filter(|it| it.ending != Ending::Cancelled) {
            let until = turn.last_token.unwrap_or(turn.ended);
            let own = Self { from: turn.scheduled, until, is_good: turn.slo.good };
            whole = Some(whole.map_or(own, |it| Self {
                from: it.from.min(own.from),
                until: it.until.max(own.until),
                is_good: it.is_good && own.is_good,
            }));
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::answered;

    /// A turn of a conversation of `turns`, good or not.
    fn turn(session: u64, turn: u32, turns: Option<u32>, good: bool) -> RequestRecord {
        let ttft_ms = if good { 100 } else { 9_000 };
        let at_ms = u64::from(turn) * 20_000;
        let session = Some(session);
        RequestRecord { session, turn, turns, ..answered(at_ms, ttft_ms, None) }
    }

    fn told(records: &[RequestRecord]) -> (usize, usize, usize) {
        let all = Sessions::of(records.iter());
        let good = all.whole.iter().filter(|it| it.is_good).count();
        (good, all.whole.len(), all.unfinished.len())
    }

    #[test]
    fn of_eight_turns_one_bad_one_spoils_the_conversation() {
        let turns = |bad: Option<u32>| -> Vec<RequestRecord> {
            (0..8).map(|it| turn(1, it, Some(8), Some(it) != bad)).collect()
        };
        assert_eq!(told(&turns(None)), (1, 1, 0));
        assert_eq!(told(&turns(Some(5))), (0, 1, 0));
    }

    #[test]
    fn a_conversation_that_is_not_whole_counts_in_neither_way() {
        // One cut off by the end, one begun before counting did, and one whose length nobody said.
        let cut_off = [turn(1, 0, Some(3), true), turn(1, 1, Some(3), true)];
        let begun_before = [turn(2, 1, Some(2), false)];
        let unknown = [turn(3, 0, None, true)];
        assert_eq!(told(&[&cut_off[..], &begun_before, &unknown].concat()), (1, 1, 2));
    }

    #[test]
    fn a_client_that_hangs_up_makes_a_conversation_neither_good_nor_bad() {
        let hung_up = |session, number| RequestRecord {
            ending: Ending::Cancelled,
            ..turn(session, number, Some(2), false)
        };
        let records = [turn(1, 0, Some(2), true), hung_up(1, 1), hung_up(2, 0), hung_up(2, 1)];
        assert_eq!(told(&records), (1, 1, 0));
        assert_eq!(told(&[turn(1, 0, Some(2), false), hung_up(1, 1)]), (0, 1, 0));
    }
}
