//! One emulated replica: takes jobs, plans steps, hands out tokens.

use std::{collections::VecDeque, time::Duration};

use rustc_hash::FxHashSet;
use types::{
    quantity::{Blocks, Tokens},
    replica::LoadReport,
    request::RequestId,
};

use crate::{
    batch::Batch,
    job::{Job, Progress, Refusal},
    kv_event::{KvEvent, KvMessage},
    noise::StepNoise,
    profile::{InvalidProfile, Profile},
};

/// One emulated replica, without a clock.
///
/// A driver alternates between [`begin_step`](Self::begin_step) and
/// [`finish_step`](Self::finish_step) and lets the time of the step pass in between. Jobs may be
/// submitted and aborted at any moment; they enter and leave at the next step boundary.
///
/// ```
/// use std::sync::Arc;
/// use engine::{Answer, Engine, Job, Profile};
/// use types::{quantity::Tokens, request::RequestId};
///
/// let mut engine = Engine::new(Profile::named("llama-3-8b-h100")?)?;
/// engine.submit(Job {
///     id: RequestId(1),
///     prompt: Tokens(10),
///     blocks: Arc::new([]),
///     output: Tokens(2),
///     answer: Answer::Private,
/// })?;
/// let mut tokens = Vec::new();
/// while let Some(step) = engine.begin_step() {
///     assert!(!step.is_zero());
///     engine.finish_step(&mut tokens);
/// }
/// assert_eq!(tokens.len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    profile: Profile,
    batch: Batch,
    /// Jobs that are waiting or running.
    live: FxHashSet<RequestId>,
    /// Jobs that leave at the next step boundary.
    aborted: FxHashSet<RequestId>,
    /// Jobs that came when the step after the one under way was already planned, with the number of
    /// the step they came in.
    late: VecDeque<(Job, u64)>,
    /// The ends of the steps under way, counted from the begin of the first.
    planned: Vec<Duration>,
    /// Sequences that decode in each of them.
    decoding: u32,
    noise: Option<StepNoise>,
    counters: Counters,
}

/// Most steps planned at once, so that a plan which is cut short has cost little.
const STRETCH_MAX: u32 = 64;

/// What an engine has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps ended.
    pub steps: u64,
    /// Time spent in them.
    pub busy: Duration,
    /// Prompt tokens looked up in the KV cache, once for each job.
    pub prefix_queries: u64,
    /// Prompt tokens found there.
    pub prefix_hits: u64,
    /// Prompt tokens of jobs that had their first token.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Times a running job had to give up its blocks.
    pub preemptions: u64,
    /// Jobs that had their last token.
    pub finished: u64,
    /// Jobs that were aborted before it.
    pub aborted: u64,
}

impl Counters {
    pub(crate) fn count_lookup(&mut self, prompt: Tokens, hit: Tokens) {
        self.prefix_queries = self.prefix_queries.saturating_add(u64::from(prompt.0));
        self.prefix_hits = self.prefix_hits.saturating_add(u64::from(hit.0));
    }

    pub(crate) fn count_token(&mut self, prompt: Tokens, token: &Progress) {
        self.generation_tokens = self.generation_tokens.saturating_add(1);
        if token.generated == Tokens(1) {
            self.prompt_tokens = self.prompt_tokens.saturating_add(u64::from(prompt.0));
        }
        self.finished = self.finished.saturating_add(u64::from(token.last));
    }
}

impl Engine {
    /// Makes an idle engine with an empty cache.
    ///
    /// # Errors
    ///
    /// The profile has values that no engine can run with.
    pub fn new(profile: Profile) -> Result<Self, InvalidProfile> {
        profile.validate()?;
        let noise = profile.spread.map(|spread| StepNoise { spread, seed: 0 });
        Ok(Self {
            batch: Batch::new(&profile),
            profile,
            live: FxHashSet::default(),
            aborted: FxHashSet::default(),
            late: VecDeque::new(),
            planned: Vec::new(),
            noise,
            decoding: 0,
            counters: Counters::default(),
        })
    }

    /// The model, GPU and limits that the engine runs with.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Varies the time of steps from now on; by itself the engine does so only where its profile
    /// says how, with the luck of seed 0.
    pub const fn vary_steps(&mut self, noise: StepNoise) {
        self.noise = Some(noise);
    }

    /// Gives the engine luck of its own, where its steps vary at all.
    pub const fn reseed(&mut self, seed: u64) {
        if let Some(noise) = &mut self.noise {
            noise.seed = seed;
        }
    }

    /// Queues a job.
    ///
    /// # Errors
    ///
    /// The job could never run here; see [`Refusal`].
    pub fn submit(&mut self, job: Job) -> Result<(), Refusal> {
        self.submit_during(job, Duration::ZERO)
    }

