//! Which replica holds which prompt prefix.
//!
//! Blocks are filed by their chained hash, each with the set of replicas believed to hold it. The
//! index is *prefix-closed*: who holds a block holds every block before it. Two things keep it so:
//! a chain is filed and refreshed from its last block to its first, so a block is never fresher
//! than its parent, and only the stalest block of all is ever evicted. Closure is what makes a
//! look-up cheap: along a prompt the set of holders only shrinks, so the points where it does are
//! found by bisection instead of a walk.
//!
//! Memory is claimed once, from a budget in bytes, and never grows: 37 bytes a block for up to 64
//! replicas (16 for hash and recency, 8 for the holders, 8 for the table at half load, 4 for when it
//! was last used, 1 for whose it is). Pages that were never written cost nothing.
//!
//! Tenants have a *part* each. When room is needed the fullest part gives it, so that a flood of one
//! tenant's prompts evicts that tenant's own. Chains that share a block share a part, or one could lose
//! a block that the other's continue from.

mod horizon;
pub(crate) mod slots;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use types::{block::BlockHash, request::TenantId};

pub use self::slots::Slot;
use self::{horizon::Horizons, slots::Slots, table::Table};

/// Blocks of one prompt that are looked at, at most: half a million tokens at the default block.
///
/// Bounds the time the dispatcher is held for one request.
pub const DEPTH_MAX: usize = 8_192;

/// Blocks cleared of departed replicas with each insertion.
const SWEEP_STEP: usize = 64;

/// Parts, among which tenants are spread by their hashes.
const PARTS: usize = 256;

/// Chains after which it is looked anew which part is the fullest.
const FULLEST_EVERY: u32 = 16;

const NIL: u32 = u32::MAX;

/// Maps prompt prefixes to the replicas believed to hold them.
#[derive(Debug)]
pub struct PrefixIndex {
    bytes_max: usize,
    capacity: usize,
    nodes: Vec<Node>,
    /// `words` words of holders for each node.
    holders: Vec<u64>,
    words: usize,
    /// When each node was last used, in chains filed before.
    stamps: Vec<u32>,
    /// The part of each node.
    part_of: Vec<u8>,
    table: Table,
    parts: Vec<Part>,
    /// The part that gives room.
    fullest: u8,
    clock: u32,
    horizons: Horizons,
    slots: Slots,
    sweep: Sweep,
}

/// The nodes of some tenants, in the order of use.
#[derive(Clone, Copy, Debug)]
struct Part {
    newest: u32,
    oldest: u32,
    nodes: u32,
}

impl Part {
    const EMPTY: Self = Self { newest: NIL, oldest: NIL, nodes: 0 };
}

/// A block's name and its place in the order of use.
#[derive(Clone, Copy, Debug)]
struct Node {
    hash: BlockHash,
    newer: u32,
    older: u32,
}

/// Nodes still to be cleared of departed replicas. Nodes added since the last departure are not
/// among them: they never named one that had left.
#[derive(Clone, Copy, Debug, Default)]
struct Sweep {
    next: usize,
    end: usize,
}

/// For each replica, how many leading blocks of one prompt it holds. Reused between look-ups.
#[derive(Clone, Debug, Default)]
pub struct Hits {
    depth: Vec<u32>,
    /// Holders at the point reached, to compare with the next one.
    current: Vec<u64>,
}

impl Hits {
    /// Leading blocks held by the replica filed under `slot`.
    #[must_use]
    pub fn of(&self, slot: Slot) -> u32 {
        self.depth.get(slot.index()).copied().unwrap_or_default()
    }

    fn reset(&mut self, words: usize) {
        self.depth.clear();
        self.depth.resize(words * 64, 0);
        self.current.clear();
        self.current.resize(words, 0);
    }
}

impl PrefixIndex {
    /// An empty index of at most `bytes_max` bytes with room for `replicas` replicas at first.
    #[must_use]
    pub fn new(bytes_max: usize, replicas: usize) -> Self {
        let words = replicas.div_ceil(64).max(1);
        let mut index = Self {
            bytes_max,
            capacity: 0,
            nodes: Vec::new(),
            holders: Vec::new(),
            words,
            stamps: Vec::new(),
            part_of: Vec::new(),
            table: Table::default(),
            parts: vec![Part::EMPTY; PARTS],
            fullest: 0,
            clock: 0,
            horizons: Horizons::new(words),
            slots: Slots::new(words),
            sweep: Sweep::default(),
        };
        index.claim();
        index
    }

    /// Bytes of memory one block takes when sets of holders have `words` words.
    const fn block_bytes(words: usize) -> usize {
        size_of::<Node>()
            + words * size_of::<u64>()
            + size_of::<u32>()
            + size_of::<u8>()
            + Table::BYTES_PER_ENTRY
    }

