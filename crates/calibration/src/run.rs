//! Runs a workload through an engine in virtual time.

use std::time::Duration;

use engine::{Engine, InvalidProfile, Job, Profile, Progress, Refusal};
use report::Histogram;
use types::{quantity::Tokens, time::Timestamp};

/// A job and the time at which its client sends it.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When the client sends it.
    pub at: Timestamp,
    /// What it asks for; its id is its place in the run, counted from zero.
    pub job: Job,
}

/// When a request got its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// When its client sent it.
    pub sent: Timestamp,
    /// When its first token was there.
    pub first: Timestamp,
    /// When its last token was there.
    pub last: Timestamp,
    /// Tokens of its answer.
    pub output: Tokens,
    /// Tokens of its prompt that were found in the KV cache.
    pub cached: Tokens,
}

impl Answered {
    /// Time to first token, in seconds.
    #[must_use]
    pub fn ttft_s(&self) -> f64 {
        self.first.since(self.sent).as_secs_f64()
    }

    /// Time per output token after the first, in seconds; none for an answer of one token.
    #[must_use]
    pub fn tpot_s(&self) -> Option<f64> {
        let after = self.output.0.checked_sub(1).filter(|it| *it > 0)?;
        Some(self.last.since(self.first).as_secs_f64() / f64::from(after))
    }

    /// Time of the whole answer, in seconds.
    #[must_use]
    pub fn e2e_s(&self) -> f64 {
        self.last.since(self.sent).as_secs_f64()
    }
}

/// What an engine said of its load at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Requests in the batch.
    pub running: f64,
    /// Requests that wait for a place in it.
    pub waiting: f64,
    /// Share of KV blocks that are held.
    pub kv_usage: f64,
}

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// One for each request, in their order; none for one that was not answered before the end.
    pub answers: Vec<Option<Answered>>,
    /// The load at the end of each sampling interval; replicas are summed, their KV use averaged.
    pub samples: Vec<Sample>,
    /// Times a running request had to give up its blocks.
    pub preemptions: u64,
    /// Times between two tokens of a request.
    pub gaps: Histogram,
    /// When each request had its latest token.
    recent: Vec<Timestamp>,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Engines that take turns in taking the requests, or share them by load where they step
    /// together.
    pub replicas: usize,
    /// Whether the engines step together, each as long as the slowest: the ranks of a model whose
    /// experts are spread over all of them wait for each other in every layer.
    pub lockstep: bool,
    /// Time between samples of the load.
    pub sample_every: Duration,
    /// When the run is broken off.
    pub until: Timestamp,
}

impl Default for Setting {
    fn default() -> Self {
        let (sample_every, until) =
            (Duration::from_secs(1), Timestamp::from_elapsed(Duration::from_secs(86_400)));
        Self { replicas: 1, lockstep: false, sample_every, until }
    }
}

/// Why a workload cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The profile makes no sense.
    #[error(transparent)]
    Profile(#[from] InvalidProfile),
    /// A request can never be served.
    #[error("request {index} can't be served by profile {profile:?}: {refusal}")]
    Refused {
        /// Its place in the workload, from zero.
        index: u64,
        /// The profile.
        profile: String,
        /// Why.
        refusal: Refusal,
    },
}

/// Serves `workload`, ordered by time, on engines of `profile`.
///
/// # Errors
/// A profile that makes no sense, or a request that its engine refuses.
pub fn run(profile: &Profile, workload: &[Sent], setting: &Setting) -> Result<Run, RunError> {
    let mut result = Run {
        answers: vec![None; workload.len()],
        recent: vec![Timestamp::ZERO; workload.len()],
        ..Run::default()
    };
    let replicas = setting.replicas.max(1);
    if setting.lockstep {
        Group::new(profile, replicas)?.serve(workload.iter(), setting, &mut result)?;
    } else {
        for first in 0..replicas {
            let own = workload.iter().skip(first).step_by(replicas);
            Group::new(profile, 1)?.serve(own, setting, &mut result)?;
        }
    }
    result.samples.iter_mut().for_each(|sample| sample.kv_usage /= replicas as f64);
    for (answer, sent) in result.answers.iter_mut().zip(workload) {
        *answer = answer.filter(|it| it.output == sent.job.output);
        if let Some(answer) = answer {
            answer.sent = sent.at;
        }
    }
    Ok(result)
}

/// Engines that step together, and their clock.
struct Group {
    ranks: Vec<Rank>,
    now: Timestamp,
    sampled: usize,
}

/// An engine, and whether a step of it is under way.
struct Rank {
    engine: Engine,
    stepping: bool,
}

