//! The paged KV cache: who holds which block, and which blocks can be reused.
//!
//! A block in use counts its holders. A block without a holder is free, yet keeps its content and
//! its name until it is the oldest free block and somebody needs one; found by name before that, it
//! is shared again for nothing. A table gives its blocks back tail first, so that a prefix outlives
//! what follows it.
//!
//! A full block gets its name when the step that fills it is scheduled, as in vLLM: of two equal
//! prompts scheduled into one step, the second shares what the first is about to compute. Where a
//! block of the same name exists nevertheless (the last block of a repeated prompt is computed
//! again), both copies occupy memory and the newer one takes the name over.

use rustc_hash::FxHashMap;
use types::block::BlockHash;

use crate::lru::Lru;

/// Number of a block in the cache.
pub(crate) type BlockNumber = u32;

/// A change of what can be found in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// A block can be found from now on.
    Stored(BlockHash),
    /// A block was evicted.
    Removed(BlockHash),
    /// Every block was forgotten.
    Cleared,
}

/// The KV blocks of one replica.
#[derive(Debug)]
pub(crate) struct KvCache {
    blocks: Vec<Block>,
    named: FxHashMap<BlockHash, BlockNumber>,
    free: Lru,
    events: Option<Vec<KvEvent>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    holders: u32,
    name: Option<BlockHash>,
}

impl KvCache {
    /// Makes an empty cache of `capacity` blocks.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            blocks: vec![Block::default(); capacity as usize],
            named: FxHashMap::default(),
            free: Lru::full(capacity),
            events: None,
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
    /// ones. Takes nothing and returns `None` when the cache lacks room; else returns the hits.
    pub(crate) fn take(
        &mut self,
        table: &mut Vec<BlockNumber>,
        names: impl Iterator<Item = BlockHash>,
        fresh: impl FnOnce(u32) -> u32,
    ) -> Option<u32> {
        let before = table.len();
        table.extend(names.map_while(|name| self.named.get(&name).copied()));
        let hits = table.iter().skip(before);
        let revived = hits.clone().filter(|number| self.holders(**number) == 0).count();
        let hits = u32::try_from(hits.len()).unwrap_or(u32::MAX);
        let fresh = fresh(hits);
        if u64::from(fresh) + revived as u64 > u64::from(self.free()) {
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

    fn holders(&self, number: BlockNumber) -> u32 {
        self.blocks.get(number as usize).map_or(0, |block| block.holders)
    }

    fn evict_oldest(&mut self) -> Option<BlockNumber> {
        let number = self.free.pop_oldest()?;
        let block = self.blocks.get_mut(number as usize)?;
        block.holders = 1;
        if let Some(name) = block.name.take() {
            self.named.remove(&name);
            self.record(KvEvent::Removed(name));
        }
        Some(number)
    }

    /// Makes a block that is now full known as `name`.
    pub(crate) fn name(&mut self, number: BlockNumber, name: BlockHash) {
        let Some(block) = self.blocks.get_mut(number as usize) else { return };
        block.name = Some(name);
        match self.named.insert(name, number) {
            None => self.record(KvEvent::Stored(name)),
            Some(older) if older == number => {}
            Some(older) => {
                if let Some(block) = self.blocks.get_mut(older as usize) {
                    block.name = None;
                }
            }
        }
    }

    /// Gives back every block of `table`, the last one first.
    pub(crate) fn release(&mut self, table: &mut Vec<BlockNumber>) {
        while let Some(number) = table.pop() {
            if let Some(block) = self.blocks.get_mut(number as usize) {
                debug_assert!(block.holders > 0, "block {number} is given back once too often");
                block.holders = block.holders.saturating_sub(1);
                if block.holders == 0 {
                    self.free.push_newest(number);
                }
            }
        }
    }

    /// Forgets every cached block; refuses while any block is held.
    pub(crate) fn clear(&mut self) -> bool {
        if self.held() > 0 {
            return false;
        }
        self.named.clear();
        for block in &mut self.blocks {
            block.name = None;
        }
        self.record(KvEvent::Cleared);
        true
    }

    /// Keeps a record of what is stored and removed from now on.
    pub(crate) fn record_events(&mut self) {
        self.events.get_or_insert_default();
    }

    /// Hands over the events recorded since the last call.
    pub(crate) fn drain_events(&mut self) -> impl Iterator<Item = KvEvent> + '_ {
        self.events.iter_mut().flat_map(|events| events.drain(..))
    }

    fn record(&mut self, event: KvEvent) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
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
        for (name, number) in &self.named {
            assert_eq!(self.blocks[*number as usize].name, Some(*name), "names");
        }
        let names = self.blocks.iter().filter(|block| block.name.is_some()).count();
        assert_eq!(names, self.named.len(), "every name can be found");
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
        let hits = cache.take(&mut table, names(range.clone()), |hits| len - hits)?;
        for (number, name) in table.iter().zip(names(range)).skip(hits as usize) {
            cache.name(*number, name);
        }
        Some((table, hits))
    }

    fn hits(cache: &KvCache, range: std::ops::Range<u64>) -> usize {
        names(range).take_while(|name| cache.named.contains_key(name)).count()
    }

    #[test]
    fn a_block_given_back_can_still_be_found() {
        let mut cache = KvCache::new(8);
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
        let mut cache = KvCache::new(8);
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
        let mut cache = KvCache::new(8);
        let (mut first, _) = take(&mut cache, 0..4).unwrap();
        let (second, hit) = take(&mut cache, 0..4).unwrap();
        assert_eq!((hit, &first), (4, &second));
        cache.release(&mut first);
        assert_eq!(cache.held(), 4);
        cache.check([second.as_slice()].into_iter());
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut cache = KvCache::new(4);
        let (mut table, _) = take(&mut cache, 0..4).unwrap();
        cache.release(&mut table);
        let mut table = vec![7];
        assert_eq!(cache.take(&mut table, names(0..4), |_| 1), None);
        assert_eq!((table, cache.free(), hits(&cache, 0..4)), (vec![7], 4, 4));
    }

    #[test]
    fn of_two_copies_the_newer_has_the_name() {
        let mut cache = KvCache::new(4);
        cache.record_events();
        let (mut older, _) = take(&mut cache, 0..1).unwrap();
        cache.release(&mut older);
        let mut newer = Vec::new();
        cache.take(&mut newer, std::iter::empty(), |_| 1);
        cache.name(newer[0], BlockHash(0));
        cache.check([newer.as_slice()].into_iter());
        assert_eq!(cache.drain_events().collect::<Vec<_>>(), [KvEvent::Stored(BlockHash(0))]);
    }

    #[test]
    fn events_tell_what_can_be_found() {
        let mut cache = KvCache::new(2);
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
