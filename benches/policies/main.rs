//! What each policy can carry, on every workload, in the simulator.
//!
//! ```text
//! cargo run --release -p benches --bin policies -- capacity --workload chat,mixed --seeds 5
//! cargo run --release -p benches --bin policies -- at --workload hot-documents --rate 80
//! cargo run --release -p benches --bin policies -- ladder
//! cargo run --release -p benches --bin policies -- robustness
//! cargo run --release -p benches --bin policies -- special
//! ```
//!
//! *Capacity* is the highest rate at which 97 % of the requests keep their promises, found by
//! bisection for each seed; every policy meets the same requests. A case is a scenario of
//! `config/scenarios` with values set in it (`--set policy.cost.harm=0.3`), under a strategy. Every run
//! is one line of JSON with `--log`.

mod case;
mod presets;
mod search;
mod special;
mod table;

use std::{fs::OpenOptions, io::Write as _, path::PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use parking_lot::Mutex;
use policy::config::StrategyName;

use crate::{
    case::{Case, Variant},
    search::{Found, Seeds},
};

/// Measures policies in the simulator.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// The highest rate at which enough requests keep their promises.
    Capacity(Common),
    /// Figures at given rates.
    At {
        #[command(flatten)]
        common: Common,
        /// Rates, or speeds of a trace, one for each workload or one for all.
        #[arg(long, value_delimiter = ',', required = true)]
        rate: Vec<f64>,
    },
    /// The capacity of the steps from round-robin to all terms of the cost.
    Ladder(Common),
    /// The capacity where the estimator is wrong, late, alone no more, or its fleet unlike.
    Robustness(Common),
    /// Single figures that `least-latency` is held to.
    Special(Common),
    /// The rates that physics allows.
    Limits(Common),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// Workloads: names of scenarios.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "chat,mixed,agent,hot-documents,no-sharing"
    )]
    workload: Vec<String>,
    /// Strategies; a sensible set when absent.
    #[arg(long, value_delimiter = ',')]
    policy: Vec<StrategyName>,
    /// Seeds, from the first one on.
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// The first seed. Whoever tries settings takes others than those of the recorded figures.
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Values to set in every scenario, as `path.to.key=value`.
    #[arg(long)]
    set: Vec<String>,
    /// Share of requests that must keep their promises.
    #[arg(long, default_value_t = 0.97)]
    attainment: f64,
    /// Simulations at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// File to which each run is appended, a line of JSON each.
    #[arg(long)]
    log: Option<PathBuf>,
}

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
fn main() -> anyhow::Result<()> {
    match Args::parse().what {
        What::Capacity(common) => {
            let variants = common.variants();
            print!("{}", table::capacities(&capacities(&common, &variants)?));
            limits(&common)?;
        }
        What::Ladder(common) => {
            let variants = common.with_sets(presets::ladder());
            print!("{}", table::capacities(&capacities(&common, &variants)?));
        }
        What::Robustness(common) => {
            let variants = common.with_sets(presets::robustness());
            print!("{}", table::capacities(&capacities(&common, &variants)?));
        }
        What::At { common, rate } => {
            let variants = common.variants();
            for (at, workload) in common.workload.iter().enumerate() {
                let rate = rate.get(at).or(rate.last()).copied().unwrap_or(1.0);
                let mut rows = Vec::new();
                for variant in &variants {
                    let case = Case::new(workload, variant)?;
                    let runs = search::at(&case, rate, common.seeds(), common.jobs)?;
                    rows.push((variant.label.clone(), runs));
                }
                print!("{}", table::figures(workload, rate, &rows));
            }
        }
        What::Special(common) => {
            let Common { jobs, attainment, .. } = common;
            let seeds = common.seeds();
            let effort = special::Effort { seeds, jobs, attainment };
            print!("{}", special::table(&special::rows(effort, &common.workload)?));
        }
        What::Limits(common) => limits(&common)?,
    }
    Ok(())
}

impl Common {
    fn seeds(&self) -> Seeds {
        Seeds { first: self.first_seed, last: self.first_seed + self.seeds.max(1) - 1 }
    }

    fn variants(&self) -> Vec<Variant> {
        let names =
            if self.policy.is_empty() { presets::COMPARED.to_vec() } else { self.policy.clone() };
        names.into_iter().map(|it| Variant::of(it, &self.set)).collect()
    }

    fn with_sets(&self, mut variants: Vec<Variant>) -> Vec<Variant> {
        for variant in &mut variants {
            variant.sets.extend(self.set.iter().cloned());
        }
        variants
    }
}

/// Prints what physics allows on each workload.
#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
fn limits(common: &Common) -> anyhow::Result<()> {
    println!("\n|workload|no policy exceeds|hits of an endless cache|\n|-|-|-|");
    for workload in &common.workload {
        let variant = Variant::of(StrategyName::LeastLatency, &common.set);
        let limit = Case::new(workload, &variant)?.limit()?;
        println!("|{workload}|{:.1}|{:.1} %|", limit.rate, 100.0 * limit.hits);
    }
    Ok(())
}

/// Finds every capacity, workload by workload.
#[expect(clippy::print_stderr, reason = "progress, for whoever waits")]
fn capacities(common: &Common, variants: &[Variant]) -> anyhow::Result<Vec<Found>> {
    let log =
        common.log.as_ref().map(|path| OpenOptions::new().create(true).append(true).open(path));
    let log = log.transpose().context("cannot open the log")?.map(Mutex::new);
    let mut found = Vec::new();
    for workload in &common.workload {
        let mut hint = None;
        for variant in variants {
            let case = Case::new(workload, variant)?;
            let one =
                search::capacity(&case, hint, common.attainment, common.seeds(), common.jobs)?;
            hint = one.mean().or(hint);
            eprintln!("{}", table::line(&one));
            if let Some(log) = &log {
                writeln!(log.lock(), "{}", serde_json::to_string(&one.json())?)?;
            }
            found.push(one);
        }
    }
    Ok(found)
}
