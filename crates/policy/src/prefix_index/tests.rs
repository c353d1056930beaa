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

fn index_of(runs: usize) -> PrefixIndex {
    PrefixIndex::new(runs * Runs::run_bytes(1), 64)
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
fn a_block_takes_at_most_64_bytes_unless_it_is_a_prompt_of_its_own() {
    for (depth, bytes_max) in [(2, 64), (8, 12), (20, 15)] {
        let mut index = index_of(120);
        let slot = index.join();
        (0..=255).for_each(|family| index.insert(slot, &prompt(family, 0, depth)));
        assert!(index.is_full());
        let bytes = index.bytes() / index.len();
        assert!(bytes <= bytes_max, "{bytes} bytes a block in prompts of {depth}");
    }
}

#[test]
fn the_stalest_prompt_goes_first_and_from_its_end() {
    let mut index = index_of(5);
    let slot = index.join();
    let [old, new, more] = [1, 2, 3].map(|family| prompt(family, 0, 20));
    index.insert(slot, &old);
    index.insert(slot, &new[..10]);
    index.insert(slot, &more[..4]);
    assert_eq!(depth_of(&index, slot, &old), 16);
    assert_eq!(depth_of(&index, slot, &new), 10);
    assert_eq!(depth_of(&index, slot, &more), 4);
}

#[test]
fn who_holds_the_beginning_of_a_run_does_not_hold_the_rest() {
    let mut index = index_of(100);
    let (a, b, c) = (index.join(), index.join(), index.join());
    // Both leave their common beginning in the middle of a run.
    let [one, two] = [1, 2].map(|family| prompt(family, 13, 30));
    index.insert(a, &one);
    index.insert(b, &two);
    index.insert(c, &one[..5]);
    let depths = |blocks: &[BlockHash]| [a, b, c].map(|it| depth_of(&index, it, blocks));
    assert_eq!(depths(&one), [30, 13, 5]);
    assert_eq!(depths(&two), [13, 30, 5]);
    assert_eq!(index.len(), 30 + 17, "no block is kept twice");
}

#[test]
fn a_conversation_that_grows_fills_its_runs() {
    let mut index = index_of(100);
    let slot = index.join();
    let blocks = prompt(0, 0, 64);
    for turn in 1..=32 {
        index.insert(slot, &blocks[..2 * turn]);
    }
    assert_eq!(depth_of(&index, slot, &blocks), 64);
    assert_eq!(index.runs.len(), 8);
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
    let bytes = 100 * Runs::run_bytes(1);
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
    for run in 0..u32::try_from(index.runs.len()).unwrap() {
        let words = index.runs.holders(run);
        let live = words.iter().zip(index.slots.live()).map(|(word, live)| word & live);
        let holders: BTreeSet<_> = live
            .enumerate()
            .flat_map(|(at, word)| bits(word).map(move |it| at * 64 + it))
            .collect();
        for block in index.runs.blocks_of(run) {
            assert!(contents.insert(block.0, holders.clone()).is_none(), "a block is kept twice");
        }
    }
    assert_eq!(contents.len(), index.len());
    contents
}

proptest! {
    /// Under any history: look-ups agree with a walk over the contents, the index is prefix-closed,
    /// and without eviction nothing that was inserted is forgotten.
    #[test]
    fn it_agrees_with_a_naive_model(
        steps in prop::collection::vec(step(), 1..80),
        capacity in prop_oneof![Just(2_usize), Just(7), Just(1_000)],
        shared in 0..10_usize,
    ) {
        let mut index = index_of(capacity);
        let mut slots: Vec<Slot> = (0..6).map(|_| index.join()).collect();
        let mut model: Vec<BTreeSet<u64>> = vec![BTreeSet::new(); 6];
        let mut hits = Hits::default();
        for step in steps {
            match step {
                Step::Insert { replica, family, depth } => {
                    let blocks = prompt(family, shared, depth);
                    // Hits of now, of before, or of another prompt.
                    if depth % 3 == 0 {
                        index.hits(&blocks, &mut hits);
                    }
                    index.insert_found(slots[replica], TenantId::NONE, &blocks, &hits);
                    model[replica].extend(blocks.iter().map(|it| it.0));
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

#[test]
fn a_flood_of_one_tenants_prompts_evicts_its_own() {
    let mut index = index_of(2_000);
    let slot = index.join();
    let (quiet, loud) = (TenantId(1), TenantId(2));
    let of_quiet: Vec<_> = (0..20).map(|family| prompt(family, 0, 10)).collect();
    for blocks in &of_quiet {
        index.insert_for(slot, quiet, blocks);
    }
    for family in 0..10_000_u64 {
        let mut parent = BlockHash(family.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let blocks: Vec<_> = (0..10)
            .map(|at: u8| {
                parent = hash_block(parent, &[at]);
                parent
            })
            .collect();
        index.insert_for(slot, loud, &blocks);
    }
    assert!(of_quiet.iter().all(|it| depth_of(&index, slot, it) == 10));
    assert!(index.bytes() <= 2_000 * Runs::run_bytes(1));
    assert!(index.is_full());
}

#[test]
fn tenants_that_share_a_beginning_never_lose_it_before_what_follows() {
    let mut index = index_of(8);
    let slot = index.join();
    for round in 0..200_u8 {
        let blocks = prompt(round, 4, 12);
        index.insert_for(slot, TenantId((round % 3).into()), &blocks);
        for family in 0..=round {
            let blocks = prompt(family, 4, 12);
            let contents = contents(&index);
            let held: Vec<_> = blocks.iter().map(|it| contents.contains_key(&it.0)).collect();
            assert!(held.is_sorted_by(|a, b| a >= b), "closed: {held:?}");
        }
    }
}

#[test]
fn a_replica_holds_no_more_than_its_cache_has_room_for() {
    let mut index = index_of(10_000);
    let (small, large) = (index.join(), index.join());
    index.bound(small, 100);
    let prompts: Vec<_> = (0..50).map(|family| prompt(family, 0, 10)).collect();
    for blocks in &prompts {
        index.insert(small, blocks);
        index.insert(large, blocks);
    }
    let held = |slot| prompts.iter().filter(|it| depth_of(&index, slot, it) == 10).count();
    assert_eq!(held(large), 50);
    assert!((9..=11).contains(&held(small)), "{}", held(small));
    assert_eq!(depth_of(&index, small, &prompts[49]), 10);
    assert_eq!(depth_of(&index, small, &prompts[0]), 0);
}

#[test]
fn what_caches_have_room_for_is_known_after_the_index_started_anew() {
    let mut index = PrefixIndex::new(10_000 * Runs::run_bytes(2), 64);
    let small = index.join();
    index.bound(small, 100);
    let last = (0..64).map(|_| index.join()).last().unwrap();
    assert_eq!(last.index(), 64, "more than there was room for");
    let prompts: Vec<_> = (0..50).map(|family| prompt(family, 0, 10)).collect();
    for blocks in &prompts {
        index.insert(small, blocks);
        index.insert(last, blocks);
    }
    let held = |slot| prompts.iter().filter(|it| depth_of(&index, slot, it) == 10).count();
    assert_eq!(held(last), 50);
    assert!((9..=11).contains(&held(small)), "{}", held(small));
}

#[test]
fn what_was_not_found_takes_all_that_is_staler_with_it() {
    let mut index = index_of(1_000);
    let (a, b) = (index.join(), index.join());
    let [first, second, third] = [1, 2, 3].map(|family| prompt(family, 0, 10));
    for blocks in [&first, &second, &third] {
        index.insert(a, blocks);
        index.insert(b, blocks);
    }
    let stamp = index.insert_for(a, TenantId::NONE, &second).unwrap();
    index.lacks(a, stamp);
    assert_eq!(depth_of(&index, a, &first), 0);
    assert_eq!(depth_of(&index, a, &second), 10, "it was computed anew");
    assert_eq!(depth_of(&index, a, &third), 10);
    assert_eq!(depth_of(&index, b, &first), 10, "the other one's cache is its own");
    // Whoever else uses it does not bring it back.
    index.insert(b, &first);
    assert_eq!(depth_of(&index, a, &first), 0);
}
