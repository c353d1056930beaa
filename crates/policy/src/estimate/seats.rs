//! How many requests an engine runs at once, as far as was seen.
//!
//! An engine in which requests wait though its memory has room and it computes few prompts runs as many as
//! it can: vLLM's `max_num_seqs`. Nobody need say how many that is.

/// Times that running requests must be seen to stand still while others wait.
const ENOUGH: u32 = 5;

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
    /// Times that as many ran while others waited.
    stood: u32,
}

impl Seats {
    /// An engine of which nothing was seen, and that is guessed to have `guess` seats.
    #[must_use]
    pub const fn new(guess: u32) -> Self {
        Self { guess, learned: None, most: 0, stood: 0 }
    }

    /// How many there are, as far as is known.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.learned.unwrap_or(self.guess.max(self.most)).max(1)
    }

    /// Learns that `running` requests ran; `others_wait` where others waited, with nothing but a seat lacking.
    pub fn observe(&mut self, running: u32, others_wait: bool) {
        let most = self.most.max(running);
        if self.learned.is_some_and(|it| it < running) {
            (self.learned, self.stood) = (None, 0);
        }
        if self.most.saturating_add(1) < most {
            self.stood = 0;
        }
        self.most = most;
        if !others_wait {
            return;
        }
        self.stood = if Self::is_still(most, running) { self.stood.saturating_add(1) } else { 0 };
        if ENOUGH <= self.stood {
            self.learned = Some(self.most);
        }
    }

    /// Whether `running` is as many as the `most` that ran, but for chance.
    fn is_still(most: u32, running: u32) -> bool {
        most <= running.saturating_add((most / STILL).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_as_many_as_run_while_others_wait() {
        let mut seats = Seats::new(256);
        (0..9).for_each(|running| seats.observe(running, false));
        assert_eq!(seats.count(), 256);
        for running in [8, 7, 8, 8, 7] {
            seats.observe(running, true);
        }
        assert_eq!(seats.count(), 8);
        // Fewer run when fewer are there.
        (0..9).for_each(|running| seats.observe(running, false));
        assert_eq!(seats.count(), 8);
    }

    #[test]
    fn more_than_were_thought_are_learned_anew() {
        let mut seats = Seats::new(256);
        (0..5).for_each(|_| seats.observe(20, true));
        assert_eq!(seats.count(), 20);
        seats.observe(30, true);
        assert_eq!(seats.count(), 256);
        seats.observe(400, false);
        assert_eq!(seats.count(), 400);
    }

    #[test]
    fn requests_that_wait_while_more_and_more_run_tell_nothing() {
        let mut seats = Seats::new(256);
        (0..40).for_each(|step| seats.observe(4 * step, true));
        assert_eq!(seats.count(), 256);
    }
}
