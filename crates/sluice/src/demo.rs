//! `sluice demo`: the main job on embedded parts.
//!
//! The figures are doubted as those of a replay are, on top of them; a demonstration ends well all the same,
//! for nobody acts on its figures.
//!
//! Emulated replicas, the router and the load generator run in this one process and talk HTTP over
//! loopback, as they would between machines. Each workload is replayed under each policy, each time
//! on a fresh fleet with cold caches; then one fleet stays up for whoever wants to send a request.

mod lag;
mod stage;
mod verdict;

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use policy::config::StrategyName;
use replay::Lag;
use report::{Run, RunInfo, Summary, Terms, table};
use tokio_util::sync::CancellationToken;
use types::{quantity::Tokens, slo::Slo, time::Timestamp};
use wire::openai::Endpoint;
use workload::{
    Arrival, Load, Schedule, Workload, arrival, bundled, support_chat::SupportChat, trace::Trace,
};

use self::stage::{MODEL, REPLICAS, Stage};
use crate::{limits, shutdown, typed};

/// The policies that are compared, the plainest first; those in a pair run side by side.
const POLICIES: [[StrategyName; 2]; 2] = [
    [StrategyName::RoundRobin, StrategyName::LeastRequest],
    [StrategyName::PrefixAware, StrategyName::Sticky],
];

const SEED: u64 = 1;

/// Time from the first request of the bundled slice to its last, in seconds, as recorded.
const SLICE_S: f64 = 597.0;

/// Compares four policies on emulated replicas, then serves until Ctrl-C. No GPU, model, network or
/// configuration needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice demo
  sluice demo --exit --json > summary.json")]
pub(crate) struct Demo {
    /// Port to serve on after the comparison; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Ends after the table.
    #[arg(long)]
    exit: bool,
    /// Prints summary.json instead of a table.
    #[arg(long)]
    json: bool,
    /// How long each workload is sent under each policy.
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = typed::some_time)]
    duration: Duration,
}

/// A workload of the demo.
struct Act {
    name: &'static str,
    arrivals: Vec<Arrival>,
    /// What an infinite cache would reuse, 0 to 1.
    reuse: f64,
    /// Tokens that a replica's KV cache holds; the profile's when absent.
    kv_tokens: Option<Tokens>,
    endpoint: Endpoint,
    slo: Slo,
    scheduled_for: Option<Duration>,
}

pub(crate) fn run(demo: &Demo) -> anyhow::Result<()> {
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that serve")?;
    runtime.block_on(perform(demo))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
async fn perform(demo: &Demo) -> anyhow::Result<()> {
    let acts = [trace(demo.duration)?, support_chat(demo.duration)?];
    // Found out now that the port is taken, and not after two minutes.
    let port = stage::reserve(demo.port).await?;
    if !demo.json {
        println!("{}", introduction(&acts));
    }
    let (mut runs, mut lags) = (Vec::new(), Vec::new());
    for act in &acts {
        // Two at a time, each on a fleet of its own: emulated replicas mostly sleep, and two fleets
        // with their router and clients keep a third of one core busy.
        for [one, other] in POLICIES {
            progress(&format!("{}: {one} and {other} …", act.name));
            let (one, other) = tokio::try_join!(measure(act, one), measure(act, other))?;
            for (run, lag) in [one, other] {
                runs.push(run);
                lags.push(lag);
            }
        }
    }
    progress("");
    let summary = Summary::new(runs);
    if let Some(doubt) = lag::doubt(&summary.runs, &lags) {
        eprintln!("{doubt}\n");
    }
    if demo.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        println!("{}{}\n", table::comparison(&summary.runs), lag::note(&lags));
        println!("{}", verdict::of(&summary.runs, acts.iter().map(|it| (it.name, it.reuse))));
    }
    if demo.exit { Ok(()) } else { serve(port, demo.json).await }
}

/// Real traffic: the bundled slice of a production trace, sped up to fit the time.
fn trace(duration: Duration) -> anyhow::Result<Act> {
    let workload = Workload::Trace(Trace::new(bundled::MOONCAKE_SLICE_NAME.to_owned()));
    let schedule = Schedule::Trace { speedup: SLICE_S / duration.as_secs_f64() };
    let load = Load { schedule, duration: None, seed: SEED };
    let arrivals = workload.plan(&load, |file| std::fs::read_to_string(file))?.arrivals;
    Ok(Act {
        name: "mooncake-slice",
        reuse: arrival::reuse(&arrivals),
        arrivals,
        kv_tokens: None,
        endpoint: Endpoint::Completions,
        // A prompt of 40,000 tokens takes two seconds to compute when nothing else runs.
        slo: slo(5_000, 60),
        scheduled_for: None,
    })
}

