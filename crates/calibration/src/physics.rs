//! What a model on a GPU should cost by its arithmetic: where every fit starts.
//!
//! | coefficient | formula |
//! |---|---|
//! | `a` weights | bytes of weights / (0.8 · bandwidth · TP) |
//! | `b` token | 2 · active parameters / (0.62 · peak · TP) |
//! | `d` context | KV bytes a token / (0.75 · bandwidth · TP) |
//! | `e` attention | 4 · layers · width / (0.5 · peak · TP) |
//!
//! The shares of peak are those behind the built-in profiles (Vidur's profiles of the linear
//! operators on H100 and A100). The overhead grows with the layers where each ends in an all-reduce.

use engine::{Profile, Release, StepTime};
use types::quantity::Tokens;

/// A model's size, from its published configuration; 16-bit weights and KV cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Model {
    /// How its name starts, in lower case, without the organisation.
    pub name: &'static str,
    /// Parameters, in billions.
    pub parameters_b: f64,
    /// Parameters that one token is multiplied with, in billions.
    pub active_b: f64,
    /// Layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub width: u32,
    /// Bytes of KV cache a token.
    pub kv_bytes: u32,
    /// Share of the weights that are experts.
    pub expert_share: f64,
    /// Share of the experts that a token is sent to.
    pub expert_active: f64,
}

/// A GPU's datasheet: dense 16-bit arithmetic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// How its name starts, in lower case.
    pub name: &'static str,
    /// Memory bandwidth, TB/s.
    pub bandwidth_tb_s: f64,
    /// Peak rate, TFLOP/s.
    pub peak_tflop_s: f64,
    /// Memory, GiB.
    pub memory_gib: f64,
}

const fn dense(name: &'static str, b: f64, layers: u32, width: u32, kv_bytes: u32) -> Model {
    Model {
        name,
        parameters_b: b,
        active_b: b,
        layers,
        width,
        kv_bytes,
        expert_share: 0.0,
        expert_active: 1.0,
    }
}

/// Models that are known; the first whose name starts the asked one is taken.
const MODELS: [Model; 14] = [
    dense("llama-2-7b", 6.74, 32, 4096, 524_288),
    dense("llama-2-13b", 13.0, 40, 5120, 819_200),
    dense("llama-2-70b", 69.0, 80, 8192, 327_680),
    dense("codellama-34b", 33.7, 48, 8192, 196_608),
    dense("llama-3.1-8b", 8.03, 32, 4096, 131_072),
    dense("meta-llama-3-8b", 8.03, 32, 4096, 131_072),
    dense("llama-3.1-70b", 70.6, 80, 8192, 327_680),
    dense("qwen2.5-7b", 7.62, 28, 3584, 57_344),
    dense("qwen3-14b", 14.8, 40, 5120, 163_840),
    dense("mistral-nemo", 12.2, 40, 5120, 163_840),
    dense("yi-34b", 34.4, 60, 7168, 245_760),
    Model {
        active_b: 12.9,
        expert_share: 0.965,
        expert_active: 0.25,
        ..dense("mixtral-8x7b", 46.7, 32, 4096, 131_072)
    },
    Model {
        active_b: 39.2,
        expert_share: 0.965,
        expert_active: 0.25,
        ..dense("mixtral-8x22b", 140.6, 56, 6144, 229_376)
    },
    Model {
        active_b: 3.3,
        expert_share: 0.95,
        expert_active: 0.0625,
        ..dense("qwen3-30b-a3b", 30.5, 48, 2048, 98_304)
    },
];

const fn gpu(name: &'static str, bandwidth_tb_s: f64, peak_tflop_s: f64, memory_gib: f64) -> Gpu {
    Gpu { name, bandwidth_tb_s, peak_tflop_s, memory_gib }
}

/// GPUs that are known; the first whose name starts the asked one is taken.
const GPUS: [Gpu; 6] = [
    gpu("h100", 3.35, 989.0, 80.0),
    gpu("h200", 4.8, 989.0, 141.0),
    gpu("a100", 2.04, 312.0, 80.0),
    gpu("l40s", 0.864, 362.0, 48.0),
    gpu("rtx4090", 1.008, 165.0, 24.0),
    gpu("rtxpro6000", 1.792, 503.0, 96.0),
];

/// The model called `name`, with or without its organisation.
#[must_use]
pub fn model(name: &str) -> Option<&'static Model> {
    let name = name.rsplit('/').next().unwrap_or(name).to_lowercase();
    MODELS.iter().find(|it| name.starts_with(it.name))
}

/// The GPU called `name`.
#[must_use]
pub fn accelerator(name: &str) -> Option<&'static Gpu> {
    let name = name.to_lowercase().replace(['-', ' ', '_'], "");
    GPUS.iter().find(|it| name.starts_with(it.name))
}

