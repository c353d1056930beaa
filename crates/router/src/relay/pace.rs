//! How fast a replica sends its answer, whatever its client does.
//!
//! A client that is slow has nobody look whether more came: what is there at the next look may have been there for long,
//! and the time since the last one is none of the replica's. So time is taken only from one look that found nothing, and
//! was therefore followed by the next bytes as they came, to another.

use std::time::Duration;

use tokio::time::Instant;

/// The pace of one answer.
#[derive(Debug)]
pub(super) struct Pace {
    /// Whether what comes next comes when the replica sends it.
    is_awaited: bool,
    /// When something last did.
    last: Instant,
    /// Tokens since, of which it is not known when they came.
    tokens: u32,
}

impl Pace {
    /// Of an answer whose first piece comes `now`.
    pub(super) const fn new(now: Instant) -> Self {
        Self { is_awaited: true, last: now, tokens: 0 }
    }

    /// Nothing was there.
    pub(super) fn waits(&mut self) {
        self.is_awaited = true;
    }

    /// Something comes `now` to which time is not counted.
    pub(super) fn begins(&mut self, now: Instant) {
        (self.is_awaited, self.last, self.tokens) = (false, now, 0);
    }

    /// So many `tokens` come `now`: how many came since that was last known, and how long that is ago, where it is
    /// known again.
    pub(super) fn came(&mut self, now: Instant, tokens: u32) -> Option<(u32, Duration)> {
        self.tokens = self.tokens.saturating_add(tokens);
        if !std::mem::take(&mut self.is_awaited) {
            return None;
        }
        let waited = now.duration_since(self.last);
        self.last = now;
        Some((std::mem::take(&mut self.tokens), waited))
    }

    /// For how long the end, seen `now`, may have been there.
    pub(super) fn held(&self, now: Instant) -> Duration {
        if self.is_awaited { Duration::ZERO } else { now.duration_since(self.last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Has a token come each ten milliseconds; the client takes up those that find it slow together with the next that
    /// does not. Returns the tokens and the time that were told, and for how long the end was held.
    fn told(tokens: u32, is_slow: impl Fn(u32) -> bool) -> (u32, Duration, Duration) {
        let began = Instant::now();
        let mut pace = Pace::new(began);
        pace.begins(began);
        let (mut sum, mut time, mut backlog) = (0, Duration::ZERO, 0);
        let mut now = began;
        for token in 1..=tokens {
            now = began + Duration::from_millis(10) * token;
            if is_slow(token) {
                backlog += 1;
                continue;
            }
            if backlog == 0 {
                pace.waits();
            }
            for _ in 0..=std::mem::take(&mut backlog) {
                if let Some((tokens, waited)) = pace.came(now, 1) {
                    (sum, time) = (sum + tokens, time + waited);
                }
            }
        }
        for _ in 0..backlog {
            pace.came(now, 1);
        }
        (sum, time, pace.held(now))
    }

    #[test]
    fn the_time_between_tokens_is_that_in_which_they_came() {
        let (tokens, time, held) = told(100, |_| false);
        assert_eq!((tokens, time, held), (100, Duration::from_secs(1), Duration::ZERO));
    }

    #[test]
    fn what_a_client_left_waiting_counts_with_all_that_came_meanwhile() {
        let (tokens, time, held) = told(100, |it| (10..40).contains(&it));
        assert_eq!((tokens, time, held), (100, Duration::from_secs(1), Duration::ZERO));
    }

    #[test]
    fn an_end_that_a_client_left_waiting_is_not_counted() {
        let (tokens, time, held) = told(1_000, |it| 20 <= it);
        assert_eq!(
            (tokens, time),
            (19, Duration::from_millis(190)),
            "those that came when they were sent"
        );
        assert_eq!(held, Duration::from_millis(9_810));
    }
}
