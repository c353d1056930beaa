//! One emulated replica: takes jobs, plans steps, hands out tokens.

use std::time::Duration;

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
    stepping: bool,
    counters: Counters,
}

/// What an engine has done since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps begun.
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
        Ok(Self {
            batch: Batch::new(&profile),
            profile,
            live: FxHashSet::default(),
            aborted: FxHashSet::default(),
            stepping: false,
            counters: Counters::default(),
        })
    }

    /// The model, GPU and limits that the engine runs with.
    #[must_use]
    pub const fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Queues a job.
    ///
    /// # Errors
    ///
    /// The job could never run here; see [`Refusal`].
    pub fn submit(&mut self, job: Job) -> Result<(), Refusal> {
        self.check(&job)?;
        if !self.live.insert(job.id) {
            return Err(Refusal::Duplicate { id: job.id });
        }
        self.batch.push(job);
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
        if self.live.contains(&id) {
            self.aborted.insert(id);
        }
    }

    fn apply_aborts(&mut self) {
        if self.aborted.is_empty() {
            return;
        }
        let aborted = std::mem::take(&mut self.aborted);
        self.batch.remove(|id| aborted.contains(&id));
        for id in &aborted {
            self.live.remove(id);
        }
        self.counters.aborted = self.counters.aborted.saturating_add(aborted.len() as u64);
    }

    /// Plans the next step and returns how long it takes; `None` when there is nothing to do.
    pub fn begin_step(&mut self) -> Option<Duration> {
        debug_assert!(!self.stepping, "a step begins before the last one is finished");
        self.apply_aborts();
        let work = self.batch.schedule(&mut self.counters);
        if work.is_empty() {
            debug_assert!(self.live.is_empty(), "jobs wait although nothing runs");
            return None;
        }
        let duration = self.profile.step.of(&work);
        self.stepping = true;
        self.counters.steps = self.counters.steps.saturating_add(1);
        self.counters.busy = self.counters.busy.saturating_add(duration);
        Some(duration)
    }

    /// Ends the step that was begun and appends the tokens it brought to `progress`.
    pub fn finish_step(&mut self, progress: &mut Vec<Progress>) {
        self.stepping = false;
        self.apply_aborts();
        let before = progress.len();
        self.batch.advance(progress, &mut self.counters);
        for token in progress.iter().skip(before).filter(|token| token.last) {
            self.live.remove(&token.id);
        }
    }

    /// What the engine says of its own load.
    #[must_use]
    pub fn load(&self) -> LoadReport {
        let (held, capacity) = (self.batch.kv.held(), self.batch.kv.capacity());
        LoadReport {
            running: u32::try_from(self.batch.running()).unwrap_or(u32::MAX),
            waiting: u32::try_from(self.batch.waiting()).unwrap_or(u32::MAX),
            kv_usage: held as f32 / capacity.max(1) as f32,
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
}

#[cfg(test)]
mod tests;