    fn queue(&mut self, job: Job, elapsed: Duration) -> Result<(), Refusal> {
        self.check(&job)?;
        if !self.live.insert(job.id) {
            return Err(Refusal::Duplicate { id: job.id });
        }
        if self.profile.steps_ahead == 0 || self.planned.is_empty() {
            self.batch.push(job);
        } else {
            let step = self.counters.steps.saturating_add(self.ended(elapsed) as u64);
            self.late.push_back((job, step));
        }
        Ok(())
    }

    fn check(&self, job: &Job) -> Result<(), Refusal> {
        let Profile { max_model_len, block_size: block, .. } = self.profile;
        let Job { prompt, output, .. } = *job;
        if prompt == Tokens::ZERO {
            return Err(Refusal::EmptyPrompt);
        }
        if output == Tokens::ZERO {
            return Err(Refusal::NoOutput);
        }
        let total = u64::from(prompt.0).saturating_add(u64::from(output.0));
        if total > u64::from(max_model_len.0) {
            return Err(Refusal::TooLong { prompt, output, max_model_len });
        }
        let kv = self.profile.kv_blocks().tokens(block);
        if total > u64::from(kv.0) {
            return Err(Refusal::ExceedsKvCache { prompt, output, kv });
        }
        let (needed, given) = (prompt.full_blocks(block).0, job.blocks.len());
        if needed as usize != given {
            return Err(Refusal::WrongBlocks { prompt, block, needed, given });
        }
        Ok(())
    }

    /// Drops a job and frees its blocks at the next step boundary; an unknown job is ignored.
    pub fn abort(&mut self, id: RequestId) {
        self.abort_during(id, Duration::ZERO);
    }

    fn apply_aborts(&mut self) {
        if self.aborted.is_empty() {
            return;
        }
        let aborted = std::mem::take(&mut self.aborted);
        self.batch.remove(|id| aborted.contains(&id));
        self.late.retain(|(job, _)| !aborted.contains(&job.id));
        for id in &aborted {
            self.live.remove(id);
        }
        self.counters.aborted = self.counters.aborted.saturating_add(aborted.len() as u64);
    }

    /// Plans the next step and returns how long it takes; `None` when there is nothing to do.
    pub fn begin_step(&mut self) -> Option<Duration> {
        self.plan(0);
        self.planned.first().copied()
    }

    /// Ends the step that was begun and appends the tokens it brought to `progress`.
    pub fn finish_step(&mut self, progress: &mut Vec<Progress>) {
        debug_assert!(self.planned.len() <= 1, "several steps are ended as one");
        self.finish(progress, |_| true);
    }

    /// Plans the next step and, when those after it change nothing but the length of each sequence,
    /// them as well. Returns when each of them ends, counted from now; nothing when there is nothing
    /// to do.
    ///
    /// They are exactly the steps that as many calls of [`begin_step`](Self::begin_step) would plan.
    /// What happens while they are under way is told by
    /// [`submit_during`](Self::submit_during) and [`abort_during`](Self::abort_during), which may
    /// take steps back.
    pub fn begin_steps(&mut self) -> &[Duration] {
        self.plan(STRETCH_MAX);
        &self.planned
    }

    /// The ends of the steps under way, counted from the begin of the first.
    #[must_use]
    pub fn planned(&self) -> &[Duration] {
        &self.planned
    }

    /// Sequences that decode a token each in every one of the steps under way, or of the last ones.
    #[must_use]
    pub const fn decoding(&self) -> u32 {
        self.decoding
    }

    /// Ends all the steps that were begun and appends the first and last tokens of jobs to
    /// `progress`; all of these came with the last of the steps. A job that runs on had one token
    /// with each step.
    pub fn finish_steps(&mut self, progress: &mut Vec<Progress>) {
        self.finish(progress, |token| token.last || token.generated == Tokens(1));
    }

