//! What a computed token costs besides its own time, where caches are full.
//!
//! A block that is computed pushes another out. If a share `q` of what is pushed out is asked for
//! again, it is computed again and pushes out more: a token computed costs `1 + q + q² + … = 1/(1−q)`
//! tokens in the end. With room to spare `q` is zero; where the working set just exceeds the caches it
//! tends to one, and a fleet that goes on copying prefixes tips over. `q` is told by tokens that a
//! replica had and has no more when they are asked for again, over all that it computes: an answer that
//! found less than it should have, and a conversation that comes back to find its replica without it,
//! wherever it then goes. Each replica has a share of its own, so that what is new goes where there is
//! room.

use std::time::Duration;

use types::{quantity::Tokens, time::Timestamp};

use super::decay::Decayed;

/// Over how long tokens count.
const TIME: Duration = Duration::from_secs(20);

/// Largest share: a token never counts for more than ten.
const SHARE_MAX: f64 = 0.9;

/// Computed tokens below which nothing is concluded.
const COMPUTED_MIN: f64 = 20_000.0;

/// Tokens computed of late, and those of them that were lost from caches.
#[derive(Clone, Copy, Debug)]
pub struct Evictions {
    computed: Decayed,
    lost: Decayed,
    factor: f64,
}

impl Default for Evictions {
    fn default() -> Self {
        Self { computed: Decayed::new(TIME), lost: Decayed::new(TIME), factor: 1.0 }
    }
}

impl Evictions {
    /// Learns that of `prompt` tokens `found` were cached, `expected` of which should have been.
    pub fn observe(&mut self, now: Timestamp, prompt: Tokens, expected: Tokens, found: Tokens) {
        self.computed.add(now, f64::from(prompt.saturating_sub(found).0));
        self.lost(now, expected.saturating_sub(found));
    }

    /// Learns that `tokens` which had been there are gone and asked for.
    pub fn lost(&mut self, now: Timestamp, tokens: Tokens) {
        self.lost.add(now, f64::from(tokens.0));
        // Both fade alike, so that their quotient stays as it is until something is added.
        let computed = self.computed.sum(now);
        self.factor = if computed < COMPUTED_MIN {
            1.0
        } else {
            1.0 / (1.0 - (self.lost.sum(now) / computed).clamp(0.0, SHARE_MAX))
        };
    }

    /// How many tokens a computed one costs in the end, at least one.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_costs_more_the_more_of_what_it_pushes_out_is_missed() {
        let after = |expected| {
            let mut evictions = Evictions::default();
            for _ in 0..100 {
                evictions.observe(Timestamp::ZERO, Tokens(1_000), Tokens(expected), Tokens(200));
            }
            evictions.factor()
        };
        assert!((after(200) - 1.0).abs() < 1e-9);
        assert!((after(600) - 2.0).abs() < 1e-9);
        assert!((after(1_000) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn a_few_answers_say_nothing() {
        let mut evictions = Evictions::default();
        evictions.observe(Timestamp::ZERO, Tokens(1_000), Tokens(900), Tokens(0));
        assert!((evictions.factor() - 1.0).abs() < 1e-9);
    }
}
