//! The paged KV cache: who holds which block, and which blocks can be reused.
//!
//! A block in use counts its holders. A block without a holder is free, yet keeps its content and
//! its name until it is the oldest free block and somebody needs one; found by name before that, it
//! is shared again for nothing. A table gives its blocks back tail first, so that a prefix outlives
//! what follows it; a block that never got a name (the last one, part filled) is the first to be
//! used again.
//!
//! A full block gets its name when the step that fills it is scheduled, as in vLLM: of two equal
//! prompts scheduled into one step, the second shares what the first is about to compute. Where a
//! block of the same name exists nevertheless (the last block of a repeated prompt is computed
//! again), both copies occupy memory and both have the name; the oldest copy is the one that is
//! found.

use std::collections::{VecDeque, hash_map::Entry};

use rustc_hash::{FxBuildHasher, FxHashMap};
use types::block::BlockHash;

use crate::{
    kv_event::{KvEvent, KvMessage, Record},
    lru::Lru,
    profile::Release,
};

/// Number of a block in the cache.
pub(crate) type BlockNumber = u32;

/// The KV blocks of one replica.
#[derive(Debug)]
pub(crate) struct KvCache {
    blocks: Vec<Block>,
    named: FxHashMap<BlockHash, BlockNumber>,
    /// Further blocks of a name that is in `named`, oldest first.
    copies: FxHashMap<BlockHash, VecDeque<BlockNumber>>,
    free: Lru,
    /// Blocks that lost their last holder so far.
    freed: u64,
    follows: Release,
    record: Option<Record>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    holders: u32,
    name: Option<BlockHash>,
}

impl KvCache {
    /// Makes an empty cache of `capacity` blocks.
    pub(crate) fn new(capacity: u32, release: Release) -> Self {
        Self {
            blocks: vec![Block::default(); capacity as usize],
            named: FxHashMap::with_capacity_and_hasher(capacity as usize, FxBuildHasher),
            copies: FxHashMap::default(),
            free: Lru::full(capacity),
            freed: 0,
            follows: release,
            record: None,
        }
    }

    /// Blocks that nobody holds, cached ones included.
    pub(crate) const fn free(&self) -> u32 {
        self.free.len()
    }

    /// Blocks that lost their last holder so far; they may have a new one.
    pub(crate) const fn freed(&self) -> u64 {
        self.freed
    }

    /// Whether a block of this name can be found.
    pub(crate) fn has(&self, name: BlockHash) -> bool {
        self.named.contains_key(&name)
    }

