//! One run after another against a server, each in a stated state of its caches.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, bail};
use replay::ReplayOptions;
use report::{
    Caveats, RequestRecord, Run, RunInfo, cost::Costs, disruption::Disruption, frontier::Warmth,
    html::Detail, windows,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use types::time::Timestamp;
use workload::{Arrival, Load, Schedule, Workload};

use super::target::Live;
use crate::{
    results::Paid,
    sending::{self, Sending},
};

/// What a disruption is called that a command brings about.
const KIND: &str = "disruption";

/// How much later than this program's timers the clock of a run may start.
const CLOCKS_APART: Duration = Duration::from_millis(200);

/// A server under measurement.
pub(super) struct Bench<'a> {
    pub(super) live: &'a Live,
    pub(super) paid: &'a Paid,
    pub(super) options: ReplayOptions,
    pub(super) workload: Workload,
    /// The trace's text, where it is a file.
    pub(super) text: Option<String>,
    pub(super) stop: CancellationToken,
}

/// A run that was measured.
pub(super) struct Measured {
    pub(super) run: Run,
    pub(super) detail: Detail,
    pub(super) records: Vec<RequestRecord>,
    pub(super) disruptions: Vec<Disruption>,
    /// Why it is not to be trusted, if so.
    pub(super) doubt: Option<String>,
}

impl Live {
    /// Replicas behind the target, where somebody said; of several targets each is one.
    pub(super) fn replicas(&self) -> Option<u32> {
        let targets = u32::try_from(self.sending.target.len()).ok();
        self.replicas.or(targets.filter(|it| *it > 1))
    }

    /// Time before a run in the state `warmth` counts.
    ///
    /// # Errors
    /// A state that nobody said how to bring about.
    pub(super) fn warm_up_of(&self, warmth: Warmth) -> anyhow::Result<Duration> {
        match warmth {
            Warmth::Cold if self.restart.is_none() => bail!(
                "--warmth cold: a client cannot restart engines; pass --restart COMMAND, or measure it \
                 on a scenario"
            ),
            Warmth::Disrupted if self.disrupt.is_none() => bail!(
                "--warmth disrupted: a client cannot disturb engines; pass --disrupt COMMAND, or measure \
                 it on a scenario"
            ),
            Warmth::Cold | Warmth::WarmModelColdCache => Ok(Duration::ZERO),
            Warmth::Warm | Warmth::Disrupted => Ok(self.warm_up),
            Warmth::HotSteadyState => Ok(self.warm_up.saturating_mul(3).max(self.duration)),
        }
    }

    /// How a state is brought about, in words.
    pub(super) fn produced(&self, warmth: Warmth, warm_up: Duration) -> String {
        let after = |what: &str| {
            format!("counted after {} s of the same traffic{what}", warm_up.as_secs_f64())
        };
        match warmth {
            Warmth::Cold => "restarted by --restart, counted from the first request".to_owned(),
            Warmth::WarmModelColdCache => {
                "prompts that were never sent before in this test, or engines restarted where they are \
                 given; counted from the first one"
                    .to_owned()
            }
            Warmth::Warm | Warmth::HotSteadyState => after(""),
            Warmth::Disrupted => after(", and disturbed by --disrupt a quarter into what counts"),
        }
    }
}

