//! Which replica holds which prompt prefix.
//!
//! Blocks are filed by their chained hashes, in short runs, each with the set of replicas believed to
//! hold it. The index is *prefix-closed*: who holds a block holds every block before it. Two things keep
//! it so: a chain is refreshed from its last run to its first, so a run is never fresher than what it
//! continues, and only the stalest run of all is ever evicted. Closure is what makes a look-up cheap:
//! along a prompt the set of holders only shrinks, run by run.
//!
//! Memory is claimed once, from a budget in bytes, and never grows: 96 bytes a run of up to eight blocks,
//! for up to 64 replicas (64 for the blocks, 16 for recency, length and whose it is, 8 for the holders, 8
//! for the table at half load). Long prompts take 12 bytes a block; one of a single block takes a run.
//! Pages that were never written cost nothing.
//!
//! Tenants have a *part* each. When room is needed the fullest part gives it, so that a flood of one
//! tenant's prompts evicts that tenant's own. Chains that share a block share a part, or one could lose
//! a block that the other's continue from.

mod horizon;
mod runs;
pub(crate) mod slots;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use types::{block::BlockHash, request::TenantId};

pub use self::slots::Slot;
use self::{
    horizon::Horizons,
    runs::{Filing, RUN, Runs},
    slots::Slots,
};

/// Blocks of one prompt that are looked at, at most: half a million tokens at the default block.
///
/// Bounds the time the dispatcher is held for one request.
pub const DEPTH_MAX: usize = 8_192;

/// Runs cleared of departed replicas with each insertion.
const SWEEP_STEP: usize = 64;

/// Chains after which it is looked anew which part is the fullest.
const FULLEST_EVERY: u32 = 16;

/// Maps prompt prefixes to the replicas believed to hold them.
#[derive(Debug)]
pub struct PrefixIndex {
    bytes_max: usize,
    words: usize,
    runs: Runs,
    clock: u32,
    horizons: Horizons,
    slots: Slots,
    sweep: Sweep,
    /// The runs along the chain that is being filed. Reused between chains.
    path: Vec<Step>,
    /// Counts whatever may give a chain other runs.
    changes: u64,
}

/// A run along a chain that is being filed.
#[derive(Clone, Copy, Debug)]
struct Step {
    run: u32,
    /// How many of its blocks are the chain's.
    shared: usize,
    /// When it was last used before.
    used: u32,
}

/// Runs still to be cleared of departed replicas. Runs added since the last departure are not among
/// them: they never named one that had left.
#[derive(Clone, Copy, Debug, Default)]
struct Sweep {
    next: usize,
    end: usize,
}

/// For each replica, how many leading blocks of one prompt it holds. Reused between look-ups.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    depth: Vec<u32>,
    /// Who holds all blocks up to the point reached.
    current: Vec<u64>,
    /// The index of a slot that holds no fewer than any other.
    deepest: Option<usize>,
    /// The runs along the prompt, whoever holds them, each with how many of its blocks are the prompt's.
    path: Vec<Step>,
    /// Which prompt that was, and in which state of the index.
    of: Option<(u64, BlockHash, usize)>,
}

impl Hits {
    /// Leading blocks held by the replica filed under `slot`.
    #[must_use]
    pub fn of(&self, slot: Slot) -> u32 {
        self.depth.get(slot.index()).copied().unwrap_or_default()
    }

    /// The index of a slot that holds no fewer than any other, where one holds any.
    pub(crate) const fn deepest(&self) -> Option<usize> {
        self.deepest
    }

    /// The runs along a chain, where it was looked up last and the index has not changed since. The last
    /// block's hash names all before it.
    fn path_of(&self, changes: u64, blocks: &[BlockHash]) -> Option<&[Step]> {
        let of = (changes, *blocks.last()?, blocks.len());
        (self.of == Some(of)).then_some(&self.path)
    }

    /// Begins a look-up for the replicas `live`.
    fn reset(&mut self, live: &[u64]) {
        self.path.clear();
        self.deepest = None;
        self.depth.clear();
        self.depth.resize(live.len() * 64, 0);
        self.current.clear();
        self.current.extend(live);
    }

    /// Notes that of those who held what came before only some hold the next run, which begins at
    /// `depth`. Returns whether anybody does.
    fn narrow(&mut self, depth: u32, next: impl Iterator<Item = u64>) -> bool {
        let mut any = 0;
        for (word, ((current, next), depths)) in
            self.current.iter_mut().zip(next).zip(self.depth.chunks_mut(64)).enumerate()
        {
            let gone = *current & !next;
            *current &= next;
            any |= *current;
            // Who holds nothing is known to have a depth of zero.
            let left = if depth == 0 { 0 } else { gone };
            for bit in bits(left) {
                if let Some(place) = depths.get_mut(bit) {
                    *place = depth;
                    self.deepest = Some(word * 64 + bit);
                }
            }
        }
        any != 0
    }
}

