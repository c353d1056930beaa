//! `sluice replay`: sends a workload to an endpoint and reports what its clients saw.

mod progress;
mod traffic;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use replay::{
    Recording, ReplayOptions,
    output::{self, Host, Manifest},
};
use report::{
    Caveats, RequestRecord, Run, RunInfo, SloMillis, Summary,
    cost::Costs,
    html::{Detail, Page},
    judged::Judged,
    peers, table,
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workload::{Load, Workload, arrival, trace::Skipped};

use self::{progress::Progress, traffic::Traffic};
use crate::{
    limits,
    promised::Promised,
    results::{self, Gates, Paid},
    sending::{self, Sending, Trust},
    shutdown,
    simulate::load::trace as trace_text,
    typed,
};

/// Most reasons of failures that are told.
const ERRORS_MAX: usize = 5;

/// What is said of answers whose length nobody believes.
const MISCOUNTED: &str =
    "their `usage` claims over 1,000 tokens for each chunk, so the chunks were counted";

/// Sends recorded or generated traffic, open-loop, and reports latency and goodput.
#[derive(Debug, clap::Args)]
#[command(mut_arg("target", |it| it.required(true)))]
#[command(after_help = "Examples:
  sluice replay --target http://127.0.0.1:8080 --speedup 2
  sluice replay --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --rate 20 --duration 60s --out results/support-chat
  sluice replay --target https://llm.example.com --trace AzureLLMInferenceTrace_conv.csv \\
      --rate 5 --arrivals gamma --burstiness 0.5 --duration 10m --warm-up 1m
  sluice replay --target http://127.0.0.1:8080 --workload config/workloads/support-chat.yaml \\
      --sweep 5,10,20,30 --duration 60s --out results/sweep
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
    /// requests.jsonl and profile_export.jsonl; with --sweep, one below for each rate.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints summary.json instead of a table.
    #[arg(long)]
    json: bool,
    /// Replicas behind the target, which are paid for; the number of targets when absent.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,
    #[command(flatten)]
    paid: Paid,
    #[command(flatten)]
    gates: Gates,
}

pub(crate) fn run(replay: &Replay) -> anyhow::Result<()> {
    if let Some(duration) = replay.traffic.duration.filter(|it| *it <= replay.warm_up) {
        typed::refuse(&format!(
            "--warm-up {:?} leaves nothing to count of --duration {duration:?}; the duration contains \
             the warm-up, so make it longer",
            replay.warm_up
        ));
    }
    replay.gates.refuse_unknown_of_runs();
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that send")?;
    runtime.block_on(send(replay))
}

async fn send(replay: &Replay) -> anyhow::Result<()> {
    replay.promised.check()?;
    let workload = replay.traffic.workload()?;
    let loads = replay.traffic.loads()?;
    let trace_sha256 = match &replay.out {
        Some(folder) => {
            output::prepare(folder)?;
            traffic::sha256(&workload)?
        }
        None => None,
    };
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let mut sent = Vec::new();
    for (rate, load) in loads {
        sent.push(replay.once(&workload, rate, &load, trace_sha256.as_deref(), &stop).await?);
    }
    let told = replay.tell(&sent);
    let is_sweep = sent.iter().any(|it| it.rate.is_some());
    if let Some(folder) = replay.out.as_deref().filter(|_| is_sweep) {
        replay.write_sweep(folder, &sent)?;
    }
    told?;
    replay.gates.check(sent.iter().map(|it| {
        let name = it.rate.map_or_else(String::new, |rate| format!("{rate}/s"));
        (name, &it.run)
    }))
}

/// What one run came to.
struct Sent {
    /// Its rate in a sweep, in requests per second.
    rate: Option<f64>,
    run: Run,
    /// What the page of a sweep shows of it.
    detail: Detail,
    /// What went wrong, and how often.
    errors: Vec<(String, usize)>,
    /// Turns that were not due before the end.
    left_out: u64,
}

