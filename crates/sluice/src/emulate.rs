//! `sluice emulate`: emulated replicas.

use std::net::SocketAddr;

use anyhow::Context as _;
use emulator::{Fault, KvEvents, Options};
use engine::Profile;
use types::quantity::{Blocks, Tokens};

use crate::{limits, shutdown, simulate::load, typed};

/// Serves emulated replicas that speak the OpenAI API and vLLM's metrics; no GPU, no model.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sluice emulate --listen 127.0.0.1:8000 --replicas 4 --profile llama-3-8b-h100")]
pub(crate) struct Emulate {
    /// Address of the first replica; the others take the ports after it.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    #[arg(value_parser = typed::address)]
    listen: SocketAddr,
    /// Number of replicas.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u16,
    /// The model and GPU to emulate, by name or as a file; an unknown name lists the known ones.
    #[arg(long, value_name = "NAME|FILE", default_value = "llama-3-8b-h100")]
    #[arg(value_parser = profile)]
    profile: Box<Profile>,
    /// Name under which the model is served; the profile's when absent.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Blocks of 16 tokens in the KV cache, instead of the profile's.
    #[arg(long, value_name = "N")]
    kv_blocks: Option<u32>,
    /// Most sequences in one step, instead of the profile's.
    #[arg(long, value_name = "N")]
    max_num_seqs: Option<u32>,
    /// Most tokens in one step, instead of the profile's.
    #[arg(long, value_name = "N")]
    max_num_batched_tokens: Option<u32>,
    /// Publishes what the first replica caches, as vLLM does, on tcp://HOST:PORT; the others take the
    /// ports after it.
    #[arg(long, value_name = "ENDPOINT")]
    kv_events: Option<String>,
    /// Answers on tcp://HOST:PORT who missed such events; needs --kv-events.
    #[arg(long, value_name = "ENDPOINT", requires = "kv_events")]
    kv_events_replay: Option<String>,
    /// What the topics of such events begin with.
    #[arg(long, value_name = "TEXT", default_value = "kv-events")]
    kv_events_topic: String,
    /// What goes wrong: down, silence, close, break:CHUNKS, stall:CHUNKS, status:CODE …
    #[arg(long, value_name = "FAULT", default_value = "none")]
    fault: Fault,
}

fn profile(text: &str) -> Result<Box<Profile>, String> {
    load::profile(text).map(Box::new).map_err(|error| format!("{error:#}"))
}

pub(crate) fn run(emulate: Emulate) -> anyhow::Result<()> {
    let (replay, topic) = (emulate.kv_events_replay, emulate.kv_events_topic);
    let options = Options {
        listen: emulate.listen,
        replicas: emulate.replicas,
        profile: emulate.profile.name.clone(),
        own_profile: Some(*emulate.profile),
        model: emulate.model,
        kv_blocks: emulate.kv_blocks.map(Blocks),
        max_num_seqs: emulate.max_num_seqs,
        max_num_batched_tokens: emulate.max_num_batched_tokens.map(Tokens),
        fault: emulate.fault,
        kv_events: emulate.kv_events.map(|endpoint| KvEvents { endpoint, replay, topic }),
    };
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that serve")?;
    runtime.block_on(emulator::run(&options, shutdown::requested()))?;
    Ok(())
}
