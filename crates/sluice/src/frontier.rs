//! `sluice frontier`: goodput at each offered rate, and the knee.

mod bench;
mod scenario;
mod search;
mod split;
mod target;
mod warmth;

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::bail;
use policy::config::StrategyName;
use replay::output::{self, Host};
use report::{
    frontier::{Frontier, Frontiers, Point, Warmth},
    html::{Detail, Page},
    table,
};
use serde::Serialize;
use serde_json::json;

pub(crate) use self::scenario::disruptions;
use self::{scenario::Wanted, target::Live};
use crate::{
    results::{self, Gates, Paid},
    sending,
    simulate::{What, cases::Cases, load},
    traced::Traced,
    typed,
};

/// Finds how many requests per second are answered within their promise, and where that ends.
#[derive(Debug, clap::Args)]
#[command(mut_args(sending::of_a_target))]
#[command(after_help = "Examples:
  sluice frontier -s config/scenarios/textbook-queue.yaml
  sluice frontier -s config/scenarios/support-chat.yaml --policy round-robin,prefix-aware --out results/f
  sluice frontier --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --goodput 'time_to_first_token:1500 time_per_output_token:60' --duration 60s
  sluice frontier --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --disrupt 'kubectl rollout restart deployment/vllm --wait'")]
pub(crate) struct Args {
    /// Scenario to run in virtual time.
    #[arg(short, long, value_name = "FILE", required_unless_present = "target")]
    #[arg(conflicts_with = "target")]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    live: Live,
    /// Policies to run, separated by commas; the scenario's own when absent.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "target")]
    policy: Vec<StrategyName>,
    #[command(flatten)]
    effort: Effort,
    #[command(flatten)]
    paid: Paid,
    #[command(flatten)]
    gates: Gates,
    /// Folder for frontier.json and report.html.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints frontier.json instead of tables.
    #[arg(long)]
    json: bool,
}

/// How much is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Effort {
    /// Runs at each rate, each with a seed of its own; three or more have intervals.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    pub(crate) seeds: Option<u64>,
    /// What every random draw follows from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Rates to measure, in requests per second; found when absent.
    #[arg(long, value_name = "RATES", value_delimiter = ',', value_parser = typed::rate)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) rates: Vec<f64>,
    /// What caches hold when counting begins: cold, warm-model-cold-cache, warm, hot-steady-state or
    /// disrupted.
    #[arg(long, value_name = "STATE")]
    pub(crate) warmth: Option<Warmth>,
    /// Leaves out the same rate in every state of the caches.
    #[arg(long)]
    pub(crate) no_states: bool,
    /// Deployments a day that figures are blended for.
    #[arg(long, value_name = "N", default_value = "2", value_parser = typed::amount)]
    pub(crate) deployments_per_day: f64,
    /// Simulations at once; one for each processor when absent.
    #[arg(long, value_name = "N", value_parser = typed::count)]
    pub(crate) jobs: Option<usize>,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            seeds: None,
            seed: 1,
            rates: Vec::new(),
            warmth: None,
            no_states: true,
            deployments_per_day: 0.0,
            jobs: None,
        }
    }
}

/// Load at which the states of the caches are compared, as a multiple of the knee.
const STATES_LOAD: f64 = 0.75;

/// Runs at each rate where nobody says how many: in virtual time, and in real time, which passes.
const SEEDS: (u64, u64) = (5, 3);

/// What thresholds are checked against: the rate at the knee, with the knees themselves.
#[derive(Default, Serialize)]
struct Gated<'a> {
    knee_goodput_rps: Option<f64>,
    knee_throughput_rps: Option<f64>,
    collapse_ratio: Option<f64>,
    #[serde(flatten)]
    at_knee: Option<&'a Point>,
}

/// What was measured, what a page shows of it in detail, and why it is not to be trusted, if so.
type Found = (Vec<Frontier>, Vec<Detail>, Vec<String>);

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    args.gates
        .refuse_unknown(&Gated { at_knee: Some(&Point::of(1.0, &[])), ..Gated::default() }, &[]);
    if let Some(folder) = &args.out {
        output::prepare(folder)?;
    }
    let (frontiers, details, doubts) = match &args.scenario {
        Some(file) => of_policies(file, &args.live.traced, &args.policy, &args.effort, &args.paid)?,
        None => target::measure(&args.live, &args.effort, &args.paid, progress)?,
    };
    let all = Frontiers::new(frontiers);
    doubts.iter().for_each(|it| eprintln!("{it}"));
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        all.frontiers.iter().for_each(|it| println!("{}", table::frontier(it)));
    }
    if let Some(folder) = &args.out {
        write(folder, &all, details)?;
    }
    if !doubts.is_empty() && !args.live.trust.allow_lag {
        bail!("the load generator fell behind; its figures are not its target's");
    }
    args.refuse_without_knee(&all.frontiers)?;
    let gated: Vec<(String, Gated<'_>)> =
        all.frontiers.iter().map(|it| (it.policy.clone(), Gated::of(it))).collect();
    args.gates.check(gated.iter().map(|(name, figures)| (name.clone(), figures)))
}

