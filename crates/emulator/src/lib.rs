//! Serves the OpenAI API from a modelled engine in real time.
//!
//! An emulated replica answers as vLLM does: the same routes, bodies, framing, errors and metric
//! names, at the speed that the engine's step times predict, with the prefix-cache hits that the
//! engine's KV cache finds. There is no model and no tokenizer behind it: four bytes of text count
//! as one token, and the answer is pseudo-text that depends on nothing but the prompt.
//!
//! [`spawn`] runs one replica inside the calling process (tests, the demo), [`spawn_publishing`] one
//! that publishes what it caches; [`start`] and [`run`]
//! are what the command line uses.
//!
//! A request passes through `serve` (connections and routes), `completion` (the whole path),
//! `request` and `prompt` (what is asked), `drive` (the engine and its clock), and leaves through
//! `stream` or `reply`. `kv_events` publishes what the engine caches, and `faults` is what can be
//! made to go wrong.

mod answer;
mod completion;
mod config;
mod dialect;
mod drive;
mod error;
mod faults;
mod handle;
mod inbox;
mod kv_events;
mod metrics;
mod prompt;
mod reply;
mod request;
mod serve;
mod stream;

pub use crate::{
    config::{EmulatorConfig, Options},
    faults::{Fault, ParseFaultError},
    handle::{Handle, StartError, Stats, run, spawn, spawn_publishing, start},
    kv_events::KvEvents,
};