impl Replay {
    /// Sends one load, and writes what came of it where a folder is named.
    #[expect(clippy::print_stderr, reason = "what a person should know before the run")]
    async fn once(
        &self,
        workload: &Workload,
        rate: Option<f64>,
        load: &Load,
        trace_sha256: Option<&str>,
        stop: &CancellationToken,
    ) -> anyhow::Result<Sent> {
        let planned = workload.plan(load, trace_text)?;
        if planned.skipped != Skipped::default() {
            eprintln!("left out of the trace: {}", planned.skipped);
        }
        if let Some(note) = self.promised.note(&planned.arrivals) {
            eprintln!("{note}");
        }
        let seed = load.seed;
        let options = ReplayOptions {
            run_id: format!("replay-{seed}"),
            send_for: load.duration,
            seed,
            warm_up: self.warm_up,
            ..self.promised.with(self.sending.options()?)
        };
        let options = Sending::asking(options, &planned.arrivals).await?;
        let (count, reuse) = (planned.arrivals.len(), arrival::reuse(&planned.arrivals));
        let (started, began) = (output::utc_now(), Instant::now());
        let mut progress = Progress::new(count, rate);
        let ended = |it: &RequestRecord| progress.ended(it);
        let recording = replay::run(&options, planned.arrivals, stop.clone(), ended).await?;
        drop(progress);
        sending::seen_before(&recording.records, reuse).iter().for_each(|it| eprintln!("{it}"));
        if recording.miscounted > 0 {
            eprintln!("{} answers: {MISCOUNTED}", recording.miscounted);
        }
        // Turns that were not due before the end were ended by it too.
        let until = planned.until.or(load.duration.filter(|_| recording.left_out > 0));
        let is_stopped = stop.is_cancelled() && recording.records.len() < count;
        let info = RunInfo {
            scheduled_for: until,
            policy: recording.policy.clone().unwrap_or_else(|| "unknown".to_owned()),
            records: Some(recording.records.len() as u64),
            caveats: self.caveats(&recording, is_stopped),
            ..self.info(workload, rate, load)
        };
        let disruptions = self.sending.disruptions(&recording.records, began).await;
        let disruptions = disruptions.unwrap_or_else(|untold| {
            eprintln!("{untold:#}");
            Vec::new()
        });
        let run = Run::measure(&info, &recording.records, &recording.gaps);
        let run = run.disrupted(&info, &recording.records, &disruptions);
        let sent = Sent {
            rate,
            run,
            detail: Detail::of(&info.workload, &recording.records, &disruptions),
            errors: sending::errors(&recording.records),
            left_out: recording.left_out,
        };
        let trace_sha256 = trace_sha256.map(str::to_owned);
        let mut manifest = self.manifest(&info, workload, &options, started, trace_sha256);
        manifest.judged.disruptions = disruptions;
        self.write(&manifest, &sent, &recording.records)?;
        if let Err(worthless) = self.worth(&sent.run, &recording.records, count) {
            self.tell(std::slice::from_ref(&sent))?;
            return Err(worthless);
        }
        Ok(sent)
    }

    /// Writes what came of a run, where a folder is named.
    fn write(
        &self,
        manifest: &Manifest,
        sent: &Sent,
        records: &[RequestRecord],
    ) -> anyhow::Result<()> {
        let Some(folder) = &self.out else { return Ok(()) };
        let folder = sent.rate.map_or_else(|| folder.clone(), |it| folder.join(format!("{it}")));
        let summary = Summary::new(vec![sent.run.clone()]);
        if let Err(error) = output::write(&folder, manifest, records, &summary) {
            // What was measured is told at least; that it has no place matters more than its doubts.
            let _ = self.tell(std::slice::from_ref(sent));
            return Err(error.into());
        }
        Ok(())
    }

    /// Refuses a run that measured nothing, or not all that it was to, of `count` requests.
    fn worth(&self, run: &Run, records: &[RequestRecord], count: usize) -> anyhow::Result<()> {
        if run.caveats.stopped {
            bail!("stopped after {} of {count} requests", records.len());
        }
        sending::refuse_silence(records)?;
        if run.requests == 0 {
            bail!(
                "no request was due after the warm-up of {} s, so nothing counted; shorten --warm-up or \
                 send for longer",
                self.warm_up.as_secs_f64()
            );
        }
        Ok(())
    }