/// The names of the known models.
pub fn models() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|it| it.name)
}

/// The names of the known GPUs.
pub fn gpus() -> impl Iterator<Item = &'static str> {
    GPUS.iter().map(|it| it.name)
}

/// The profile that arithmetic gives `model` on `tp` GPUs of kind `gpu`.
///
/// KV tokens: what 0.9 of the memory leaves beside the weights and 3 GB a GPU of activations.
#[must_use]
pub fn profile(model: &Model, gpu: &Gpu, tp: u32) -> Profile {
    let gpus = f64::from(tp.max(1));
    let bandwidth = gpu.bandwidth_tb_s * 1e12 * gpus;
    let peak = gpu.peak_tflop_s * 1e12 * gpus;
    let weights = 2e9 * model.parameters_b;
    let (layers, width) = (f64::from(model.layers), f64::from(model.width));
    let kv_bytes = f64::from(model.kv_bytes);
    let reduce_ms = if tp > 1 { ALL_REDUCE_MS * layers } else { 0.0 };
    let free = 0.9 * gpu.memory_gib * GIB * gpus - weights - 3e9 * gpus;
    Profile {
        name: format!("{}-{}-tp{}", model.name, gpu.name, tp.max(1)),
        step: StepTime {
            overhead_ms: OVERHEAD_MS + reduce_ms,
            weights_ms: weights / (0.8 * bandwidth) * 1e3,
            token_us: 2e9 * model.active_b / (0.62 * peak) * 1e6,
            sequence_us: 12.0,
            context_ns: kv_bytes / (0.75 * bandwidth) * 1e9,
            attention_ns: 4.0 * layers * width / (0.5 * peak) * 1e9,
            overlap: 0.0,
            expert_share: model.expert_share,
            expert_active: model.expert_active,
        },
        block_size: Tokens(16),
        kv_tokens: whole(free.max(0.0) / kv_bytes),
        max_model_len: Tokens(32_768),
        max_num_batched_tokens: Tokens(2048),
        max_num_seqs: 256,
        api_overhead_ms: 6.0,
        steps_ahead: 1,
        spread: None,
        release: Release::V0_11,
    }
}

/// The profile of one of several data-parallel ranks that share a mixture's experts and step
/// together: each holds its part of them, and reads what a token of any rank asks for.
#[must_use]
pub fn shared_by_ranks(profile: &Profile, ranks: u32) -> Profile {
    let mut profile = profile.clone();
    let count = f64::from(ranks.max(1));
    let step = &mut profile.step;
    step.weights_ms *= 1.0 - step.expert_share * (1.0 - 1.0 / count);
    step.expert_active = 1.0 - (1.0 - step.expert_active).powf(count);
    profile
}

const GIB: f64 = 1_073_741_824.0;

/// Scheduling, sampling and launch of a step, milliseconds.
const OVERHEAD_MS: f64 = 0.7;

/// The two all-reduces of a layer, milliseconds.
const ALL_REDUCE_MS: f64 = 0.03;

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float that is clamped to what fits"
)]
const fn whole(tokens: f64) -> Tokens {
    Tokens(tokens.clamp(0.0, 4e9) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_people_write_them() {
        assert_eq!(model("meta-llama/Llama-3.1-8B-Instruct").unwrap().layers, 32);
        assert_eq!(model("codellama/CodeLlama-34b-Instruct-hf").unwrap().layers, 48);
        assert_eq!(accelerator("A100-80GB").unwrap().name, "a100");
        assert_eq!(accelerator("RTX 4090").unwrap().name, "rtx4090");
        assert_eq!(model("gpt-9"), None);
    }

    #[test]
    fn arithmetic_gives_what_is_published() {
        let profile = profile(model("Llama-3.1-8B").unwrap(), accelerator("H100").unwrap(), 1);
        profile.validate().unwrap();
        let built_in = Profile::named("llama-3-8b-h100").unwrap();
        for (ours, published) in [
            (profile.step.weights_ms, built_in.step.weights_ms),
            (profile.step.token_us, built_in.step.token_us),
            (profile.step.context_ns, built_in.step.context_ns),
            (profile.step.attention_ns, built_in.step.attention_ns),
            (f64::from(profile.kv_tokens.0), f64::from(built_in.kv_tokens.0)),
        ] {
            assert!((ours / published - 1.0).abs() < 0.07, "{ours} is not near {published}");
        }
    }

    #[test]
    fn every_known_model_fits_eight_of_every_known_gpu() {
        for (model, gpu) in MODELS.iter().flat_map(|it| GPUS.iter().map(move |gpu| (it, gpu))) {
            if 2e9 * model.parameters_b < 0.8 * 8.0 * gpu.memory_gib * GIB {
                profile(model, gpu, 8).validate().unwrap();
            }
        }
    }
}