    /// Blocks that somebody holds.
    pub(crate) fn held(&self) -> u32 {
        self.capacity().saturating_sub(self.free.len())
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    /// Appends to `table` the cached blocks of the leading `names`, and then `fresh(hits)` empty
    /// ones, and returns the hits.
    ///
    /// # Errors
    ///
    /// The cache lacks room for `whole(hits)` empty ones beside the hits (by [`Release::V0_11`], for
    /// the fresh ones); nothing is taken, and the error is the hits.
    pub(crate) fn take_cached(
        &mut self,
        table: &mut Vec<BlockNumber>,
        names: impl Iterator<Item = BlockHash>,
        whole: impl FnOnce(u32) -> u32,
        fresh: impl FnOnce(u32) -> u32,
    ) -> Result<u32, u32> {
        let before = table.len();
        table.extend(names.map_while(|name| self.named.get(&name).copied()));
        let hits = table.iter().skip(before);
        let revived = hits.clone().filter(|number| self.holders(**number) == 0).count();
        let hits = u32::try_from(hits.len()).unwrap_or(u32::MAX);
        let fresh = fresh(hits);
        let room = match self.follows {
            Release::V0_11 => fresh,
            Release::V0_32 => whole(hits),
        };
        if u64::from(room) + revived as u64 > u64::from(self.free()) {
            table.truncate(before);
            return Err(hits);
        }
        for number in table.iter().skip(before) {
            if let Some(block) = self.blocks.get_mut(*number as usize) {
                if block.holders == 0 {
                    self.free.remove(*number);
                }
                block.holders = block.holders.saturating_add(1);
            }
        }
        table.extend((0..fresh).map_while(|_| self.evict_oldest()));
        Ok(hits)
    }

    /// Appends `fresh` empty blocks to `table`; returns false, and takes nothing, when there are
    /// not as many.
    pub(crate) fn take(&mut self, table: &mut Vec<BlockNumber>, fresh: u32) -> bool {
        if fresh > self.free() {
            return false;
        }
        table.extend((0..fresh).map_while(|_| self.evict_oldest()));
        true
    }

    fn holders(&self, number: BlockNumber) -> u32 {
        self.blocks.get(number as usize).map_or(0, |block| block.holders)
    }

    fn evict_oldest(&mut self) -> Option<BlockNumber> {
        let number = self.free.pop_oldest()?;
        let block = self.blocks.get_mut(number as usize)?;
        block.holders = 1;
        if let Some(name) = block.name.take() {
            let last = self.forget(name, number);
            if let Some(record) = &mut self.record {
                record.removed(name, last);
            }
        }
        Some(number)
    }

    /// Takes the name from a block; returns whether no other block has it.
    fn forget(&mut self, name: BlockHash, number: BlockNumber) -> bool {
        let Some(copies) = self.copies.get_mut(&name) else {
            self.named.remove(&name);
            return true;
        };
        if self.named.get(&name) == Some(&number) {
            self.named.extend(copies.pop_front().map(|next| (name, next)));
        } else {
            copies.retain(|copy| *copy != number);
        }
        if copies.is_empty() {
            self.copies.remove(&name);
        }
        false
    }

    /// Names blocks of one table that are now full; `parent` is the name of the one before them.
    pub(crate) fn store(
        &mut self,
        parent: Option<BlockHash>,
        filled: impl Iterator<Item = (BlockNumber, BlockHash)>,
    ) {
        if let Some(record) = &mut self.record {
            record.open(parent);
        }
        for (number, name) in filled {
            let Some(block) = self.blocks.get_mut(number as usize) else { continue };
            block.name = Some(name);
            let first = match self.named.entry(name) {
                Entry::Vacant(entry) => {
                    entry.insert(number);
                    true
                }
                Entry::Occupied(_) => {
                    self.copies.entry(name).or_default().push_back(number);
                    false
                }
            };
            if let Some(record) = &mut self.record {
                record.stored(name, first);
            }
        }
    }

    /// Gives back every block of `table`: those with a name the last one first, to be evicted after
    /// all that are free already, those without a name to be used before any other
    /// (by [`Release::V0_11`] as if they had one).
    pub(crate) fn release(&mut self, table: &mut Vec<BlockNumber>) {
        let nameless = match self.follows {
            Release::V0_11 => 0,
            Release::V0_32 => self.nameless_tail(table),
        };
        for number in table.split_off(table.len().saturating_sub(nameless)) {
            if self.let_go(number) {
                self.free.push_oldest(number);
            }
        }
        while let Some(number) = table.pop() {
            if self.let_go(number) {
                self.free.push_newest(number);
            }
        }
    }

    /// Blocks at the end of a table that have no name.
    fn nameless_tail(&self, table: &[BlockNumber]) -> usize {
        let nameless =
            |it: &&u32| self.blocks.get(**it as usize).is_some_and(|it| it.name.is_none());
        table.iter().rev().take_while(nameless).count()
    }

    /// Counts one holder less; returns whether that was the last one.
    fn let_go(&mut self, number: BlockNumber) -> bool {
        self.blocks.get_mut(number as usize).is_some_and(|block| {
            debug_assert!(block.holders > 0, "block {number} is given back once too often");
            block.holders = block.holders.saturating_sub(1);
            self.freed = self.freed.saturating_add(u64::from(block.holders == 0));
            block.holders == 0
        })
    }

    /// Forgets every cached block; refuses while any block is held.
    pub(crate) fn clear(&mut self) -> bool {
        if self.held() > 0 {
            return false;
        }
        self.named.clear();
        self.copies.clear();
        for block in &mut self.blocks {
            block.name = None;
        }
        if let Some(record) = &mut self.record {
            record.cleared();
        }
        true
    }

    /// Keeps a record of what is stored and removed from now on.
    pub(crate) fn record_events(&mut self) {
        self.record.get_or_insert_default();
    }

    /// Hands over the events recorded since the last call.
    pub(crate) fn drain_events(&mut self) -> impl Iterator<Item = KvEvent> + '_ {
        self.record.iter_mut().flat_map(Record::drain_events)
    }

    /// Hands over the messages recorded since the last call.
    pub(crate) fn drain_messages(&mut self) -> Vec<KvMessage> {
        self.record.as_mut().map(Record::drain_messages).unwrap_or_default()
    }

    /// Panics unless the holders of all blocks are exactly `tables`.
    #[cfg(test)]
    pub(crate) fn check<'a>(&self, tables: impl Iterator<Item = &'a [BlockNumber]>) {
        let mut holders = vec![0; self.blocks.len()];
        for number in tables.flatten() {
            holders[*number as usize] += 1;
        }
        let counted: Vec<u32> = self.blocks.iter().map(|block| block.holders).collect();
        assert_eq!(counted, holders, "holders");
        let mut free: Vec<u32> = self.free.iter().collect();
        free.sort_unstable();
        let unheld = (0..self.capacity()).filter(|it| holders[*it as usize] == 0);
        assert_eq!(free, unheld.collect::<Vec<u32>>(), "free blocks");
        let copies =
            self.copies.iter().flat_map(|(name, all)| all.iter().map(move |it| (name, it)));
        let mut all: Vec<u32> = Vec::new();
        for (name, number) in self.named.iter().chain(copies) {
            assert_eq!(self.blocks[*number as usize].name, Some(*name), "names");
            all.push(*number);
        }
        all.sort_unstable();
        all.dedup();
        let names = self.blocks.iter().filter(|block| block.name.is_some()).count();
        assert_eq!(names, all.len(), "every name can be found");
    }
}

#[cfg(test)]
mod tests;
