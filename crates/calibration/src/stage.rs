//! A stage: a steady load on one replica, what was measured of it, and the same load simulated.

use std::{sync::Arc, time::Duration};

use engine::{Answer, Job, Profile};
use rand::RngExt as _;
use report::stats::{Stats, quantile};
use types::{
    block::{BlockHash, hash_block},
    quantity::Tokens,
    request::RequestId,
    time::Timestamp,
};
use workload::seed::{Purpose, generator};

use crate::run::{Answered, Run, RunError, Sent, Setting, run};

/// What the requests of a stage look like, and how often they come.
///
/// A shared-prefix workload: a few system prompts, each with a few questions; the questions are
/// asked over and over, so that after the first round only a prompt's last block is computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// System prompts.
    pub groups: u32,
    /// Prompts that start with each of them.
    pub prompts_per_group: u32,
    /// Length of a system prompt.
    pub system: Tokens,
    /// Length of a whole prompt.
    pub prompt: Tokens,
    /// Length of an answer.
    pub output: Tokens,
    /// Requests per second.
    pub rate_per_s: f64,
    /// How long they come, in seconds.
    pub duration_s: f64,
}

/// The engine's limits, where the stage's differ from the profile's.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Most sequences in a step.
    pub max_num_seqs: Option<u32>,
    /// Most tokens in a step.
    pub max_num_batched_tokens: Option<u32>,
}

impl Limits {
    /// The profile with these limits.
    #[must_use]
    pub fn apply(&self, profile: &Profile) -> Profile {
        let mut profile = profile.clone();
        profile.max_num_seqs = self.max_num_seqs.unwrap_or(profile.max_num_seqs);
        let budget = self.max_num_batched_tokens.map(Tokens);
        profile.max_num_batched_tokens = budget.unwrap_or(profile.max_num_batched_tokens);
        profile
    }
}

/// A latency in a stage, in seconds; what was not measured is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Mean.
    pub mean: Option<f64>,
    /// Median.
    pub p50: Option<f64>,
    /// 90th percentile.
    pub p90: Option<f64>,
    /// 99th percentile.
    pub p99: Option<f64>,
}

impl Latency {
    fn of(values: Vec<f64>) -> Self {
        let Some(Stats { mean, p50, p90, p99, .. }) = Stats::of(values) else {
            return Self::default();
        };
        Self { mean: Some(mean), p50: Some(p50), p90: Some(p90), p99: Some(p99) }
    }

    /// The median, or the mean where it is absent.
    #[must_use]
    pub fn typical(&self) -> Option<f64> {
        self.p50.or(self.mean)
    }
}

/// The figures of a stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Time to first token.
    pub ttft: Latency,
    /// Time per output token, a mean over each request's own tokens.
    pub tpot: Latency,
    /// Time of the whole answer.
    pub e2e: Latency,
    /// Time between two tokens, over all tokens; none where it was not measured.
    pub itl: Latency,
    /// Share of the requests that got no answer in time.
    pub failed_share: f64,
}

/// Share of failures from which a stage counts as overloaded.
const FAILED_SHARE_MAX: f64 = 0.05;

/// Tokens' worth of waiting for the first from which a stage counts as overloaded; an idle replica
/// needs two or three, a busy one that keeps up some tens.
const TOKENS_WAITED_MAX: f64 = 200.0;

impl Figures {
    /// Whether the requests' queue was what they mostly waited for.
    #[must_use]
    pub fn overloaded(&self) -> bool {
        let waited = self.ttft.typical().zip(self.tpot.typical());
        self.failed_share > FAILED_SHARE_MAX
            || waited.is_some_and(|(ttft, tpot)| ttft > TOKENS_WAITED_MAX * tpot)
    }
}

/// A load on a replica and what was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What the measurement was called, for tables.
    pub name: String,
    /// Model as its publisher writes it.
    pub model: String,
    /// Kind of GPU.
    pub gpu: String,
    /// GPUs that share the model.
    pub tp: u32,
    /// What was sent.
    pub shape: Shape,
    /// How the engine was set.
    pub limits: Limits,
    /// What came out.
    pub measured: Figures,
}

/// How long clients of the measured stages wait for an answer.
const PATIENCE: Duration = Duration::from_secs(300);

