//! What is known of those who ask the same replicas.
//!
//! A model that is full says nothing of another on other replicas: neither how fast those who wait for it go, nor when
//! there is room for who is turned away.

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::time::Timestamp;

use super::{
    RATE_TIME,
    room::{Room, Watched},
};
use crate::estimate::decay::Decayed;

/// Lines that are remembered; the one that was asked least recently gives way.
const LINES_MAX: usize = 32;

/// What is known of each line.
#[derive(Debug)]
pub(super) struct Lines(LruCache<u64, Line, FxBuildHasher>);

#[derive(Debug)]
struct Line {
    placed: Decayed,
    /// When the first was placed.
    since: Option<Timestamp>,
    /// Of those who wait for an answer, and of work for later.
    rooms: [Room; 2],
}

impl Default for Line {
    fn default() -> Self {
        let rooms = [Room::default(), Room::default()];
        Self { placed: Decayed::new(RATE_TIME), since: None, rooms }
    }
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

    /// Notes that a request of `line` was placed.
    pub(super) fn placed(&mut self, now: Timestamp, line: u64) {
        let line = self.line(line);
        line.since.get_or_insert(now);
        line.placed.add(now, 1.0);
    }

    /// Requests of `line` placed in a second, of late; of one that has not been there for as long as is averaged over,
    /// since it is there.
    pub(super) fn rate_per_s(&self, now: Timestamp, line: u64) -> f64 {
        let Some((line, since)) = self.0.peek(&line).and_then(|it| Some((it, it.since?))) else {
            return 0.0;
        };
        let seen_s = now.since(since).as_secs_f64();
        let full_s = RATE_TIME.as_secs_f64();
        line.placed.rate(now) * full_s / seen_s.clamp(1e-3, full_s)
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

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn each_line_has_its_own_rate_from_the_start() {
        let mut lines = Lines::default();
        for step in 0..100 {
            lines.placed(at(60_000 + 10 * step), 1);
        }
        lines.placed(at(60_000), 2);
        let [first, second, none] = [1, 2, 3].map(|it| lines.rate_per_s(at(61_000), it));
        assert!((80.0..=100.0).contains(&first), "{first}");
        assert!((0.7..=1.0).contains(&second) && none <= 0.0, "{second}, {none}");
    }

    #[test]
    fn lines_that_nobody_asks_any_more_are_forgotten() {
        let mut lines = Lines::default();
        (0..1_000).for_each(|line| lines.placed(at(line), line));
        assert_eq!(lines.0.len(), LINES_MAX);
        assert!(0.0 < lines.rate_per_s(at(1_000), 999));
    }
}
