//! A job on its way through the engine.

use types::{block::BlockHash, quantity::Tokens, request::RequestId};

use crate::{
    job::{Job, Progress},
    kv_cache::{BlockNumber, KvCache},
};

/// A job, how far it is, and the blocks it holds.
///
/// What every step looks at lies together; the rest of the job is behind a pointer.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    /// Tokens of the prompt.
    prompt: u32,
    /// Tokens to generate.
    output: u32,
    /// Tokens generated so far.
    generated: u32,
    /// Tokens whose keys and values are in the cache.
    pub(crate) computed: u32,
    /// Tokens that the step under way computes.
    pub(crate) scheduled: u32,
    /// Tokens that the blocks of the table hold.
    room: u32,
    /// Leading blocks of the table that have their name.
    named: u32,
    /// Prompt tokens found in the cache when first scheduled.
    pub(crate) cached: Option<Tokens>,
    /// Blocks held, in the order of the tokens.
    pub(crate) table: Vec<BlockNumber>,
    pub(crate) job: Box<Job>,
}

impl Sequence {
    pub(crate) fn new(job: Job) -> Self {
        Self {
            id: job.id,
            prompt: job.prompt.0,
            output: job.output.0,
            generated: 0,
            computed: 0,
            scheduled: 0,
            room: 0,
            named: 0,
            cached: None,
            table: Vec::new(),
            job: Box::new(job),
        }
    }

    pub(crate) const fn prompt(&self) -> Tokens {
        Tokens(self.prompt)
    }

    /// Tokens known so far: the prompt and what was generated.
    pub(crate) const fn tokens(&self) -> u32 {
        self.prompt.saturating_add(self.generated)
    }

    /// Tokens known but not computed: one for a decode, more for a prefill.
    pub(crate) const fn missing(&self) -> u32 {
        self.tokens().saturating_sub(self.computed)
    }

    /// Whether the next step continues the answer instead of the prompt.
    pub(crate) const fn decodes(&self) -> bool {
        self.generated > 0 && self.missing() == 1
    }

    /// Tokens still to be generated.
    pub(crate) const fn remaining(&self) -> u32 {
        self.output.saturating_sub(self.generated)
    }

    /// Takes the blocks that `new` more tokens need; takes nothing when the cache lacks room.
    #[inline]
    pub(crate) fn grow(&mut self, kv: &mut KvCache, block: u32, new: u32) -> bool {
        let fresh = self.growth(block, new);
        if fresh == 0 {
            return true;
        }
        let has_room = kv.take(&mut self.table, fresh);
        if has_room {
            self.room = self.room.saturating_add(fresh.saturating_mul(block));
        }
        has_room
    }

    /// Blocks that `new` more tokens need beside those of the table.
    pub(crate) fn growth(&self, block: u32, new: u32) -> u32 {
        let beyond = self.computed.saturating_add(new).saturating_sub(self.room);
        if beyond == 0 { 0 } else { beyond.div_ceil(block) }
    }

    /// Steps of one token each until one needs an empty block, and until one fills a block, that
    /// step included.
    pub(crate) const fn needs(&self, block: u32) -> (u32, u32) {
        let full = self.named.saturating_add(1).saturating_mul(block);
        let empty = self.room.saturating_add(1);
        (empty.saturating_sub(self.computed), full.saturating_sub(self.computed))
    }

    /// Takes cached blocks for as much of the prompt as can be found, and empty ones for up to
    /// `budget` tokens after it; takes nothing when the cache lacks room for all that is known of
    /// the sequence (vLLM's `scheduler_reserve_full_isl`; the first chunk by
    /// [`Release::V0_11`](crate::Release::V0_11)). Returns the tokens to compute.
    ///
    /// At least the last token is always computed, because its output is what is asked for: a
    /// sequence of `L` tokens finds at most ⌊(L − 1) / block⌋ blocks.
    ///
    /// # Errors
    ///
    /// There is no room; the error is the first name that was not found, if any was not.
    pub(crate) fn enter(
        &mut self,
        kv: &mut KvCache,
        block: u32,
        budget: u32,
    ) -> Result<u32, Option<BlockHash>> {
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
        );
        let hits = hits.map_err(|hits| {
            let missing = hits as usize;
            (missing < findable).then(|| self.job.name_of(missing))
        })?;
        self.computed = hits.saturating_mul(block);
        self.named = hits;
        self.room = after(hits).div_ceil(block).saturating_mul(block);
        self.cached.get_or_insert(Tokens(self.computed));
        Ok(after(hits).saturating_sub(self.computed))
    }

    /// Plans `new` tokens for the step under way and names the blocks that it will fill.
    #[inline]
    pub(crate) fn schedule(&mut self, kv: &mut KvCache, block: u32, new: u32) {
        self.scheduled = new;
        let then = self.computed.saturating_add(new);
        if then >= self.named.saturating_add(1).saturating_mul(block) {
            self.name_until(kv, block, then);
        }
    }

    /// Names the blocks that are full with `then` tokens.
    fn name_until(&mut self, kv: &mut KvCache, block: u32, then: u32) {
        let (named, full) = (self.named as usize, then.checked_div(block).unwrap_or(0));
        let filled = self.table.iter().enumerate().take(full as usize).skip(named);
        kv.store(self.parent(), filled.map(|(index, number)| (*number, self.job.name_of(index))));
        self.named = full;
    }

    /// The name of the last block that has one.
    fn parent(&self) -> Option<BlockHash> {
        let last = self.named.checked_sub(1)?;
        Some(self.job.name_of(last as usize))
    }

    /// Takes one empty block, which there must be.
    pub(crate) fn take_next(&mut self, kv: &mut KvCache, block: u32) {
        let has_room = kv.take(&mut self.table, 1);
        debug_assert!(has_room, "a repeated step lacks room");
        self.room = self.room.saturating_add(block);
    }

    /// Names the first block without a name, which is full.
    pub(crate) fn name_next(&mut self, kv: &mut KvCache) {
        let index = self.named as usize;
        if let Some(number) = self.table.get(index) {
            kv.store(self.parent(), std::iter::once((*number, self.job.name_of(index))));
            self.named = self.named.saturating_add(1);
        }
    }

    /// Decodes `steps` tokens, none of them the last.
    pub(crate) const fn decode(&mut self, steps: u32) {
        self.computed = self.computed.saturating_add(steps);
        self.generated = self.generated.saturating_add(steps);
    }

    /// Gives up its place: everything is to be computed again, or found in the cache.
    pub(crate) fn preempt(&mut self, kv: &mut KvCache) {
        kv.release(&mut self.table);
        self.computed = 0;
        self.named = 0;
        self.room = 0;
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
            id: self.id,
            generated: Tokens(self.generated),
            cached: self.cached.unwrap_or_default(),
            last: self.generated >= self.output,
        })
    }
}
