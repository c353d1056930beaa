//! `sluice replay`: sends a workload to an endpoint and reports what its clients saw.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use replay::{
    ReplayOptions, Target, models,
    output::{self, Host, Manifest},
};
use report::{Run, RunInfo, Summary, Terms, cost::Costs, judged::Judged, table};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use types::slo::Slo;
use wire::openai::Endpoint;
use workload::{
    Load, Schedule, Workload, bundled,
    trace::{Skipped, Trace},
};

use crate::{
    limits,
    results::{Gates, Paid},
    shutdown,
};

/// Sends recorded or generated traffic, open-loop, and reports latency and goodput.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice replay --target http://127.0.0.1:8080 --speedup 2
  sluice replay --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --rate 20 --duration 60s --out results/support-chat
  sluice replay --target http://127.0.0.1:8080 --trace trace.jsonl --rate 5 \\
      --goodput 'time_to_first_token:1500 time_per_output_token:60'")]
pub(crate) struct Replay {
    /// Server to send to; when repeated, the servers take turns.
    #[arg(long, value_name = "URL", required = true)]
    target: Vec<Target>,
    /// Trace in Mooncake's format; the bundled slice when neither this nor a workload is given.
    #[arg(long, value_name = "FILE", conflicts_with = "workload")]
    trace: Option<String>,
    /// Description of the traffic, in YAML.
    #[arg(long, value_name = "FILE")]
    workload: Option<PathBuf>,
    /// Requests per second; without it a trace keeps its own timestamps.
    #[arg(long, value_name = "R", conflicts_with = "speedup")]
    rate: Option<f64>,
    /// Whether a rate means random (poisson) or equal distances (constant).
    #[arg(long, value_name = "KIND", default_value = "poisson")]
    #[arg(value_parser = ["poisson", "constant"])]
    arrivals: String,
    /// How many times faster than recorded a trace is sent.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    speedup: f64,
    /// How long requests are sent; a trace otherwise goes to its end.
    #[arg(long, value_name = "TIME")]
    duration: Option<jiff::SignedDuration>,
    /// What every random draw follows from.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Model to ask for; the first that the target lists when absent.
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Sends prompts to /v1/completions, where no chat template changes their length.
    #[arg(long)]
    completions: bool,
    /// Key to send as `authorization: Bearer`.
    #[arg(long, value_name = "KEY", env = "SLUICE_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Leaves `x-session-id` out, so that the router has to find conversations by itself.
    #[arg(long)]
    no_session_header: bool,
    /// Tokens in a block of the trace; the format's own when absent.
    #[arg(long, value_name = "N")]
    block_tokens: Option<u32>,
    /// Leaves out lines of the trace that can't be read, and counts them.
    #[arg(long)]
    skip_bad_lines: bool,
    /// The promises, in milliseconds, in AIPerf's notation.
    #[arg(long, value_name = "SLOS", value_parser = report::slo::parse)]
    #[arg(default_value = "time_to_first_token:1500 time_per_output_token:60")]
    goodput: Slo,
    /// Most requests open at once.
    #[arg(long, value_name = "N", default_value_t = 5_000)]
    open_requests_max: usize,
    /// Folder for the results: report.html, summary.json, summary.csv, windows.csv, run.json,
    /// requests.jsonl and profile_export.jsonl.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints summary.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Most times that a good request may have been sent again; any number when absent.
    #[arg(long, value_name = "N")]
    retries_max: Option<u32>,
    /// Replicas behind the target, which are paid for.
    #[arg(long, value_name = "N", default_value_t = 1)]
    replicas: u32,
    #[command(flatten)]
    paid: Paid,
    #[command(flatten)]
    gates: Gates,
}

