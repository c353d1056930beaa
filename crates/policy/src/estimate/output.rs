//! How long answers turn out, by tenant and model.

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::{
    quantity::Tokens,
    request::{ModelId, Request, TenantId},
};

/// Pairs of tenant and model that are remembered; the least recently seen gives way.
const PAIRS_MAX: usize = 4_096;

/// Part by which an answer moves a mean that many have made.
const WEIGHT_LEAST: f64 = 0.02;

/// Answers of a pair after which its own mean counts as much as everybody's.
const TRUSTED: f64 = 8.0;

/// What an answer is taken to be where none was seen.
const UNKNOWN: f64 = 256.0;

/// Learns mean lengths of answers.
#[derive(Debug)]
pub struct OutputLengths {
    everybody: Mean,
    pairs: LruCache<(TenantId, ModelId), Mean, FxBuildHasher>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    tokens: f64,
    answers: u32,
}

impl Mean {
    fn observe(&mut self, tokens: f64) {
        self.answers = self.answers.saturating_add(1);
        let weight = (1.0 / f64::from(self.answers)).max(WEIGHT_LEAST);
        self.tokens += weight * (tokens - self.tokens);
    }
}

impl Default for OutputLengths {
    fn default() -> Self {
        let pairs = LruCache::unbounded_with_hasher(FxBuildHasher);
        Self { everybody: Mean::default(), pairs }
    }
}

impl OutputLengths {
    /// Tokens that the answer to `request` is expected to have, at least one and at most what the
    /// client accepts.
    #[must_use]
    pub fn expected(&self, request: &Request) -> f64 {
        let everybody = if self.everybody.answers == 0 { UNKNOWN } else { self.everybody.tokens };
        let own = self.pairs.peek(&(request.tenant, request.model)).copied().unwrap_or_default();
        let answers = f64::from(own.answers);
        let mean = (own.tokens * answers + everybody * TRUSTED) / (answers + TRUSTED);
        let most = request.output_max.map_or(f64::INFINITY, |it| f64::from(it.0));
        mean.min(most).max(1.0)
    }

    /// Learns that the answer to `request` had `tokens`.
    pub fn observe(&mut self, request: &Request, tokens: Tokens) {
        let tokens = f64::from(tokens.0);
        self.everybody.observe(tokens);
        let pair = (request.tenant, request.model);
        self.pairs.get_or_insert_mut(pair, Mean::default).observe(tokens);
        if PAIRS_MAX < self.pairs.len() {
            self.pairs.pop_lru();
        }
    }
}

#[cfg(test)]
mod tests {
    use types::request::RequestId;

    use super::*;

    fn request(tenant: u64, output_max: Option<u32>) -> Request {
        Request {
            tenant: TenantId(tenant),
            output_max: output_max.map(Tokens),
            ..Request::new(RequestId(1), ModelId(1), Tokens(10), Vec::new().into())
        }
    }

    #[test]
    fn each_tenant_has_answers_of_its_own_length_and_a_new_one_everybodys() {
        let mut lengths = OutputLengths::default();
        for _ in 0..200 {
            lengths.observe(&request(1, None), Tokens(100));
            lengths.observe(&request(2, None), Tokens(1_000));
        }
        assert!((lengths.expected(&request(1, None)) - 100.0).abs() < 40.0);
        assert!((lengths.expected(&request(2, None)) - 1_000.0).abs() < 40.0);
        assert!((lengths.expected(&request(3, None)) - 550.0).abs() < 60.0);
    }

    #[test]
    fn no_answer_is_expected_to_exceed_what_the_client_accepts() {
        let lengths = OutputLengths::default();
        assert!(lengths.expected(&request(1, Some(16))) <= 16.0);
    }

    #[test]
    fn a_flood_of_tenants_is_forgotten() {
        let mut lengths = OutputLengths::default();
        (0..10_000).for_each(|it| lengths.observe(&request(it, None), Tokens(5)));
        assert_eq!(lengths.pairs.len(), PAIRS_MAX);
    }
}
