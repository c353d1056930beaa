//! `sluice simulate`: decisions in virtual time.

use std::path::PathBuf;

use policy::config::StrategyName;

use crate::recording;

/// Asks a flight recording what was decided, and what other policies would have chosen.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sluice simulate --recording decisions-20261123T080000Z-1a2b3c4d.jsonl --policy sticky,random")]
pub(crate) struct Simulate {
    /// What `sluice serve --record` wrote.
    #[arg(long, value_name = "FILE")]
    recording: PathBuf,
    /// Policies to ask, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    policy: Vec<StrategyName>,
    /// Prints the result as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(simulate: &Simulate) -> anyhow::Result<()> {
    recording::review(&simulate.recording, &simulate.policy, simulate.json)
}
