//! How long one step takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Coefficients of the step time of one model on one kind of GPU.
///
/// ```text
/// step = o + linear + c·n + d·ΣC + e·Σ new·(past + new/2)
/// linear = max(a', b·T) + (1 − h)·min(a', b·T),  T = P + n
/// a' = a·(1 − s·(1 − f)^T)
/// ```
///
/// `P` prefill tokens and `n` decoding sequences share the step; `C` is the context of each
/// decoding sequence; each prefill chunk computes `new` tokens on top of `past`. The `max` is the
/// roofline: a small batch waits for the weights to be read, a large one for the arithmetic. Where
/// the two overlap perfectly, `h = 1`, the shorter one costs nothing; measured engines, whose
/// kernels are far from square in a mixed batch, come closer to the sum, `h = 0`. Of a mixture of
/// experts a step reads only the experts that some token of it is sent to: each token takes a share
/// `f` of them, so `1 − (1 − f)^T` of all are read when tokens choose independently.
///
/// The form and the eight named sets follow from published measurements: `a` and `b` from Vidur's
/// profiles of the linear operators (Agrawal et al., MLSys 2024), `d` from the KV cache's bytes
/// over three quarters of the memory bandwidth, `e` from attention's arithmetic at half of the peak
/// rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepTime {
    /// `o`: scheduling, sampling and launch, milliseconds a step.
    pub overhead_ms: f64,
    /// `a`: reading the weights once, milliseconds a step: weights / (0.8 · bandwidth · TP).
    pub weights_ms: f64,
    /// `b`: the linear operators, microseconds a token.
    pub token_us: f64,
    /// `c`: sampling and bookkeeping, microseconds a decoding sequence.
    pub sequence_us: f64,
    /// `d`: reading the KV cache, nanoseconds a token of context of a decoding sequence.
    pub context_ns: f64,
    /// `e`: attention of prefill, nanoseconds a pair of a new token and one it attends to:
    /// 4 · layers · width / (0.5 · peak · TP).
    pub attention_ns: f64,
    /// `h`: share of the shorter of `a` and `b·(P + n)` that hides behind the longer, 0 to 1.
    #[serde(default = "overlap_default")]
    pub overlap: f64,
    /// `s`: share of the weights that are experts; 0 for a dense model.
    #[serde(default)]
    pub expert_share: f64,
    /// `f`: share of the experts that one token is sent to; 1 for a dense model. Where several
    /// ranks share the experts and step together, what one token of each takes.
    #[serde(default = "expert_active_default")]
    pub expert_active: f64,
}

/// Every weight of a dense model is read in every step.
const fn expert_active_default() -> f64 {
    1.0
}

/// The roofline's own assumption.
const fn overlap_default() -> f64 {
    1.0
}

/// What a step computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepWork {
    /// Tokens of prefill chunks, `P`.
    pub prefill_tokens: u32,
    /// Sequences that decode one token each, `n`.
    pub decodes: u32,
    /// Context tokens of all decoding sequences, `ΣC`.
    pub context_tokens: u64,
    /// `Σ new·(past + new/2)` over the prefill chunks.
    pub attention_pairs: f64,
}

impl StepWork {
    /// Adds a chunk of prefill: `new` tokens on top of `past`.
    pub fn add_prefill(&mut self, past: u32, new: u32) {
        self.prefill_tokens = self.prefill_tokens.saturating_add(new);
        self.attention_pairs += f64::from(new) * (f64::from(past) + f64::from(new) / 2.0);
    }

    /// Adds a sequence that decodes one token with `context` tokens before it.
    pub const fn add_decode(&mut self, context: u32) {
        self.decodes = self.decodes.saturating_add(1);
        self.context_tokens = self.context_tokens.saturating_add(context as u64);
    }

    /// Whether there is nothing to compute.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.prefill_tokens == 0 && self.decodes == 0
    }
}

impl StepTime {
    /// The time that a step takes to compute `work`.
    #[must_use]
    pub fn of(&self, work: &StepWork) -> Duration {
        let decodes = f64::from(work.decodes);
        let tokens = f64::from(work.prefill_tokens) + decodes;
        let idle = self.expert_share * (1.0 - self.expert_active).powf(tokens);
        let weights_ms = self.weights_ms * (1.0 - idle);
        let compute_ms = self.token_us * 1e-3 * tokens;
        let hidden_ms = weights_ms.min(compute_ms) * self.overlap;
        let linear_ms = weights_ms + compute_ms - hidden_ms;
        let milliseconds = self.overhead_ms
            + linear_ms
            + self.sequence_us * 1e-3 * decodes
            + self.context_ns * 1e-6 * work.context_tokens as f64
            + self.attention_ns * 1e-6 * work.attention_pairs;
        Duration::try_from_secs_f64(milliseconds * 1e-3).unwrap_or(Duration::MAX)
    }

