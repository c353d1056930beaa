//! Which model on which GPU, and the limits the engine runs with.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::quantity::{Blocks, Tokens};

use crate::{noise::Spread, step_time::StepTime};

/// A model on one or several GPUs, and the limits of the engine that serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What the profile is called.
    pub name: String,
    /// How long a step takes.
    pub step: StepTime,
    /// Tokens a KV block holds; vLLM's default is 16.
    pub block_size: Tokens,
    /// Tokens the KV cache holds; what exceeds whole blocks is unused. vLLM's `num_gpu_blocks`
    /// counts one block more, which it keeps empty.
    pub kv_tokens: Tokens,
    /// Longest prompt and answer together.
    pub max_model_len: Tokens,
    /// The release of vLLM whose bookkeeping the engine follows.
    #[serde(default)]
    pub release: Release,
    /// Most tokens computed in one step.
    pub max_num_batched_tokens: Tokens,
    /// Most sequences in one step.
    pub max_num_seqs: u32,
    /// Time from a request's arrival until the engine has it (parsing, templating, tokenising),
    /// milliseconds. The engine does not wait by itself: whoever drives it submits later by this.
    pub api_overhead_ms: f64,
    /// Steps that the scheduler plans ahead of the GPU: 1 with vLLM's asynchronous scheduling (the
    /// default from 0.14), where a request that comes during a step misses the next one too.
    #[serde(default)]
    pub steps_ahead: u32,
    /// How steps scatter around their formula; not at all when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
}

/// A release of vLLM, as far as its bookkeeping of KV blocks differs from that of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Release {
    /// 0.11: every block that is given back queues behind those that are free already; a prompt is
    /// admitted as soon as its first chunk has room.
    #[serde(rename = "0.11")]
    V0_11,
    /// 0.32: a block that is not full when it is given back is used before any other; a prompt is
    /// admitted when all of it has room.
    #[default]
    #[serde(rename = "0.32")]
    V0_32,
}

/// A profile that no engine can run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile {name:?} can't run: {}", problems.join("; "))]
pub struct InvalidProfile {
    /// What the profile is called.
    pub name: String,
    /// Everything wrong with it.
    pub problems: Vec<String>,
}

/// A name that no profile has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no profile is called {name:?}: choose one of {}", names().collect::<Vec<_>>().join(", "))]
pub struct UnknownProfile {
    /// The name.
    pub name: String,
}

impl Profile {
    /// The built-in profile called `name`.
    ///
    /// # Errors
    ///
    /// No profile has this name; the error lists those that exist.
    pub fn named(name: &str) -> Result<Self, UnknownProfile> {
        let built_in = BUILT_IN.iter().find(|it| it.name == name);
        built_in.map(BuiltIn::profile).ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }

    /// The blocks of the KV cache.
    #[must_use]
    pub const fn kv_blocks(&self) -> Blocks {
        self.kv_tokens.full_blocks(self.block_size)
    }

    /// Time from a request's arrival until the engine has it.
    #[must_use]
    pub fn api_overhead(&self) -> Duration {
        Duration::try_from_secs_f64(self.api_overhead_ms * 1e-3).unwrap_or_default()
    }

    /// Checks that an engine can run with these values.
    ///
    /// # Errors
    ///
    /// Lists everything that is wrong.
    pub fn validate(&self) -> Result<(), InvalidProfile> {
        let mut problems = self.step.problems();
        let counts = [
            ("block_size", self.block_size.0),
            ("max_model_len", self.max_model_len.0),
            ("max_num_batched_tokens", self.max_num_batched_tokens.0),
            ("max_num_seqs", self.max_num_seqs),
        ];
        for (name, _) in counts.iter().filter(|(_, value)| *value == 0) {
            problems.push(format!("{name} is 0: set it to at least 1"));
        }
        if self.kv_tokens < self.block_size {
            problems.push(format!(
                "kv_tokens is {}: set it to at least one block of {}",
                self.kv_tokens, self.block_size
            ));
        }
        if !(0.0..=1e6).contains(&self.api_overhead_ms) {
            problems.push(format!(
                "api_overhead_ms is {}: set it between 0 and 1e6",
                self.api_overhead_ms
            ));
        }
        if self.steps_ahead > 1 {
            problems.push(format!("steps_ahead is {}: set it to 0 or 1", self.steps_ahead));
        }
        problems.extend(self.spread.and_then(Spread::problem));
        if problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidProfile { name: self.name.clone(), problems })
        }
    }
}

/// The names of the built-in profiles.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|it| it.name)
}

/// What sets one built-in profile apart from the others.
struct BuiltIn {
    name: &'static str,
    /// `[o ms, a ms, b µs, c µs, d ns, e ns]` of [`StepTime`].
    step: [f64; 6],
    kv_tokens: u32,
    max_model_len: u32,
    max_num_batched_tokens: u32,
}

impl BuiltIn {
    fn profile(&self) -> Profile {
        let [overhead_ms, weights_ms, token_us, sequence_us, context_ns, attention_ns] = self.step;
        Profile {
            name: self.name.to_owned(),
            step: StepTime {
                overhead_ms,
                weights_ms,
                token_us,
                sequence_us,
                context_ns,
                attention_ns,
                overlap: 1.0,
                expert_share: 0.0,
                expert_active: 1.0,
            },
            block_size: Tokens(16),
            kv_tokens: Tokens(self.kv_tokens),
            max_model_len: Tokens(self.max_model_len),
            release: Release::default(),
            max_num_batched_tokens: Tokens(self.max_num_batched_tokens),
            max_num_seqs: 256,
            api_overhead_ms: 5.0,
            steps_ahead: 0,
            spread: None,
        }
    }
}

