//! A limit on the requests of a replica that knows nothing of what they cost: what is left where a
//! replica cannot be predicted.
//!
//! The limit grows while it is what holds requests back and promises are kept with time to spare, and
//! shrinks when one was nearly broken: so it settles where a small share of requests comes near its
//! promise. After a decrease the next one waits until requests that came later have been served, for
//! those that were there say nothing new. Growth stops where a larger limit brought less.

use types::time::Timestamp;

/// Requests that a replica of which nothing is known may have.
const FIRST: f64 = 8.0;
const LEAST: f64 = 1.0;
const MOST: f64 = 100_000.0;

/// Share of its promise from which a request counts as late: time that is left for chance.
const NEARLY: f64 = 0.85;

/// Share of requests that may come so late.
const LATE_SHARE: f64 = 0.02;

/// Part of itself that the limit loses when one comes late.
const DECREASE: f64 = 0.08;

/// Share of its promise below which nothing is known of where the limit ends: growth is fast.
const FAR: f64 = 0.4;

/// Part of the limit that must be in use for it to be what holds requests back.
const BOUND: f64 = 0.8;

/// Requests over which goodput is compared.
const WINDOW: u32 = 64;

/// Loss of goodput, as a share, that turns growth round.
const LOSS: f64 = 0.15;

/// How many requests a replica serves as promised, as far as was seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    value: f64,
    /// Requests placed before this say nothing of the limit since it shrank.
    shrank: Timestamp,
    /// Whether it never shrank, so that nothing is known of where it ends.
    is_far: bool,
    window: Window,
    /// Good requests a second in the window before, and the limit then.
    before: Option<(f64, f64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Window {
    began: Timestamp,
    ended: u32,
    good: u32,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            value: FIRST,
            shrank: Timestamp::ZERO,
            is_far: true,
            window: Window::default(),
            before: None,
        }
    }
}

impl Limit {
    /// The limit.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// Learns that a request, placed at `placed` with `beside` others on the replica, took `share` of
    /// what it was promised.
    pub fn observe(&mut self, now: Timestamp, placed: Timestamp, beside: u32, share: f64) {
        if NEARLY < share {
            if self.shrank <= placed {
                self.value = (self.value * (1.0 - DECREASE)).max(LEAST);
                self.shrank = now;
                self.is_far = false;
            }
        } else if self.value * BOUND <= f64::from(beside) + 1.0 {
            // As much as a late one takes off, divided among those that may come in time for it.
            let slow = self.value * DECREASE * LATE_SHARE;
            // Who was served in time among more than the limit shows that it is too low.
            let is_far = share < FAR && (self.is_far || self.value < f64::from(beside));
            self.value = (self.value + if is_far { slow.max(0.5) } else { slow }).min(MOST);
        }
        self.compare(now, share);
    }

    /// Goes back to the smaller limit of two windows if that brought clearly more.
    fn compare(&mut self, now: Timestamp, share: f64) {
        let window = &mut self.window;
        window.ended = window.ended.saturating_add(1);
        window.good = window.good.saturating_add(u32::from(share <= 1.0));
        if window.ended < WINDOW {
            return;
        }
        let goodput = f64::from(window.good) / now.since(window.began).as_secs_f64().max(1e-3);
        let all_good = window.good == window.ended;
        if let Some((goodput_before, limit_before)) = self.before
            && limit_before < self.value
            && goodput < goodput_before * (1.0 - LOSS)
            && !all_good
        {
            self.value = limit_before;
        }
        self.before = Some((goodput, self.value));
        self.window = Window { began: now, ..Window::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server whose requests each take 2 ms, one after the other, and a promise of 200 ms.
    fn settle(limit: &mut Limit, rounds: u32) {
        for round in 0..rounds {
            let now = Timestamp::from_elapsed(Duration::from_millis(u64::from(round) * 2));
            let there = (1..).take_while(|it| f64::from(*it) <= limit.value()).last().unwrap_or(1);
            let took = f64::from(there) * 0.002 / 0.2;
            let flight = Duration::from_secs_f64(f64::from(there) * 0.002);
            let placed = Timestamp::from_elapsed(now.elapsed().saturating_sub(flight));
            limit.observe(now, placed, there - 1, took);
        }
    }

    #[test]
    fn the_limit_settles_short_of_the_promise() {
        let mut limit = Limit::default();
        settle(&mut limit, 5_000);
        assert!((70.0..90.0).contains(&limit.value()), "{limit:?}");
    }

    /// A server of eight seats on which requests take 2 s each, and a promise of 1.5 s: whoever finds a seat has its
    /// first token at once, and others wait for one of the seats to be left.
    #[test]
    fn those_who_find_a_seat_at_once_do_not_have_it_grow_beside_those_who_wait() {
        let mut limit = Limit::default();
        let (mut late, mut seen) = (0, 0);
        for step in 0..4_000_u32 {
            let now = Timestamp::from_elapsed(Duration::from_millis(u64::from(step) * 250));
            let there = (1..).take_while(|it| f64::from(*it) <= limit.value()).last().unwrap_or(1);
            // Every third comes when a seat was just left.
            let waited_s = if step % 3 == 0 { 0.03 } else { 0.25 * f64::from(there.max(8) - 8) };
            let share = waited_s / 1.5;
            let flight = Duration::from_secs_f64(2.0 + waited_s);
            let placed = Timestamp::from_elapsed(now.elapsed().saturating_sub(flight));
            limit.observe(now, placed, there - 1, share);
            if 1_000 <= step {
                (late, seen) = (late + u32::from(1.0 < share), seen + 1);
            }
        }
        assert!(late * 20 < seen, "{late} of {seen}, {limit:?}");
    }

    #[test]
    fn a_limit_that_holds_nobody_back_does_not_grow() {
        let mut limit = Limit::default();
        for at in 0..1_000 {
            let now = Timestamp::from_elapsed(Duration::from_millis(at * 10));
            limit.observe(now, now, 1, 0.1);
        }
        assert!((limit.value() - FIRST).abs() < 1e-9, "{limit:?}");
    }

    #[test]
    fn many_that_come_late_at_once_shrink_it_once() {
        let mut limit = Limit { value: 100.0, ..Limit::default() };
        let now = Timestamp::from_elapsed(Duration::from_secs(10));
        (0..50).for_each(|_| limit.observe(now, Timestamp::ZERO, 99, 2.0));
        assert!(90.0 < limit.value(), "{limit:?}");
    }
}
