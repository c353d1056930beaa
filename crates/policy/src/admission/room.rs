//! After how long those who are turned away would find room.
//!
//! Where more comes than can be served, room never opens for good: it opens now and then, the more rarely the more
//! a request asks for, and is taken at once. No rate says when, because those who are let in close the gates behind
//! them. So some of those who are turned away are watched until there is room for them: until the router would take
//! one at once, or lets in one that is no less work, in which case there was room when that one came, however long
//! it waited then. What the next ones of that size are told is the middle of what was seen of late.

use std::{collections::VecDeque, time::Duration};

use types::{request::Request, time::Timestamp};

use super::shares::{SIZES, size_of};

/// Those of one size who are watched at once, at most, and the part of what is told that passes between two of them: who
/// has to make way for the next has waited for longer than that.
const WATCHED_MAX: usize = 6;
const SPACING: f64 = 0.25;

/// Part of the work of one request that counts as no less.
const NO_LESS: f64 = 0.9;

/// What was seen last of a size: as much as is remembered, and as much as tells something.
const SEEN_MAX: usize = 15;
const SEEN_MIN: usize = 3;

/// Bounds of what is told, seconds.
const LEAST_S: f64 = 0.02;
const MOST_S: f64 = 60.0;

/// Time between two looks at one who is watched, at least.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One who was turned away.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) request: Request,
    work_s: f64,
    at: Timestamp,
    /// When it was last looked whether there is room for it.
    looked: Timestamp,
}

/// Those who are watched, and what they told.
#[derive(Debug, Default)]
pub(crate) struct Room {
    /// Whoever was looked at longest ago comes first.
    watched: VecDeque<Watched>,
    sizes: [Size; SIZES],
}

/// What is known of one size of request.
#[derive(Debug, Default)]
struct Size {
    /// When the next one may be watched.
    next: Timestamp,
    /// After how long there was room for the last ones, seconds.
    seen: VecDeque<f64>,
}

impl Room {
    /// After how long there would be room for a request of `work_s`, seconds: the middle of what was seen for its size,
    /// for all sizes where that is too little, or `guess_s` where nothing was seen.
    pub(crate) fn after_s(&self, work_s: f64, guess_s: f64) -> f64 {
        let own = size_of(work_s);
        let of_own = self.middle_s(|size| size == own, SEEN_MIN);
        let middle_s = of_own.or_else(|| self.middle_s(|_| true, 1));
        middle_s.unwrap_or(guess_s).clamp(LEAST_S, MOST_S)
    }

    /// The middle of what was seen of some sizes, if that is at least so much.
    fn middle_s(&self, of: impl Fn(usize) -> bool, least: usize) -> Option<f64> {
        let sizes = self.sizes.iter().enumerate().filter(|it| of(it.0));
        let mut seen: Vec<f64> = sizes.flat_map(|it| &it.1.seen).copied().collect();
        if seen.len() < least { None } else { middle(&mut seen) }
    }

    /// Notes that `request`, `work_s` of work, was turned away and told to come again after `after_s`.
    pub(crate) fn turned_away(
        &mut self,
        now: Timestamp,
        request: &Request,
        work_s: f64,
        after_s: f64,
    ) {
        let own = size_of(work_s);
        let Some(size) = self.sizes.get_mut(own).filter(|it| it.next <= now) else { return };
        size.next = now + Duration::from_secs_f64(SPACING * after_s);
        let of_own = || self.watched.iter().enumerate().filter(|it| size_of(it.1.work_s) == own);
        if WATCHED_MAX <= of_own().count()
            && let Some((longest, _)) = of_own().min_by_key(|it| it.1.at)
            && let Some(it) = self.watched.remove(longest)
        {
            self.had_some(now, &it);
        }
        let request = request.clone();
        self.watched.push_back(Watched { request, work_s, at: now, looked: now });
    }

    /// Notes that a request of `work_s` that came at `came` was let in.
    pub(crate) fn let_in(&mut self, came: Timestamp, work_s: f64) {
        let found = |it: &Watched| it.at < came && NO_LESS * it.work_s <= work_s;
        while let Some(at) = self.watched.iter().position(found)
            && let Some(it) = self.watched.remove(at)
        {
            self.had_some(came, &it);
        }
    }

    /// When the one who was looked at longest ago was.
    pub(crate) fn looked(&self) -> Option<Timestamp> {
        self.watched.front().map(|it| it.looked)
    }

    /// The one who was looked at longest ago, if that is long enough ago; whoever has no room is given back to
    /// [`Self::had_none`].
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<Watched> {
        let looked = self.looked()?;
        if now.since(looked) < LOOK_EVERY { None } else { self.watched.pop_front() }
    }