impl Args {
    /// Refuses to hold the figures of any rate to thresholds that are meant for the knee.
    fn refuse_without_knee(&self, frontiers: &[Frontier]) -> anyhow::Result<()> {
        if self.gates.fail_under.is_empty() {
            return Ok(());
        }
        let without =
            frontiers.iter().filter_map(|it| Some((&it.policy, it.knee_by_goodput.none?)));
        let all: Vec<String> = without.map(|(policy, none)| format!("{policy} ({none})")).collect();
        if !all.is_empty() {
            bail!(
                "--fail-under: the thresholds are for the rate at the knee, and there is no knee by \
                 goodput: {}; measure other rates, or hold one rate to them with sluice replay",
                all.join(", ")
            );
        }
        Ok(())
    }
}

impl<'a> Gated<'a> {
    fn of(frontier: &'a Frontier) -> Self {
        let rate = |knee: report::frontier::KneeOf| knee.rate_per_s.map(|it| it.value);
        Self {
            knee_goodput_rps: rate(frontier.knee_by_goodput),
            knee_throughput_rps: rate(frontier.knee_by_throughput),
            collapse_ratio: frontier.collapse_ratio.map(|it| it.value),
            at_knee: frontier.at_knee(),
        }
    }
}

/// The frontier of a scenario under one policy, its own where none is named.
pub(crate) fn of_scenario(
    file: &Path,
    policy: Option<StrategyName>,
    effort: &Effort,
) -> anyhow::Result<Frontier> {
    let policies: Vec<StrategyName> = policy.into_iter().collect();
    let traced = Traced::default();
    let (frontiers, ..) = of_policies(file, &traced, &policies, effort, &Paid::default())?;
    frontiers.into_iter().next().ok_or_else(|| anyhow::anyhow!("no policy was measured"))
}

fn of_policies(
    file: &Path,
    traced: &Traced,
    policies: &[StrategyName],
    effort: &Effort,
    paid: &Paid,
) -> anyhow::Result<Found> {
    let what = What {
        scenario: Some(file.to_owned()),
        traced: traced.clone(),
        policy: policies.to_vec(),
        seed: effort.seed,
        no_limits: true,
        ..What::default()
    };
    let mut scenario = load::scenario(&what)?;
    scenario.costs = paid.costs.clone().or(scenario.costs);
    scenario.workload_class = paid.workload_class.or(scenario.workload_class);
    let own = [scenario.policy.strategy];
    let policies = if policies.is_empty() { &own[..] } else { policies };
    let cases = Cases::new(&what, scenario, 1)?;
    let wanted = Wanted {
        rates: effort.rates.clone(),
        seeds: effort.seeds.unwrap_or(SEEDS.0),
        seed: effort.seed,
        warmth: effort.warmth,
        states: !effort.no_states,
        per_day: effort.deployments_per_day,
        jobs: effort.jobs,
    };
    let (mut frontiers, mut details) = (Vec::new(), Vec::new());
    for strategy in policies {
        let (frontier, detail) = scenario::measure(&cases, *strategy, &wanted, progress)?;
        frontiers.push(frontier);
        details.extend(detail);
    }
    Ok((frontiers, details, Vec::new()))
}

/// Tells a person who waits what is going on.
#[expect(clippy::print_stderr, reason = "for whoever waits")]
fn progress(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("{what}");
    }
}

fn write(folder: &Path, all: &Frontiers, details: Vec<Detail>) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(all)?;
    output::write_text(folder, "frontier.json", &format!("{text}\n"))?;
    let manifest = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": option_env!("SLUICE_COMMIT"),
        "command": results::command_line(),
        "host": Host::this(),
        "made": output::utc_now(),
    });
    output::write_text(folder, "run.json", &format!("{manifest:#}\n"))?;
    let workload = all.frontiers.first().map(|it| it.workload.as_str()).unwrap_or_default();
    let page = Page {
        title: format!("{workload}: the goodput frontier"),
        manifest,
        frontiers: all.frontiers.clone(),
        details,
        ..Page::default()
    };
    results::write_page(folder, &page)
}
