//! The frontier of a server, in real time.
//!
//! Rates are measured one after the other. A run has ended when the last of its requests has, and then
//! the server is left alone for a while, so that what one rate queued up is not counted at the next.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use replay::{ReplayOptions, Target, models};
use report::{
    Run, RunInfo, Terms,
    cost::Costs,
    frontier::{Frontier, Measured, Warmth},
    html::Detail,
};
use tokio_util::sync::CancellationToken;
use types::slo::Slo;
use workload::{Load, Schedule, Workload, bundled, trace::Trace};

use super::{
    Effort, Paid, SEEDS,
    search::{FEW_LOADS, Next, Search, rounded},
};
use crate::{limits, shutdown};

/// Rate that the search starts from.
const START: f64 = 2.0;

/// Lag beyond which a point says more about the generator than about the server.
const LAG_MS_MAX: f64 = 20.0;

/// A server and what is sent to it.
#[derive(Debug, clap::Args)]
pub(crate) struct Live {
    /// Server to measure in real time; when repeated, the servers take turns.
    #[arg(long, value_name = "URL")]
    target: Vec<Target>,
    /// Description of the traffic, in YAML.
    #[arg(long, value_name = "FILE", requires = "target")]
    workload: Option<PathBuf>,
    /// Trace whose requests are sent at each rate, in place of a scenario's traffic too; for a target the
    /// bundled slice when neither this nor a workload is given.
    #[arg(long, value_name = "FILE", conflicts_with = "workload")]
    pub(super) trace: Option<String>,
    /// Model to ask for; the first that the target lists when absent.
    #[arg(long, value_name = "NAME", requires = "target")]
    model: Option<String>,
    /// Key to send as `authorization: Bearer`.
    #[arg(long, value_name = "KEY", env = "SLUICE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// The promises, in AIPerf's notation.
    #[arg(long, value_name = "SLOS", value_parser = report::slo::parse)]
    #[arg(default_value = "time_to_first_token:1500 time_per_output_token:60")]
    goodput: Slo,
    /// Most times that a good request may have been sent again.
    #[arg(long, value_name = "N")]
    retries_max: Option<u32>,
    /// How long each run is counted.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    duration: Duration,
    /// Time before it in which the same traffic comes and does not count.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    warm_up: Duration,
    /// Time in which the server is left alone after each run.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    settle: Duration,
    /// Replicas behind the target, which are paid for and planned with.
    #[arg(long, value_name = "N")]
    replicas: Option<u32>,
}

fn time(text: &str) -> Result<Duration, String> {
    let form = |_| format!("'{text}' is no length of time; write it as 30s or 5m");
    let span: jiff::SignedDuration = text.parse().map_err(form)?;
    Duration::try_from(span).map_err(|_| format!("'{text}' is negative"))
}

/// A server under measurement.
struct Bench<'a> {
    live: &'a Live,
    paid: &'a Paid,
    options: ReplayOptions,
    workload: Workload,
    text: Option<String>,
    warm_up: Duration,
    stop: CancellationToken,
}

/// Measures the frontier of a server.
pub(super) fn measure(
    live: &Live,
    effort: &Effort,
    paid: &Paid,
    progress: impl Fn(&str),
) -> anyhow::Result<(Vec<Frontier>, Vec<Detail>)> {
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that send")?;
    runtime.block_on(measure_all(live, effort, paid, progress))
}

async fn measure_all(
    live: &Live,
    effort: &Effort,
    paid: &Paid,
    progress: impl Fn(&str),
) -> anyhow::Result<(Vec<Frontier>, Vec<Detail>)> {
    let warmth = effort.warmth.unwrap_or(Warmth::Warm);
    let (warm_up, produced) = prepared(live, warmth)?;
    let bench = Bench::new(live, paid, warm_up).await?;
    let stopping = bench.stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let rates = if effort.rates.is_empty() {
        let knee = guess(&bench, effort.seed, &progress).await?;
        FEW_LOADS.map(|load| rounded(load * knee)).to_vec()
    } else {
        effort.rates.clone()
    };
    let (measured, details) = runs(&bench, rates, effort, &progress).await?;
    let Measured { points, knee_by_goodput, knee_by_throughput, collapse_ratio } = measured;
    let frontier = Frontier {
        workload: bench.workload.name().to_owned(),
        policy: "unknown".to_owned(),
        clock: "real".to_owned(),
        warmth,
        warmth_produced: produced,
        replicas: live.replicas,
        slo: live.goodput,
        currency: paid.costs.as_ref().map(|it| it.currency.clone()),
        points,
        knee_by_goodput,
        knee_by_throughput,
        collapse_ratio,
        states: Vec::new(),
        disruption: None,
        blend: None,
    };
    Ok((vec![frontier], details))
}

/// The warm-up that brings a server into a state, and how that is done.
fn prepared(live: &Live, warmth: Warmth) -> anyhow::Result<(Duration, String)> {
    let seconds = |it: Duration| it.as_secs_f64();
    match warmth {
        Warmth::WarmModelColdCache => {
            let how = "prompts that were never sent before, counted from the first one";
            Ok((Duration::ZERO, how.to_owned()))
        }
        Warmth::Warm => {
            let how = format!("counted after {} s of the same traffic", seconds(live.warm_up));
            Ok((live.warm_up, how))
        }
        Warmth::HotSteadyState => {
            let long = live.warm_up.saturating_mul(3).max(live.duration);
            Ok((long, format!("counted after {} s of the same traffic", seconds(long))))
        }
        Warmth::Cold | Warmth::Disrupted => bail!(
            "--warmth {}: a client cannot restart or disturb engines; measure it on a scenario, or \
             replay while you do it and mark it with POST /admin/events",
            warmth.as_str()
        ),
    }
}

