//! A budget that refills by itself, up to a bound.

/// Tokens that something may spend; each spending takes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenBucket {
    tokens: f64,
    tokens_max: f64,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(tokens_max: f64) -> Self {
        Self { tokens: tokens_max, tokens_max }
    }

    /// Adds `tokens`, up to the bound.
    pub fn add(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens.max(0.0)).min(self.tokens_max);
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_one(&self) -> bool {
        self.tokens >= 1.0
    }

    /// Takes one token, if there is one.
    #[must_use]
    pub fn take(&mut self) -> bool {
        let has_one = self.has_one();
        if has_one {
            self.tokens -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_never_exceeds_what_came_in_and_the_bound() {
        let mut bucket = TokenBucket::full(10.0);
        let mut spent = 0;
        for _ in 0..1_000 {
            bucket.add(0.2);
            spent += u32::from(bucket.take());
        }
        assert!((200..=210).contains(&spent), "{spent}");
        bucket.add(f64::MAX);
        assert_eq!((0..100).filter(|_| bucket.take()).count(), 10);
    }
}
