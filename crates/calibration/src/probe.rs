//! What to ask of a live endpoint, and the first reading of its answers.
//!
//! Bursts of requests, each sent when the one before has been answered whole, so that the endpoint
//! is idle in between: prompts of rising length, one at a time (prefill); rising numbers of requests
//! at once, short and long (decode and its context); and one prompt twice (prefix cache). Every
//! burst becomes a part of one recording, and the profile is fitted to that as to any other; only
//! the start, which for a recorded engine is arithmetic, is here read off the sweeps.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use engine::{Answer, Job, Profile};
use types::{
    block::{BlockHash, hash_block},
    quantity::Tokens,
    request::RequestId,
    time::Timestamp,
};

use crate::{
    requests::MeasuredRequest,
    requests_fit::{self, Recording, RecordingError, RecordingFit},
    run::{Sent, Setting},
    stage::median,
};

/// One request of a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Names the prompt; equal names are equal prompts.
    pub name: u64,
    /// Length of the prompt.
    pub prompt: Tokens,
    /// Tokens to generate.
    pub output: Tokens,
}

/// Which sweep a burst is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// Opens connections and warms the endpoint; not looked at.
    WarmUp,
    /// One prompt of some length.
    Length,
    /// Several short prompts at once.
    Concurrency,
    /// Several long prompts at once.
    Context,
    /// A prompt that was asked before.
    Repeat,
}

/// Requests that are sent at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    /// What it is for.
    pub sweep: Sweep,
    /// What is sent.
    pub questions: Vec<Question>,
}

/// How much is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Longest prompt.
    pub prompt_max: Tokens,
    /// Most requests at once.
    pub concurrency_max: u32,
    /// Tokens of each answer in the sweeps of concurrency.
    pub output: Tokens,
}

impl Default for Extent {
    fn default() -> Self {
        Self { prompt_max: Tokens(4096), concurrency_max: 32, output: Tokens(32) }
    }
}

/// Shortest prompt.
const PROMPT_MIN: u32 = 32;

/// Each length and number is tried this often; the fit sees one half of the tries.
const TRIES: usize = 2;

impl Extent {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.prompt_max.0 < PROMPT_MIN * 8 {
            problems.push(format!("prompts up to {}: need {}", self.prompt_max, PROMPT_MIN * 8));
        }
        if self.concurrency_max < 4 {
            problems.push(format!("{} requests at once: need 4", self.concurrency_max));
        }
        if self.output.0 < 8 {
            problems.push(format!("answers of {} tokens: need 8", self.output));
        }
        problems
    }

    /// What to send, in order. `first_name` keeps the prompts of two runs apart.
    #[must_use]
    pub fn bursts(&self, first_name: u64) -> Vec<Burst> {
        let mut names = (0..).map(|index: u64| first_name.wrapping_add(index));
        let mut question = |prompt: u32, output: u32| Question {
            name: names.next().unwrap_or(first_name),
            prompt: Tokens(prompt),
            output: Tokens(output),
        };
        let longest = self.prompt_max.0;
        let mut bursts = vec![
            Burst { sweep: Sweep::WarmUp, questions: vec![question(PROMPT_MIN, 2)] },
            Burst { sweep: Sweep::WarmUp, questions: vec![question(longest / 2, 2)] },
        ];
        let lengths = [PROMPT_MIN, longest / 8, longest / 4, longest / 2, longest];
        for length in lengths.into_iter().flat_map(|it| [it; TRIES]) {
            bursts.push(Burst { sweep: Sweep::Length, questions: vec![question(length, 2)] });
        }
        let counts = std::iter::successors(Some(1_u32), |it| it.checked_mul(2));
        for count in counts.take_while(|it| *it <= self.concurrency_max).flat_map(|it| [it; TRIES])
        {
            let questions = (0..count).map(|_| question(PROMPT_MIN, self.output.0)).collect();
            bursts.push(Burst { sweep: Sweep::Concurrency, questions });
        }
        for count in [self.concurrency_max / 2; TRIES] {
            let questions = (0..count).map(|_| question(longest / 2, self.output.0)).collect();
            bursts.push(Burst { sweep: Sweep::Context, questions });
        }
        let repeated = question(longest, 2);
        let first = Burst { sweep: Sweep::Length, questions: vec![repeated] };
        let again = Burst { sweep: Sweep::Repeat, questions: vec![repeated] };
        bursts.extend([first, again.clone(), again]);
        bursts
    }
}

/// What the endpoint made of one question; seconds from the start of its burst.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reply {
    /// When it was sent.
    pub sent_s: f64,
    /// When the first token came.
    pub first_s: f64,
    /// When the last token came.
    pub last_s: f64,
    /// Length of the prompt as the endpoint counts.
    pub input: Tokens,
    /// Length of the answer as the endpoint counts.
    pub output: Tokens,
    /// Prompt tokens that it says it found in its cache.
    pub cached: Option<Tokens>,
}

