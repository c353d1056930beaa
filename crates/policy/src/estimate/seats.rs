//! How many requests an engine runs at once, as far as was seen.
//!
//! An engine in which requests wait though its memory has room and it computes few prompts runs as many as
//! it can: vLLM's `max_num_seqs`. Nobody need say how many that is.
//!
//! One pause of an engine has many wait at once, and tells no more than one of them does: what counts are waits that do
//! not overlap.

use types::time::Timestamp;

/// Times that running requests must be seen to stand still while others wait.
const ENOUGH: u32 = 5;

/// The same where more ran before: an engine that started anew, unseen, may run fewer, but what waits may also lack
/// something else for a while.
const ENOUGH_FOR_FEWER: u32 = 20;

/// Part by which running requests that stand still may differ: a seat that was just left is not taken yet.
const STILL: u32 = 16;

/// The seats of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seats {
    /// How many there are where nothing was seen.
    guess: u32,
    learned: Option<u32>,
    /// Most that were seen to run at once.
    most: u32,
    /// Times in a row that about as many ran while others waited, and the most of them.
    stood: (u32, u32),
    /// When that was last learned.
    last: Timestamp,
}

impl Seats {
    /// An engine of which nothing was seen, and that is guessed to have `guess` seats.
    #[must_use]
    pub const fn new(guess: u32) -> Self {
        Self { guess, learned: None, most: 0, stood: (0, 0), last: Timestamp::ZERO }
    }

    /// How many there are, as far as is known.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.learned.unwrap_or(self.guess.max(self.most)).max(1)
    }

    /// Forgets what was seen: another process may run more, or fewer.
    pub fn forget(&mut self) {
        *self = Self { last: self.last, ..Self::new(self.guess) };
    }

    /// Learns that `running` requests ran.
    pub fn ran(&mut self, running: u32) {
        if self.learned.is_some_and(|it| it < running) {
            (self.learned, self.stood) = (None, (0, 0));
        }
        self.most = self.most.max(running);
    }

    /// Learns that at `now` others had waited since `began`, with nothing but a seat lacking, while `running` ran. What
    /// began before the last wait that counted was over is of the same cause.
    pub fn were_taken(&mut self, now: Timestamp, began: Timestamp, running: u32) {
        self.ran(running);
        if began < self.last {
            return;
        }
        self.last = now;
        let (times, most) = self.stood;
        // More and more tell nothing, and neither do fewer.
        let goes_on = running <= most.saturating_add(1) && Self::is_still(most, running);
        let most = if goes_on { most.max(running) } else { running };
        let times = if goes_on { times.saturating_add(1) } else { 1 };
        self.stood = (times, most);
        let enough = if Self::is_still(self.most, most) { ENOUGH } else { ENOUGH_FOR_FEWER };
        if enough <= times {
            (self.learned, self.most) = (Some(most), most);
        }
    }

    /// Whether `running` is as many as the `most` that ran, but for chance.
    fn is_still(most: u32, running: u32) -> bool {
        most <= running.saturating_add((most / STILL).max(1))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(s: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(s))
    }

    /// Has others wait once for each number of requests that run, each time when the last wait is over.
    fn taken(seats: &mut Seats, running: impl IntoIterator<Item = u32>) {
        for running in running {
            let began = seats.last;
            seats.were_taken(began + Duration::from_secs(1), began, running);
        }
    }

    #[test]
    fn seats_are_as_many_as_run_while_others_wait() {
        let mut seats = Seats::new(256);
        (0..9).for_each(|running| seats.ran(running));
        assert_eq!(seats.count(), 256);
        taken(&mut seats, [8, 7, 8, 8, 7]);
        assert_eq!(seats.count(), 8);
        // Fewer run when fewer are there.
        (0..9).for_each(|running| seats.ran(running));
        assert_eq!(seats.count(), 8);
    }

    #[test]
    fn those_who_wait_for_one_reason_tell_once() {
        let mut seats = Seats::new(256);
        (0..20).for_each(|_| seats.were_taken(at(9), at(3), 8));
        (0..20).for_each(|_| seats.were_taken(at(10), at(8), 8));
        assert_eq!(seats.count(), 256, "they came before the first of them was served");
        (0..4).for_each(|step| seats.were_taken(at(11 + step), at(10 + step), 8));
        assert_eq!(seats.count(), 8);
    }

    #[test]
    fn more_than_were_thought_are_learned_anew() {
        let mut seats = Seats::new(256);
        taken(&mut seats, [20; 5]);
        assert_eq!(seats.count(), 20);
        taken(&mut seats, [30]);
        assert_eq!(seats.count(), 256);
        taken(&mut seats, [30; 4]);
        assert_eq!(seats.count(), 30);
        seats.ran(400);
        assert_eq!(seats.count(), 400);
    }

    #[test]
    fn an_engine_that_started_anew_may_have_more_or_fewer() {
        let mut seats = Seats::new(256);
        taken(&mut seats, [48; 5]);
        seats.forget();
        assert_eq!(seats.count(), 256);
        taken(&mut seats, [8; 5]);
        assert_eq!(seats.count(), 8);
    }

    #[test]
    fn fewer_are_believed_of_an_engine_that_nobody_saw_starting_once_that_is_sure() {
        let mut seats = Seats::new(256);
        taken(&mut seats, [48; 5]);
        taken(&mut seats, [24; 19]);
        assert_eq!(seats.count(), 48, "what waits may lack something else");
        taken(&mut seats, [24]);
        assert_eq!(seats.count(), 24);
    }

    #[test]
    fn requests_that_wait_while_more_and_more_run_or_fewer_and_fewer_tell_nothing() {
        let mut seats = Seats::new(256);
        taken(&mut seats, (0..40).map(|step| 4 * step));
        assert_eq!(seats.count(), 256);
        taken(&mut seats, (0..40).rev().map(|step| 4 * step));
        assert_eq!(seats.count(), 256);
    }
}
