//! The form that predictions have: what a step of an engine costs.

use serde::{Deserialize, Serialize};
use types::quantity::Tokens;

/// Coefficients of the time that one step of an engine takes.
///
/// ```text
/// decode step = s + g·n + d·ΣC            n sequences with contexts C
/// prefill     = b·u + e·u·(h + u/2)       u tokens on top of h cached ones
/// ```
///
/// A step that does both takes the sum. Real engines hide a part of one behind the other, take
/// steps by stairs, and vary; the scales and margins absorb what can be absorbed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Coefficients {
    /// `s`: what any step costs, milliseconds.
    pub step_ms: f64,
    /// `b`: a prefill token, microseconds.
    pub prefill_us: f64,
    /// `g`: a decoding sequence, microseconds a step.
    pub sequence_us: f64,
    /// `d`: a token of context of a decoding sequence, nanoseconds a step.
    pub context_ns: f64,
    /// `e`: attention of prefill, nanoseconds a pair of tokens.
    pub attention_ns: f64,
    /// From the decision until the engine has the request, milliseconds.
    pub request_ms: f64,
    /// Most prefill tokens in one step.
    pub chunk: Tokens,
    /// Most sequences that a replica decodes at once, until that was seen; vLLM's `max_num_seqs`.
    pub sequences_max: u32,
}

impl Default for Coefficients {
    /// A model of 8 billion parameters on a current GPU, rounded: a guess to be scaled.
    fn default() -> Self {
        Self {
            step_ms: 8.0,
            prefill_us: 30.0,
            sequence_us: 30.0,
            context_ns: 50.0,
            attention_ns: 1.0,
            request_ms: 5.0,
            chunk: Tokens(2_048),
            sequences_max: 256,
        }
    }
}

impl Coefficients {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let named = [
            ("step_ms", self.step_ms),
            ("prefill_us", self.prefill_us),
            ("sequence_us", self.sequence_us),
            ("context_ns", self.context_ns),
            ("attention_ns", self.attention_ns),
            ("request_ms", self.request_ms),
        ];
        let wrong = named.iter().filter(|(_, value)| !(0.0..=1e6).contains(value));
        let mut problems: Vec<String> =
            wrong.map(|(name, value)| format!("{name}: must be 0 to 1e6, not {value}")).collect();
        for (name, value) in [("step_ms", self.step_ms), ("prefill_us", self.prefill_us)] {
            if value <= 0.0 {
                problems.push(format!("{name}: must be more than 0, for steps take time"));
            }
        }
        if self.chunk.0 == 0 {
            problems.push("chunk: must be at least 1 token".to_owned());
        }
        if self.sequences_max == 0 {
            problems.push("sequences_max: must be at least 1".to_owned());
        }
        problems
    }

    /// Seconds to prefill `uncached` tokens on top of `cached` ones.
    #[must_use]
    pub fn prefill_s(&self, cached: Tokens, uncached: Tokens) -> f64 {
        let (cached, uncached) = (f64::from(cached.0), f64::from(uncached.0));
        let pairs = uncached * (cached + uncached / 2.0);
        self.prefill_us * 1e-6 * uncached + self.attention_ns * 1e-9 * pairs
    }

    /// Seconds of a step in which `sequences` with `context` tokens between them decode.
    #[must_use]
    pub fn decode_step_s(&self, sequences: f64, context: f64) -> f64 {
        self.step_ms * 1e-3 + self.decode_token_s(sequences, context)
    }

    /// The part of that step which is there for the sequences.
    #[must_use]
    pub fn decode_token_s(&self, sequences: f64, context: f64) -> f64 {
        self.sequence_us * 1e-6 * sequences + self.context_ns * 1e-9 * context
    }

    /// Seconds to prefill a full chunk, attention apart.
    #[must_use]
    pub fn chunk_s(&self) -> f64 {
        self.prefill_us * 1e-6 * f64::from(self.chunk.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_costs_what_it_computes_and_what_it_attends_to() {
        let form = Coefficients::default();
        let cold = form.prefill_s(Tokens(0), Tokens(1_000));
        assert!((cold - (0.030 + 0.000_5)).abs() < 1e-9, "{cold}");
        let warm = form.prefill_s(Tokens(10_000), Tokens(1_000));
        assert!((warm - cold - 0.010).abs() < 1e-9, "{warm}");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let form = Coefficients { step_ms: 0.0, context_ns: f64::NAN, ..Coefficients::default() };
        let problems = form.problems().join("\n");
        assert!(problems.contains("step_ms") && problems.contains("context_ns"), "{problems}");
        assert_eq!(Coefficients::default().problems(), Vec::<String>::new());
    }
}
