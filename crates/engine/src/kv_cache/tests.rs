//! Who finds, holds and evicts which block.

use super::*;

fn names(range: std::ops::Range<u64>) -> impl Iterator<Item = BlockHash> {
    range.map(BlockHash)
}

/// Takes blocks for `range`, as many from the cache as can be found, and names the rest.
fn take(cache: &mut KvCache, range: std::ops::Range<u64>) -> Option<(Vec<u32>, u32)> {
    let mut table = Vec::new();
    let len = u32::try_from(names(range.clone()).count()).unwrap();
    let fresh = |hits| len - hits;
    let hits = cache.take_cached(&mut table, names(range.clone()), fresh, fresh).ok()?;
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
    assert_eq!(cache.take_cached(&mut table, names(0..4), |_| 1, |_| 1), Err(4));
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