pub(crate) fn run(replay: &Replay) -> anyhow::Result<()> {
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that send")?;
    runtime.block_on(send(replay))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
async fn send(replay: &Replay) -> anyhow::Result<()> {
    let workload = replay.workload()?;
    let load = replay.load()?;
    let planned = workload.plan(&load, |file| std::fs::read_to_string(file))?;
    if planned.skipped != Skipped::default() {
        eprintln!("left out of the trace: {}", planned.skipped);
    }
    let options = replay.options().await?;
    let started = output::utc_now();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let count = planned.arrivals.len();
    let recording = replay::run(&options, planned.arrivals, stop, |_| {}).await?;
    let info = RunInfo {
        workload: workload.name().to_owned(),
        policy: "unknown".to_owned(),
        admission: "unknown".to_owned(),
        seed: load.seed,
        // A trace may end before the time is over, and then its last request ends the schedule.
        scheduled_for: if matches!(workload, Workload::Trace(_)) { None } else { load.duration },
        warm_up: Duration::ZERO,
        costs: replay.paid.costs.clone().map(|prices| Costs { prices, replicas: replay.replicas }),
        workload_class: replay.paid.workload_class,
    };
    let measured = Run::measure(&info, &recording.records, &recording.gaps);
    let summary = Summary::new(vec![measured]);
    if let Some(folder) = &replay.out {
        let manifest = replay.manifest(&info, &workload, &options, started)?;
        output::write(folder, &manifest, &recording.records, &summary)?;
    }
    if replay.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        summary.runs.iter().for_each(|run| print!("{}", table::single(run)));
    }
    if recording.records.len() < count {
        bail!("stopped after {} of {count} requests", recording.records.len());
    }
    replay.gates.check(summary.runs.iter().map(|run| (String::new(), run)))
}

impl Replay {
    fn workload(&self) -> anyhow::Result<Workload> {
        let Some(path) = &self.workload else {
            let file = self.trace.clone();
            let file = file.unwrap_or_else(|| bundled::MOONCAKE_SLICE_NAME.to_owned());
            let trace = Trace::new(file);
            let (block_tokens, skip_bad_lines) = (self.block_tokens, self.skip_bad_lines);
            return Ok(Workload::Trace(Trace { block_tokens, skip_bad_lines, ..trace }));
        };
        let name = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the workload {name}; pass a file that exists"))?;
        serde_yaml::from_str(&text).with_context(|| format!("cannot parse the workload {name}"))
    }

    fn load(&self) -> anyhow::Result<Load> {
        let schedule = match self.rate {
            None => Schedule::Trace { speedup: self.speedup },
            Some(rate_per_s) if self.arrivals == "constant" => Schedule::Constant { rate_per_s },
            Some(rate_per_s) => Schedule::Poisson { rate_per_s },
        };
        let duration = self.duration.map(Duration::try_from).transpose();
        let duration = duration.context("--duration: a length of time can't be negative")?;
        Ok(Load { schedule, duration, seed: self.seed })
    }

    async fn options(&self) -> anyhow::Result<ReplayOptions> {
        let api_key = self.api_key.clone();
        let model = match (&self.model, self.target.first()) {
            (Some(model), _) => model.clone(),
            (None, Some(target)) => models::first(target, api_key.as_deref()).await?,
            (None, None) => String::new(),
        };
        let endpoint =
            if self.completions { Endpoint::Completions } else { Endpoint::ChatCompletions };
        Ok(ReplayOptions {
            targets: self.target.clone(),
            model,
            endpoint,
            api_key,
            run_id: format!("replay-{}", self.seed),
            session_header: !self.no_session_header,
            open_requests_max: self.open_requests_max,
            terms: Terms { slo: self.goodput, retries_max: self.retries_max },
            ..ReplayOptions::default()
        })
    }

    fn manifest(
        &self,
        info: &RunInfo,
        workload: &Workload,
        options: &ReplayOptions,
        started: String,
    ) -> anyhow::Result<Manifest> {
        let trace = match workload {
            Workload::Trace(trace) if trace.file == bundled::MOONCAKE_SLICE_NAME => {
                Some(bundled::MOONCAKE_SLICE.as_bytes().to_vec())
            }
            Workload::Trace(trace) => Some(std::fs::read(&trace.file)?),
            Workload::SupportChat(_)
            | Workload::Independent(_)
            | Workload::Documents(_)
            | Workload::Mix(_) => None,
        };
        let targets: Vec<String> = options.targets.iter().map(ToString::to_string).collect();
        Ok(Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SLUICE_COMMIT").map(str::to_owned),
            command: std::env::args().collect(),
            config: json!({
                "workload": workload,
                "targets": targets,
                "model": options.model,
                "endpoint": options.endpoint.path(),
                "slo": options.terms.slo,
            }),
            workload: info.workload.clone(),
            policy: info.policy.clone(),
            admission: info.admission.clone(),
            seed: info.seed,
            trace_sha256: trace.as_deref().map(output::sha256),
            host: Host::this(),
            clock: "real".to_owned(),
            started: Some(started),
            judged: Judged { info: info.clone(), terms: options.terms, ..Judged::default() },
        })
    }
}