impl Bench<'_> {
    /// Refuses a state that nobody said how to bring about, before anything is sent.
    ///
    /// # Errors
    /// As [`Live::warm_up_of`] has them, and prompts that are the same in every run, whose traces in the
    /// caches nothing removes.
    pub(super) fn check(&self, warmth: Warmth) -> anyhow::Result<()> {
        self.live.warm_up_of(warmth)?;
        let needs_restart = warmth == Warmth::WarmModelColdCache && self.gives_prompts()?;
        if needs_restart && self.live.restart.is_none() {
            bail!(
                "--warmth warm-model-cold-cache: the file holds the prompts themselves, which are cached \
                 after the first run; pass --restart COMMAND, or a trace or workload whose prompts are \
                 generated"
            );
        }
        Ok(())
    }

    /// Whether every run sends the same prompts.
    fn gives_prompts(&self) -> anyhow::Result<bool> {
        if !matches!(self.workload, Workload::Trace(_)) {
            return Ok(false);
        }
        let load =
            Load { schedule: Schedule::Poisson { rate_per_s: 1.0 }, duration: None, seed: 1 };
        let planned = self.workload.plan(&load, |_| Ok(self.text.clone().unwrap_or_default()))?;
        Ok(planned.arrivals.iter().any(sending::is_given))
    }

    /// The command that empties the caches before a run of `arrivals` in the state `warmth`, if it takes
    /// one.
    fn restarts(&self, warmth: Warmth, arrivals: &[Arrival]) -> Option<&String> {
        let is_needed = match warmth {
            Warmth::Cold => true,
            Warmth::WarmModelColdCache => arrivals.iter().any(sending::is_given),
            Warmth::Warm | Warmth::HotSteadyState | Warmth::Disrupted => false,
        };
        self.live.restart.as_ref().filter(|_| is_needed)
    }

    /// One run at `rate` in the state `warmth`.
    pub(super) async fn run(
        &self,
        rate: f64,
        seed: u64,
        warmth: Warmth,
    ) -> anyhow::Result<Measured> {
        let warm_up = self.live.warm_up_of(warmth)?;
        let length = warm_up.saturating_add(self.live.duration);
        let schedule = Schedule::Poisson { rate_per_s: rate };
        let load = Load { schedule, duration: Some(length), seed };
        let planned = self.workload.plan(&load, |_| Ok(self.text.clone().unwrap_or_default()))?;
        let until = planned.until;
        let restarts = self.restarts(warmth, &planned.arrivals);
        let options = ReplayOptions {
            run_id: format!("frontier-{rate}-{seed}"),
            send_for: Some(length),
            seed,
            warm_up,
            ..self.options.clone()
        };
        let options = Sending::asking(options, &planned.arrivals).await?;
        if let Some(command) = restarts {
            carry_out("--restart", command).await?;
        }
        let began = Instant::now();
        let sending = replay::run(&options, planned.arrivals, self.stop.child_token(), |_| {});
        let at = warm_up.saturating_add(self.live.duration / 4);
        let disturb = self.live.disrupt.as_ref().filter(|_| warmth == Warmth::Disrupted);
        let (recording, disturbed) = tokio::join!(sending, disturbance(disturb, at));
        let (recording, disturbed) = (recording?, disturbed?);
        if self.stop.is_cancelled() {
            bail!("stopped at {rate}/s, before the frontier was measured");
        }
        sending::refuse_silence(&recording.records)?;
        let mut disruptions = self.live.sending.disruptions(&recording.records, began).await?;
        tokio::time::sleep(self.live.settle).await;
        disruptions.extend(disturbed.map(|(from, ended)| {
            let windows = windows::windows(&recording.records);
            Disruption::seen(KIND.to_owned(), &windows, from, ended)
        }));
        let until = until.or(Some(length).filter(|_| recording.left_out > 0));
        let doubt = self.live.trust.doubt(&recording.records, warm_up, recording.unsent);
        let caveats = Caveats {
            unsent: recording.unsent,
            doubts: doubt.iter().cloned().collect(),
            ..Caveats::default()
        };
        let info = RunInfo {
            scheduled_for: until,
            policy: recording.policy.clone().unwrap_or_else(|| "unknown".to_owned()),
            caveats,
            ..self.info(seed, warm_up)
        };
        let run = Run::measure(&info, &recording.records, &recording.gaps);
        let name = format!("{rate}/s, {}", warmth.as_str());
        let detail = Detail::of(&name, &recording.records, &disruptions);
        let doubt = doubt.map(|it| format!("{rate}/s, seed {seed}: {it}"));
        Ok(Measured { run, detail, records: recording.records, disruptions, doubt })
    }

    fn info(&self, seed: u64, warm_up: Duration) -> RunInfo {
        RunInfo {
            workload: self.workload.name().to_owned(),
            admission: "unknown".to_owned(),
            seed,
            warm_up,
            costs: self.costs(),
            workload_class: self.paid.workload_class,
            ..RunInfo::default()
        }
    }

    /// What everything costs, where somebody said.
    pub(super) fn costs(&self) -> Option<Costs> {
        let replicas = self.live.replicas();
        let replicas = replicas.unwrap_or(1);
        self.paid.costs.clone().map(|prices| Costs { prices, replicas })
    }
}

/// Carries out `command` so long after now; returns from when until when that was. The window opens a
/// little early rather than late: what dies with a replica that is killed ends inside of it.
async fn disturbance(
    command: Option<&String>,
    at: Duration,
) -> anyhow::Result<Option<(Timestamp, Timestamp)>> {
    let Some(command) = command else { return Ok(None) };
    let started = Instant::now();
    tokio::time::sleep(at.saturating_add(CLOCKS_APART)).await;
    carry_out("--disrupt", command).await?;
    let ended = Timestamp::from_elapsed(started.elapsed());
    Ok(Some((Timestamp::from_elapsed(at), ended)))
}

/// Has the shell carry out what an option says, and waits for it.
async fn carry_out(option: &str, command: &str) -> anyhow::Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).stdout(std::process::Stdio::null());
    let status = tokio::task::spawn_blocking(move || shell.status()).await;
    let status = status.context("a thread broke off")?;
    let status = status.with_context(|| format!("cannot run the command of {option}"))?;
    if !status.success() {
        bail!("the command of {option} failed ({status}): {command}; try it by itself first");
    }
    Ok(())
}