impl Group {
    fn new(profile: &Profile, ranks: usize) -> Result<Self, InvalidProfile> {
        let rank = |_| {
            let engine = Engine::new(profile.clone())?;
            Ok(Rank { engine, stepping: false })
        };
        let ranks: Result<Vec<Rank>, InvalidProfile> = (0..ranks).map(rank).collect();
        Ok(Self { ranks: ranks?, now: Timestamp::ZERO, sampled: 0 })
    }

    fn serve<'a>(
        mut self,
        workload: impl Iterator<Item = &'a Sent>,
        setting: &Setting,
        result: &mut Run,
    ) -> Result<(), RunError> {
        let profile = self.ranks.first().map(|rank| rank.engine.profile());
        let overhead = profile.map(Profile::api_overhead).unwrap_or_default();
        let mut coming = workload.peekable();
        let mut progress = Vec::new();
        while self.now < setting.until {
            let Some(step) = self.begin_step() else {
                let Some(sent) = coming.next() else { break };
                self.sample(setting, sent.at + overhead, result);
                self.now = self.now.max(sent.at + overhead);
                self.take(&sent.job)?;
                continue;
            };
            let end = self.now + step;
            self.sample(setting, end, result);
            while let Some(sent) = coming.next_if(|sent| sent.at + overhead <= end) {
                self.take(&sent.job)?;
            }
            self.now = end;
            for rank in self.ranks.iter_mut().filter(|rank| rank.stepping) {
                rank.stepping = false;
                rank.engine.finish_step(&mut progress);
            }
            progress.drain(..).for_each(|token| note(result, &token, end));
        }
        let preemptions = self.ranks.iter().map(|rank| rank.engine.counters().preemptions);
        result.preemptions = result.preemptions.saturating_add(preemptions.sum());
        Ok(())
    }

    /// Begins a step on every rank that has work; returns the longest, none where none has any.
    fn begin_step(&mut self) -> Option<Duration> {
        let mut longest = None;
        for rank in &mut self.ranks {
            let planned = rank.engine.begin_step();
            rank.stepping = planned.is_some();
            longest = longest.max(planned);
        }
        longest
    }

    /// Gives a job to the rank with the least to do, as vLLM's balancer of data-parallel ranks
    /// counts it: a request that waits weighs as much as four that run.
    fn take(&mut self, job: &Job) -> Result<(), RunError> {
        match self.ranks.iter_mut().min_by_key(|rank| rank.weight()) {
            Some(rank) => rank.submit(job.clone()),
            None => Ok(()),
        }
    }

    /// Samples the load at each interval that ends before `until`.
    fn sample(&mut self, setting: &Setting, until: Timestamp, result: &mut Run) {
        loop {
            let due = u32::try_from(self.sampled.saturating_add(1)).unwrap_or(u32::MAX);
            if Timestamp::from_elapsed(setting.sample_every.saturating_mul(due)) > until {
                return;
            }
            if result.samples.len() <= self.sampled {
                result.samples.push(Sample::default());
            }
            if let Some(sample) = result.samples.get_mut(self.sampled) {
                self.ranks.iter().for_each(|rank| rank.add_to(sample));
            }
            self.sampled = self.sampled.saturating_add(1);
        }
    }
}

impl Rank {
    fn weight(&self) -> u64 {
        let load = self.engine.load();
        u64::from(load.waiting).saturating_mul(4).saturating_add(u64::from(load.running))
    }

    fn submit(&mut self, job: Job) -> Result<(), RunError> {
        let index = job.id.0;
        self.engine.submit(job).map_err(|refusal| RunError::Refused {
            index,
            profile: self.engine.profile().name.clone(),
            refusal,
        })
    }

    fn add_to(&self, sample: &mut Sample) {
        let load = self.engine.load();
        sample.running += f64::from(load.running);
        sample.waiting += f64::from(load.waiting);
        sample.kv_usage += f64::from(load.kv_usage);
    }
}

/// Writes down a token.
fn note(result: &mut Run, token: &Progress, now: Timestamp) {
    let index = usize::try_from(token.id.0).unwrap_or(usize::MAX);
    let Some(answer) = result.answers.get_mut(index) else { return };
    let Some(recent) = result.recent.get_mut(index) else { return };
    let Progress { generated: output, cached, .. } = *token;
    if answer.is_some() {
        result.gaps.record(now.since(*recent));
    }
    *recent = now;
    let first = answer.map_or(now, |it| it.first);
    if answer.is_none() || token.last {
        *answer = Some(Answered { sent: Timestamp::ZERO, first, last: now, output, cached });
    }
}
