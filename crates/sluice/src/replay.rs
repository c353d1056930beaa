//! `sluice replay`: sends a workload to an endpoint and reports what its clients saw.

mod progress;
mod traffic;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail};
use replay::{
    Recording, ReplayOptions,
    output::{self, Host, Manifest},
};
use report::{Run, RunInfo, Summary, cost::Costs, judged::Judged, table};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use workload::{Workload, bundled, trace::Skipped};

use self::{progress::Progress, traffic::Traffic};
use crate::{
    limits,
    promised::Promised,
    results::{self, Gates, Paid},
    sending::{self, Sending, Trust},
    shutdown,
    simulate::load,
    typed,
};

/// Most reasons of failures that are told.
const ERRORS_MAX: usize = 5;

/// Sends recorded or generated traffic, open-loop, and reports latency and goodput.
#[derive(Debug, clap::Args)]
#[command(mut_arg("target", |it| it.required(true)))]
#[command(after_help = "Examples:
  sluice replay --target http://127.0.0.1:8080 --speedup 2
  sluice replay --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --rate 20 --duration 60s --out results/support-chat
  sluice replay --target https://llm.example.com --trace AzureLLMInferenceTrace_conv.csv \\
      --rate 5 --arrivals gamma --burstiness 0.5 --duration 10m --warm-up 1m
  sluice replay --target http://127.0.0.1:8080 --trace ShareGPT.json --rate 2 --closed \\
      --goodput 'time_to_first_token:1500 time_per_output_token:60'")]
pub(crate) struct Replay {
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    traffic: Traffic,
    /// Start of the run that is sent and does not count.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = typed::time)]
    warm_up: Duration,
    #[command(flatten)]
    promised: Promised,
    #[command(flatten)]
    trust: Trust,
    /// Folder for the results: report.html, summary.json, summary.csv, windows.csv, run.json,
    /// requests.jsonl and profile_export.jsonl.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints summary.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Replicas behind the target, which are paid for.
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
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

#[expect(clippy::print_stderr, reason = "what a person should know before the run")]
async fn send(replay: &Replay) -> anyhow::Result<()> {
    let workload = replay.traffic.workload()?;
    let load = replay.traffic.load()?;
    let planned = workload.plan(&load, load::trace)?;
    if planned.skipped != Skipped::default() {
        eprintln!("left out of the trace: {}", planned.skipped);
    }
    if let Some(note) = replay.promised.note(&planned.arrivals) {
        eprintln!("{note}");
    }
    let seed = load.seed;
    let options = ReplayOptions {
        run_id: format!("replay-{seed}"),
        send_for: load.duration,
        seed,
        warm_up: replay.warm_up,
        ..replay.promised.with(replay.sending.options()?)
    };
    let options = Sending::asking(options, &planned.arrivals).await?;
    let started = output::utc_now();
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let count = planned.arrivals.len();
    let mut progress = Progress::new(count);
    let recording =
        replay::run(&options, planned.arrivals, stop.clone(), |it| progress.ended(it)).await?;
    drop(progress);
    // A trace may end before the time is over, and then its last request ends the schedule; so may
    // conversations that wait for answers.
    let has_end = !matches!(workload, Workload::Trace(_)) && !replay.sending.is_closed();
    let info = RunInfo {
        workload: workload.name().to_owned(),
        policy: "unknown".to_owned(),
        admission: "unknown".to_owned(),
        seed,
        scheduled_for: load.duration.filter(|_| has_end),
        warm_up: replay.warm_up,
        costs: replay.paid.costs.clone().map(|prices| Costs { prices, replicas: replay.replicas }),
        workload_class: replay.paid.workload_class,
    };
    let measured = Run::measure(&info, &recording.records, &recording.gaps);
    let summary = Summary::new(vec![measured]);
    if let Some(folder) = &replay.out {
        let manifest = replay.manifest(&info, &workload, &options, started)?;
        output::write(folder, &manifest, &recording.records, &summary)?;
    }
    if stop.is_cancelled() && recording.records.len() < count {
        replay.tell(&summary, &recording)?;
        bail!("stopped after {} of {count} requests", recording.records.len());
    }
    replay.tell(&summary, &recording)?;
    sending::refuse_silence(&recording.records)?;
    replay.gates.check(summary.runs.iter().map(|run| (String::new(), run)))
}

impl Replay {
    /// Prints the result, what it is worth first.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
    fn tell(&self, summary: &Summary, recording: &Recording) -> anyhow::Result<()> {
        let behind = self.trust.doubt(&recording.records, self.warm_up, recording.unsent);
        if let Some(behind) = &behind {
            eprintln!("{behind}\n");
        }
        if recording.left_out > 0 {
            eprintln!("{} turns were not due before the end of the run", recording.left_out);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(summary)?);
        } else {
            summary.runs.iter().for_each(|run| print!("{}", table::single(run)));
            print!("{}{}", table::classes(&summary.runs), table::work(&summary.runs));
        }
        for (why, count) in sending::errors(&recording.records).into_iter().take(ERRORS_MAX) {
            eprintln!("{count} failed: {why}");
        }
        if behind.is_some() && !self.trust.allow_lag {
            bail!("the load generator fell behind; its figures are not its target's");
        }
        Ok(())
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
            Workload::Trace(trace) => Some(fs::read(&trace.file)?),
            Workload::SupportChat(_)
            | Workload::Independent(_)
            | Workload::Documents(_)
            | Workload::Mix(_) => None,
        };
        let targets: Vec<String> = options.targets.iter().map(ToString::to_string).collect();
        Ok(Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SLUICE_COMMIT").map(str::to_owned),
            command: results::command_line(),
            config: json!({
                "workload": workload,
                "targets": targets,
                "model": options.model,
                "endpoint": options.endpoint.path(),
                "slo": options.terms.slo,
                "slo_classes": options.classes,
            }),
            workload: info.workload.clone(),
            policy: info.policy.clone(),
            admission: info.admission.clone(),
            seed: info.seed,
            trace_sha256: trace.as_deref().map(output::sha256),
            host: Host::this(),
            clock: "real".to_owned(),
            started: Some(started),
            judged: Judged {
                info: info.clone(),
                terms: options.terms,
                classes: options.classes.clone(),
                ..Judged::default()
            },
        })
    }
}
