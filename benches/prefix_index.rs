//! What the prefix index costs: filling it, replacing its stalest blocks, looking up prompts known
//! to various depths, and memory.

#![allow(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use benches::load::{Fleet, Traffic, index_block_bytes};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use policy::{
    config::StrategyName,
    prefix_index::{Hits, PrefixIndex, Slot},
};
use types::block::{BlockHash, hash_block};

/// Blocks in one prompt: 8,192 tokens at the default block.
const DEPTH: usize = 128;

const REPLICAS: u32 = 64;

fn main() {
    let mut criterion = benches::criterion();
    let blocks = if benches::is_trial() { 10_000 } else { 1_000_000 };
    print_bytes_per_block(blocks);
    insert(&mut criterion, blocks);
    look_up(&mut criterion, blocks);
    look_up_under_load(&mut criterion, blocks);
    criterion.final_summary();
}

/// The memory of full indexes, which must keep to their budgets.
fn print_bytes_per_block(blocks: usize) {
    for replicas in [8, 64, 128, 256, 512] {
        let budget = blocks * index_block_bytes(replicas);
        let mut index = PrefixIndex::new(budget, replicas as usize);
        let slot = index.join();
        for number in 0..=blocks / DEPTH {
            index.insert(slot, &chain(number));
        }
        assert!(index.bytes() <= budget, "{} bytes, budget {budget}", index.bytes());
        println!(
            "{replicas} replicas: {} blocks in {} bytes, {} a block",
            index.len(),
            index.bytes(),
            index.bytes() / index.len()
        );
    }
}

fn insert(criterion: &mut Criterion, blocks: usize) {
    let mut group = criterion.benchmark_group("prefix_index/insert");
    let budget = blocks * index_block_bytes(REPLICAS);

    let chains: Vec<_> = (0..blocks / DEPTH).map(chain).collect();
    group.throughput(Throughput::Elements((chains.len() * DEPTH) as u64));
    group.sample_size(10).bench_function("filling an empty index", |bencher| {
        let empty = || PrefixIndex::new(budget, REPLICAS as usize);
        let fill = |mut index: PrefixIndex| {
            let slot = index.join();
            chains.iter().for_each(|it| index.insert(slot, it));
            index
        };
        bencher.iter_batched(empty, fill, BatchSize::PerIteration);
    });

    group.throughput(Throughput::Elements(DEPTH as u64)).sample_size(40);
    let (mut index, slot) = full(budget, blocks);
    let mut number = blocks;
    let mut fresh = || {
        number += 1;
        chain(number)
    };
    group.bench_function("evicting the stalest", |bencher| {
        let size = BatchSize::NumIterations(64);
        bencher.iter_batched(&mut fresh, |chain| index.insert(slot, &chain), size);
    });

    let (mut index, slot) = full(budget, blocks);
    let mut known = chains.iter().cycle();
    group.bench_function("refreshing what is known", |bencher| {
        bencher.iter(|| known.next().into_iter().for_each(|it| index.insert(slot, it)));
    });
    group.finish();
}

/// One prompt of 128 blocks, of which all replicas, or each to a depth of its own, hold a part.
fn look_up(criterion: &mut Criterion, blocks: usize) {
    let mut group = criterion.benchmark_group("prefix_index/hits, one prompt");
    let budget = blocks * index_block_bytes(REPLICAS);
    let (mut index, _) = full(budget, blocks);
    let slots: Vec<Slot> = (1..REPLICAS).map(|_| index.join()).collect();
    let mut hits = Hits::default();
    let mut measure = |name: String, index: &PrefixIndex, prompt: &[BlockHash]| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| index.hits(std::hint::black_box(prompt), &mut hits));
        });
    };
    measure("known to nobody".to_owned(), &index, &chain(usize::MAX));
    for depth in [1, 16, 64, DEPTH] {
        let prompt = chain(usize::MAX - depth);
        let held = prompt.get(..depth).unwrap_or(&prompt);
        slots.iter().take(8).for_each(|it| index.insert(*it, held));
        measure(format!("8 hold {depth} blocks"), &index, &prompt);
    }
    let prompt = chain(usize::MAX - 1_000);
    for (at, slot) in slots.iter().enumerate() {
        index.insert(*slot, prompt.get(..2 * (at + 1)).unwrap_or(&prompt));
    }
    measure("63 hold it, each to another depth".to_owned(), &index, &prompt);
    group.finish();
}

/// Prompts of live traffic, each looked up in an index of many others.
fn look_up_under_load(criterion: &mut Criterion, blocks: usize) {
    let mut group = criterion.benchmark_group("prefix_index/hits, live traffic");
    for depth in [128, 512] {
        let mut built = None;
        let mut hits = Hits::default();
        group.bench_function(BenchmarkId::from_parameter(format!("{depth} a prompt")), |bencher| {
            let (traffic, fleet) = built.get_or_insert_with(|| {
                let mut traffic = Traffic::new(depth, blocks);
                let strategy = StrategyName::PrefixAware;
                let fleet = Fleet::filled(strategy, REPLICAS, blocks, &mut traffic);
                (traffic, fleet)
            });
            let size = BatchSize::NumIterations(64);
            let prompt = || traffic.request().blocks;
            let look_up = |prompt| {
                fleet.prefixes().hits(&prompt, &mut hits);
                prompt
            };
            bencher.iter_batched(prompt, look_up, size);
        });
    }
    group.finish();
}

/// An index that is full of the chains from number 0 on, all held by the one replica of it.
fn full(budget: usize, blocks: usize) -> (PrefixIndex, Slot) {
    let mut index = PrefixIndex::new(budget, REPLICAS as usize);
    let slot = index.join();
    (0..=blocks / DEPTH).rev().for_each(|it| index.insert(slot, &chain(it)));
    (index, slot)
}

/// A prompt that shares nothing with any other number's.
fn chain(number: usize) -> Vec<BlockHash> {
    let mut parent = BlockHash(number as u64);
    let mut next = || {
        parent = hash_block(parent, &number.to_le_bytes());
        parent
    };
    (0..DEPTH).map(|_| next()).collect()
}