impl<'a> Bench<'a> {
    async fn new(live: &'a Live, paid: &'a Paid, warm_up: Duration) -> anyhow::Result<Self> {
        let model = match (&live.model, live.target.first()) {
            (Some(model), _) => model.clone(),
            (None, Some(target)) => models::first(target, live.api_key.as_deref(), None).await?,
            (None, None) => bail!("nothing to measure; pass -s SCENARIO or --target URL"),
        };
        let terms = Terms { slo: live.goodput, retries_max: live.retries_max };
        let options = ReplayOptions {
            targets: live.target.clone(),
            model,
            api_key: live.api_key.clone(),
            terms,
            ..ReplayOptions::default()
        };
        let (workload, text) = live.workload()?;
        let stop = CancellationToken::new();
        Ok(Self { live, paid, options, workload, text, warm_up, stop })
    }

    /// One run, and its record for the page.
    async fn run(&self, rate: f64, seed: u64) -> anyhow::Result<(Run, Detail)> {
        let length = self.warm_up.saturating_add(self.live.duration);
        let schedule = Schedule::Poisson { rate_per_s: rate };
        let load = Load { schedule, duration: Some(length), seed };
        let planned = self.workload.plan(&load, |_| Ok(self.text.clone().unwrap_or_default()))?;
        let options =
            ReplayOptions { run_id: format!("frontier-{rate}-{seed}"), ..self.options.clone() };
        let stop = self.stop.child_token();
        let recording = replay::run(&options, planned.arrivals, stop, |_| {}).await?;
        if self.stop.is_cancelled() {
            bail!("stopped at {rate}/s, before the frontier was measured");
        }
        tokio::time::sleep(self.live.settle).await;
        let costs = self.paid.costs.clone();
        let replicas = self.live.replicas.unwrap_or(1);
        let info = RunInfo {
            workload: self.workload.name().to_owned(),
            policy: "unknown".to_owned(),
            admission: "unknown".to_owned(),
            seed,
            scheduled_for: Some(length).filter(|_| !matches!(self.workload, Workload::Trace(_))),
            warm_up: self.warm_up,
            costs: costs.map(|prices| Costs { prices, replicas }),
            workload_class: self.paid.workload_class,
        };
        let run = Run::measure(&info, &recording.records, &recording.gaps);
        Ok((run, Detail::of(&format!("{rate}/s"), &recording.records, &[])))
    }
}

impl Live {
    fn workload(&self) -> anyhow::Result<(Workload, Option<String>)> {
        if let Some(path) = &self.workload {
            let name = path.display();
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the workload {name}"))?;
            let workload = serde_yaml::from_str(&text)
                .with_context(|| format!("cannot parse the workload {name}"))?;
            return Ok((workload, None));
        }
        let file = self.trace.clone().unwrap_or_else(|| bundled::MOONCAKE_SLICE_NAME.to_owned());
        let text = if file == bundled::MOONCAKE_SLICE_NAME {
            None
        } else {
            Some(
                std::fs::read_to_string(&file)
                    .with_context(|| format!("cannot read the trace {file}"))?,
            )
        };
        Ok((Workload::Trace(Trace::new(file)), text))
    }
}

async fn guess(bench: &Bench<'_>, seed: u64, progress: impl Fn(&str)) -> anyhow::Result<f64> {
    let mut search = Search::new(START);
    loop {
        match search.next() {
            Next::Try(rate) => {
                let (run, _) = bench.run(rounded(rate), seed).await?;
                let good = run.good_request_fraction.unwrap_or_default();
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

#[expect(clippy::print_stderr, reason = "a figure that cannot be trusted is not told silently")]
async fn runs(
    bench: &Bench<'_>,
    mut rates: Vec<f64>,
    effort: &Effort,
    progress: impl Fn(&str),
) -> anyhow::Result<(Measured, Vec<Detail>)> {
    rates.sort_unstable_by(f64::total_cmp);
    rates.dedup();
    let seeds = effort.seeds.unwrap_or(SEEDS.1);
    let (mut by_rate, mut details) = (Vec::new(), Vec::new());
    let mut seed = effort.seed;
    for rate in rates {
        let mut of_rate = Vec::new();
        for number in 0..seeds {
            seed = seed.saturating_add(1);
            let (run, detail) = bench.run(rate, seed).await?;
            let lag = run.generator_lag_ms.map_or(0.0, |it| it.p99);
            if lag > LAG_MS_MAX {
                eprintln!(
                    "{rate}/s: the generator was up to {lag:.0} ms late (p99); use more of it"
                );
            }
            progress(&format!("{rate}/s: goodput {:.2}/s", run.request_goodput));
            of_rate.push(run);
            if number == 0 {
                details.push(detail);
            }
        }
        by_rate.push((rate, of_rate));
    }
    Ok((Measured::of(&by_rate), details))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert!(time("-5s").unwrap_err().contains("negative"));
        assert!(time("soon").unwrap_err().contains("30s"));
    }
}
