//! `sluice report`: tables and pages from results that are there already.

mod read;

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::bail;
use replay::output;
use report::{
    Summary,
    frontier::{Frontier, Frontiers},
    html::{Detail, Page},
    paired, table,
};
use serde_json::json;

use self::read::{Loaded, labels, runs_in};
use crate::results::{self, Gates, Paid};

/// Rebuilds tables and report.html from results, and compares runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice report results/support-chat
  sluice report results/before results/after --out results/compared
  sluice report results/support-chat --labels labels.jsonl --costs replica_hour=2.50")]
pub(crate) struct Report {
    /// Folders that replay, simulate, compare or frontier wrote.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Quality labels, one JSON object a line: {"request_id": …, "accepted": true, "quality": 0.9}.
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// What the others are compared with: a policy, or a folder; the first when absent.
    #[arg(long, value_name = "NAME")]
    baseline: Option<String>,
    /// Folder for summary.json, summary.csv and report.html; when absent, that of the results, and none
    /// where several are compared.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    paid: Paid,
    /// Replicas that are paid for, where the results do not say.
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
    /// Accepts results whose generator fell behind its schedule, which otherwise end with 1.
    #[arg(long)]
    allow_lag: bool,
    #[command(flatten)]
    gates: Gates,
    /// Prints summary.json instead of tables.
    #[arg(long)]
    json: bool,
}

/// Everything that the folders held.
#[derive(Debug, Default)]
struct Found {
    runs: Vec<report::Run>,
    details: Vec<Detail>,
    manifests: Vec<serde_json::Value>,
    frontiers: Vec<Frontier>,
    slo: Option<types::slo::Slo>,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(crate) fn run(report: &Report) -> anyhow::Result<()> {
    report.gates.refuse_unknown_of_runs();
    let found = report.read()?;
    let summary = Summary::new(found.runs);
    let baseline = baseline(&summary.runs, report.baseline.as_deref())?;
    let mut differences = paired::compare(&summary.runs, &baseline);
    let were_any = !differences.is_empty();
    differences.retain(|it| it.pairs > 0);
    if were_any && differences.is_empty() {
        eprintln!(
            "nothing is paired: no two runs had the same workload and seed under other rules\n"
        );
    }
    let page = Page {
        title: report.title(&summary),
        slo: found.slo,
        manifest: match found.manifests.as_slice() {
            [one] => one.clone(),
            all => json!(all),
        },
        runs: summary.runs.clone(),
        differences: differences.clone(),
        frontiers: found.frontiers.clone(),
        details: found.details,
        plan: None,
    };
    if let Some(folder) = report.folder() {
        if !summary.runs.is_empty() {
            output::write_summary(folder, &summary)?;
        }
        results::write_page(folder, &page)?;
    }
    let caveats = caveats(&summary.runs, &found.frontiers);
    caveats.iter().for_each(|it| eprintln!("{it}\n"));
    if report.json {
        println!("{}", serde_json::to_string_pretty(&report::peers::summary(&summary))?);
    } else {
        print(&summary, &differences, &found.frontiers);
    }
    if report.folder().is_none() {
        eprintln!("nothing was written; pass --out DIR for a page and a summary of the comparison");
    }
    if summary.runs.iter().any(|it| it.caveats.stopped) {
        bail!("a run was stopped before its end; its figures are not those of a whole one");
    }
    if !caveats.is_empty() && !report.allow_lag {
        bail!(
            "the load generator fell behind; the figures are not its target's (--allow-lag accepts them)"
        );
    }
    let named = |run: &report::Run| format!("{}, seed {}", run.policy, run.seed);
    report.gates.check(summary.runs.iter().map(|run| (named(run), run)))
}

/// What is to be known before any figure is believed, each with the run that it is of.
fn caveats(runs: &[report::Run], frontiers: &[Frontier]) -> Vec<String> {
    let of_run = |run: &report::Run| -> Vec<String> {
        let name = format!("{}, {}, seed {}", run.workload, run.policy, run.seed);
        run.caveats.told().into_iter().map(|it| format!("{name}: {it}")).collect()
    };
    let of_frontiers = frontiers.iter().flat_map(|it| it.doubts.clone());
    runs.iter().flat_map(of_run).chain(of_frontiers).collect()
}

/// What the others are compared with: the first run's rules, or those that somebody named, whole or by
/// their policy.
fn baseline(runs: &[report::Run], named: Option<&str>) -> anyhow::Result<String> {
    let Some(name) = named else {
        return Ok(runs.first().map(report::Run::rules).unwrap_or_default());
    };
    let whole = runs.iter().find(|it| it.rules() == name);
    if let Some(run) = whole.or_else(|| runs.iter().find(|it| it.policy == name)) {
        return Ok(run.rules());
    }
    let all: std::collections::BTreeSet<String> = runs.iter().map(report::Run::rules).collect();
    let all: Vec<String> = all.into_iter().collect();
    bail!("--baseline {name}: no run is called that; use one of {}", all.join(", "))
}

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
fn print(summary: &Summary, differences: &[paired::Difference], frontiers: &[Frontier]) {
    match summary.runs.as_slice() {
        [] => {}
        [run] => print!("{}: {}", run.policy, table::single(run)),
        runs => println!("{}", table::means(runs)),
    }
    if !differences.is_empty() {
        println!("{}", table::differences(differences));
    }
    print!("{}{}", table::classes(&summary.runs), table::work(&summary.runs));
    frontiers.iter().for_each(|it| println!("{}", table::frontier(it)));
}

impl Report {
    /// Where the tables and the page go: a comparison never into what it compares, for that would no
    /// longer be the results of one run.
    fn folder(&self) -> Option<&Path> {
        match (&self.out, self.folders.as_slice()) {
            (Some(out), _) => Some(out),
            (None, [one]) => Some(one),
            (None, _) => None,
        }
    }

