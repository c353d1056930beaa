//! Models one inference engine: batching, KV blocks, step times.
//!
//! The model behaves like one replica of vLLM's V1 engine: continuous batching with chunked
//! prefill, a paged KV cache with prefix reuse, preemption by recompute. It holds no clock and
//! does no I/O. A driver asks [`Engine::begin_step`] how long the next step takes, lets that time
//! pass (on a real clock or a calendar), and then collects the tokens with
//! [`Engine::finish_step`].
//!
//! Start at [`Engine`] in `engine`; then `batch` (who runs in a step), `sequence` (how far each is),
//! `kv_cache` (who holds which block), [`step_time`] (how long it takes) and [`profile`] (on which
//! GPU and model).

mod batch;
mod engine;
mod job;
mod kv_cache;
mod kv_event;
mod lru;
pub mod profile;
mod sequence;
pub mod step_time;

pub use crate::{
    engine::{Counters, Engine},
    job::{Answer, Job, Progress, Refusal},
    kv_event::{KvEvent, KvMessage},
    profile::{InvalidProfile, Profile, Release, UnknownProfile},
    step_time::StepTime,
};
