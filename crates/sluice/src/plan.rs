//! `sluice plan`: how many replicas a rate needs.

mod trial;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use policy::config::StrategyName;
use report::{
    frontier::{Frontier, Frontiers},
    html::Page,
    plan::{Demand, PerReplica, Plan as Planned},
    table,
};
use serde_json::json;

use crate::{
    frontier::{self, Effort},
    results, typed,
};

/// Says how many replicas a rate needs at an SLO, and why sizing by throughput buys too few.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice plan --rate 9000 --knee 450 --throughput 500
  sluice plan --rate 400 --frontier results/chat
  sluice plan --rate 400 -s config/scenarios/chat.yaml --policy prefix-aware --burst 1.5")]
pub(crate) struct Plan {
    /// Useful requests per second that are needed, on average.
    #[arg(long, value_name = "R", value_parser = typed::rate, allow_negative_numbers = true)]
    rate: f64,
    /// The busiest time over the average.
    #[arg(long, value_name = "X", default_value = "1.25", value_parser = typed::factor)]
    burst: f64,
    /// Replicas that may be gone without a promise being broken.
    #[arg(long, value_name = "N", default_value_t = 1)]
    failures: u32,
    /// What `sluice frontier --out` wrote: the folder, or its frontier.json.
    #[arg(long, value_name = "DIR", group = "source")]
    frontier: Option<PathBuf>,
    /// Scenario to measure the frontier of, in virtual time.
    #[arg(short, long, value_name = "FILE", group = "source")]
    scenario: Option<PathBuf>,
    /// Good requests per second of one replica at its knee, where that is known already.
    #[arg(long, value_name = "R", group = "source", value_parser = typed::rate)]
    knee: Option<f64>,
    /// Requests per second that one replica completes when pushed, to show what sizing by it buys.
    #[arg(long, value_name = "R", requires = "knee", value_parser = typed::rate)]
    throughput: Option<f64>,
    /// Policy to plan for, where the frontier has several.
    #[arg(long, value_name = "NAME")]
    policy: Option<StrategyName>,
    /// Replicas that were measured, where the frontier does not say.
    #[arg(long, value_name = "N")]
    replicas_measured: Option<u32>,
    /// Leaves out the trial of the planned fleet in virtual time, which a scenario has.
    #[arg(long)]
    no_trial: bool,
    /// Folder for plan.json and report.html.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints plan.json instead of a table.
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
pub(crate) fn run(plan: &Plan) -> anyhow::Result<()> {
    let demand = Demand { rate_per_s: plan.rate, burst: plan.burst, failures: plan.failures };
    if let Some(folder) = &plan.out {
        replay::output::prepare(folder)?;
    }
    let frontier = match (&plan.frontier, &plan.scenario) {
        (Some(path), _) => Some(read(path, plan.policy)?),
        (None, Some(file)) => Some(frontier::of_scenario(file, plan.policy, &Effort::default())?),
        (None, None) => None,
    };
    let mut planned = match (&frontier, plan.knee) {
        (Some(frontier), _) => {
            let per_replica = PerReplica::of(frontier, plan.replicas_measured)?;
            let replicas = plan.replicas_measured.or(frontier.replicas).unwrap_or(1);
            Planned::new(demand, per_replica, Some((&frontier.points, replicas)))?
        }
        (None, Some(goodput_per_s)) => {
            let per_replica = PerReplica { goodput_per_s, throughput_per_s: plan.throughput };
            Planned::new(demand, per_replica, None)?
        }
        (None, None) => {
            bail!("nothing says what a replica gives; pass --frontier DIR, -s SCENARIO or --knee R")
        }
    };
    if let (Some(file), Some(frontier), false) = (&plan.scenario, &frontier, plan.no_trial) {
        planned.trials = trial::trials(file, plan.policy, &planned, frontier)?;
    }
    if let Some(folder) = &plan.out {
        let text = serde_json::to_string_pretty(&planned)?;
        replay::output::write_text(folder, "plan.json", &format!("{text}\n"))?;
        let page = Page {
            title: format!("{} useful requests a second", plan.rate),
            manifest: json!({
                "version": env!("CARGO_PKG_VERSION"),
                "commit": option_env!("SLUICE_COMMIT"),
                "command": results::command_line(),
                "made": replay::output::utc_now(),
            }),
            plan: Some(planned.clone()),
            frontiers: frontier.iter().cloned().collect(),
            ..Page::default()
        };
        results::write_page(folder, &page)?;
    }
    if plan.json {
        println!("{}", serde_json::to_string_pretty(&planned)?);
        return Ok(());
    }
    if let Some(frontier) = &frontier {
        let promise = table::promise(&frontier.slo);
        println!("{}, {}\ngood is {promise}", frontier.workload, frontier.policy);
    }
    print!("{}", table::plan(&planned));
    Ok(())
}

/// The frontier that a file or folder holds, of `policy` where there are several.
fn read(path: &Path, policy: Option<StrategyName>) -> anyhow::Result<Frontier> {
    let file = if path.is_dir() { path.join("frontier.json") } else { path.to_owned() };
    let name = file.display();
    let text = fs::read_to_string(&file).with_context(|| {
        format!("cannot read {name}; pass a folder that `sluice frontier --out` wrote")
    })?;
    let all: Frontiers =
        serde_json::from_str(&text).with_context(|| format!("{name} is no frontier"))?;
    let wanted = policy.map(|it| it.to_string());
    let mut of_policy = all
        .frontiers
        .into_iter()
        .filter(|it| wanted.as_ref().is_none_or(|name| *name == it.policy));
    match (of_policy.next(), of_policy.next()) {
        (Some(one), None) => Ok(one),
        (Some(_), Some(_)) => bail!("{name} has several policies; choose one with --policy NAME"),
        (None, _) => bail!("{name} has no frontier of that policy"),
    }
}
