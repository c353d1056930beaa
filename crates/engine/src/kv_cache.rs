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

use rustc_hash::FxHashMap;
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
            named: FxHashMap::default(),
            copies: FxHashMap::default(),
            free: Lru::full(capacity),
            follows: release,
            record: None,
        }
    }

    /// Blocks that nobody holds, cached ones included.
    pub(crate) const fn free(&self) -> u32 {
        self.free.len()
    }

    /// Blocks that somebody holds.
    pub(crate) fn held(&self) -> u32 {
        self.capacity().saturating_sub(self.free.len())
    }

    pub(crate) fn capacity(&self) -> u32 {
        u32::try_from(self.blocks.len()).unwrap_or(u32::MAX)
    }

    /// Appends to `table` the cached blocks of the leading `names`, and then `fresh(hits)` empty
    /// ones. Takes nothing and returns `None` when the cache lacks room for `whole(hits)` empty ones
    /// beside the hits (by [`Release::V0_11`], for the fresh ones); else returns the hits.
    pub(crate) fn take_cached(
        &mut self,
        table: &mut Vec<BlockNumber>,
        names: impl Iterator<Item = BlockHash>,
        whole: impl FnOnce(u32) -> u32,
        fresh: impl FnOnce(u32) -> u32,
    ) -> Option<u32> {
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
            return None;
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
        Some(hits)
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
mod tests {
    use super::*;

    fn names(range: std::ops::Range<u64>) -> impl Iterator<Item = BlockHash> {
        range.map(BlockHash)
    }

    /// Takes blocks for `range`, as many from the cache as can be found, and names the rest.
    fn take(cache: &mut KvCache, range: std::ops::Range<u64>) -> Option<(Vec<u32>, u32)> {
        let mut table = Vec::new();
        let len = u32::try_from(names(range.clone()).count()).unwrap();
        let fresh = |hits| len - hits;
        let hits = cache.take_cached(&mut table, names(range.clone()), fresh, fresh)?;
        let parent = range.start.checked_add(u64::from(hits)).and_then(|it| it.checked_sub(1));
        let filled = table.iter().copied().zip(names(range)).skip(hits as usize);
        if hits < len {
            cache.store(parent.map(BlockHash), filled);
        }
        Some((table, hits))
    }

    fn hits(cache: &KvCache, range: std::ops::Range<u64>) -> usize {
        names(range).take_while(|name| cache.named.contains_key(name)).count()
    }

    #[test]
    fn a_block_given_back_can_still_be_found() {
        let mut cache = KvCache::new(8, Release::V0_32);
        let (mut table, hit) = take(&mut cache, 0..4).unwrap();
        assert_eq!(hit, 0);
        cache.release(&mut table);
        assert_eq!(cache.free(), 8);
        let (table, hit) = take(&mut cache, 0..6).unwrap();
        assert_eq!((hit, cache.free()), (4, 2));
        cache.check([table.as_slice()].into_iter());
    }

    #[test]
    fn the_tail_of_the_oldest_table_is_evicted_first() {
        let mut cache = KvCache::new(8, Release::V0_32);
        for range in [0..4, 10..14] {
            let (mut table, _) = take(&mut cache, range).unwrap();
            cache.release(&mut table);
        }
        let (_table, _) = take(&mut cache, 20..23).unwrap();
        assert_eq!(hits(&cache, 0..4), 1);
        assert_eq!(hits(&cache, 10..14), 4);
    }

    #[test]
    fn shared_blocks_stay_until_the_last_holder_leaves() {
        let mut cache = KvCache::new(8, Release::V0_32);
        let (mut first, _) = take(&mut cache, 0..4).unwrap();
        let (second, hit) = take(&mut cache, 0..4).unwrap();
        assert_eq!((hit, &first), (4, &second));
        cache.release(&mut first);
        assert_eq!(cache.held(), 4);
        cache.check([second.as_slice()].into_iter());
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut cache = KvCache::new(4, Release::V0_32);
        let (mut table, _) = take(&mut cache, 0..4).unwrap();
        cache.release(&mut table);
        let mut table = vec![7];
        assert_eq!(cache.take_cached(&mut table, names(0..4), |_| 1, |_| 1), None);
        assert!(!cache.take(&mut table, 5));
        assert_eq!((table, cache.free(), hits(&cache, 0..4)), (vec![7], 4, 4));
    }

    /// A cache in which two blocks, both free, have the name 0.
    fn twice() -> KvCache {
        let mut cache = KvCache::new(3, Release::V0_32);
        cache.record_events();
        let (mut older, _) = take(&mut cache, 0..1).unwrap();
        let mut newer = Vec::new();
        assert!(cache.take(&mut newer, 1));
        cache.store(None, [(newer[0], BlockHash(0))].into_iter());
        cache.check([older.as_slice(), newer.as_slice()].into_iter());
        let (found, _) = take(&mut cache, 0..1).unwrap();
        assert_eq!(found, older, "the older copy is found");
        for mut table in [found, newer] {
            cache.release(&mut table);
        }
        cache.release(&mut older);
        cache
    }

    #[test]
    fn a_name_can_be_found_until_its_last_copy_is_evicted() {
        let mut cache = twice();
        let zero = BlockHash(0);
        assert_eq!(cache.drain_events().collect::<Vec<_>>(), [KvEvent::Stored(zero)]);
        let mut table = Vec::new();
        // The block that never had a name, then the newer copy, which was given back first.
        assert!(cache.take(&mut table, 2));
        assert_eq!((hits(&cache, 0..1), cache.drain_events().count()), (1, 0));
        cache.check([table.as_slice()].into_iter());
        assert!(cache.take(&mut table, 1));
        assert_eq!(hits(&cache, 0..1), 0);
        assert_eq!(cache.drain_events().collect::<Vec<_>>(), [KvEvent::Removed(zero)]);
    }

    #[test]
    fn vllm_publishes_every_copy() {
        let mut cache = twice();
        cache.take(&mut Vec::new(), 3);
        let stored = KvMessage::Stored { parent: None, blocks: vec![BlockHash(0)] };
        let removed = KvMessage::Removed(BlockHash(0));
        let published = [stored.clone(), stored, removed.clone(), removed];
        assert_eq!(cache.drain_messages(), published);
    }

    #[test]
    fn a_block_that_never_had_a_name_is_used_first() {
        let mut cache = KvCache::new(8, Release::V0_32);
        let (mut table, _) = take(&mut cache, 0..2).unwrap();
        assert!(cache.take(&mut table, 2));
        let nameless = [table[2], table[3]];
        cache.release(&mut table);
        let mut table = Vec::new();
        assert!(cache.take(&mut table, 3));
        assert_eq!(table, [nameless[1], nameless[0], 4]);
    }

    #[test]
    fn vllm_0_11_queues_every_block_it_is_given_back() {
        let mut cache = KvCache::new(5, Release::V0_11);
        let mut table = Vec::new();
        assert!(cache.take(&mut table, 2));
        cache.release(&mut table);
        assert!(cache.take(&mut table, 5));
        assert_eq!(table, [2, 3, 4, 1, 0]);
    }

    #[test]
    fn events_tell_what_can_be_found() {
        let mut cache = KvCache::new(2, Release::V0_32);
        cache.record_events();
        let (mut table, _) = take(&mut cache, 0..2).unwrap();
        cache.release(&mut table);
        let (mut table, _) = take(&mut cache, 5..6).unwrap();
        assert!(!cache.clear());
        cache.release(&mut table);
        assert!(cache.clear());
        let stored = |it| KvEvent::Stored(BlockHash(it));
        assert_eq!(
            cache.drain_events().collect::<Vec<_>>(),
            [stored(0), stored(1), KvEvent::Removed(BlockHash(1)), stored(5), KvEvent::Cleared]
        );
        assert_eq!(hits(&cache, 0..1), 0);
    }
}
