//! Conversations whose next turn waits for the answer.

use std::collections::{BTreeMap, VecDeque};

use types::time::Timestamp;
use workload::Arrival;

/// An arrival and its place in the whole schedule.
pub(crate) type Numbered = (usize, Arrival);

/// The turns that follow answers.
#[derive(Debug, Default)]
pub(crate) struct Followers {
    later: BTreeMap<u64, VecDeque<Numbered>>,
    /// When the run sends no more.
    end: Option<Timestamp>,
    /// Turns that will not be sent, because the run was over.
    left_out: u64,
}

impl Followers {
    /// Splits `arrivals`, which are by time, into those that have a time of their own and those that
    /// follow an answer.
    pub(crate) fn split(arrivals: Vec<Numbered>, end: Option<Timestamp>) -> (Vec<Numbered>, Self) {
        let mut followers = Self { end, ..Self::default() };
        let mut first = Vec::new();
        for arrival in arrivals {
            let turns = arrival.1.session.and_then(|it| followers.later.get_mut(&it));
            match (turns, arrival.1.session) {
                (Some(turns), _) => turns.push_back(arrival),
                (None, Some(session)) => {
                    followers.later.insert(session, VecDeque::new());
                    first.push(arrival);
                }
                (None, None) => first.push(arrival),
            }
        }
        followers.later.retain(|_, turns| !turns.is_empty());
        (first, followers)
    }

    /// The turn that follows the one of `session` that ended `at`, if there is one in time.
    pub(crate) fn next(&mut self, session: u64, at: Timestamp) -> Option<Numbered> {
        let turns = self.later.get_mut(&session)?;
        let next = turns.pop_front();
        if turns.is_empty() {
            self.later.remove(&session);
        }
        let (index, mut arrival) = next?;
        arrival.at = at + arrival.think;
        if self.end.is_some_and(|end| arrival.at >= end) {
            let rest = self.later.remove(&session).map_or(0, |it| it.len());
            self.left_out = self.left_out.saturating_add(rest as u64).saturating_add(1);
            return None;
        }
        Some((index, arrival))
    }

    /// Whether no turn waits for an answer any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.later.is_empty()
    }

    /// Turns that will not be sent, because the run was over.
    pub(crate) const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::quantity::Tokens;
    use workload::{Prompt, Segment};

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(seconds))
    }

    fn turn(index: usize, session: Option<u64>) -> Numbered {
        let arrival = Arrival {
            at: at(index as u64),
            session,
            turn: 0,
            turns: None,
            tenant: None,
            slo_class: None,
            workload_class: None,
            prompt: Prompt::from_user(vec![Segment { id: 1, tokens: Tokens(1) }]),
            output: Tokens(1),
            answer: None,
            think: Duration::from_secs(2),
        };
        (index, arrival)
    }

    fn indexes(all: &[Numbered]) -> Vec<usize> {
        all.iter().map(|it| it.0).collect()
    }

    #[test]
    fn a_turn_follows_the_answer_and_the_time_to_think() {
        let all = vec![turn(0, Some(7)), turn(1, None), turn(2, Some(7)), turn(3, Some(8))];
        let (first, mut followers) = Followers::split(all, None);
        assert_eq!(indexes(&first), [0, 1, 3]);
        let (index, arrival) = followers.next(7, at(100)).unwrap();
        assert_eq!((index, arrival.at), (2, at(102)));
        assert!(followers.next(7, at(103)).is_none() && followers.is_empty());
    }

    #[test]
    fn turns_after_the_end_are_left_out_with_all_that_follow_them() {
        let all = (0..4).map(|it| turn(it, Some(7))).collect();
        let (_, mut followers) = Followers::split(all, Some(at(10)));
        assert!(followers.next(7, at(5)).is_some());
        assert!(followers.next(7, at(8)).is_none());
        assert_eq!((followers.left_out(), followers.is_empty()), (2, true));
    }
}
