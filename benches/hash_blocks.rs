//! From a body to the names of its prompt's blocks: hashing alone, to reach 2 GB/s on one core, and
//! together with parsing.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use types::{
    block::{BlockHasher, ChainSeed, HashKey, Scope},
    quantity::{BYTES_PER_TOKEN, Tokens},
};
use wire::openai::{Endpoint, parse};

const BLOCK: Tokens = Tokens(64);

/// A chat of `turns` turns and about `bytes` bytes.
fn chat(bytes: usize, turns: usize) -> String {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(bytes / turns / 45 + 1);
    let turns: Vec<String> =
        (0..turns).map(|at| format!(r#"{{"role":"user","content":"{at} {text}"}}"#)).collect();
    format!(r#"{{"model":"m","stream":true,"messages":[{}]}}"#, turns.join(","))
}

fn hash_blocks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash_blocks");
    let seed = ChainSeed::new(HashKey(1), &Scope::default());
    for kib in [32, 1_024] {
        let prompt = vec![b'x'; kib << 10];
        group.throughput(Throughput::Bytes(prompt.len() as u64));
        group.bench_function(format!("hash {kib} KiB in 64-token blocks"), |bencher| {
            bencher.iter(|| {
                let mut hasher = BlockHasher::new(seed, 64 * BYTES_PER_TOKEN);
                hasher.update(black_box(&prompt));
                hasher.finish()
            });
        });
    }
    for (kib, turns) in [(1, 2), (32, 4), (32, 40)] {
        let body = chat(kib << 10, turns);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(
            format!("parse and hash a {kib} KiB chat of {turns} turns"),
            |bencher| {
                bencher.iter(|| {
                    let view = parse(Endpoint::ChatCompletions, black_box(body.as_bytes()));
                    view.map(|it| it.hash_prompt(HashKey(1), None, BLOCK).blocks.len())
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, hash_blocks);
criterion_main!(benches);