    /// Notes that there was room at `then` for one who was watched.
    pub(crate) fn had_some(&mut self, then: Timestamp, it: &Watched) {
        let Some(size) = self.sizes.get_mut(size_of(it.work_s)) else { return };
        if SEEN_MAX <= size.seen.len() {
            size.seen.pop_front();
        }
        size.seen.push_back(then.since(it.at).as_secs_f64());
    }

    /// Watches on. Whoever found no room for as long as the longest that is told counts as having found it then.
    pub(crate) fn had_none(&mut self, now: Timestamp, it: Watched) {
        if now.since(it.at).as_secs_f64() < MOST_S {
            self.watched.push_back(Watched { looked: now, ..it });
        } else {
            self.had_some(now, &it);
        }
    }
}

/// The middle of `values`, or the lesser one of two, if there are any.
fn middle(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().checked_sub(1)? / 2).copied()
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

    fn all_due(room: &mut Room, ms: u64) -> Vec<Watched> {
        std::iter::from_fn(|| room.due(at(ms))).collect()
    }

    #[test]
    fn the_middle_of_what_was_seen_is_told() {
        let mut room = Room::default();
        assert!((room.after_s(0.1, 0.5) - 0.5).abs() < 1e-9);
        // Evenly from a tenth of a second to a second.
        for step in 0..10_000_u64 {
            let began = step * 2_000;
            room.turned_away(at(began), &request(), 0.1, 0.5);
            room.let_in(at(began + 100 + step * 617 % 900), 0.1);
        }
        assert!((0.4..0.75).contains(&room.after_s(0.1, 9.0)), "{}", room.after_s(0.1, 9.0));
    }

    #[test]
    fn only_one_that_came_later_and_is_no_less_tells() {
        let mut room = Room::default();
        room.turned_away(at(100), &request(), 0.1, 7.0);
        room.let_in(at(50), 0.1);
        room.let_in(at(200), 0.05);
        assert!((room.after_s(0.1, 7.0) - 7.0).abs() < 1e-9);
        room.let_in(at(200), 0.095);
        assert!((room.after_s(0.1, 7.0) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn sizes_are_told_apart() {
        let mut room = Room::default();
        for step in 0..20_u64 {
            let began = step * 20_000;
            room.turned_away(at(began), &request(), 0.1, 0.5);
            room.let_in(at(began + 100), 0.1);
            room.turned_away(at(began), &request(), 1.0, 0.5);
            room.let_in(at(began + 9_000), 1.0);
        }
        assert!((room.after_s(0.1, 7.0) - 0.1).abs() < 1e-9);
        assert!((room.after_s(1.0, 7.0) - 9.0).abs() < 1e-9);
    }

    #[test]
    fn those_who_are_watched_are_few_and_who_makes_way_tells_how_long_it_waited() {
        let mut room = Room::default();
        // At once, but one in a tenth of a second, a quarter of what is told.
        (0..10_000).for_each(|step| room.turned_away(at(step), &request(), 0.1, 0.4));
        assert_eq!(all_due(&mut room, 10_100).len(), WATCHED_MAX);
        assert!((room.after_s(0.1, 7.0) - 0.6).abs() < 1e-9, "{}", room.after_s(0.1, 7.0));
    }

    #[test]
    fn each_in_turn_is_looked_at_and_none_sooner_than_it_is_time_to() {
        let mut room = Room::default();
        (0..4).for_each(|step| room.turned_away(at(step * 200), &request(), 0.1, 0.4));
        let began = |it: &Watched| it.at.elapsed().as_millis();
        let mut looked = Vec::new();
        for ms in 1_000..1_008 {
            if let Some(it) = room.due(at(ms)) {
                looked.push(began(&it));
                room.had_none(at(ms), it);
            }
        }
        assert_eq!(looked, [0, 200, 400, 600], "once each in twenty milliseconds");
        assert_eq!(room.due(at(1_020)).map(|it| began(&it)), Some(0));
    }

    #[test]
    fn nobody_is_watched_for_ever() {
        let mut room = Room::default();
        room.turned_away(at(0), &request(), 0.1, 0.4);
        assert_eq!(all_due(&mut room, 10).len(), 0);
        for ms in [50_000, 61_000] {
            let watched = all_due(&mut room, ms);
            assert_eq!(watched.len(), 1);
            watched.into_iter().for_each(|it| room.had_none(at(ms), it));
        }
        assert_eq!(all_due(&mut room, 62_000).len(), 0);
        assert!(room.after_s(0.1, 0.0) > 30.0);
    }
}