impl PrefixIndex {
    /// An empty index of at most `bytes_max` bytes with room for `replicas` replicas at first.
    #[must_use]
    pub fn new(bytes_max: usize, replicas: usize) -> Self {
        let words = replicas.div_ceil(64).max(1);
        Self {
            bytes_max,
            words,
            runs: Runs::new(bytes_max, words),
            clock: 0,
            horizons: Horizons::new(words),
            slots: Slots::new(words),
            sweep: Sweep::default(),
            path: Vec::new(),
            changes: 0,
        }
    }

    /// Claims the whole budget anew, forgetting every block.
    fn claim(&mut self) {
        // The old memory goes before the new is claimed, so that the budget holds in between too.
        self.runs = Runs::default();
        self.runs = Runs::new(self.bytes_max, self.words);
        self.horizons.begin_anew(self.words);
        self.changes = self.changes.wrapping_add(1);
        self.sweep = Sweep::default();
        self.slots.swept();
    }

    /// Memory claimed, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.runs.bytes()
    }

    /// Blocks known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.blocks()
    }

    /// Whether no block is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Blocks that the budget has room for, were all prompts long.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.runs.capacity().saturating_mul(RUN)
    }

    /// Whether what comes next takes the room of something else.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.runs.capacity() <= self.runs.len()
    }

    /// Gives a joining replica a slot to be filed under.
    ///
    /// When all are taken the index starts anew with twice the room: rare, and cheaper to relearn
    /// than to carry two indexes at once.
    pub fn join(&mut self) -> Slot {
        let slot = self.take_slot();
        self.horizons.reset(slot);
        slot
    }

    fn take_slot(&mut self) -> Slot {
        if let Some(slot) = self.slots.take() {
            return slot;
        }
        if self.slots.any_dead() {
            self.sweep_some(self.sweep.end);
        } else {
            self.words *= 2;
            self.slots.widen(self.words);
            self.claim();
        }
        self.slots.take().unwrap_or_default()
    }

    /// Learns how many blocks the cache of the replica filed under `slot` has room for.
    pub fn bound(&mut self, slot: Slot, blocks: u32) {
        self.horizons.bound(slot, blocks);
    }

    /// Learns that the replica filed under `slot` lacks what it last used at `stamp`, and so all that
    /// it last used before.
    pub fn lacks(&mut self, slot: Slot, stamp: u32) {
        self.horizons.gone(slot, stamp);
    }

    /// Forgets what the replica filed under `slot` holds, and frees the slot.
    pub fn leave(&mut self, slot: Slot) {
        self.slots.retire(slot);
        self.sweep = Sweep { next: 0, end: self.runs.len() };
        if self.is_empty() {
            self.slots.swept();
        }
    }

    /// Finds how many leading blocks of a prompt each replica holds.
    pub fn hits(&self, blocks: &[BlockHash], hits: &mut Hits) {
        hits.reset(self.slots.live());
        let blocks = blocks.get(..DEPTH_MAX).unwrap_or(blocks);
        hits.of = blocks.last().map(|last| (self.changes, *last, blocks.len()));
        let mut depth = 0_u32;
        let mut is_held = true;
        let mut path = std::mem::take(&mut hits.path);
        self.runs.along(blocks, |run, shared| path.push(Step { run, shared, used: 0 }));
        for step in &path {
            is_held = is_held && hits.narrow(depth, self.holders(step.run));
            depth = depth.saturating_add(u32::try_from(step.shared).unwrap_or(u32::MAX));
        }
        if is_held {
            hits.narrow(depth, std::iter::repeat(0));
        }
        hits.path = path;
    }

    /// The replicas that still hold a run, as words of a set; some may have left the fleet.
    fn holders(&self, run: u32) -> impl Iterator<Item = u64> + '_ {
        let stamp = self.runs.stamp(run);
        let holders = self.runs.holders(run).iter().enumerate();
        holders.map(move |(word, held)| held & self.horizons.reaching(word, stamp))
    }

    /// Records that the replica filed under `slot` holds `blocks`, a chain from its first block on,
    /// and that they were used just now.
    pub fn insert(&mut self, slot: Slot, blocks: &[BlockHash]) {
        self.insert_for(slot, TenantId::NONE, blocks);
    }

    /// As [`Self::insert`], at the expense of `tenant`. Returns when the last of those blocks was used
    /// that the replica held before, if it held any.
    pub fn insert_for(
        &mut self,
        slot: Slot,
        tenant: TenantId,
        blocks: &[BlockHash],
    ) -> Option<u32> {
        self.insert_found(slot, tenant, blocks, &Hits::default())
    }

    /// As [`Self::insert_for`], and quicker where `hits` are those of the blocks.
    pub fn insert_found(
        &mut self,
        slot: Slot,
        tenant: TenantId,
        blocks: &[BlockHash],
        hits: &Hits,
    ) -> Option<u32> {
        let blocks = blocks.get(..DEPTH_MAX).unwrap_or(blocks);
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        match hits.path_of(self.changes, blocks) {
            Some(found) => path.extend(found),
            None => self.runs.along(blocks, |run, shared| path.push(Step { run, shared, used: 0 })),
        }
        self.changes = self.changes.wrapping_add(1);
        if self.clock.is_multiple_of(FULLEST_EVERY) {
            self.runs.find_fullest();
        }
        self.clock = self.clock.saturating_add(1);
        let last_used = self.refresh(slot, &mut path);
        let new = self.file(slot, tenant, blocks, &path);
        self.path = path;
        self.horizons.came(slot, self.clock, new);
        self.sweep_some(SWEEP_STEP);
        last_used
    }

    /// Makes the runs of `path` the newest, the first of them the newest of all. Returns when the last
    /// of them was used that the replica holds.
    fn refresh(&mut self, slot: Slot, path: &mut [Step]) -> Option<u32> {
        let mut last_used = None;
        for step in path.iter_mut().rev() {
            step.used = self.runs.touch(step.run, self.clock);
            self.drop_lost(step.run, step.used);
            if last_used.is_none() && self.is_marked(step.run, slot) {
                last_used = Some(step.used);
            }
        }
        last_used
    }

    /// Takes from a run that was last used at `stamp` the replicas that have lost it since, and those
    /// that have left: a part of it that is cut off must not name them where the sweep has been.
    fn drop_lost(&mut self, run: u32, stamp: u32) {
        let live = self.slots.live();
        for (index, (word, live)) in self.runs.holders_mut(run).iter_mut().zip(live).enumerate() {
            *word &= live & self.horizons.reaching(index, stamp);
        }
    }

    /// Marks the replica as a holder of a chain of which `path` is known, and adds what is not.
    /// Returns how many of its blocks the replica did not hold.
    fn file(&mut self, slot: Slot, tenant: TenantId, blocks: &[BlockHash], path: &[Step]) -> u32 {
        let [low, ..] = tenant.0.to_le_bytes();
        let part = path.first().and_then(|it| self.runs.part(it.run)).unwrap_or(low);
        let mut filing = Filing { stamp: self.clock, part, own: path.len() };
        let (mut new, mut known) = (0_usize, 0_usize);
        for step in path {
            if !self.is_marked(step.run, slot) {
                let mut rest = Filing { stamp: step.used, ..filing };
                // It holds no more of the run than the chain has. Without room it holds none of it.
                if !self.runs.cut(&mut rest, step.run, step.shared) {
                    return u32::try_from(new).unwrap_or(u32::MAX);
                }
                filing.own = rest.own;
                self.mark(step.run, slot);
                new = new.saturating_add(step.shared);
            }
            known = known.saturating_add(step.shared);
        }
        let mut rest = blocks.get(known..).unwrap_or_default();
        let mut last = path.last().map(|it| it.run);
        let open = path.last().filter(|it| it.shared == self.runs.blocks_of(it.run).len());
        if let Some(step) = open.filter(|it| self.is_marked_alone(it.run, slot)) {
            let added = self.runs.append(step.run, rest);
            rest = rest.get(added..).unwrap_or_default();
            new = new.saturating_add(added);
        }
        self.runs.foresee(rest);
        for piece in rest.chunks(RUN) {
            let Some(run) = self.runs.add(&mut filing, last, piece) else { break };
            self.mark(run, slot);
            new = new.saturating_add(piece.len());
            last = Some(run);
        }
        u32::try_from(new).unwrap_or(u32::MAX)
    }

    fn is_marked(&self, run: u32, slot: Slot) -> bool {
        self.runs.holders(run).get(slot.word()).is_some_and(|it| it & slot.bit() != 0)
    }

    /// Whether nobody but the replica is marked as a holder of a run.
    fn is_marked_alone(&self, run: u32, slot: Slot) -> bool {
        let others = |(at, word): (usize, &u64)| {
            if at == slot.word() { word & !slot.bit() } else { *word }
        };
        self.is_marked(run, slot)
            && self.runs.holders(run).iter().enumerate().all(|it| others(it) == 0)
    }

    fn mark(&mut self, run: u32, slot: Slot) {
        if let Some(word) = self.runs.holders_mut(run).get_mut(slot.word()) {
            *word |= slot.bit();
        }
    }

    /// Clears departed replicas from the next `count` runs, so that no pause grows with the index; a
    /// slot is free again once every run has been cleared of it.
    fn sweep_some(&mut self, count: usize) {
        let end = self.sweep.end.min(self.sweep.next.saturating_add(count));
        if self.sweep.next == end {
            return;
        }
        let swept = self.runs.holders_of(self.sweep.next, end);
        for words in swept.chunks_mut(self.words) {
            for (word, live) in words.iter_mut().zip(self.slots.live()) {
                *word &= live;
            }
        }
        self.sweep.next = end;
        if end == self.sweep.end {
            self.slots.swept();
        }
    }
}

/// The positions of the bits that are set, lowest first.
fn bits(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let rest = word.checked_sub(1)?;
        let lowest = word.trailing_zeros() as usize;
        word &= rest;
        Some(lowest)
    })
}
