//! After how long those who are turned away would find room.
//!
//! Where more comes than can be served, room never opens for good: it opens now and then, the more rarely the more
//! a request asks for, and is taken at once. No rate says when, because those who are let in close the gates behind
//! them. So some of those who are turned away are watched until there is room for them: until the router would take
//! one at once, or lets in one that came later and is no less work. What the next ones are told is the middle of that.

use std::time::Duration;

use types::{request::Request, time::Timestamp};

/// One of so many who are turned away is watched, those who come together being alike, and so many at once at most.
const WATCHED_OF: u32 = 5;
const WATCHED_MAX: usize = 32;

/// Part of the work of one request that counts as no less.
const NO_LESS: f64 = 0.9;

/// Factor by which one that found room earlier or later than was told moves what the next ones are told: as many
/// are told too little as too much.
const STEP: f64 = 1.2;

/// Bounds of what is told, seconds.
const LEAST_S: f64 = 0.02;
const MOST_S: f64 = 60.0;

/// Time between two looks at those who are watched.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One who was turned away.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) request: Request,
    work_s: f64,
    at: Timestamp,
}

/// Those who are watched, and what they told.
#[derive(Debug, Default)]
pub(crate) struct Room {
    watched: Vec<Watched>,
    turned_away: u32,
    middle_s: Option<f64>,
    looked: Timestamp,
}

impl Room {
    /// After how long there would be room, seconds: the middle of what was seen, or `guess_s` where nothing was.
    pub(crate) fn after_s(&self, guess_s: f64) -> f64 {
        self.middle_s.unwrap_or(guess_s).clamp(LEAST_S, MOST_S)
    }

    /// Notes that `request`, `work_s` of work, was turned away.
    pub(crate) fn turned_away(&mut self, now: Timestamp, request: &Request, work_s: f64) {
        let is_one = self.turned_away.is_multiple_of(WATCHED_OF);
        self.turned_away = self.turned_away.wrapping_add(1);
        if is_one && self.watched.len() < WATCHED_MAX {
            self.watched.push(Watched { request: request.clone(), work_s, at: now });
        }
    }

    /// Notes that a request of `work_s` that came at `came` was let in.
    pub(crate) fn let_in(&mut self, now: Timestamp, came: Timestamp, work_s: f64) {
        let found = |it: &Watched| it.at < came && NO_LESS * it.work_s <= work_s;
        while let Some(at) = self.watched.iter().position(found) {
            let it = self.watched.swap_remove(at);
            self.learn(now.since(it.at).as_secs_f64());
        }
    }

    /// Those who are watched, if it is time to look whether there is room for them; whoever has none is given back
    /// to [`Self::had_none`].
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Watched> {
        if self.watched.is_empty() || now.since(self.looked) < LOOK_EVERY {
            return Vec::new();
        }
        self.looked = now;
        std::mem::take(&mut self.watched)
    }

    /// Notes that there is room for one who was watched.
    pub(crate) fn had_some(&mut self, now: Timestamp, it: &Watched) {
        self.learn(now.since(it.at).as_secs_f64());
    }

    /// Watches on. Whoever found no room for as long as the longest that is told counts as having found it then.
    pub(crate) fn had_none(&mut self, now: Timestamp, it: Watched) {
        let waited_s = now.since(it.at).as_secs_f64();
        if waited_s < MOST_S { self.watched.push(it) } else { self.learn(waited_s) }
    }

    fn learn(&mut self, after_s: f64) {
        let middle_s = match self.middle_s {
            None => after_s,
            // Many find room at once; they tell the same, and no more than it.
            Some(told_s) if told_s < after_s => (told_s * STEP).min(after_s),
            Some(told_s) => (told_s / STEP).max(after_s),
        };
        self.middle_s = Some(middle_s.clamp(LEAST_S, MOST_S));
    }
}

#[cfg(test)]
mod tests {
    use types::{
        quantity::Tokens,
        request::{ModelId, RequestId},
    };

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    fn request() -> Request {
        Request::new(RequestId(1), ModelId(1), Tokens(1), Vec::new().into())
    }

    #[test]
    fn the_middle_of_what_was_seen_is_told() {
        let mut room = Room::default();
        assert!((room.after_s(0.5) - 0.5).abs() < 1e-9);
        // Evenly from a tenth of a second to a second.
        for step in 0..10_000_u64 {
            let began = step * 2_000;
            room.turned_away(at(began), &request(), 0.1);
            room.let_in(at(began + 100 + step * 617 % 900), at(began + 1), 0.1);
        }
        assert!((0.4..0.75).contains(&room.after_s(9.0)), "{}", room.after_s(9.0));
    }

    #[test]
    fn only_one_that_came_later_and_is_no_less_tells() {
        let mut room = Room::default();
        room.turned_away(at(100), &request(), 0.1);
        room.let_in(at(300), at(50), 0.1);
        room.let_in(at(300), at(200), 0.05);
        assert!((room.after_s(7.0) - 7.0).abs() < 1e-9);
        room.let_in(at(300), at(200), 0.095);
        assert!((room.after_s(7.0) - 0.2).abs() < 1e-9);
    }

    #[test]
    fn those_who_are_watched_are_few_and_not_for_ever() {
        let mut room = Room::default();
        (0..1_000).for_each(|_| room.turned_away(at(0), &request(), 0.1));
        assert_eq!(room.due(at(10)).len(), 0);
        let watched = room.due(at(30));
        assert_eq!(watched.len(), WATCHED_MAX);
        watched.into_iter().for_each(|it| room.had_none(at(50_000), it));
        assert_eq!(room.watched.len(), WATCHED_MAX);
        let watched = room.due(at(61_000));
        watched.into_iter().for_each(|it| room.had_none(at(61_000), it));
        assert_eq!(room.due(at(62_000)).len(), 0);
        assert!(room.after_s(0.0) > 30.0);
    }
}
