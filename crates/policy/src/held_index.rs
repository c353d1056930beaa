//! Which replica holds which blocks, by the word of its engine.
//!
//! The other index believes that what was sent is held; this one is told what was stored and what
//! was evicted, so nothing in it grows stale and nothing is guessed. It is *prefix-closed* too: a
//! block is taken only where the one before it is held, and whoever tells of evictions takes back
//! what follows a block before the block. Closure is what makes a look-up a bisection.
//!
//! Memory is claimed when the first engine is followed, from a budget in bytes, and never grows: 24
//! bytes a block for up to 64 replicas (8 for its hash, 8 for the holders, 8 for the table at half
//! load). When it is full, blocks are turned away: a hit is then underestimated, never invented.

#[cfg(test)]
mod tests;

use types::block::BlockHash;

use crate::prefix_index::{DEPTH_MAX, Slot, slots::Slots, table::Table};

/// Blocks cleared of departed replicas with each batch of events.
const SWEEP_STEP: usize = 256;

/// Ends the list of free nodes.
const NIL: u32 = u32::MAX;

/// Maps blocks to the replicas that hold them.
#[derive(Debug)]
pub struct HeldIndex {
    bytes_max: usize,
    capacity: usize,
    /// The block of each node; of a free node, the number of the next free one.
    blocks: Vec<BlockHash>,
    /// `words` words of holders for each node; none for a free one.
    holders: Vec<u64>,
    words: usize,
    table: Table,
    free: u32,
    known: usize,
    slots: Slots,
    /// Nodes still to be cleared of departed replicas: from the first number to the second.
    sweep: (usize, usize),
    refused: u64,
}

/// For each replica, how many leading blocks of one prompt it holds. Reused between look-ups.
#[derive(Clone, Debug, Default)]
pub struct Depths {
    of: Vec<u32>,
    current: Vec<u64>,
}

impl Depths {
    /// Leading blocks held by the replica filed under `slot`.
    #[must_use]
    pub fn of(&self, slot: Slot) -> u32 {
        self.of.get(slot.index()).copied().unwrap_or_default()
    }
}

impl HeldIndex {
    /// An empty index of at most `bytes_max` bytes for at most as many replicas as fill the words
    /// that `replicas` begin: 64, 128 and so on.
    #[must_use]
    pub fn new(bytes_max: usize, replicas: usize) -> Self {
        let words = replicas.div_ceil(64).max(1);
        Self {
            bytes_max,
            capacity: 0,
            blocks: Vec::new(),
            holders: Vec::new(),
            words,
            table: Table::default(),
            free: NIL,
            known: 0,
            slots: Slots::new(words),
            sweep: (0, 0),
            refused: 0,
        }
    }

    /// Bytes of memory one block takes when sets of holders have `words` words.
    const fn block_bytes(words: usize) -> usize {
        size_of::<BlockHash>() + words * size_of::<u64>() + Table::BYTES_PER_ENTRY
    }

    fn claim(&mut self) {
        self.capacity = (self.bytes_max / Self::block_bytes(self.words)).min(NIL as usize - 1);
        self.blocks.reserve_exact(self.capacity);
        self.holders.reserve_exact(self.capacity * self.words);
        self.table = Table::with_capacity(self.capacity);
    }

