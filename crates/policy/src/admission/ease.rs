//! How far the pace that is measured may exceed what was promised.
//!
//! It is that of a moment, and an answer is promised its mean: gates that close for a moment, where all goes well, only
//! delay. Once something goes wrong it counts as it is, or a fleet would stand just beyond what it promised.

use std::time::Duration;

use types::time::Timestamp;

use crate::estimate::decay::Decayed;

/// Times the promise that it may be while all goes well.
const EASE: f64 = 1.05;

/// For how long nobody must have been turned away for lack of room, and over how long answers are counted.
const TIME: Duration = Duration::from_secs(15);

/// Share of answers that may run slower than promised: below the knee some do, a few of the shortest beside a long prompt.
const BROKEN_MAX: f64 = 0.01;

/// What is left of one answer after that time: where answers are few, a slow one counts for as long.
const ONE_OF_FEW: f64 = 0.37;

/// Whether all goes well.
#[derive(Clone, Debug)]
pub(crate) struct Ease {
    /// When somebody was last turned away for lack of room.
    turned_away: Option<Timestamp>,
    /// Answers that were promised a pace, and those of them that did not keep it.
    answers: Decayed,
    broken: Decayed,
}

impl Default for Ease {
    fn default() -> Self {
        Self { turned_away: None, answers: Decayed::new(TIME), broken: Decayed::new(TIME) }
    }
}

impl Ease {
    /// Notes that somebody was turned away because the fleet was full.
    pub(crate) fn turned_away(&mut self, now: Timestamp) {
        self.turned_away = self.turned_away.max(Some(now));
    }

    /// Notes that an answer ended that was promised a pace, and whether it ran slower.
    pub(crate) fn answered(&mut self, now: Timestamp, is_broken: bool) {
        self.answers.add(now, 1.0);
        if is_broken {
            self.broken.add(now, 1.0);
        }
    }

    /// How many times the promise the measured pace may be: 1 unless all goes well.
    pub(crate) fn times(&self, now: Timestamp) -> f64 {
        let was_full = self.turned_away.is_some_and(|it| now.since(it) <= TIME);
        let most = (BROKEN_MAX * self.answers.sum(now)).max(ONE_OF_FEW);
        if was_full || most < self.broken.sum(now) { 1.0 } else { EASE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(seconds))
    }

    fn is_eased(it: &Ease, seconds: u64) -> bool {
        1.0 < it.times(at(seconds))
    }

    #[test]
    fn who_was_turned_away_ends_it_for_a_while() {
        let mut ease = Ease::default();
        assert!(is_eased(&ease, 0));
        ease.turned_away(at(10));
        assert!(!is_eased(&ease, 25));
        assert!(is_eased(&ease, 26));
    }

    #[test]
    fn one_slow_answer_among_many_leaves_it_and_one_among_few_ends_it_for_a_while() {
        let slow_among = |answers: u64| {
            let mut ease = Ease::default();
            (0..answers).for_each(|it| ease.answered(at(10), it == 0));
            ease
        };
        assert!(is_eased(&slow_among(101), 10));
        let few = slow_among(99);
        assert!(!is_eased(&few, 10) && !is_eased(&few, 24));
        assert!(is_eased(&few, 26));
    }
}