    /// Queues a job `elapsed` after the steps under way were begun: those that could admit it and
    /// have not begun by then are taken back.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn submit_during(&mut self, job: Job, elapsed: Duration) -> Result<(), Refusal> {
        let is_open = self.batch.is_open();
        self.queue(job, elapsed)?;
        if is_open {
            self.cut(elapsed, self.profile.steps_ahead as usize);
        }
        Ok(())
    }

    /// Drops a job `elapsed` after the steps under way were begun, at the end of the one that is
    /// under way by then; those after it are taken back.
    pub fn abort_during(&mut self, id: RequestId, elapsed: Duration) {
        if self.live.contains(&id) {
            self.aborted.insert(id);
            self.cut(elapsed, 0);
        }
    }

    /// How many of the steps under way have ended `elapsed` after the first one began.
    fn ended(&self, elapsed: Duration) -> usize {
        let ended = self.planned.partition_point(|end| *end < elapsed);
        ended.min(self.planned.len().saturating_sub(1))
    }

    /// Takes back the steps that have not begun `elapsed` after the first one, but for the next
    /// `ahead` of them.
    fn cut(&mut self, elapsed: Duration, ahead: usize) {
        let kept = self.ended(elapsed).saturating_add(1).saturating_add(ahead);
        self.planned.truncate(kept);
    }

    /// Queues the jobs that came in time for the next step; all of them where `all`.
    fn queue_late(&mut self, all: bool) {
        let next = self.counters.steps;
        let in_time = |(_, step): &mut (Job, u64)| all || step.saturating_add(1) < next;
        while let Some((job, _)) = self.late.pop_front_if(in_time) {
            self.batch.push(job);
        }
    }

    /// Plans the next step and at most `most` like it.
    fn plan(&mut self, most: u32) {
        debug_assert!(self.planned.is_empty(), "a step begins before the last one is finished");
        self.planned.clear();
        self.apply_aborts();
        self.queue_late(false);
        let mut work = self.batch.schedule(&mut self.counters);
        if work.is_empty() && !self.late.is_empty() {
            self.queue_late(true);
            work = self.batch.schedule(&mut self.counters);
        }
        self.decoding = work.decodes;
        if work.is_empty() {
            debug_assert!(self.live.is_empty(), "jobs wait although nothing runs");
            return;
        }
        let is_single = most == 0 || !self.late.is_empty();
        let repeats = if is_single { 0 } else { self.batch.repeats(most) };
        let mut end = Duration::ZERO;
        for number in 0..=u64::from(repeats) {
            let step = self.profile.step.of(&work);
            let number = self.counters.steps.saturating_add(number);
            end = end.saturating_add(self.noise.map_or(step, |noise| noise.vary(step, number)));
            self.planned.push(end);
            work.context_tokens = work.context_tokens.saturating_add(u64::from(work.decodes));
        }
    }

    fn finish(&mut self, progress: &mut Vec<Progress>, wanted: impl Fn(&Progress) -> bool) {
        let Some(end) = self.planned.last().copied() else { return };
        let steps = u32::try_from(self.planned.len()).unwrap_or(u32::MAX);
        self.planned.clear();
        self.counters.steps = self.counters.steps.saturating_add(u64::from(steps));
        self.counters.busy = self.counters.busy.saturating_add(end);
        if steps > 1 {
            let tokens = self.batch.repeat(steps.saturating_sub(1));
            let generated = self.counters.generation_tokens;
            self.counters.generation_tokens = generated.saturating_add(tokens);
        }
        self.apply_aborts();
        let before = progress.len();
        self.batch.advance(progress, &mut self.counters, wanted);
        for token in progress.iter().skip(before).filter(|token| token.last) {
            self.live.remove(&token.id);
        }
    }

    /// What the engine says of its own load, in the first of the steps under way.
    #[must_use]
    pub fn load(&self) -> LoadReport {
        self.load_during(Duration::ZERO)
    }

    /// What the engine says of its own load `elapsed` after the steps under way were begun.
    #[must_use]
    pub fn load_during(&self, elapsed: Duration) -> LoadReport {
        let growth = match u32::try_from(self.ended(elapsed)).unwrap_or(u32::MAX) {
            0 => 0,
            steps => self.batch.growth(steps),
        };
        let held = u64::from(self.batch.kv.held()).saturating_add(growth);
        let capacity = self.batch.kv.capacity();
        let waiting = self.batch.waiting().saturating_add(self.late.len());
        LoadReport {
            running: u32::try_from(self.batch.running()).unwrap_or(u32::MAX),
            waiting: u32::try_from(waiting).unwrap_or(u32::MAX),
            kv_usage: held as f32 / capacity.max(1) as f32,
            preemptions: Some(u32::try_from(self.counters.preemptions).unwrap_or(u32::MAX)),
            preemptions_of_ended: None,
        }
    }

    /// Blocks that nobody holds; they may be cached.
    #[must_use]
    pub const fn kv_free(&self) -> Blocks {
        Blocks(self.batch.kv.free())
    }

    /// What the engine has done since it started.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Forgets every cached block; returns false, and does nothing, while a job holds any.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.batch.kv.clear()
    }

    /// Keeps a record of stored and removed blocks from now on, for
    /// [`drain_kv_events`](Self::drain_kv_events) or
    /// [`drain_kv_messages`](Self::drain_kv_messages); the record grows until it is drained.
    pub fn record_kv_events(&mut self) {
        self.batch.kv.record_events();
    }

    /// Hands over what was stored and removed since the last call, oldest first.
    pub fn drain_kv_events(&mut self) -> impl Iterator<Item = KvEvent> + '_ {
        self.batch.kv.drain_events()
    }

    /// Hands over what vLLM would have published since the last call; called after each step, it
    /// returns the events of one of vLLM's messages, in their order.
    pub fn drain_kv_messages(&mut self) -> Vec<KvMessage> {
        self.batch.kv.drain_messages()
    }

    /// Panics unless blocks and holders match.
    #[cfg(test)]
    pub(crate) fn batch_check(&self) {
        self.batch.check();
    }
}

#[cfg(test)]
mod tests;