impl Reply {
    fn ttft_s(&self) -> f64 {
        self.first_s - self.sent_s
    }

    fn tpot_s(&self) -> Option<f64> {
        let after = self.output.0.checked_sub(1).filter(|it| *it > 0)?;
        Some((self.last_s - self.first_s) / f64::from(after))
    }
}

/// Answered bursts.
pub type Answered<'a> = &'a [(Burst, Vec<Reply>)];

/// Why answers tell nothing.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// They make no recording that a profile can be fitted to.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// A burst was not answered whole.
    #[error("{answered} of {asked} requests of a burst were answered; is the endpoint overloaded?")]
    Unanswered {
        /// Requests that were answered.
        answered: usize,
        /// Requests that were sent.
        asked: usize,
    },
    /// An answer is shorter than what was asked for.
    #[error(
        "an answer of {got} tokens where {asked} were asked for: the endpoint must honour \
         ignore_eos, or generate {asked} tokens by itself"
    )]
    Short {
        /// Its length.
        got: Tokens,
        /// What was asked for.
        asked: Tokens,
    },
    /// More work took less time.
    #[error(
        "{what} falls from {before_ms:.2} to {after_ms:.2} ms as {of} grows from {low} to {high}: \
         is something else using the endpoint? Run the calibration on an idle one"
    )]
    Descending {
        /// The latency.
        what: &'static str,
        /// What grows.
        of: &'static str,
        /// Where it is low.
        low: u32,
        /// Where it is high.
        high: u32,
        /// The latency there.
        before_ms: f64,
        /// The latency here.
        after_ms: f64,
    },
}

/// One point of a sweep: what grows, and the median latency there in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Prompt tokens, or requests at once.
    pub at: u32,
    /// Median over its tries.
    pub seconds: f64,
}

/// The answers, sweep by sweep.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sweeps {
    /// TTFT over the length of the prompt.
    pub lengths: Vec<Point>,
    /// TPOT over the number of requests at once.
    pub concurrency: Vec<Point>,
    /// TTFT of the longest prompt when it was new, and when it was asked again, in seconds.
    pub repeat: Option<(f64, f64)>,
    /// Tokens that the endpoint says it found in its cache then.
    pub cached: Option<Tokens>,
}

/// Fits `base` to the answers, under the name `name`, in at most `trials_max` simulations.
///
/// # Errors
/// As [`sweeps`], or a start that cannot serve what was asked.
pub fn fit(
    answered: Answered<'_>,
    base: &Profile,
    name: &str,
    trials_max: usize,
) -> Result<(Sweeps, RecordingFit), ProbeError> {
    let sweeps = sweeps(answered)?;
    let start = start(base, &sweeps, name);
    let recording = recording(answered, start.block_size);
    Ok((sweeps, requests_fit::fit(&recording, &start, trials_max)?))
}

/// Reads the sweeps off the answers.
///
/// # Errors
/// Answers that are missing, too short, or fall where they must rise.
pub fn sweeps(answered: Answered<'_>) -> Result<Sweeps, ProbeError> {
    for (burst, replies) in answered {
        if replies.len() != burst.questions.len() {
            let (answered, asked) = (replies.len(), burst.questions.len());
            return Err(ProbeError::Unanswered { answered, asked });
        }
        for (question, reply) in burst.questions.iter().zip(replies) {
            if reply.output < question.output {
                return Err(ProbeError::Short { got: reply.output, asked: question.output });
            }
        }
    }
    let lengths = points(answered, Sweep::Length, |_, reply| Some((reply.input.0, reply.ttft_s())));
    let concurrency = points(answered, Sweep::Concurrency, |burst, reply| {
        Some((u32::try_from(burst.questions.len()).ok()?, reply.tpot_s()?))
    });
    ascending(&lengths, "TTFT", "the prompt")?;
    ascending(&concurrency, "TPOT", "the number of requests")?;
    let again = points(answered, Sweep::Repeat, |_, reply| Some((reply.input.0, reply.ttft_s())));
    let repeats = answered.iter().filter(|(burst, _)| burst.sweep == Sweep::Repeat);
    let cached = repeats.flat_map(|(_, replies)| replies).filter_map(|it| it.cached).max();
    let new = lengths.last().map(|it| it.seconds);
    let repeat = new.zip(again.last().map(|it| it.seconds));
    Ok(Sweeps { lengths, concurrency, repeat, cached })
}

fn points(
    answered: Answered<'_>,
    sweep: Sweep,
    read: impl Fn(&Burst, &Reply) -> Option<(u32, f64)>,
) -> Vec<Point> {
    let mut values: Vec<(u32, Vec<f64>)> = Vec::new();
    for (burst, replies) in answered.iter().filter(|(burst, _)| burst.sweep == sweep) {
        for (at, seconds) in replies.iter().filter_map(|reply| read(burst, reply)) {
            match values.iter_mut().find(|(other, _)| *other == at) {
                Some((_, all)) => all.push(seconds),
                None => values.push((at, vec![seconds])),
            }
        }
    }
    values.sort_by_key(|(at, _)| *at);
    let point = |(at, all)| Some(Point { at, seconds: median(all)? });
    values.into_iter().filter_map(point).collect()
}

