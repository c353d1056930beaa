//! The index against a naive model that keeps every set in the open.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use types::block::hash_block;

use super::*;

/// A prompt of `depth` blocks of `family`; families share their first three blocks.
fn prompt(family: u8, depth: usize) -> Vec<BlockHash> {
    let mut parent = BlockHash(7);
    (0..depth)
        .map(|at| {
            parent = hash_block(parent, &[if at < 3 { 0 } else { family }]);
            parent
        })
        .collect()
}

fn index_of(blocks: usize) -> HeldIndex {
    HeldIndex::new(blocks * HeldIndex::block_bytes(1), 64)
}

fn depth_of(index: &HeldIndex, slot: Slot, blocks: &[BlockHash]) -> u32 {
    let mut depths = Depths::default();
    index.hits(blocks, &mut depths);
    depths.of(slot)
}

#[test]
fn a_block_takes_24_bytes_whoever_holds_it() {
    let mut index = HeldIndex::new(24 << 20, 64);
    assert_eq!(index.bytes(), 0, "memory is claimed when somebody is followed");
    index.join();
    assert_eq!(index.capacity(), 1 << 20);
    assert_eq!(index.bytes(), 24 << 20);
}

#[test]
fn what_is_evicted_is_no_longer_hit() {
    let mut index = index_of(100);
    let (a, b) = (index.join().unwrap(), index.join().unwrap());
    let blocks = prompt(1, 10);
    index.store(a, None, &blocks);
    index.store(b, None, &blocks[..4]);
    blocks[6..].iter().rev().for_each(|it| index.remove(a, *it));
    assert_eq!([a, b].map(|it| depth_of(&index, it, &blocks)), [6, 4]);
    assert_eq!(index.len(), 6);
}

#[test]
fn a_chain_whose_beginning_is_not_held_is_turned_away() {
    let mut index = index_of(100);
    let slot = index.join().unwrap();
    let blocks = prompt(1, 10);
    index.store(slot, Some(blocks[4]), &blocks[5..]);
    assert_eq!((index.len(), index.refused()), (0, 5));
}

#[test]
fn a_full_index_turns_away_and_takes_again_when_there_is_room() {
    let mut index = index_of(8);
    let slot = index.join().unwrap();
    let (a, b) = (prompt(1, 6), prompt(2, 6));
    index.store(slot, None, &a);
    index.store(slot, None, &b);
    assert_eq!((depth_of(&index, slot, &b), index.refused()), (5, 1));
    index.remove(slot, a[5]);
    index.store(slot, Some(b[4]), &b[5..]);
    assert_eq!((depth_of(&index, slot, &b), index.len()), (6, 8));
    assert!(index.bytes() <= 8 * HeldIndex::block_bytes(1));
}

#[test]
fn there_are_as_many_slots_as_there_are_bits() {
    let mut index = index_of(100);
    let slots: Vec<_> = (0..64).filter_map(|_| index.join()).collect();
    assert_eq!((slots.len(), index.join()), (64, None));
    index.store(slots[9], None, &prompt(1, 10));
    index.leave(slots[9]);
    let again = index.join().unwrap();
    assert_eq!(depth_of(&index, again, &prompt(1, 10)), 0, "nothing is inherited");
    assert!(index.is_empty());
}

/// What happens to an index: an engine stores a prompt, evicts from the end of one, or is lost.
#[derive(Clone, Debug)]
enum Step {
    Store { lane: usize, family: u8, depth: usize },
    Evict { lane: usize, family: u8, from: usize },
    Lose { lane: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3_usize, 0..5_u8, 1..12_usize)
            .prop_map(|(lane, family, depth)| Step::Store { lane, family, depth }),
        3 => (0..3_usize, 0..5_u8, 0..12_usize)
            .prop_map(|(lane, family, from)| Step::Evict { lane, family, from }),
        1 => (0..3_usize).prop_map(|lane| Step::Lose { lane }),
    ]
}

proptest! {
    /// Hits are the leading blocks that are in a naive set, the set is closed, and no byte is taken
    /// beyond the budget.
    #[test]
    fn it_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..60)) {
        let mut index = index_of(100);
        let mut lanes: Vec<Slot> = (0..3).map(|_| index.join().unwrap()).collect();
        let mut model: BTreeMap<usize, BTreeSet<BlockHash>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Store { lane, family, depth } => {
                    let blocks = prompt(family, depth);
                    index.store(lanes[lane], None, &blocks);
                    model.entry(lane).or_default().extend(blocks);
                }
                Step::Evict { lane, family, from } => {
                    // The shared beginning stays while anybody's rest is held.
                    for block in prompt(family, 12)[from.max(3)..].iter().rev() {
                        index.remove(lanes[lane], *block);
                        model.entry(lane).or_default().remove(block);
                    }
                }
                Step::Lose { lane } => {
                    index.leave(lanes[lane]);
                    lanes[lane] = index.join().unwrap();
                    model.remove(&lane);
                }
            }
            for (lane, slot) in lanes.iter().enumerate() {
                for family in 0..5 {
                    let blocks = prompt(family, 12);
                    let held = |it: &&BlockHash| model.get(&lane).is_some_and(|of| of.contains(it));
                    let expected = blocks.iter().take_while(held).count();
                    prop_assert_eq!(depth_of(&index, *slot, &blocks) as usize, expected);
                    let all = blocks.iter().filter(held).count();
                    prop_assert_eq!(all, expected, "closed");
                }
            }
            prop_assert!(index.bytes() <= 100 * HeldIndex::block_bytes(1));
        }
        let known: BTreeSet<_> = model.values().flatten().collect();
        index.sweep_some(usize::MAX);
        prop_assert_eq!(index.len(), known.len());
    }
}
