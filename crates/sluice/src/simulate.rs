//! `sluice simulate`: policies, routers and engines in virtual time.

pub(crate) mod cases;
pub(crate) mod load;
pub(crate) mod shown;

use std::path::PathBuf;

use policy::{admission::AdmissionMode, config::StrategyName};
use replay::output;
use report::{Summary, paired, table};

use self::{
    cases::{Case, Cases},
    shown::Shown,
};
use crate::{
    recording,
    results::{self, Gates},
    traced::Traced,
    typed,
};

/// Runs a scenario in virtual time: the very policy code that serves, before modelled engines.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice simulate -s config/scenarios/chat.yaml --policy round-robin,prefix-aware
  sluice simulate -s config/scenarios/hot-documents.yaml --seeds 10 --out results/hot
  sluice simulate -s config/scenarios/mooncake.yaml --trace trace.jsonl.zst --json
  sluice simulate -s config/scenarios/chat.yaml --admission off,knee --rate 80,120,160
  sluice simulate --recording decisions-20261123T080000Z-1a2b3c4d.jsonl --policy sticky,random")]
pub(crate) struct Simulate {
    #[command(flatten)]
    what: What,
    /// Seeds to run, from --seed on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seeds: u64,
    /// Folder for the results: report.html, summary.json, summary.csv, and a folder for each run.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    gates: Gates,
    /// Prints summary.json instead of a table.
    #[arg(long)]
    json: bool,
}

/// What is simulated.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct What {
    /// The scenario, in YAML.
    #[arg(short, long, value_name = "FILE", required_unless_present = "recording")]
    pub(crate) scenario: Option<PathBuf>,
    /// What `sluice serve --record` wrote: asks it what was decided, and what the policies would
    /// have chosen.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["scenario", "admission", "trace", "rate", "jobs", "no_limits"])]
    pub(crate) recording: Option<PathBuf>,
    /// Policies to run, separated by commas; the scenario's own when absent.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) policy: Vec<StrategyName>,
    /// Ways to let requests in, separated by commas; the scenario's own when absent.
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    pub(crate) admission: Vec<AdmissionMode>,
    /// What every random draw follows from; the first seed of several.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Stands in place of the scenario's traffic.
    #[command(flatten)]
    pub(crate) traced: Traced,
    /// Rates to run at, in requests per second, in place of the scenario's.
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = typed::rate)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) rate: Vec<f64>,
    /// Simulations at once; one for each processor when absent.
    #[arg(long, value_name = "N", value_parser = typed::count)]
    pub(crate) jobs: Option<usize>,
    /// Leaves out what no policy could exceed on these requests.
    #[arg(long)]
    pub(crate) no_limits: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(crate) fn run(simulate: &Simulate) -> anyhow::Result<()> {
    simulate.gates.refuse_unknown_of_runs();
    if let Some(file) = &simulate.what.recording {
        return recording::review(file, &simulate.what.policy, simulate.json);
    }
    let scenario = load::scenario(&simulate.what)?;
    let cases = Cases::new(&simulate.what, scenario, simulate.seeds)?;
    for note in &cases.notes {
        eprintln!("{note}");
    }
    if let Some(folder) = &simulate.out {
        cases.refuse_strangers(folder)?;
        output::prepare(folder)?;
    }
    let shown = Shown::default();
    let runs = cases.run(simulate.what.jobs, |case, done| match &simulate.out {
        Some(folder) => {
            shown.look_at(&cases, case, done);
            cases.write(&folder.join(case.folder()), case, done)
        }
        None => Ok(()),
    })?;
    let summary = Summary::new(runs);
    if simulate.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else if let [run] = summary.runs.as_slice() {
        print!("{}: {}", run.policy, table::single(run));
    } else {
        print!("{}", table::means(&summary.runs));
    }
    if !simulate.json {
        print!("{}{}", table::classes(&summary.runs), table::regret(&summary.runs));
        print!("{}", table::limits(&summary.runs));
    }
    if let Some(note) = cases.limits_note(&summary.runs) {
        eprintln!("{note}");
    }
    if let Some(folder) = &simulate.out {
        output::write_summary(folder, &summary)?;
        let first = summary.runs.first().map(report::Run::rules).unwrap_or_default();
        let differences = paired::compare(&summary.runs, &first);
        results::write_page(folder, &shown.into_page(&cases, &summary.runs, differences))?;
    }
    let named = |run: &report::Run| format!("{}, seed {}", run.policy, run.seed);
    simulate.gates.check(summary.runs.iter().map(|run| (named(run), run)))
}

impl Case {
    /// Name of the folder that its results go to.
    pub(crate) fn folder(&self) -> String {
        let rate = self.rate.map(|it| format!("{it}-per-s-")).unwrap_or_default();
        let is_off = self.admission == AdmissionMode::Off;
        let admission = if is_off { String::new() } else { format!("{}-", self.admission) };
        format!("{rate}{}-{admission}seed-{}", self.strategy, self.seed)
    }
}
