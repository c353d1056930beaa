//! The frontier of a server, in real time.
//!
//! Rates are measured one after the other. A run has ended when the last of its requests has, and then
//! the server is left alone for a while, so that what one rate queued up is not counted at the next.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use report::{
    Run,
    frontier::{Frontier, Measured, Point, State, Warmth},
    html::Detail,
};
use tokio_util::sync::CancellationToken;
use workload::{Workload, bundled, trace::Trace};

use super::{
    Effort, Found, Paid, SEEDS, STATES_LOAD,
    bench::Bench,
    search::{FEW_LOADS, Next, Search, rounded},
    split::split,
};
use crate::{
    limits,
    promised::Promised,
    sending::{Sending, Trust},
    shutdown,
    simulate::load,
    traced::Traced,
    typed,
};

/// Rate that the search starts from.
const START: f64 = 2.0;

/// First seed of the search, apart from those of the runs that count: prompts of one are never those of the
/// other.
const SEARCH_SEED: u64 = 1 << 32;

/// A server and what is sent to it.
#[derive(Debug, clap::Args)]
pub(crate) struct Live {
    #[command(flatten)]
    pub(super) sending: Sending,
    /// Description of the traffic, in YAML; the bundled slice of a trace when neither this nor a trace is
    /// given.
    #[arg(long, value_name = "FILE", conflicts_with = "trace")]
    workload: Option<PathBuf>,
    /// Sent at each rate, or stands in place of a scenario's traffic.
    #[command(flatten)]
    pub(super) traced: Traced,
    #[command(flatten)]
    promised: Promised,
    /// How long each run is counted.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = typed::some_time)]
    pub(super) duration: Duration,
    /// Time before it in which the same traffic comes and does not count.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = typed::time)]
    pub(super) warm_up: Duration,
    /// Time in which the server is left alone after each run.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = typed::time)]
    pub(super) settle: Duration,
    /// Shell command that disturbs the server, a quarter into each run of the state `disrupted`, and ends
    /// when that is over: a deployment, a restart. Has the states of the caches measured.
    #[arg(long, value_name = "COMMAND")]
    pub(super) disrupt: Option<String>,
    /// Shell command that starts the engines anew before each run of the state `cold`, and ends when they
    /// serve. Has the states of the caches measured.
    #[arg(long, value_name = "COMMAND")]
    pub(super) restart: Option<String>,
    /// Replicas behind the target, which are paid for and planned with; the number of targets where
    /// there are several.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) replicas: Option<u32>,
    #[command(flatten)]
    pub(super) trust: Trust,
}

/// Measures the frontier of a server.
pub(super) fn measure(
    live: &Live,
    effort: &Effort,
    paid: &Paid,
    progress: impl Fn(&str),
) -> anyhow::Result<Found> {
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that send")?;
    runtime.block_on(measure_all(live, effort, paid, progress))
}

async fn measure_all(
    live: &Live,
    effort: &Effort,
    paid: &Paid,
    progress: impl Fn(&str),
) -> anyhow::Result<Found> {
    let warmth = effort.warmth.unwrap_or(Warmth::Warm);
    let warm_up = live.warm_up_of(warmth)?;
    live.promised.check()?;
    let (workload, text) = live.workload()?;
    let options = live.promised.with(live.sending.options()?);
    let bench = Bench { live, paid, options, workload, text, stop: CancellationToken::new() };
    bench.check(warmth)?;
    let stopping = bench.stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let rates = if effort.rates.is_empty() {
        let knee = guess(&bench, warmth, &progress).await?;
        FEW_LOADS.map(|load| rounded(load * knee)).to_vec()
    } else {
        effort.rates.clone()
    };
    let mut seeds = effort.seed..u64::MAX;
    let mut doubts = Vec::new();
    let counted = Counted { bench: &bench, runs: effort.seeds.unwrap_or(SEEDS.1) };
    let (measured, mut details) =
        counted.rates(rates, warmth, &mut seeds, &mut doubts, &progress).await?;
    let Measured { points, knee_by_goodput, knee_by_throughput, collapse_ratio } = measured;
    let mut frontier = Frontier {
        workload: bench.workload.name().to_owned(),
        policy: "unknown".to_owned(),
        clock: "real".to_owned(),
        warmth,
        warmth_produced: live.produced(warmth, warm_up),
        replicas: live.replicas(),
        slo: live.promised.goodput,
        currency: paid.costs.as_ref().map(|it| it.currency.clone()),
        points,
        knee_by_goodput,
        knee_by_throughput,
        collapse_ratio,
        states: Vec::new(),
        disruption: None,
        blend: None,
        doubts: Vec::new(),
    };
    if !effort.no_states && (live.disrupt.is_some() || live.restart.is_some()) {
        let states = counted.states(&mut frontier, effort, &mut seeds, &mut doubts, &progress);
        details.extend(states.await?);
    }
    frontier.doubts.clone_from(&doubts);
    Ok((vec![frontier], details, doubts))
}