    /// What is to be known before the figures of a run are believed.
    fn caveats(&self, recording: &Recording, stopped: bool) -> Caveats {
        let doubt = self.trust.doubt(&recording.records, self.warm_up, recording.unsent);
        Caveats { stopped, unsent: recording.unsent, doubts: doubt.into_iter().collect() }
    }

    fn info(&self, workload: &Workload, rate: Option<f64>, load: &Load) -> RunInfo {
        let name = workload.name();
        let prices = self.paid.costs.clone();
        let targets = u32::try_from(self.sending.target.len()).unwrap_or(u32::MAX);
        let replicas = self.replicas.unwrap_or(targets.max(1));
        RunInfo {
            workload: rate.map_or_else(|| name.to_owned(), |it| format!("{name} @ {it}/s")),
            admission: "unknown".to_owned(),
            seed: load.seed,
            warm_up: self.warm_up,
            costs: prices.map(|prices| Costs { prices, replicas }),
            workload_class: self.paid.workload_class,
            ..RunInfo::default()
        }
    }

    /// Writes what the runs of a sweep come to together, beside their own folders.
    fn write_sweep(&self, folder: &Path, sent: &[Sent]) -> anyhow::Result<()> {
        let runs: Vec<Run> = sent.iter().map(|it| it.run.clone()).collect();
        output::write_summary(folder, &Summary::new(runs.clone()))?;
        let page = Page {
            title: "A sweep of rates".to_owned(),
            slo: Some(self.promised.with(ReplayOptions::default()).terms.slo),
            manifest: json!({
                "version": env!("CARGO_PKG_VERSION"),
                "commit": option_env!("SLUICE_COMMIT"),
                "command": results::command_line(),
                "host": Host::this(),
                "made": output::utc_now(),
            }),
            runs,
            details: sent.iter().map(|it| it.detail.clone()).collect(),
            ..Page::default()
        };
        results::write_page(folder, &page)
    }

    /// Prints the result, what it is worth first.
    #[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
    fn tell(&self, sent: &[Sent]) -> anyhow::Result<()> {
        let of = |it: &Sent| it.rate.map_or_else(String::new, |rate| format!("{rate}/s: "));
        for it in sent {
            for caveat in it.run.caveats.told() {
                eprintln!("{}{caveat}\n", of(it));
            }
            if it.left_out > 0 {
                let name = of(it);
                eprintln!("{name}{} turns were not due before the end of the run", it.left_out);
            }
        }
        let runs: Vec<Run> = sent.iter().map(|it| it.run.clone()).collect();
        if self.json {
            println!("{}", serde_json::to_string_pretty(&peers::summary(&Summary::new(runs)))?);
        } else {
            let at_rates: Vec<_> = sent.iter().filter_map(|it| Some((it.rate?, &it.run))).collect();
            if at_rates.is_empty() {
                runs.iter().for_each(|it| print!("{}", table::single(it)));
            } else {
                print!("{}", table::sweep(at_rates));
            }
            print!("{}{}", table::classes(&runs), table::work(&runs));
        }
        for it in sent {
            for (why, count) in it.errors.iter().take(ERRORS_MAX) {
                eprintln!("{}{count} failed: {why}", of(it));
            }
        }
        if sent.iter().any(|it| !it.run.caveats.doubts.is_empty()) && !self.trust.allow_lag {
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
        trace_sha256: Option<String>,
    ) -> Manifest {
        let targets: Vec<String> = options.targets.iter().map(ToString::to_string).collect();
        Manifest {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SLUICE_COMMIT").map(str::to_owned),
            command: results::command_line(),
            config: json!({
                "workload": workload,
                "targets": targets,
                "model": options.model,
                "endpoint": options.endpoint.path(),
                "slo": SloMillis::from(options.terms.slo),
                "slo_classes": options.classes,
            }),
            workload: info.workload.clone(),
            policy: info.policy.clone(),
            admission: info.admission.clone(),
            seed: info.seed,
            trace_sha256,
            host: Host::this(),
            clock: "real".to_owned(),
            started: Some(started),
            judged: Judged {
                info: info.clone(),
                terms: options.terms,
                classes: options.classes.clone(),
                ..Judged::default()
            },
        }
    }
}
