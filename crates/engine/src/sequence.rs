//! A job on its way through the engine.

use types::quantity::Tokens;

use crate::{
    job::{Job, Progress},
    kv_cache::{BlockNumber, KvCache},
};

/// A job, how far it is, and the blocks it holds.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) job: Job,
    /// Tokens generated so far.
    generated: u32,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: u32,
    /// Tokens that the step under way computes.
    pub(crate) scheduled: u32,
    /// Blocks held, in the order of the tokens.
    pub(crate) table: Vec<BlockNumber>,
    /// Leading blocks of the table that have their name.
    named: usize,
    /// Prompt tokens found in the cache when first scheduled.
    pub(crate) cached: Option<Tokens>,
}

impl Sequence {
    pub(crate) const fn new(job: Job) -> Self {
        Self {
            job,
            generated: 0,
            computed: 0,
            scheduled: 0,
            table: Vec::new(),
            named: 0,
            cached: None,
        }
    }

    /// Tokens known so far: the prompt and what was generated.
    pub(crate) const fn tokens(&self) -> u32 {
        self.job.prompt.0.saturating_add(self.generated)
    }

    /// Tokens known but not computed: one for a decode, more for a prefill.
    pub(crate) const fn missing(&self) -> u32 {
        self.tokens().saturating_sub(self.computed)
    }

    /// Whether the next step continues the answer instead of the prompt.
    pub(crate) const fn decodes(&self) -> bool {
        self.generated > 0 && self.missing() == 1
    }

    /// Takes the blocks that `new` more tokens need; takes nothing when the cache lacks room.
    pub(crate) fn grow(&mut self, kv: &mut KvCache, block: u32, new: u32) -> bool {
        let needed = self.computed.saturating_add(new).div_ceil(block);
        let held = u32::try_from(self.table.len()).unwrap_or(u32::MAX);
        let fresh = needed.saturating_sub(held);
        fresh == 0 || kv.take(&mut self.table, fresh)
    }

    /// Takes cached blocks for as much of the prompt as can be found, and empty ones for up to
    /// `budget` tokens after it; takes nothing when the cache lacks room for all that is known of
    /// the sequence (vLLM's `scheduler_reserve_full_isl`; the first chunk by
    /// [`Release::V0_11`](crate::Release::V0_11)). Returns the tokens to compute.
    ///
    /// At least the last token is always computed, because its output is what is asked for: a
    /// sequence of `L` tokens finds at most ⌊(L − 1) / block⌋ blocks.
    pub(crate) fn enter(&mut self, kv: &mut KvCache, block: u32, budget: u32) -> Option<u32> {
        let tokens = self.tokens();
        let findable = tokens.saturating_sub(1).checked_div(block).unwrap_or(0) as usize;
        let names = (0..findable).map(|index| self.job.name_of(index));
        let after = |hits: u32| {
            let hit = hits.saturating_mul(block);
            hit.saturating_add(tokens.saturating_sub(hit).min(budget))
        };
        let hits = kv.take_cached(
            &mut self.table,
            names,
            |hits| tokens.div_ceil(block).saturating_sub(hits),
            |hits| after(hits).div_ceil(block).saturating_sub(hits),
        )?;
        self.computed = hits.saturating_mul(block);
        self.named = hits as usize;
        self.cached.get_or_insert(Tokens(self.computed));
        Some(after(hits).saturating_sub(self.computed))
    }

    /// Plans `new` tokens for the step under way and names the blocks that it will fill.
    pub(crate) fn schedule(&mut self, kv: &mut KvCache, block: u32, new: u32) {
        self.scheduled = new;
        let full = self.computed.saturating_add(new).checked_div(block).unwrap_or(0) as usize;
        if full <= self.named {
            return;
        }
        let parent = self.named.checked_sub(1).map(|index| self.job.name_of(index));
        let filled = self.table.iter().enumerate().take(full).skip(self.named);
        kv.store(parent, filled.map(|(index, number)| (*number, self.job.name_of(index))));
        self.named = full;
    }

    /// Gives up its place: everything is to be computed again, or found in the cache.
    pub(crate) fn preempt(&mut self, kv: &mut KvCache) {
        kv.release(&mut self.table);
        self.computed = 0;
        self.named = 0;
    }

    /// Ends the step: what was scheduled is computed, and a sequence without missing tokens has
    /// its next one.
    pub(crate) fn advance(&mut self) -> Option<Progress> {
        let new = std::mem::take(&mut self.scheduled);
        self.computed = self.computed.saturating_add(new);
        if new == 0 || self.missing() > 0 {
            return None;
        }
        self.generated = self.generated.saturating_add(1);
        Some(Progress {
            id: self.job.id,
            generated: Tokens(self.generated),
            cached: self.cached.unwrap_or_default(),
            last: self.generated >= self.job.output.0,
        })
    }
}