impl Live {
    fn workload(&self) -> anyhow::Result<(Workload, Option<String>)> {
        if let Some(path) = &self.workload {
            self.traced.refuse_without_trace()?;
            let name = path.display();
            let text = std::fs::read_to_string(path).with_context(|| {
                format!("cannot read the workload {name}; pass a file that exists")
            })?;
            let workload = serde_yaml::from_str(&text)
                .with_context(|| format!("cannot parse the workload {name}"))?;
            return Ok((workload, None));
        }
        let Some(trace) = self.traced.over(None) else {
            let bundled = Trace::new(bundled::MOONCAKE_SLICE_NAME.to_owned());
            return Ok((Workload::Trace(bundled), None));
        };
        let text = if trace.file == bundled::MOONCAKE_SLICE_NAME {
            None
        } else {
            Some(load::trace(&trace.file).with_context(|| {
                format!("cannot read the trace {}; pass one with --trace FILE", trace.file)
            })?)
        };
        Ok((Workload::Trace(trace), text))
    }
}

async fn guess(bench: &Bench<'_>, warmth: Warmth, progress: impl Fn(&str)) -> anyhow::Result<f64> {
    let mut search = Search::new(START);
    let mut seeds = SEARCH_SEED..;
    loop {
        match search.next() {
            Next::Try(rate) => {
                let seed = seeds.next().unwrap_or(SEARCH_SEED);
                let run = bench.run(rounded(rate), seed, warmth).await?.run;
                let good = run.good_request_fraction.unwrap_or_default();
                if run.completed == 0 && run.rejected == 0 {
                    bail!(
                        "no request at {rate}/s was answered; check --target, --model and the key"
                    );
                }
                progress(&format!("{:.0} % good at {rate:.3}/s", good * 100.0));
                search.learn(rate, good);
            }
            Next::Found(rate) => return Ok(rate),
            Next::Hopeless => {
                bail!("no rate keeps the promise; loosen --goodput or pass --rates")
            }
            Next::Endless => {
                bail!(
                    "no rate that was tried breaks the promise; tighten --goodput or pass --rates"
                )
            }
        }
    }
}

/// Runs that count.
struct Counted<'a> {
    bench: &'a Bench<'a>,
    /// Runs at each rate and in each state.
    runs: u64,
}

impl Counted<'_> {
    async fn rates(
        &self,
        mut rates: Vec<f64>,
        warmth: Warmth,
        seeds: &mut impl Iterator<Item = u64>,
        doubts: &mut Vec<String>,
        progress: impl Fn(&str),
    ) -> anyhow::Result<(Measured, Vec<Detail>)> {
        rates.sort_unstable_by(f64::total_cmp);
        rates.dedup();
        let (mut by_rate, mut details) = (Vec::new(), Vec::new());
        for rate in rates {
            let mut of_rate = Vec::new();
            for (number, seed) in (0..self.runs).zip(&mut *seeds) {
                let done = self.bench.run(rate, seed, warmth).await?;
                doubts.extend(done.doubt);
                progress(&format!("{rate}/s: goodput {:.2}/s", done.run.request_goodput));
                of_rate.push(done.run);
                if number == 0 {
                    details.push(done.detail);
                }
            }
            by_rate.push((rate, of_rate));
        }
        Ok((Measured::of(&by_rate), details))
    }

    /// Measures one rate in every state that can be brought about.
    async fn states(
        &self,
        frontier: &mut Frontier,
        effort: &Effort,
        seeds: &mut impl Iterator<Item = u64>,
        doubts: &mut Vec<String>,
        progress: impl Fn(&str),
    ) -> anyhow::Result<Vec<Detail>> {
        let live = self.bench.live;
        let rate = rounded(frontier.knee_or_best().unwrap_or(1.0) * STATES_LOAD);
        let mut details = Vec::new();
        for warmth in Warmth::ALL.into_iter().filter(|it| self.bench.check(*it).is_ok()) {
            let (mut runs, mut disturbed): (Vec<Run>, _) = (Vec::new(), Vec::new());
            for (number, seed) in (0..self.runs).zip(&mut *seeds) {
                let done = self.bench.run(rate, seed, warmth).await?;
                doubts.extend(done.doubt);
                let good = done.run.good_request_fraction.unwrap_or_default();
                progress(&format!("{rate}/s, {}: {:.0} % good", warmth.as_str(), good * 100.0));
                runs.push(done.run);
                if number == 0 {
                    details.push(done.detail);
                }
                if warmth == Warmth::Disrupted {
                    disturbed.push((done.records, done.disruptions));
                }
            }
            frontier.states.push(State { warmth, point: Point::of(rate, &runs) });
            if warmth == Warmth::Disrupted {
                let length = live.warm_up.saturating_add(live.duration);
                let costs = self.bench.costs();
                let split = split(disturbed, live.warm_up, Some(length), costs.as_ref());
                frontier.blend = split.blended(effort.deployments_per_day);
                frontier.disruption = Some(split);
            }
        }
        Ok(details)
    }
}