    /// Memory claimed, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.blocks.capacity() * size_of::<BlockHash>()
            + self.holders.capacity() * size_of::<u64>()
            + self.table.bytes()
    }

    /// Blocks known.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.known
    }

    /// Whether no block is known.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.known == 0
    }

    /// Most blocks there is room for; nought until the first replica is followed.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks turned away so far, for want of room or because the one before was not held.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Gives a replica whose engine is followed a slot to be filed under, unless all are taken.
    pub fn join(&mut self) -> Option<Slot> {
        if self.capacity == 0 {
            self.claim();
        }
        let slot = self.slots.take();
        if slot.is_some() || !self.slots.any_dead() {
            return slot;
        }
        self.sweep_some(usize::MAX);
        self.slots.take()
    }

    /// Forgets what the replica filed under `slot` holds, and frees the slot.
    pub fn leave(&mut self, slot: Slot) {
        self.slots.retire(slot);
        self.sweep = (0, self.blocks.len());
        if self.blocks.is_empty() {
            self.slots.swept();
        }
    }

    /// Records that a replica holds `blocks`, a chain that follows `parent`; nothing where it does
    /// not hold the parent.
    pub fn store(&mut self, slot: Slot, parent: Option<BlockHash>, blocks: &[BlockHash]) {
        self.sweep_some(SWEEP_STEP);
        let mut left = blocks.iter();
        if parent.is_none_or(|it| self.is_held_by(slot, it)) {
            for &block in left.by_ref() {
                let Some(node) = self.find(block).or_else(|| self.add(block)) else {
                    self.refused = self.refused.saturating_add(1);
                    break;
                };
                if let Some(word) = self.holders.get_mut(node as usize * self.words + slot.word()) {
                    *word |= slot.bit();
                }
            }
        }
        self.refused = self.refused.saturating_add(left.len() as u64);
    }

    /// Records that a replica no longer holds `block`.
    pub fn remove(&mut self, slot: Slot, block: BlockHash) {
        let Some(node) = self.find(block) else { return };
        if let Some(word) = self.holders.get_mut(node as usize * self.words + slot.word()) {
            *word &= !slot.bit();
        }
        self.release_unheld(node);
    }

    /// Finds how many leading blocks of a prompt each replica holds.
    pub fn hits(&self, blocks: &[BlockHash], depths: &mut Depths) {
        depths.of.clear();
        depths.of.resize(self.words * 64, 0);
        let blocks = blocks.get(..DEPTH_MAX).unwrap_or(blocks);
        let depth = blocks.partition_point(|it| self.held(*it).any(|word| word != 0));
        let mut from = 0;
        while let Some(block) = blocks.get(from).filter(|_| from < depth) {
            depths.current.clear();
            depths.current.extend(self.held(*block));
            from = self.end_of_run(blocks, from, depth, &depths.current);
            let next = blocks.get(from).filter(|_| from < depth);
            for (word, current) in depths.current.iter().enumerate() {
                let still = next.map_or(0, |it| self.held(*it).nth(word).unwrap_or_default());
                let mut gone = current & !still;
                while gone != 0 {
                    let lane = word * 64 + gone.trailing_zeros() as usize;
                    if let Some(depth) = depths.of.get_mut(lane) {
                        *depth = u32::try_from(from).unwrap_or(u32::MAX);
                    }
                    gone &= gone - 1;
                }
            }
        }
    }

    /// The first block from `from` on, before `depth`, that others hold than `set`, which holds the
    /// one at `from`: sets only shrink, so a doubling search and then a bisection find it.
    fn end_of_run(&self, blocks: &[BlockHash], from: usize, depth: usize, set: &[u64]) -> usize {
        let same =
            |at: usize| blocks.get(at).is_some_and(|it| self.held(*it).eq(set.iter().copied()));
        let (mut low, mut step) = (from, 1);
        while low + step < depth && same(low + step) {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(depth);
        while low + 1 < high {
            let middle = low + (high - low) / 2;
            if same(middle) { low = middle } else { high = middle }
        }
        high
    }

    fn is_held_by(&self, slot: Slot, block: BlockHash) -> bool {
        self.held(block).nth(slot.word()).is_some_and(|word| word & slot.bit() != 0)
    }

    /// The replicas still followed that hold a block, as words of a set.
    fn held(&self, block: BlockHash) -> impl Iterator<Item = u64> + '_ {
        let at = self.find(block).map(|it| it as usize * self.words);
        let words = at.and_then(|at| self.holders.get(at..at + self.words)).unwrap_or(&[]);
        let live = self.slots.live();
        (0..self.words).map(move |word| {
            let of = |it: &[u64]| it.get(word).copied().unwrap_or_default();
            of(words) & of(live)
        })
    }

    fn find(&self, block: BlockHash) -> Option<u32> {
        self.table.find(block, |node| self.block_of(node) == block)
    }

    fn block_of(&self, node: u32) -> BlockHash {
        self.blocks.get(node as usize).copied().unwrap_or(BlockHash(0))
    }

    /// A node for `block`; none where there is no room.
    fn add(&mut self, block: BlockHash) -> Option<u32> {
        let node = if self.free != NIL {
            let node = self.free;
            let place = self.blocks.get_mut(node as usize)?;
            self.free = u32::try_from(place.0).unwrap_or(NIL);
            *place = block;
            node
        } else if self.blocks.len() < self.capacity {
            let node = u32::try_from(self.blocks.len()).ok()?;
            self.blocks.push(block);
            self.holders.extend(std::iter::repeat_n(0, self.words));
            node
        } else {
            return None;
        };
        self.known += 1;
        self.table.insert(block, node);
        Some(node)
    }

    /// Frees a node that nobody holds.
    fn release_unheld(&mut self, node: u32) {
        let at = node as usize * self.words;
        if self.holders.get(at..at + self.words).is_none_or(|it| it.iter().any(|it| *it != 0)) {
            return;
        }
        let (block, blocks) = (self.block_of(node), &self.blocks);
        self.table
            .remove(block, node, |it| blocks.get(it as usize).copied().unwrap_or(BlockHash(0)));
        if let Some(place) = self.blocks.get_mut(node as usize) {
            *place = BlockHash(self.free.into());
        }
        self.free = node;
        self.known -= 1;
    }

    /// Clears departed replicas from the next `count` nodes, so that no pause grows with the index;
    /// a slot is free again once every node has been cleared of it.
    fn sweep_some(&mut self, count: usize) {
        let (next, end) = self.sweep;
        if next == end {
            return;
        }
        let until = end.min(next.saturating_add(count));
        for node in next..until {
            let swept = node * self.words..(node + 1) * self.words;
            let mut was_held = false;
            for (word, live) in
                self.holders.get_mut(swept).into_iter().flatten().zip(self.slots.live())
            {
                was_held |= *word != 0;
                *word &= live;
            }
            if was_held {
                self.release_unheld(u32::try_from(node).unwrap_or(NIL));
            }
        }
        self.sweep = (until, end);
        if until == end {
            self.slots.swept();
        }
    }
}