    /// Everything wrong with the coefficients.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let named = [
            ("overhead_ms", self.overhead_ms),
            ("weights_ms", self.weights_ms),
            ("token_us", self.token_us),
            ("sequence_us", self.sequence_us),
            ("context_ns", self.context_ns),
            ("attention_ns", self.attention_ns),
        ];
        let mut problems: Vec<String> = named
            .iter()
            .filter(|(_, value)| !(0.0..=1e6).contains(value))
            .map(|(name, value)| format!("step.{name} is {value}: set it between 0 and 1e6"))
            .collect();
        let shares = [
            ("overlap", self.overlap),
            ("expert_share", self.expert_share),
            ("expert_active", self.expert_active),
        ];
        let wrong = shares.iter().filter(|(_, value)| !(0.0..=1.0).contains(value));
        problems.extend(
            wrong.map(|(name, value)| format!("step.{name} is {value}: set it between 0 and 1")),
        );
        if self.overhead_ms + self.weights_ms < 1e-3 {
            problems.push(
                "step.overhead_ms + step.weights_ms is under a microsecond: a step takes time"
                    .to_owned(),
            );
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SET: StepTime = StepTime {
        overhead_ms: 1.5,
        weights_ms: 6.0,
        token_us: 26.0,
        sequence_us: 12.0,
        context_ns: 52.0,
        attention_ns: 1.06,
        overlap: 1.0,
        expert_share: 0.0,
        expert_active: 1.0,
    };

    fn milliseconds(work: &StepWork) -> f64 {
        SET.of(work).as_secs_f64() * 1e3
    }

    #[test]
    fn a_small_batch_waits_for_the_weights() {
        let mut work = StepWork::default();
        work.add_decode(1000);
        assert!((milliseconds(&work) - (1.5 + 6.0 + 0.012 + 0.052)).abs() < 1e-6);
    }

    #[test]
    fn a_large_prefill_waits_for_the_arithmetic() {
        let mut work = StepWork::default();
        work.add_prefill(4096, 4096);
        let pairs = 4096.0 * (4096.0 + 2048.0);
        assert!((milliseconds(&work) - (1.5 + 0.026 * 4096.0 + 1.06e-6 * pairs)).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_overlap_adds_up() {
        let set = StepTime { overlap: 0.25, ..SET };
        let mut work = StepWork::default();
        work.add_prefill(0, 100);
        let overlapping = milliseconds(&work);
        let added = set.of(&work).as_secs_f64() * 1e3 - overlapping;
        assert!((added - 0.75 * 2.6).abs() < 1e-6, "{added}");
    }

    #[test]
    fn a_mixture_of_experts_reads_those_that_are_asked() {
        let set = StepTime { token_us: 0.0, expert_share: 0.9, expert_active: 0.25, ..SET };
        let reading = |tokens| {
            let mut work = StepWork::default();
            (0..tokens).for_each(|_| work.add_decode(0));
            set.of(&work).as_secs_f64() * 1e3 - 1.5 - 0.012 * f64::from(tokens)
        };
        assert!((reading(1) - 6.0 * (1.0 - 0.9 * 0.75)).abs() < 1e-6, "{}", reading(1));
        assert!((reading(64) - 6.0).abs() < 1e-3, "{}", reading(64));
    }

    #[test]
    fn a_full_batch_runs_at_the_published_speed() {
        let mut work = StepWork::default();
        for _ in 0..256 {
            work.add_decode(512);
        }
        let tokens_per_s = 256.0 / (milliseconds(&work) * 1e-3);
        assert!((12_000.0..15_000.0).contains(&tokens_per_s), "{tokens_per_s} tokens/s");
    }

    #[test]
    fn chunking_a_prefill_leaves_its_attention_alone() {
        let (mut whole, mut chunks) = (StepWork::default(), StepWork::default());
        whole.add_prefill(0, 3000);
        chunks.add_prefill(0, 1000);
        chunks.add_prefill(1000, 2000);
        assert_eq!(whole, chunks);
    }

    #[test]
    fn coefficients_that_make_no_sense_are_named() {
        let set = StepTime { overhead_ms: -1.0, weights_ms: f64::NAN, overlap: 1.5, ..SET };
        let problems = set.problems().join("\n");
        for name in ["overhead_ms", "weights_ms", "overlap"] {
            assert!(problems.contains(name), "{problems}");
        }
        assert_eq!(SET.problems(), Vec::<String>::new());
    }
}