    fn read(&self) -> anyhow::Result<Found> {
        let labels = self.labels.as_deref().map(labels).transpose()?.unwrap_or_default();
        let mut found = Found::default();
        let mut joined = 0_usize;
        for (place, folder) in self.folders.iter().enumerate() {
            if self.folders.iter().take(place).any(|it| it == folder) {
                bail!("{} is given twice; pass each folder once", folder.display());
            }
            let runs = runs_in(folder)?;
            let frontiers = frontiers_in(folder)?;
            if runs.is_empty() && frontiers.is_empty() {
                bail!(
                    "{} holds no results; pass a folder that --out wrote, with requests.jsonl or \
                     frontier.json in it or one below",
                    folder.display()
                );
            }
            found.frontiers.extend(frontiers);
            let mut of_folder = Vec::new();
            for run in runs {
                let loaded = Loaded::read(&run, &labels, &self.paid, self.replicas)?;
                joined = joined.saturating_add(loaded.labels.found);
                if loaded.labels.found > 0 && self.folder() == Some(folder.as_path()) {
                    read::keep(&run, &labels)?;
                }
                of_folder.push(loaded);
            }
            self.keep(folder, of_folder, &mut found);
        }
        self.tell_labels(labels.len(), joined);
        // One table and one comparison for each workload, whichever folder it came from.
        found.runs.sort_by(|a, b| a.workload.cmp(&b.workload));
        Ok(found)
    }

    /// Keeps what `folder` held. Where several folders hold runs that nobody gave a policy, as runs of a
    /// server have none, the folders stand for policies.
    fn keep(&self, folder: &Path, loaded: Vec<Loaded>, found: &mut Found) {
        let stands_for_policy = self.folders.len() > 1;
        for mut it in loaded {
            if stands_for_policy && it.run.policy == "unknown" {
                it.run.policy = folder
                    .file_name()
                    .map_or_else(|| folder.display().to_string(), |it| it.to_string_lossy().into());
            }
            let seen = found.details.len();
            let is_new = !found.details.iter().any(|known| known.name == it.detail.name);
            if is_new || seen < 8 {
                found.details.push(it.detail);
            }
            found.slo = found.slo.or(Some(it.slo));
            found.runs.push(it.run);
            found.manifests.push(it.manifest);
        }
    }

    #[expect(clippy::print_stderr, reason = "what was not found is not left out silently")]
    fn tell_labels(&self, given: usize, joined: usize) {
        if let Some(file) = self.labels.as_deref().filter(|_| joined < given) {
            let missing = given.saturating_sub(joined);
            eprintln!("{}: {missing} of {given} labels are of no request here", file.display());
        }
    }

    fn title(&self, summary: &Summary) -> String {
        let mut workloads: Vec<&str> = summary.runs.iter().map(|it| it.workload.as_str()).collect();
        workloads.sort_unstable();
        workloads.dedup();
        match (workloads.as_slice(), self.folders.first()) {
            ([], Some(folder)) => folder.display().to_string(),
            (all, _) => all.join(", "),
        }
    }
}

fn frontiers_in(folder: &Path) -> anyhow::Result<Vec<Frontier>> {
    let file = folder.join("frontier.json");
    if !file.is_file() {
        return Ok(Vec::new());
    }
    let all: Frontiers = read::json(&file)?;
    Ok(all.frontiers)
}

/// Tells a person who waits what is going on.
#[expect(clippy::print_stderr, reason = "for whoever waits")]
fn progress(what: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}
