//! Who runs in a step: continuous batching under a token budget, a seat limit and free KV blocks.
//!
//! A step first serves the running sequences in the order they were admitted: one token for each
//! that decodes, the next chunk for one whose prompt is not finished. What is left of the budget
//! admits waiting sequences, first come first served; the first that does not fit holds up the
//! others. When a running sequence needs a block and none is free, the one admitted last gives up
//! its blocks, goes to the head of the queue, and computes again what the cache forgot in the
//! meantime.

use std::collections::VecDeque;

use types::request::RequestId;

use crate::{
    engine::Counters,
    job::{Job, Progress},
    kv_cache::KvCache,
    profile::Profile,
    sequence::Sequence,
    step_time::StepWork,
};

/// The sequences of one engine and the blocks they hold.
#[derive(Debug)]
pub(crate) struct Batch {
    block: u32,
    tokens_max: u32,
    seats_max: usize,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    pub(crate) kv: KvCache,
}

impl Batch {
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            block: profile.block_size.0,
            tokens_max: profile.max_num_batched_tokens.0,
            seats_max: profile.max_num_seqs as usize,
            waiting: VecDeque::new(),
            running: Vec::new(),
            kv: KvCache::new(profile.kv_blocks().0, profile.release),
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) const fn running(&self) -> usize {
        self.running.len()
    }

    pub(crate) fn push(&mut self, job: Job) {
        self.waiting.push_back(Sequence::new(job));
    }

    /// Removes the sequences of which `gone` is true and frees their blocks.
    pub(crate) fn remove(&mut self, gone: impl Fn(RequestId) -> bool) {
        self.waiting.retain(|sequence| !gone(sequence.job.id));
        let kv = &mut self.kv;
        self.running.retain_mut(|sequence| {
            let gone = gone(sequence.job.id);
            if gone {
                kv.release(&mut sequence.table);
            }
            !gone
        });
    }

    /// Plans the next step.
    pub(crate) fn schedule(&mut self, counters: &mut Counters) -> StepWork {
        let mut work = StepWork::default();
        let mut budget = self.tokens_max;
        let preempted = self.schedule_running(&mut budget, &mut work);
        counters.preemptions = counters.preemptions.saturating_add(preempted);
        // Who just made room waits a step, as in vLLM; a chunk could else take its room back.
        if preempted == 0 {
            self.admit_waiting(&mut budget, &mut work, counters);
        }
        work
    }

    /// Plans the running sequences and returns how many had to make room.
    fn schedule_running(&mut self, budget: &mut u32, work: &mut StepWork) -> u64 {
        let mut preempted: u64 = 0;
        let mut index = 0;
        while *budget > 0
            && let Some(sequence) = self.running.get_mut(index)
        {
            let new = sequence.missing().min(*budget);
            if sequence.grow(&mut self.kv, self.block, new) {
                add(work, sequence, new);
                sequence.schedule(&mut self.kv, self.block, new);
                *budget = budget.saturating_sub(new);
                index = index.saturating_add(1);
            } else if let Some(mut last) = self.running.pop() {
                last.preempt(&mut self.kv);
                self.waiting.push_front(last);
                preempted = preempted.saturating_add(1);
            }
        }
        preempted
    }

    fn admit_waiting(&mut self, budget: &mut u32, work: &mut StepWork, counters: &mut Counters) {
        while *budget > 0
            && self.running.len() < self.seats_max
            && let Some(mut sequence) = self.waiting.pop_front()
        {
            let first = sequence.cached.is_none();
            let Some(new) = sequence.enter(&mut self.kv, self.block, *budget) else {
                self.waiting.push_front(sequence);
                return;
            };
            if first {
                counters.count_lookup(sequence.job.prompt, sequence.cached.unwrap_or_default());
            }
            add(work, &sequence, new);
            sequence.schedule(&mut self.kv, self.block, new);
            *budget = budget.saturating_sub(new);
            self.running.push(sequence);
        }
    }

    /// Ends the step and appends the tokens it brought to `progress`, in the order of admission.
    pub(crate) fn advance(&mut self, progress: &mut Vec<Progress>, counters: &mut Counters) {
        let kv = &mut self.kv;
        self.running.retain_mut(|sequence| {
            let Some(token) = sequence.advance() else { return true };
            counters.count_token(sequence.job.prompt, &token);
            progress.push(token);
            if token.last {
                kv.release(&mut sequence.table);
            }
            !token.last
        });
    }

    /// Panics unless blocks and holders match.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        assert!(self.waiting.iter().all(|sequence| sequence.table.is_empty()));
        assert!(self.running.len() <= self.seats_max);
        self.kv.check(self.running.iter().map(|sequence| sequence.table.as_slice()));
    }
}

fn add(work: &mut StepWork, sequence: &Sequence, new: u32) {
    if sequence.decodes() {
        work.add_decode(sequence.computed);
    } else {
        work.add_prefill(sequence.computed, new);
    }
}
