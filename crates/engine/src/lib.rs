//! Models one inference engine: batching, KV blocks, step times.
//!
//! The model behaves like one replica of vLLM's V1 engine: continuous batching with chunked
//! prefill, a paged KV cache with prefix reuse, preemption by recompute. It holds no clock and
//! does no I/O. A driver asks [`Engine::begin_step`] how long the next step takes, lets that time
//! pass (on a real clock or a calendar), and then collects the tokens with
//! [`Engine::finish_step`]. A simulation that needs only first and last tokens lets many steps pass
//! at once, with [`Engine::begin_steps`] and [`Engine::finish_steps`].
//!
//! What vLLM does with requests and blocks, it does exactly: `tests/captured_sequences.rs` replays
//! recordings of real ones. Not modelled: sliding windows, speculative decoding, priorities, KV
//! transfer; of scheduling ahead of the GPU, only that a new request comes a step later.
//!
//! Start at [`Engine`] in `engine`; then `batch` (who runs in a step), `sequence` (how far each is),
//! `stretch` (steps that are planned together), `kv_cache` (who holds which block), `kv_event` (what
//! is told of it), [`step_time`] (how long a step takes) and [`profile`] (on which GPU and model).

mod batch;
mod engine;
mod job;
mod kv_cache;
mod kv_event;
mod lru;
mod noise;
pub mod profile;
mod sequence;
pub mod step_time;
mod stretch;

pub use crate::{
    engine::{Counters, Engine},
    job::{Answer, Job, Progress, Refusal},
    kv_event::{KvEvent, KvMessage},
    noise::{Spread, StepNoise},
    profile::{InvalidProfile, Profile, Release, UnknownProfile},
    step_time::StepTime,
};