    /// Claims the whole budget anew, forgetting every block.
    fn claim(&mut self) {
        // The old memory goes before the new is claimed, so that the budget holds in between too.
        self.nodes = Vec::new();
        self.holders = Vec::new();
        self.stamps = Vec::new();
        self.part_of = Vec::new();
        self.table = Table::default();
        self.capacity = (self.bytes_max / Self::block_bytes(self.words)).min(NIL as usize - 1);
        self.nodes = Vec::with_capacity(self.capacity);
        self.holders = Vec::with_capacity(self.capacity * self.words);
        self.stamps = Vec::with_capacity(self.capacity);
        self.part_of = Vec::with_capacity(self.capacity);
        self.table = Table::with_capacity(self.capacity);
        self.parts.fill(Part::EMPTY);
        self.horizons = Horizons::new(self.words);
        self.sweep = Sweep::default();
        self.slots.swept();
    }

    /// Memory claimed, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>()
            + self.holders.capacity() * size_of::<u64>()
            + self.stamps.capacity() * size_of::<u32>()
            + self.part_of.capacity() * size_of::<u8>()
            + self.table.bytes()
    }

    /// Blocks known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether no block is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Most blocks the budget has room for.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
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
        self.sweep = Sweep { next: 0, end: self.nodes.len() };
        if self.nodes.is_empty() {
            self.slots.swept();
        }
    }

    /// Finds how many leading blocks of a prompt each replica holds.
    pub fn hits(&self, blocks: &[BlockHash], hits: &mut Hits) {
        hits.reset(self.words);
        let blocks = blocks.get(..DEPTH_MAX).unwrap_or(blocks);
        let depth = blocks.partition_point(|it| self.is_held(*it));
        let mut from = 0;
        while from < depth {
            let Some(block) = blocks.get(from) else { return };
            for (word, held) in hits.current.iter_mut().zip(self.held(*block)) {
                *word = held;
            }
            let run = self.run_of_equals(blocks.get(from..depth).unwrap_or(&[]), &hits.current);
            from += run;
            let next = blocks.get(from).filter(|_| from < depth);
            for (word, &current) in hits.current.iter().enumerate() {
                let still = next.map_or(0, |it| self.held(*it).nth(word).unwrap_or_default());
                for bit in bits(current & !still) {
                    if let Some(depth) = hits.depth.get_mut(word * 64 + bit) {
                        *depth = u32::try_from(from).unwrap_or(u32::MAX);
                    }
                }
            }
        }
    }

    /// How many of `blocks`, whose first is held by exactly `set`, are: sets only shrink, so a
    /// doubling search and then a bisection find the end.
    fn run_of_equals(&self, blocks: &[BlockHash], set: &[u64]) -> usize {
        let same =
            |at: usize| blocks.get(at).is_some_and(|it| self.held(*it).eq(set.iter().copied()));
        let (mut low, mut step) = (1, 1);
        while same(low + step - 1) {
            low += step;
            step *= 2;
        }
        let high = (low + step - 1).min(blocks.len());
        let unsure = blocks.get(low..high).unwrap_or(&[]);
        low + unsure.partition_point(|it| self.held(*it).eq(set.iter().copied()))
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
        let depth = blocks.len().min(DEPTH_MAX).min(self.capacity);
        let [low, ..] = tenant.0.to_le_bytes();
        let first = blocks.first().and_then(|it| self.find(*it));
        let part = first.and_then(|it| self.part_of.get(it as usize).copied()).unwrap_or(low);
        if self.clock.is_multiple_of(FULLEST_EVERY) {
            let fullest = self.parts.iter().zip(0..=u8::MAX).max_by_key(|it| it.0.nodes);
            self.fullest = fullest.map_or(part, |it| it.1);
        }
        self.clock = self.clock.saturating_add(1);
        let (mut last_used, mut new) = (None, 0_u32);
        for &hash in blocks.iter().take(depth).rev() {
            let node = match self.find(hash) {
                Some(node) => {
                    self.unlink(node);
                    node
                }
                None => self.add(hash, part),
            };
            self.link_newest(node);
            let stamp = self.stamps.get_mut(node as usize);
            let used = stamp.map_or(0, |it| std::mem::replace(it, self.clock));
            self.drop_lost(node, used);
            let at = node as usize * self.words + slot.word();
            if let Some(word) = self.holders.get_mut(at) {
                if *word & slot.bit() == 0 {
                    new = new.saturating_add(1);
                } else if last_used.is_none() {
                    last_used = Some(used);
                }
                *word |= slot.bit();
            }
        }
        self.horizons.came(slot, self.clock, new);
        self.sweep_some(SWEEP_STEP);
        last_used
    }

    /// Takes from a node that was last used at `stamp` the replicas that have lost it since.
    fn drop_lost(&mut self, node: u32, stamp: u32) {
        let at = node as usize * self.words;
        let words = self.holders.get_mut(at..at + self.words).into_iter().flatten();
        for (index, word) in words.enumerate() {
            *word &= self.horizons.reaching(index, stamp);
        }
    }

    /// A node for `hash`, new or taken from the stalest block, not yet in the order of use.
    fn add(&mut self, hash: BlockHash, part: u8) -> u32 {
        let node = Node { hash, newer: NIL, older: NIL };
        let id = if self.nodes.len() < self.capacity {
            let id = u32::try_from(self.nodes.len()).unwrap_or(NIL);
            self.nodes.push(node);
            self.holders.extend(std::iter::repeat_n(0, self.words));
            self.stamps.push(self.clock);
            self.part_of.push(part);
            id
        } else {
            let id = self.victim();
            self.unlink(id);
            let nodes = &self.nodes;
            self.table.remove(hash_of(nodes, id), id, |it| hash_of(nodes, it));
            let at = id as usize * self.words;
            if let Some(words) = self.holders.get_mut(at..at + self.words) {
                words.fill(0);
            }
            if let Some(place) = self.nodes.get_mut(id as usize) {
                *place = node;
            }
            if let Some(place) = self.part_of.get_mut(id as usize) {
                *place = part;
            }
            id
        };
        self.table.insert(hash, id);
        id
    }

    /// The stalest node of the fullest part.
    fn victim(&self) -> u32 {
        let oldest = |part: u8| self.parts.get(usize::from(part)).map_or(NIL, |it| it.oldest);
        match oldest(self.fullest) {
            NIL => self.parts.iter().map(|it| it.oldest).find(|it| *it != NIL).unwrap_or(NIL),
            oldest => oldest,
        }
    }

    fn part_mut(&mut self, node: u32) -> Option<&mut Part> {
        let part = *self.part_of.get(node as usize)?;
        self.parts.get_mut(usize::from(part))
    }

    fn find(&self, hash: BlockHash) -> Option<u32> {
        self.table.find(hash, |it| hash_of(&self.nodes, it) == hash)
    }

    /// The replicas still in the fleet that hold a block, as words of a set.
    fn held(&self, hash: BlockHash) -> impl Iterator<Item = u64> + '_ {
        let node = self.find(hash);
        let at = node.map(|it| it as usize * self.words);
        let words = at.and_then(|at| self.holders.get(at..at + self.words)).unwrap_or(&[]);
        let stamp = node.and_then(|it| self.stamps.get(it as usize).copied()).unwrap_or_default();
        let live = self.slots.live();
        (0..self.words).map(move |word| {
            words.get(word).copied().unwrap_or_default()
                & live.get(word).copied().unwrap_or_default()
                & self.horizons.reaching(word, stamp)
        })
    }

    fn is_held(&self, hash: BlockHash) -> bool {
        self.held(hash).any(|word| word != 0)
    }

    fn link_newest(&mut self, id: u32) {
        let Some(part) = self.part_mut(id) else { return };
        part.nodes = part.nodes.saturating_add(1);
        let older = std::mem::replace(&mut part.newest, id);
        if older == NIL {
            part.oldest = id;
        }
        if let Some(node) = self.nodes.get_mut(id as usize) {
            (node.newer, node.older) = (NIL, older);
        }
        if let Some(node) = self.nodes.get_mut(older as usize) {
            node.newer = id;
        }
    }

    fn unlink(&mut self, id: u32) {
        let Some(&Node { newer, older, .. }) = self.nodes.get(id as usize) else { return };
        if let Some(part) = self.part_mut(id) {
            part.nodes = part.nodes.saturating_sub(1);
            if newer == NIL {
                part.newest = older;
            }
            if older == NIL {
                part.oldest = newer;
            }
        }
        if let Some(node) = self.nodes.get_mut(newer as usize) {
            node.older = older;
        }
        if let Some(node) = self.nodes.get_mut(older as usize) {
            node.newer = newer;
        }
    }

    /// Clears departed replicas from the next `count` blocks, so that no pause grows with the
    /// index; a slot is free again once every block has been cleared of it.
    fn sweep_some(&mut self, count: usize) {
        let end = self.sweep.end.min(self.sweep.next + count);
        if self.sweep.next == end {
            return;
        }
        let swept = self.sweep.next * self.words..end * self.words;
        for words in
            self.holders.get_mut(swept).into_iter().flat_map(|it| it.chunks_mut(self.words))
        {
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

fn hash_of(nodes: &[Node], id: u32) -> BlockHash {
    nodes.get(id as usize).map_or(BlockHash(0), |it| it.hash)
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