/// vLLM's default budget on an H100, and on an A100.
const H100: u32 = 8192;
const A100: u32 = 2048;

/// The context of Llama 3.1 and 3.3, whose layers are those of Llama 3.
const LLAMA: u32 = 131_072;
/// The context of Qwen 1.5, 2.5 and 3 without extension.
const QWEN: u32 = 32_768;

/// Coefficients: weights and KV bytes of each model, bandwidth and peak rate of each GPU, and the
/// slopes of Vidur's profiles of the linear operators (H100 and A100, 512 to 4096 tokens, two
/// all-reduces a layer). KV tokens: memory left at `gpu_memory_utilization` 0.9. API overhead: the
/// middle of the 2 to 15 ms that BLIS fitted to vLLM 0.8.4.
const BUILT_IN: [BuiltIn; 8] = [
    // 131,072 bytes of KV a token; b is 38,000 tokens/s of prefill.
    BuiltIn {
        name: "llama-3-8b-h100",
        step: [1.5, 6.0, 26.0, 12.0, 52.0, 1.06],
        kv_tokens: 467_000,
        max_model_len: LLAMA,
        max_num_batched_tokens: H100,
    },
    // Vidur: 9.76 ms for one token, 67.2 µs a token.
    BuiltIn {
        name: "llama-3-8b-a100-80",
        step: [2.0, 9.8, 70.0, 15.0, 86.0, 3.4],
        kv_tokens: 467_000,
        max_model_len: LLAMA,
        max_num_batched_tokens: A100,
    },
    // 327,680 bytes of KV a token; Vidur: 22 ms for 32 tokens, 65.1 µs a token.
    BuiltIn {
        name: "llama-3-70b-h100-tp4",
        step: [3.0, 13.5, 70.0, 25.0, 33.0, 1.3],
        kv_tokens: 513_000,
        max_model_len: LLAMA,
        max_num_batched_tokens: H100,
    },
    // Vidur: 14.4 ms for 32 tokens, 41 µs a token.
    BuiltIn {
        name: "llama-3-70b-h100-tp8",
        step: [4.0, 8.0, 43.0, 25.0, 16.0, 0.66],
        kv_tokens: 1_456_810,
        max_model_len: LLAMA,
        max_num_batched_tokens: H100,
    },
    // 57,344 bytes of KV a token.
    BuiltIn {
        name: "qwen2.5-7b-h100",
        step: [1.5, 5.6, 25.0, 12.0, 23.0, 0.8],
        kv_tokens: 1_080_000,
        max_model_len: QWEN,
        max_num_batched_tokens: H100,
    },
    // 163,840 bytes of KV a token.
    BuiltIn {
        name: "qwen3-14b-h100",
        step: [1.8, 11.0, 45.0, 16.0, 65.0, 1.7],
        kv_tokens: 282_000,
        max_model_len: QWEN,
        max_num_batched_tokens: H100,
    },
    // 262,144 bytes of KV a token; llm-d: 8192 tokens in 0.40 s, attention included.
    BuiltIn {
        name: "qwen3-32b-h100-tp2",
        step: [2.5, 12.5, 42.0, 20.0, 52.0, 1.5],
        kv_tokens: 340_000,
        max_model_len: QWEN,
        max_num_batched_tokens: H100,
    },
    // 2,621,440 bytes of KV a token (no grouped queries); Vidur: 65.5 µs a token.
    BuiltIn {
        name: "qwen-72b-h100-tp4",
        step: [3.0, 14.0, 68.0, 25.0, 261.0, 1.3],
        kv_tokens: 62_000,
        max_model_len: QWEN,
        max_num_batched_tokens: H100,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_profile_is_valid_and_can_be_found() {
        for name in names() {
            let profile = Profile::named(name).unwrap();
            assert_eq!(profile.name, name);
            profile.validate().unwrap();
        }
    }

    #[test]
    fn an_unknown_profile_is_answered_with_the_known_ones() {
        let message = Profile::named("h100").unwrap_err().to_string();
        assert!(message.contains("\"h100\"") && message.contains("llama-3-8b-h100"), "{message}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut profile = Profile::named("llama-3-8b-h100").unwrap();
        profile.max_num_seqs = 0;
        profile.kv_tokens = Tokens(3);
        profile.step.weights_ms = f64::NAN;
        profile.spread = Some(Spread::LogNormal { sigma: -1.0 });
        let message = profile.validate().unwrap_err().to_string();
        for name in ["llama-3-8b-h100", "max_num_seqs", "kv_tokens", "weights_ms", "spread.sigma"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn a_profile_survives_its_file_and_a_misspelt_key_does_not() {
        let spread = Some(Spread::LogNormal { sigma: 0.1 });
        let profile = Profile { spread, ..Profile::named("qwen2.5-7b-h100").unwrap() };
        let text = serde_json::to_string(&profile).unwrap();
        assert_eq!(serde_json::from_str::<Profile>(&text).unwrap(), profile);
        let misspelt = text.replace("kv_tokens", "kv_token");
        let error = serde_json::from_str::<Profile>(&misspelt).unwrap_err().to_string();
        assert!(error.contains("kv_token"), "{error}");
    }
}
