//! `sluice compare`: policies on the same requests, with a verdict.

use std::path::PathBuf;

use anyhow::bail;
use policy::config::StrategyName;
use replay::output;
use report::{Summary, paired, table};
use serde_json::json;

use crate::{
    explain, recording, results,
    simulate::{What, cases::Cases, load, shown::Shown},
};

/// Compares policies on the same requests, seed by seed, and says what is chance.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice compare -s config/scenarios/chat.yaml
  sluice compare -s config/scenarios/hot-document.yaml --policy least-request,prefix-aware --seeds 20
  sluice compare -s config/scenarios/chat.yaml --policy least-latency --admission off,knee --rate 150
  sluice compare -s config/scenarios/chat.yaml --policy sticky,least-latency --explain 1000
  sluice compare -s config/scenarios/mooncake.yaml --trace trace.jsonl --policy random,sticky")]
pub(crate) struct Compare {
    #[command(flatten)]
    what: What,
    /// Seeds to run, from --seed on; fewer than five tell nothing.
    #[arg(long, value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seeds: u64,
    /// The policy that the others are compared with; the first one when absent.
    #[arg(long, value_name = "NAME")]
    baseline: Option<StrategyName>,
    /// Folder for the results: report.html, comparison.json, summary.json and summary.csv.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Says, in place of the figures, why the request of this number went where it went under each
    /// policy: requests count from 0 in the order of arrival, those of a recording as
    /// `GET /admin/decisions` numbers them.
    #[arg(long, value_name = "REQUEST", conflicts_with_all = ["out", "baseline", "seeds"])]
    explain: Option<u64>,
    /// Prints JSON instead of tables.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(crate) fn run(mut compare: Compare) -> anyhow::Result<()> {
    let compares_admission = compare.what.admission.len() > 1;
    if compare.what.policy.is_empty() && !compares_admission {
        compare.what.policy = StrategyName::ALL.to_vec();
    }
    if let Some(file) = &compare.what.recording {
        return match compare.explain {
            Some(number) => recording::explain(file, &compare.what.policy, number, compare.json),
            None => recording::review(file, &compare.what.policy, compare.json),
        };
    }
    if let Some(number) = compare.explain {
        return explain::simulated(&compare.what, number, compare.json);
    }
    let scenario = load::scenario(&compare.what)?;
    let first = compare.what.policy.first().copied().unwrap_or(scenario.policy.strategy);
    let baseline = compare.baseline.unwrap_or(first);
    let admission = compare.what.admission.first().copied().unwrap_or(scenario.admission.mode);
    if !compare.what.policy.contains(&baseline) {
        compare.what.policy.insert(0, baseline);
    }
    if compare.what.policy.iter().all(|it| *it == baseline) && !compares_admission {
        bail!("--policy: name two policies or more, as in --policy {baseline},prefix-aware");
    }
    let cases = Cases::new(&compare.what, scenario, compare.seeds)?;
    for note in &cases.notes {
        eprintln!("{note}");
    }
    if let Some(folder) = &compare.out {
        output::prepare(folder)?;
    }
    let shown = Shown::default();
    let runs = cases.run(compare.what.jobs, |case, done| {
        if compare.out.is_some() {
            shown.look_at(&cases, case, done);
        }
        Ok(())
    })?;
    let differences =
        paired::compare(&runs, &report::summary::rules(baseline.as_str(), admission.as_str()));
    let schema = paired::SCHEMA;
    let all = json!({ "schema": schema, "runs": runs, "differences": differences });
    if compare.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        println!("{}", table::means(&runs));
        print!("{}{}", table::classes(&runs), table::regret(&runs));
        print!("{}", table::limits(&runs));
        println!("{}", table::differences(&differences));
    }
    if let Some(note) = cases.limits_note(&runs) {
        eprintln!("{note}");
    }
    if let Some(folder) = &compare.out {
        output::write_summary(folder, &Summary::new(runs.clone()))?;
        output::write_text(folder, "comparison.json", &format!("{all:#}\n"))?;
        results::write_page(folder, &shown.into_page(&cases, &runs, differences))?;
    }
    Ok(())
}
