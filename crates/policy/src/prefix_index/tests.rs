//! The index against a naive model that keeps every set in the open.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use types::block::{BlockHash, ChainSeed, HashKey, Scope, hash_block};

use super::*;

/// A prompt of `depth` blocks of family `family`; families share their first `shared` blocks.
fn prompt(family: u8, shared: usize, depth: usize) -> Vec<BlockHash> {
    let mut parent = ChainSeed::new(HashKey(1), &Scope::default()).as_parent();
    (0..depth)
        .map(|at| {
            let content = if at < shared { *b"same" } else { [0, 0, 0, family] };
            parent = hash_block(parent, &content);
            parent
        })
        .collect()
}

fn depth_of(index: &PrefixIndex, slot: Slot, blocks: &[BlockHash]) -> u32 {
    let mut hits = Hits::default();
    index.hits(blocks, &mut hits);
    hits.of(slot)
}

fn index_of(blocks: usize) -> PrefixIndex {
    PrefixIndex::new(blocks * PrefixIndex::block_bytes(1), 64)
}

#[test]
fn each_replica_has_its_own_longest_prefix() {
    let mut index = index_of(100);
    let (a, b, c) = (index.join(), index.join(), index.join());
    let blocks = prompt(0, 0, 20);
    index.insert(a, &blocks);
    index.insert(b, &blocks[..7]);
    let mut hits = Hits::default();
    index.hits(&blocks, &mut hits);
    assert_eq!([a, b, c].map(|it| hits.of(it)), [20, 7, 0]);
}

#[test]
fn the_budget_bounds_what_is_claimed() {
    for bytes in [0, 31, 32, 1_000, 1 << 20] {
        for replicas in [1, 64, 65, 512] {
            let mut index = PrefixIndex::new(bytes, replicas);
            let slot = index.join();
            for family in 0..=255 {
                index.insert(slot, &prompt(family, 3, 40));
            }
            assert!(index.bytes() <= bytes, "{} of {bytes}", index.bytes());
            assert!(index.len() <= index.capacity());
        }
    }
}

#[test]
fn a_block_takes_at_most_64_bytes() {
    let index = PrefixIndex::new(64 << 20, 64);
    assert!(index.bytes() / index.capacity() <= 64);
    assert!(1_000_000 < index.capacity());
}

#[test]
fn the_stalest_prompt_goes_first_and_from_its_end() {
    let mut index = index_of(20);
    let slot = index.join();
    let [old, new, more] = [1, 2, 3].map(|family| prompt(family, 0, 10));
    index.insert(slot, &old);
    index.insert(slot, &new);
    index.insert(slot, &more[..4]);
    assert_eq!(depth_of(&index, slot, &old), 6);
    assert_eq!(depth_of(&index, slot, &new), 10);
    assert_eq!(depth_of(&index, slot, &more), 4);
}

#[test]
fn a_replica_that_leaves_takes_its_blocks_with_it_at_once() {
    let mut index = index_of(100);
    let (a, b) = (index.join(), index.join());
    let blocks = prompt(0, 0, 20);
    index.insert(a, &blocks);
    index.insert(b, &blocks[..5]);
    index.leave(a);
    assert_eq!(depth_of(&index, a, &blocks), 0);
    assert_eq!(depth_of(&index, b, &blocks), 5);
}

#[test]
fn a_slot_is_given_again_only_when_no_block_names_it() {
    let mut index = index_of(400);
    let slots: Vec<Slot> = (0..64).map(|_| index.join()).collect();
    let blocks = prompt(0, 0, 200);
    index.insert(slots[9], &blocks);
    index.leave(slots[9]);
    let heir = index.join();
    assert_eq!(heir, slots[9]);
    assert_eq!(depth_of(&index, heir, &blocks), 0);
    assert!(200 <= index.capacity(), "the room for replicas did not have to grow");
}

#[test]
fn more_replicas_than_expected_make_it_start_anew_within_the_budget() {
    let bytes = 100 * PrefixIndex::block_bytes(1);
    let mut index = PrefixIndex::new(bytes, 64);
    let first = index.join();
    index.insert(first, &prompt(0, 0, 10));
    let last = (0..64).map(|_| index.join()).last().unwrap();
    assert_eq!(last.index(), 64);
    assert!(index.is_empty() && index.bytes() <= bytes);
    index.insert(last, &prompt(0, 0, 10));
    assert_eq!(depth_of(&index, last, &prompt(0, 0, 10)), 10);
    assert_eq!(depth_of(&index, first, &prompt(0, 0, 10)), 0);
}

/// What may happen to an index.
#[derive(Clone, Debug)]
enum Step {
    Insert { replica: usize, family: u8, depth: usize },
    Leave { replica: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => (0..6_usize, 0..8_u8, 0..24_usize)
            .prop_map(|(replica, family, depth)| Step::Insert { replica, family, depth }),
        1 => (0..6_usize).prop_map(|replica| Step::Leave { replica }),
    ]
}

/// Every block any replica holds, according to the index itself, read without its own search.
fn contents(index: &PrefixIndex) -> BTreeMap<u64, BTreeSet<usize>> {
    let mut contents = BTreeMap::new();
    for (node, words) in index.nodes.iter().zip(index.holders.chunks(index.words)) {
        let live = words.iter().zip(index.slots.live()).map(|(word, live)| word & live);
        let holders =
            live.enumerate().flat_map(|(at, word)| bits(word).map(move |it| at * 64 + it));
        contents.insert(node.hash.0, holders.collect());
    }
    contents
}

proptest! {
    /// Under any history: look-ups agree with a walk over the contents, the index is prefix-closed,
    /// and without eviction nothing that was inserted is forgotten.
    #[test]
    fn it_agrees_with_a_naive_model(
        steps in prop::collection::vec(step(), 1..80),
        capacity in prop_oneof![Just(12_usize), Just(40), Just(1_000)],
        shared in 0..10_usize,
    ) {
        let mut index = index_of(capacity);
        let mut slots: Vec<Slot> = (0..6).map(|_| index.join()).collect();
        let mut model: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 6];
        for step in steps {
            match step {
                Step::Insert { replica, family, depth } => {
                    let blocks = prompt(family, shared, depth);
                    index.insert(slots[replica], &blocks);
                    model[replica].extend(blocks.iter().take(capacity).map(|it| it.0));
                }
                Step::Leave { replica } => {
                    index.leave(slots[replica]);
                    slots[replica] = index.join();
                    model[replica].clear();
                }
            }
            let contents = contents(&index);
            prop_assert!(index.len() <= index.capacity());
            for (replica, slot) in slots.iter().enumerate() {
                let holds =
                    |it: &BlockHash| contents.get(&it.0).is_some_and(|it| it.contains(&slot.index()));
                for family in 0..8 {
                    let blocks = prompt(family, shared, 24);
                    let depth = blocks.iter().take_while(|it| holds(it)).count();
                    prop_assert_eq!(depth_of(&index, *slot, &blocks) as usize, depth);
                    prop_assert!(!blocks[depth..].iter().any(holds), "not prefix-closed");
                    let known = blocks.iter().take_while(|it| model[replica].contains(&it.0));
                    let known = known.count();
                    prop_assert!(depth <= known, "holds what was never inserted");
                    prop_assert!(capacity < 1_000 || depth == known, "forgot without need");
                }
            }
        }
    }
}
