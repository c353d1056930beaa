//! What is known of those who ask the same replicas.
//!
//! A model that is full says nothing of another on other replicas: neither how fast those who wait for it go, nor when
//! there is room for who is turned away.

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::time::Timestamp;

use super::room::{Room, Watched};
use crate::estimate::decay::Decayed;

/// Lines that are remembered; the one that was asked least recently gives way.
const LINES_MAX: usize = 32;

/// What is known of each line.
#[derive(Debug)]
pub(super) struct Lines(LruCache<u64, Line, FxBuildHasher>);

#[derive(Debug, Default)]
struct Line {
    /// Requests that were placed of late, once one was.
    placed: Option<Decayed>,
    /// Of those who wait for an answer, and of work for later.
    rooms: [Room; 2],
}

impl Default for Lines {
    fn default() -> Self {
        Self(LruCache::unbounded_with_hasher(FxBuildHasher))
    }
}

impl Lines {
    fn line(&mut self, line: u64) -> &mut Line {
        if LINES_MAX <= self.0.len() && !self.0.contains(&line) {
            self.0.pop_lru();
        }
        self.0.get_or_insert_mut(line, Line::default)
    }

    /// Notes that a request of `line` was placed, beside `all` that were placed of late. One that was not there before,
    /// because replicas came or went, is taken to have had these.
    pub(super) fn placed(&mut self, now: Timestamp, line: u64, all: Decayed) {
        self.line(line).placed.get_or_insert(all).add(now, 1.0);
    }

    /// Requests of `line` placed in a second, of late; nothing of one of which none was.
    pub(super) fn rate_per_s(&self, now: Timestamp, line: u64) -> f64 {
        let placed = self.0.peek(&line).and_then(|it| it.placed);
        placed.map_or(0.0, |it| it.rate(now))
    }

    /// What is known of room for those of `line`, or for their work for later.
    pub(super) fn room(&mut self, line: u64, is_for_later: bool) -> &mut Room {
        let [urgent, later] = &mut self.line(line).rooms;
        if is_for_later { later } else { urgent }
    }

    /// The one of all who are watched that was looked at longest ago, if that is long enough ago.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Watched> {
        let rooms = self.0.iter_mut().flat_map(|it| &mut it.1.rooms);
        rooms.filter(|it| it.looked().is_some()).min_by_key(|it| it.looked())?.due(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::RATE_TIME, *};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn each_line_has_its_own_rate_and_a_new_one_begins_with_that_of_all() {
        let (mut lines, mut all) = (Lines::default(), Decayed::new(RATE_TIME));
        let mut place = |lines: &mut Lines, ms, line| {
            lines.placed(at(ms), line, all);
            all.add(at(ms), 1.0);
        };
        (0..6_000).for_each(|step| place(&mut lines, 10 * step, 1));
        place(&mut lines, 60_000, 2);
        let rates = |lines: &Lines, ms| [1, 2, 3].map(|it| lines.rate_per_s(at(ms), it));
        let [first, second, none] = rates(&lines, 60_000);
        assert!((95.0..105.0).contains(&first) && (95.0..105.0).contains(&second), "{second}");
        assert!(none <= 0.0);
        (6_000..9_000).for_each(|step| place(&mut lines, 10 * step, 1));
        let [first, second, _] = rates(&lines, 90_000);
        assert!(95.0 < first && second < 3.0, "{first}, {second}");
    }

    #[test]
    fn lines_that_nobody_asks_any_more_are_forgotten() {
        let mut lines = Lines::default();
        (0..1_000).for_each(|line| lines.placed(at(line), line, Decayed::new(RATE_TIME)));
        assert_eq!(lines.0.len(), LINES_MAX);
        assert!(0.0 < lines.rate_per_s(at(1_000), 999));
    }
}