/// The support chatbot. Its 40 prefixes of 6,000 tokens fill the fleet's caches by half, and one
/// replica's four times over.
fn support_chat(duration: Duration) -> anyhow::Result<Act> {
    let workload = Workload::SupportChat(SupportChat::default());
    let schedule = Schedule::Poisson { rate_per_s: 30.0 };
    let load = Load { schedule, duration: Some(duration), seed: SEED };
    let arrivals = workload.plan(&load, |file| std::fs::read_to_string(file))?.arrivals;
    Ok(Act {
        name: workload_name(&workload),
        reuse: arrival::reuse(&arrivals),
        arrivals,
        kv_tokens: Some(Tokens(60_000)),
        endpoint: Endpoint::ChatCompletions,
        slo: slo(1_500, 60),
        scheduled_for: Some(duration),
    })
}

const fn workload_name(workload: &Workload) -> &'static str {
    match workload {
        Workload::SupportChat(_) => "support-chat",
        Workload::Independent(_) => "independent",
        Workload::Documents(_) => "documents",
        Workload::Mix(_) => "mix",
        Workload::Trace(_) => "trace",
    }
}

fn slo(ttft_ms: u64, tpot_ms: u64) -> Slo {
    let ms = |it| Some(Duration::from_millis(it));
    Slo { ttft: ms(ttft_ms), tpot: ms(tpot_ms), ..Slo::default() }
}

fn introduction(acts: &[Act]) -> String {
    let mut text = format!(
        "{REPLICAS} emulated replicas ({MODEL}), one router, real HTTP on loopback.\n\
         Each workload meets each policy on a fresh fleet with cold caches:\n"
    );
    for act in acts {
        let kv = act.kv_tokens.unwrap_or_else(stage::kv_tokens);
        let ms = |it: Option<Duration>| it.unwrap_or_default().as_millis();
        text.push_str(&format!(
            "  {}: {} requests; {:.0} % of their prompt tokens repeat a prefix;\n    KV cache of {kv} \
             tokens a replica; good means TTFT ≤ {} ms and TPOT ≤ {} ms\n",
            act.name,
            act.arrivals.len(),
            act.reuse * 100.0,
            ms(act.slo.ttft),
            ms(act.slo.tpot),
        ));
    }
    text
}

/// Replays `act` under `policy` on a fleet of its own.
async fn measure(act: &Act, policy: StrategyName) -> anyhow::Result<(Run, Lag)> {
    let stage = Stage::open(policy, act.kv_tokens).await?;
    let options = replay::ReplayOptions {
        targets: vec![stage.url().parse()?],
        model: MODEL.to_owned(),
        endpoint: act.endpoint,
        terms: Terms { slo: act.slo, ..Terms::default() },
        ..replay::ReplayOptions::default()
    };
    let arrivals = act.arrivals.clone();
    let recording = replay::run(&options, arrivals, CancellationToken::new(), |_| {}).await?;
    stage.close().await;
    let info = RunInfo {
        workload: act.name.to_owned(),
        policy: policy.as_str().to_owned(),
        admission: "off".to_owned(),
        seed: SEED,
        scheduled_for: act.scheduled_for,
        warm_up: Duration::ZERO,
        costs: None,
        workload_class: None,
        ..RunInfo::default()
    };
    let lag = Lag::of(&recording.records, Timestamp::ZERO, recording.unsent);
    Ok((Run::measure(&info, &recording.records, &recording.gaps), lag))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
async fn serve(port: stage::Reserved, quiet: bool) -> anyhow::Result<()> {
    let stage = Stage::open_on(StrategyName::PrefixAware, None, port).await?;
    let url = stage.url();
    let text = format!(
        "Serving on {url} until Ctrl-C (metrics: http://{}/metrics). Try:\n\n  curl {url}/v1/chat/completions \
         -H 'content-type: application/json' -d '{{\"model\": \"{MODEL}\", \"stream\": true, \"max_tokens\": 16, \
         \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'\n",
        stage.admin(),
    );
    if quiet {
        eprintln!("{text}");
    } else {
        println!("{text}");
    }
    shutdown::requested().await;
    stage.close().await;
    Ok(())
}

/// Says what is being done, on a terminal only.
#[expect(clippy::print_stderr, reason = "progress is for a person who waits")]
fn progress(text: &str) {
    let mut stderr = std::io::stderr();
    if stderr.is_terminal() {
        eprint!("\r\x1b[2K{text}");
        // A line of progress that can't be shown is no reason to stop.
        let _ = stderr.flush();
    }
}
