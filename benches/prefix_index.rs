//! The prefix index alone: look-ups and insertions at a million blocks, eviction included, and what
//! a block takes.

#![expect(clippy::print_stderr, reason = "the memory of a block is a result too")]

use std::hint::black_box;

use benches::prompt;
use criterion::{Criterion, criterion_group, criterion_main};
use policy::prefix_index::{Hits, PrefixIndex};
use types::request::TenantId;

fn prefix_index(criterion: &mut Criterion) {
    let is_test = std::env::args().any(|it| it == "--test");
    let bytes_max = if is_test { 1 << 20 } else { 40 << 20 };
    let mut index = PrefixIndex::new(bytes_max, 64);
    let slots: Vec<_> = (0..64).map(|_| index.join()).collect();
    let prompts: Vec<_> = (0..20_000_u64).map(|family| prompt(family, 128)).collect();
    let mut next =
        (0..).map(|at: usize| (at % slots.len(), at.wrapping_mul(7_919) % prompts.len()));
    let mut insert = |index: &mut PrefixIndex| {
        let (slot, prompt) = next.next().unwrap_or_default();
        if let (Some(slot), Some(blocks)) = (slots.get(slot), prompts.get(prompt)) {
            index.insert(*slot, black_box(blocks));
        }
    };
    while !index.is_full() {
        insert(&mut index);
    }
    eprintln!(
        "{} blocks in {} bytes: {:.1} bytes a block, budget {bytes_max}",
        index.len(),
        index.bytes(),
        index.bytes() as f64 / index.len() as f64
    );
    let mut group = criterion.benchmark_group("prefix_index");
    group.bench_function("insert 128 blocks, evicting", |bencher| {
        bencher.iter(|| insert(&mut index));
    });
    let (mut hits, mut at) = (Hits::default(), 0_usize);
    group.bench_function("find 128 blocks", |bencher| {
        bencher.iter(|| {
            at = at.wrapping_add(7_919);
            let blocks = prompts.get(at % prompts.len());
            index.hits(blocks.map_or(&[], |it| it), &mut hits);
            slots.first().map(|it| hits.of(*it))
        });
    });
    group.finish();
    flood(criterion, is_test);
}

/// A million unique prompts of one tenant beside another's few: what the other keeps, what memory it
/// takes, and how long a look-up takes before and after.
fn flood(criterion: &mut Criterion, is_test: bool) {
    let (bytes_max, unique) = if is_test { (1 << 20, 10_000) } else { (64 << 20, 1_000_000_usize) };
    let mut index = PrefixIndex::new(bytes_max, 64);
    let slots: Vec<_> = (0..64).map(|_| index.join()).collect();
    let slot = |at: usize| slots.get(at % slots.len()).copied().unwrap_or_default();
    let quiet: Vec<_> = (0..100_u64).map(|family| prompt(family, 128)).collect();
    for (at, blocks) in (0..).zip(&quiet) {
        index.insert_for(slot(at), TenantId(1), blocks);
    }
    let (mut hits, mut at) = (Hits::default(), 0_usize);
    let mut find = |index: &PrefixIndex, name: &str| {
        criterion.bench_function(&format!("prefix_index/find 128 blocks, {name}"), |bencher| {
            bencher.iter(|| {
                at = at.wrapping_add(7);
                let blocks = quiet.get(at % quiet.len());
                index.hits(black_box(blocks.map_or(&[], |it| it)), &mut hits);
                hits.of(slot(0))
            });
        });
    };
    find(&index, "before a flood");
    for at in 0..unique {
        index.insert_for(slot(at), TenantId(2), &prompt((1 << 40) | at as u64, 10));
    }
    find(&index, "after a million unique prompts");
    let mut kept = 0;
    for (at, blocks) in (0..).zip(&quiet) {
        index.hits(blocks, &mut hits);
        kept += hits.of(slot(at));
    }
    eprintln!(
        "after {unique} unique prompts of another tenant: {kept} of {} hits kept, {} bytes of {bytes_max}",
        quiet.len() * 128,
        index.bytes(),
    );
}

criterion_group!(benches, prefix_index);
criterion_main!(benches);