impl Stage {
    /// Simulates the stage as it was measured, cold cache and all.
    ///
    /// # Errors
    /// A profile that cannot serve the stage's requests.
    pub fn simulate(&self, profile: &Profile, seed: u64) -> Result<Figures, RunError> {
        let workload = self.shape.workload(self.shape.duration_s, seed);
        let result = self.serve(profile, &workload)?;
        Ok(figures(&result, 0))
    }

    /// Simulates `horizon_s` seconds of the stage after every prompt was asked once: what a fit
    /// needs, at a fraction of the time.
    ///
    /// # Errors
    /// A profile that cannot serve the stage's requests.
    pub fn simulate_warm(&self, profile: &Profile, horizon_s: f64) -> Result<Figures, RunError> {
        let prompts = self.shape.groups.saturating_mul(self.shape.prompts_per_group);
        let round_s = f64::from(prompts) / self.shape.rate_per_s;
        let workload = self.shape.workload(round_s + horizon_s.min(self.shape.duration_s), SEED);
        let result = self.serve(profile, &workload)?;
        Ok(figures(&result, prompts as usize))
    }

    fn serve(&self, profile: &Profile, workload: &[Sent]) -> Result<Run, RunError> {
        let last = workload.last().map_or(Timestamp::ZERO, |sent| sent.at);
        let setting = Setting { until: last + PATIENCE, ..Setting::default() };
        run(&self.limits.apply(profile), workload, &setting)
    }
}

/// What the arrivals of a fit follow from; the same for every trial, so that trials differ by their
/// parameters alone.
const SEED: u64 = 1;

impl Shape {
    /// The requests of `duration_s` seconds: random and independent, yet as many as the rate says,
    /// as load generators send them.
    #[must_use]
    pub fn workload(&self, duration_s: f64, seed: u64) -> Vec<Sent> {
        let mut times = generator(seed, Purpose::Arrivals);
        let count = (self.rate_per_s * duration_s).round().clamp(1.0, 1e7);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
        let count = count as u64;
        let mut at_s: Vec<f64> = (0..count).map(|_| times.random::<f64>() * duration_s).collect();
        at_s.sort_unstable_by(f64::total_cmp);
        let prompts = u64::from(self.groups.saturating_mul(self.prompts_per_group)).max(1);
        (0..count)
            .zip(at_s)
            .map(|(index, at_s)| {
                let at = Duration::try_from_secs_f64(at_s).unwrap_or_default();
                let prompt = index.checked_rem(prompts).unwrap_or(0);
                Sent { at: Timestamp::from_elapsed(at), job: self.job(index, prompt) }
            })
            .collect()
    }

    fn job(&self, index: u64, prompt: u64) -> Job {
        let group = prompt.checked_rem(u64::from(self.groups)).unwrap_or(0);
        let shared = self.system.full_blocks(BLOCK).0;
        let blocks: Arc<[BlockHash]> = (0..self.prompt.full_blocks(BLOCK).0)
            .map(|place| {
                let (kind, owner) = if place < shared { (1, group) } else { (2, prompt) };
                let owner = hash_block(BlockHash(kind), &owner.to_le_bytes());
                hash_block(owner, &place.to_le_bytes())
            })
            .collect();
        let (id, output) = (RequestId(index), self.output);
        Job { id, prompt: self.prompt, blocks, output, answer: Answer::Private }
    }
}

/// Block size of every measured engine.
const BLOCK: Tokens = Tokens(16);

fn figures(result: &Run, skip: usize) -> Figures {
    let all = result.answers.iter().skip(skip);
    let count = all.len().max(1) as f64;
    let in_time = |it: &Answered| it.last.since(it.sent) <= PATIENCE;
    let answers: Vec<Answered> = all.flatten().copied().filter(in_time).collect();
    Figures {
        ttft: Latency::of(answers.iter().map(Answered::ttft_s).collect()),
        tpot: Latency::of(answers.iter().filter_map(Answered::tpot_s).collect()),
        e2e: Latency::of(answers.iter().map(Answered::e2e_s).collect()),
        itl: gaps(result),
        failed_share: 1.0 - answers.len() as f64 / count,
    }
}

/// The gaps between tokens, from a histogram in microseconds.
fn gaps(result: &Run) -> Latency {
    let Some(Stats { mean, p50, p90, p99, .. }) = result.gaps.stats_ms() else {
        return Latency::default();
    };
    let seconds = |it: f64| Some(it * 1e-3);
    Latency { mean: seconds(mean), p50: seconds(p50), p90: seconds(p90), p99: seconds(p99) }
}

/// The median of `values`; none of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    quantile(&values, 0.5)
}
