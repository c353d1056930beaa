//! What admission promises, row by row: each line has a figure, the bar it is held to, and whether it is met.
//!
//! ```text
//! cargo run --release -p benches --bin admission                      # all rows, three seeds, 60 s each
//! cargo run --release -p benches --bin admission -- goodput changes    # some of them
//! cargo run --release -p benches --bin admission -- ablation --only chat,mixed --seeds 1
//! ```
//!
//! Everything runs in the simulator, on the scenarios of `config/scenarios`; a row for which a live router is
//! needed is measured by `benches/admission_live.py`. The output is tab-separated: row, workload, what, figure,
//! bar, verdict. Figures are means over seeds unless the line says otherwise; the first third of a run does not count.

#![allow(clippy::unwrap_used, reason = "a figure that cannot be had ends the study")]

mod ablation;
mod case;
mod changes;
mod classes;
mod cost;
mod found;
mod goodput;
mod line;
mod robust;
mod textbook;

use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Measures what admission promises.
#[derive(Debug, Parser)]
struct Args {
    /// Rows to measure; all of them when absent.
    rows: Vec<Row>,
    /// Workloads to measure on, where a row has several; all of them when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seeds, from one on.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Seeds to pass over: those from one to this are left out.
    #[arg(long, default_value_t = 0)]
    after_seed: u64,
    /// Length of a run, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// A row of what is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Row {
    /// The rates at which 97 % keep their promises without admission.
    Knees,
    /// Goodput beyond the knee.
    Goodput,
    /// What admission costs below the knee.
    Below,
    /// Every mode at 1.4 times the knee.
    Ablation,
    /// Predictions that are wrong, signals that are late, replicas that differ, answers in one piece.
    Robust,
    /// Promises that bind on first tokens, on the pace of answers, and on memory.
    Binding,
    /// A burst, and load that stays above the knee.
    Changes,
    /// The textbook's server, against the best number found by hand.
    Textbook,
    /// The time that clients are told, against when there was room.
    RetryAfter,
    /// A tenant that asks for ten times as much as others.
    Flood,
    /// Urgent work beside work for later.
    Batch,
    /// Clients that come again.
    Storm,
    /// Agents, and recorded traffic.
    Traces,
    /// What it costs to turn a request away.
    Cost,
}

/// How it is measured.
#[derive(Clone, Debug)]
struct Terms {
    only: Vec<String>,
    seeds: u64,
    after_seed: u64,
    duration: Duration,
}

impl Terms {
    /// Seeds that make a difference to `case`: what was recorded is always the same.
    fn seeds_of(&self, case: &case::Case) -> u64 {
        if case.is_trace() { 1 } else { self.seeds }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|it| it == name)
    }
}

fn main() {
    let Args { rows, only, seeds, after_seed, seconds } = Args::parse();
    let terms = Terms { only, seeds, after_seed, duration: Duration::from_secs(seconds) };
    line::head();
    let all = Row::value_variants().iter().copied().filter(|it| *it != Row::Knees);
    let rows = if rows.is_empty() { all.collect() } else { rows };
    for row in rows {
        match row {
            Row::Knees => goodput::knees(&terms),
            Row::Goodput => goodput::beyond_the_knee(&terms),
            Row::Below => goodput::below_the_knee(&terms),
            Row::Ablation => ablation::modes(&terms),
            Row::Robust => robust::conditions(&terms),
            Row::Binding => found::binding(&terms),
            Row::Changes => changes::burst_and_steady(&terms),
            Row::Textbook => textbook::against_the_best_count(&terms),
            Row::RetryAfter => changes::retry_after(&terms),
            Row::Flood => classes::flood(&terms),
            Row::Batch => classes::beside_batch(&terms),
            Row::Storm => classes::storm(&terms),
            Row::Traces => found::traces(&terms),
            Row::Cost => cost::of_refusals(),
        }
    }
}
