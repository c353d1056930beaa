//! What was observed of a replica's speed while others place requests there as well, and tell of it.
//!
//! What they tell comes a little late. A first token that took long because another router's prompt was computed
//! before it looks like a slow machine until that prompt is told of, and a router that learned from it would move
//! conversations away from replicas that are as fast as ever. So what was observed is kept until all should have
//! been told that was in it, and forgotten if something was.

use std::{collections::VecDeque, time::Duration};

use types::time::Timestamp;

use super::{REQUEST_S_MAX, REQUEST_WEIGHT, ReplicaEstimate};

/// How late news of a placement may be.
const NEWS_AGE_MAX: Duration = Duration::from_millis(150);

/// How long after the last news others are taken to place requests here.
const SILENCE: Duration = Duration::from_secs(10);

/// Observations that are kept, at most.
const KEPT_MAX: usize = 64;

/// Observations that are forgotten in a row before one is taken as it is: where others' work is always in it, what is
/// wrong by a part is better than nothing.
const FORGOTTEN_MAX: u32 = 128;

/// What an observation says of a speed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Lesson {
    /// Prefill took `ratio` times as long as the scale `of` has it.
    Prefill { ratio: f64, of: f64 },
    /// Decoding did.
    Decode { ratio: f64, of: f64 },
    /// The overhead of a request was `late_s` more than `of_s`.
    Request { late_s: f64, of_s: f64 },
}

/// Observations that are not known to be of this router's own work alone.
#[derive(Clone, Debug, Default)]
pub(super) struct Lessons {
    /// By when they were made.
    kept: VecDeque<(Timestamp, Lesson)>,
    /// When a placement of another router was last told.
    told: Option<Timestamp>,
    /// How many have been forgotten since one was taken in.
    forgotten: u32,
}

impl Lessons {
    /// Learns that another router placed a request here, which may have been in all that was observed since.
    pub(super) fn told(&mut self, now: Timestamp) {
        self.told = Some(now);
        let kept = u32::try_from(self.kept.len()).unwrap_or(u32::MAX);
        self.forgotten = self.forgotten.saturating_add(kept);
        self.kept.clear();
    }

    /// Keeps what was observed from `since` to `now`, or forgets it where another's work was in it. Returns whether
    /// it did; nothing is in the way where others tell nothing.
    pub(super) fn hold(&mut self, now: Timestamp, since: Timestamp, lesson: Lesson) -> bool {
        let Some(told) = self.told.filter(|it| now.since(*it) < SILENCE) else { return false };
        if self.forgotten > FORGOTTEN_MAX {
            self.forgotten = 0;
            return false;
        }
        if told < since && self.kept.len() < KEPT_MAX {
            self.kept.push_back((now, lesson));
        } else {
            self.forgotten = self.forgotten.saturating_add(1);
        }
        true
    }

    /// The next one of which all has been told by `now`.
    pub(super) fn next(&mut self, now: Timestamp) -> Option<Lesson> {
        let &(seen, lesson) = self.kept.front()?;
        if now.since(seen) < NEWS_AGE_MAX {
            return None;
        }
        self.kept.pop_front();
        self.forgotten = 0;
        Some(lesson)
    }
}

impl ReplicaEstimate {
    /// Learns that another router placed a request here, some time ago.
    pub fn told(&mut self, now: Timestamp) {
        self.lessons.told(now);
    }

    /// Learns what was observed from `since` on, once it is known to be of nobody else's work.
    pub(super) fn learn(&mut self, now: Timestamp, since: Timestamp, lesson: Lesson) {
        while let Some(lesson) = self.lessons.next(now) {
            self.take_in(lesson);
        }
        if !self.lessons.hold(now, since, lesson) {
            self.take_in(lesson);
        }
    }

    fn take_in(&mut self, lesson: Lesson) {
        match lesson {
            Lesson::Prefill { ratio, of } => {
                self.prefill.observe(ratio * (of / self.prefill.value()));
            }
            Lesson::Decode { ratio, of } => {
                self.decode.observe(ratio * (of / self.decode.value()));
            }
            Lesson::Request { late_s, of_s } => {
                let late_s = late_s + (of_s - self.request_s);
                let late_s = late_s.clamp(-self.request_s, REQUEST_S_MAX);
                self.request_s =
                    (self.request_s + REQUEST_WEIGHT * late_s).clamp(0.0, REQUEST_S_MAX);
                self.knows_request = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LESSON: Lesson = Lesson::Prefill { ratio: 2.0, of: 1.0 };

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn where_nobody_tells_everything_is_learned_at_once() {
        let mut lessons = Lessons::default();
        assert!(!lessons.hold(at(100), at(50), LESSON));
        lessons.told(at(200));
        assert!(lessons.hold(at(300), at(250), LESSON));
        assert!(!lessons.hold(at(10_200), at(10_150), LESSON), "others have fallen silent");
    }

    #[test]
    fn what_may_be_of_anothers_work_is_forgotten_and_the_rest_learned_late() {
        let mut lessons = Lessons::default();
        lessons.told(at(100));
        // Told of while it was observed, and after.
        assert!(lessons.hold(at(150), at(90), LESSON));
        assert_eq!(lessons.next(at(1_000)), None);
        assert!(lessons.hold(at(1_050), at(1_010), LESSON));
        lessons.told(at(1_150));
        assert_eq!(lessons.next(at(1_400)), None);
        assert!(lessons.hold(at(1_450), at(1_410), LESSON));
        assert_eq!(lessons.next(at(1_599)), None);
        assert_eq!(lessons.next(at(1_600)), Some(LESSON));
        assert_eq!(lessons.next(at(1_600)), None);
    }

    #[test]
    fn where_others_work_is_in_all_of_them_some_are_learned() {
        let mut lessons = Lessons::default();
        let taken = (0..1_000).filter(|ms| {
            lessons.told(at(*ms));
            !lessons.hold(at(*ms), at(*ms), LESSON)
        });
        assert!((5..15).contains(&taken.count()));
    }

    #[test]
    fn a_lesson_means_the_same_when_it_is_learned_late() {
        let mut estimate = ReplicaEstimate::new(&crate::estimate::EstimateConfig::default());
        (0..100).for_each(|_| estimate.prefill.observe(3.0 / estimate.prefill.value()));
        let before = estimate.prefill.value();
        // Three times as slow as the form, said of a scale of one.
        estimate.take_in(Lesson::Prefill { ratio: 3.0, of: 1.0 });
        assert!((estimate.prefill.value() / before - 1.0).abs() < 0.01);
    }
}
