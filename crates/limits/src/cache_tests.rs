//! The limits of caches against naive caches: every block by itself, every choice tried.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;
use types::{
    block::{BlockHash, hash_block},
    quantity::{Blocks, Tokens},
};

use crate::visits::{Visit, Visits};

const BLOCK: Tokens = Tokens(2);

/// A prompt over a small alphabet, so that prefixes are shared, and some blocks of an answer.
fn visit(letters: &[u8], odd: bool, answer: usize) -> Visit {
    let mut parent = BlockHash(0);
    let mut chain = |letter: &u8| {
        parent = hash_block(parent, &[*letter]);
        parent
    };
    let answer = vec![9_u8; answer];
    let blocks: Arc<[BlockHash]> = letters.iter().chain(&answer).map(&mut chain).collect();
    let prompt = u32::try_from(letters.len()).unwrap() * BLOCK.0 + u32::from(odd);
    Visit { blocks, prompt: Tokens(prompt) }
}

fn visits(requests: usize) -> impl Strategy<Value = Vec<Visit>> {
    let letters = prop::collection::vec(0..2_u8, 0..5);
    let visit = (letters, any::<bool>(), 0..3_usize).prop_map(|it| visit(&it.0, it.1, it.2));
    prop::collection::vec(visit, 0..requests)
}

/// A plain LRU cache: finds a leading run, then uses all blocks, the last one first.
fn naive_lru(visits: &[Visit], size: usize) -> Vec<Blocks> {
    let mut oldest_first: Vec<BlockHash> = Vec::new();
    let visited = visits.iter().map(|visit| {
        let findable = visit.blocks.iter().take(visit.findable(BLOCK));
        let found = findable.take_while(|name| oldest_first.contains(name)).count();
        for name in visit.blocks.iter().rev() {
            oldest_first.retain(|it| it != name);
            oldest_first.push(*name);
        }
        let excess = oldest_first.len().saturating_sub(size);
        oldest_first.drain(..excess);
        Blocks(u32::try_from(found).unwrap())
    });
    visited.collect()
}

/// A cache without end.
fn naive_infinite(visits: &[Visit]) -> Vec<Blocks> {
    naive_lru(visits, usize::MAX)
}

/// The most hits of any eviction, by trying each: what to keep after each request is any set of at
/// most `size` blocks of those held before or just computed.
fn by_brute_force(visits: &[Visit], size: usize) -> u64 {
    let mut reached: Vec<(BTreeSet<BlockHash>, u64)> = vec![(BTreeSet::new(), 0)];
    for visit in visits {
        let mut next: Vec<(BTreeSet<BlockHash>, u64)> = Vec::new();
        for (held, hits) in &reached {
            let findable = visit.blocks.iter().take(visit.findable(BLOCK));
            let found = findable.take_while(|name| held.contains(name)).count() as u64;
            let all: Vec<BlockHash> =
                held.union(&visit.blocks.iter().copied().collect()).copied().collect();
            for set in 0_u32..1 << all.len() {
                if set.count_ones() as usize > size {
                    continue;
                }
                let kept = all.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1);
                let kept: BTreeSet<BlockHash> = kept.map(|(_, name)| *name).collect();
                match next.iter_mut().find(|(other, _)| *other == kept) {
                    Some((_, best)) => *best = (*best).max(hits + found),
                    None => next.push((kept, hits + found)),
                }
            }
        }
        reached = next;
    }
    reached.iter().map(|(_, hits)| *hits).max().unwrap_or(0)
}

fn blocks(hits: &[Blocks]) -> u64 {
    hits.iter().map(|it| u64::from(it.0)).sum()
}

/// A fleet of LRU caches; each request goes where `route` says.
fn fleet_of_lrus(visits: &[Visit], route: &[usize], replicas: usize, size: usize) -> u64 {
    let of = |replica: usize| -> Vec<Visit> {
        let routed = visits.iter().zip(route).filter(|(_, to)| **to % replicas == replica);
        routed.map(|(visit, _)| visit.clone()).collect()
    };
    (0..replicas).map(|replica| blocks(&naive_lru(&of(replica), size))).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Runs hide nothing: a cache without end finds what it finds block by block.
    #[test]
    fn the_infinite_cache_finds_what_was_there_before(visits in visits(12)) {
        let hits = Visits::new(BLOCK, &visits).infinite_cache();
        prop_assert_eq!(hits.blocks, naive_infinite(&visits));
    }

    /// One pass gives the hits of every size.
    #[test]
    fn the_curve_is_that_of_a_cache_of_each_size(visits in visits(30)) {
        let curve = Visits::new(BLOCK, &visits).lru_curve();
        for size in 0..40 {
            let hits = blocks(&naive_lru(&visits, size as usize));
            prop_assert_eq!(curve.hit_blocks(Blocks(size)), hits, "of {} blocks", size);
        }
        let all = curve.hit_blocks(Blocks(u32::MAX));
        prop_assert_eq!(all, blocks(&naive_infinite(&visits)));
        prop_assert_eq!(curve.hit_blocks(curve.enough()), all);
        let below = Blocks(curve.enough().0.saturating_sub(1));
        prop_assert!(all == 0 || curve.hit_blocks(below) < all);
    }

    /// What the best eviction finds is a leading run that was computed before.
    #[test]
    fn the_best_eviction_finds_no_more_than_the_infinite_cache(
        visits in visits(30),
        size in 0..12_u32,
    ) {
        let all = Visits::new(BLOCK, &visits);
        let found = all.belady(Blocks(size)).blocks;
        for (found, most) in found.iter().zip(all.infinite_cache().blocks) {
            prop_assert!(*found <= most);
        }
        prop_assert_eq!(all.belady(Blocks(u32::MAX)), all.infinite_cache());
    }

    /// No fleet of caches finds more than the best eviction from one cache of all their blocks,
    /// however requests are routed.
    #[test]
    fn no_routing_beats_the_pooled_cache(
        visits in visits(30),
        route in prop::collection::vec(0..4_usize, 30),
        replicas in 1..4_usize,
        size in 0..6_usize,
    ) {
        let all = Visits::new(BLOCK, &visits);
        let pooled = Blocks(u32::try_from(replicas * size).unwrap());
        let most = blocks(&all.belady(pooled).blocks);
        prop_assert!(fleet_of_lrus(&visits, &route, replicas, size) <= most);
        prop_assert!(all.lru_curve().hit_blocks(pooled) <= most);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// No eviction finds more than Belady's, and some eviction finds as much.
    #[test]
    fn no_eviction_beats_beladys(visits in visits(6), size in 0..4_u32) {
        let most = Visits::new(BLOCK, &visits).belady(Blocks(size));
        prop_assert_eq!(blocks(&most.blocks), by_brute_force(&visits, size as usize));
    }
}

#[test]
fn least_recently_used_loses_a_cycle_that_the_best_eviction_keeps_in_part() {
    let cycle: Vec<Visit> = (0..30_u8).map(|at| visit(&[at % 3], true, 0)).collect();
    let all = Visits::new(BLOCK, &cycle);
    assert_eq!(all.lru_curve().hit_blocks(Blocks(2)), 0);
    assert_eq!(all.lru_curve().hit_blocks(Blocks(3)), 27);
    // Two places for three blocks: from the second round on, at least every other visit hits.
    assert!(blocks(&all.belady(Blocks(2)).blocks) >= 14);
}