/// How much of a latency may be lost to noise from one point to a later one.
const NOISE: f64 = 0.25;

fn ascending(points: &[Point], what: &'static str, of: &'static str) -> Result<(), ProbeError> {
    for (low, high) in points.iter().zip(points.iter().skip(1)) {
        if high.seconds < low.seconds * (1.0 - NOISE) {
            return Err(ProbeError::Descending {
                what,
                of,
                low: low.at,
                high: high.at,
                before_ms: low.seconds * 1e3,
                after_ms: high.seconds * 1e3,
            });
        }
    }
    Ok(())
}

/// The profile to start from: `base`, its coefficients scaled to what the sweeps show.
///
/// One request alone decodes at the step's base; how much longer a step takes with many gives what a
/// sequence adds; the slope of TTFT over the longer prompts gives a token; what TTFT of the shortest
/// holds beside a step is the API's.
#[must_use]
pub fn start(base: &Profile, sweeps: &Sweeps, name: &str) -> Profile {
    let mut profile = base.clone();
    name.clone_into(&mut profile.name);
    let step = &mut profile.step;
    let (first, last) = (sweeps.concurrency.first(), sweeps.concurrency.last());
    if let Some((one, many)) = first.zip(last) {
        let alone = one.seconds * 1e3 / (step.overhead_ms + step.weights_ms);
        step.overhead_ms *= alone;
        step.weights_ms *= alone;
        let context = f64::from(PROMPT_MIN) * step.context_ns * 1e-3;
        let slope_us =
            (many.seconds - one.seconds) * 1e6 / f64::from(many.at.saturating_sub(1).max(1));
        let each = (slope_us / (step.sequence_us + context)).clamp(FACTOR_MIN, FACTOR_MAX);
        step.sequence_us *= each;
        step.context_ns *= each;
        if let Some(shortest) = sweeps.lengths.first() {
            profile.api_overhead_ms = ((shortest.seconds - one.seconds) * 1e3).max(API_MS_MIN);
        }
    }
    if let [.., shorter, long] = sweeps.lengths.as_slice() {
        let tokens = f64::from(long.at.saturating_sub(shorter.at).max(1));
        let slope_us = (long.seconds - shorter.seconds) * 1e6 / tokens;
        let pairs = f64::midpoint(f64::from(long.at), f64::from(shorter.at));
        let expected = step.token_us + step.attention_ns * 1e-3 * pairs;
        let each = (slope_us / expected).clamp(FACTOR_MIN, FACTOR_MAX);
        step.token_us *= each;
        step.attention_ns *= each;
    }
    profile
}

/// Within which a start is scaled at all: further off, the sweep was noise.
const FACTOR_MIN: f64 = 0.05;
const FACTOR_MAX: f64 = 500.0;
const API_MS_MIN: f64 = 0.1;

/// Idle time between two bursts of the recording.
const PAUSE_S: f64 = 1.0;

/// One recording of all bursts but the warm-up.
#[must_use]
pub fn recording(answered: Answered<'_>, block: Tokens) -> Recording {
    let mut workload = Vec::new();
    let mut measured = Vec::new();
    let mut start_s = 0.0;
    for (burst, replies) in answered.iter().filter(|(burst, _)| burst.sweep != Sweep::WarmUp) {
        let mut both: Vec<(&Question, &Reply)> = burst.questions.iter().zip(replies).collect();
        both.sort_by(|a, b| a.1.sent_s.total_cmp(&b.1.sent_s));
        for (question, reply) in &both {
            let Reply { sent_s, first_s, last_s, input, output, .. } = **reply;
            let id = RequestId(workload.len() as u64);
            let at = Duration::try_from_secs_f64(start_s + sent_s).unwrap_or_default();
            let job = Job {
                id,
                prompt: input,
                blocks: blocks(question, input, block),
                output,
                answer: Answer::Private,
            };
            workload.push(Sent { at: Timestamp::from_elapsed(at), job });
            measured.push(MeasuredRequest {
                sent_s: start_s + sent_s,
                first_s: start_s + first_s,
                last_s: start_s + last_s,
                input,
                output,
            });
        }
        start_s += both.iter().map(|(_, reply)| reply.last_s).fold(0.0, f64::max) + PAUSE_S;
    }
    Recording { workload, measured, setting: Setting::default() }
}

fn blocks(question: &Question, input: Tokens, block: Tokens) -> Arc<[BlockHash]> {
    let name = BlockHash(question.name);
    (0..input.full_blocks(block).0).map(|place| hash_block(name, &place.to_le_bytes())).collect()
}
