//! `sluice calibrate`: fits a profile to what a real engine was measured to do.

mod recording;
mod stages;
mod target;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use calibration::physics;
use engine::Profile;
use replay::Target;
use types::quantity::{Blocks, Tokens};

use crate::simulate::load;

/// Fits an engine profile to measured stages, to recorded requests, or to a live endpoint.
#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("measured").required(true).args(["stages", "recording", "target"])),
    after_help = "Examples:
  sluice calibrate --stages stages.csv --out config/profiles
  sluice calibrate --recording vllm.jsonl --trace trace.jsonl --model Llama-3.1-8B --gpu RTX4090 \\
      --kv-blocks 2588 --out rtx4090.yaml
  sluice calibrate --target http://127.0.0.1:8000 --out mine.yaml
  sluice emulate --profile mine.yaml"
)]
pub(crate) struct Calibrate {
    /// Measured stages, CSV: a row for each, with its load and its latencies.
    #[arg(long, value_name = "FILE")]
    stages: Option<String>,
    /// Timings of each request of a run, JSON lines as LLMServingSim writes them.
    #[arg(long, value_name = "FILE")]
    recording: Option<String>,
    /// Live endpoint to measure; it must be idle.
    #[arg(long, value_name = "URL")]
    target: Option<Target>,
    /// Profile to start from, by name or as a file, instead of the arithmetic of model and GPU.
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// Where the profile goes: a file, or a folder where several models were measured.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// Of the stages, only those whose model and GPU hold this text.
    #[arg(long, value_name = "TEXT", requires = "stages")]
    only: Option<String>,
    /// Model: what the recording ran, or what to ask the endpoint for (its first when absent).
    #[arg(long, value_name = "NAME", conflicts_with = "stages")]
    model: Option<String>,
    /// Kind of GPU that served it.
    #[arg(long, value_name = "NAME", conflicts_with = "stages")]
    gpu: Option<String>,
    /// GPUs that share the model.
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "stages")]
    tp: u32,
    /// Trace with the names of the prompts' blocks, in Mooncake's format.
    #[arg(long, value_name = "FILE", requires = "recording")]
    trace: Option<String>,
    /// Load of the engine while it was recorded, second by second, CSV as LLMServingSim writes it.
    #[arg(long, value_name = "FILE", requires = "recording")]
    timeseries: Option<String>,
    /// Data-parallel ranks that share a mixture's experts and step together.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "recording")]
    ranks: u32,
    /// Blocks of 16 tokens in the KV cache, instead of the profile's.
    #[arg(long, value_name = "N", conflicts_with = "stages")]
    kv_blocks: Option<u32>,
    /// Most sequences in one step, instead of the profile's.
    #[arg(long, value_name = "N", conflicts_with = "stages")]
    max_num_seqs: Option<u32>,
    /// Most tokens in one step, instead of the profile's.
    #[arg(long, value_name = "N", conflicts_with = "stages")]
    max_num_batched_tokens: Option<u32>,
    /// Longest prompt to send to the endpoint.
    #[arg(long, value_name = "TOKENS", default_value_t = 4096, requires = "target")]
    prompt_max: u32,
    /// Most requests to send to the endpoint at once.
    #[arg(long, value_name = "N", default_value_t = 32, requires = "target")]
    concurrency_max: u32,
    /// Key to send as `authorization: Bearer`.
    #[arg(long, value_name = "KEY", env = "SLUICE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
}

pub(crate) fn run(calibrate: &Calibrate) -> anyhow::Result<()> {
    match (&calibrate.stages, &calibrate.recording, &calibrate.target) {
        (Some(file), _, _) => stages::fit(calibrate, file),
        (None, Some(file), _) => recording::fit(calibrate, file),
        (None, None, Some(target)) => target::fit(calibrate, target),
        (None, None, None) => Ok(()),
    }
}

impl Calibrate {
    /// The profile that a fit to one model starts from: the one that is asked for, else the
    /// arithmetic of model and GPU, else none.
    fn start(&self, model: Option<&str>) -> anyhow::Result<Option<Profile>> {
        let known = || {
            let model = physics::model(model?)?;
            let gpu = physics::accelerator(self.gpu.as_deref()?)?;
            Some(physics::profile(model, gpu, self.tp))
        };
        let profile = match &self.profile {
            Some(name) => Some(load::profile(name)?),
            None => known(),
        };
        Ok(profile.map(|mut profile| {
            let kv = self.kv_blocks.map(|it| Blocks(it).tokens(profile.block_size));
            profile.kv_tokens = kv.unwrap_or(profile.kv_tokens);
            profile.max_num_seqs = self.max_num_seqs.unwrap_or(profile.max_num_seqs);
            let budget = self.max_num_batched_tokens.map(Tokens);
            profile.max_num_batched_tokens = budget.unwrap_or(profile.max_num_batched_tokens);
            profile
        }))
    }

    /// Writes the profiles where the user wants them.
    fn write(&self, profiles: &[&Profile]) -> anyhow::Result<()> {
        let Some(out) = &self.out else { return Ok(()) };
        if let ([profile], false) = (profiles, out.is_dir()) {
            return write(out, profile);
        }
        fs::create_dir_all(out).with_context(|| format!("cannot make folder {}", out.display()))?;
        profiles
            .iter()
            .try_for_each(|profile| write(&out.join(format!("{}.yaml", profile.name)), profile))
    }
}

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
fn write(path: &Path, profile: &Profile) -> anyhow::Result<()> {
    profile.validate()?;
    let text = serde_yaml::to_string(profile).context("cannot write the profile as YAML")?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}
