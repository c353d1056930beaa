//! How fast prompts are cut into blocks and hashed, and what reading a body costs around that.

use benches::text::{chat, prose};
use criterion::{BenchmarkId, Criterion, Throughput};
use http::HeaderMap;
use types::{
    block::{BlockHasher, ChainSeed, HashKey, Scope},
    quantity::{BYTES_PER_TOKEN, Tokens},
};
use wire::{
    headers::session::Sources,
    openai::{Endpoint, parse},
};

const KEY: HashKey = HashKey(7);

/// Default size of a block.
const BLOCK: Tokens = Tokens(64);

fn main() {
    let mut criterion = benches::criterion();
    hash(&mut criterion);
    read(&mut criterion);
    criterion.final_summary();
}

/// Hashing alone.
fn hash(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hash_blocks");
    for block in [Tokens(16), BLOCK] {
        let block_bytes = block.0 as usize * BYTES_PER_TOKEN;
        for (name, bytes) in [("32 KiB", 32 << 10), ("1 MiB", 1 << 20)] {
            let prompt = prose(bytes);
            group.throughput(Throughput::Bytes(prompt.len() as u64));
            let id = BenchmarkId::new(format!("blocks of {block} tokens"), name);
            group.bench_with_input(id, prompt.as_bytes(), |bencher, prompt| {
                bencher.iter(|| {
                    let seed = ChainSeed::new(KEY, &Scope { model: "m", ..Scope::default() });
                    let mut hasher = BlockHasher::new(seed, block_bytes);
                    hasher.update(prompt);
                    hasher.finish()
                });
            });
        }
    }
    group.finish();
}

/// What the router does with a body: parse, find the session, hash.
fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse_and_hash");
    let sources = Sources::default();
    let headers = HeaderMap::new();
    let bodies = [
        ("1 KiB, 1 turn", chat(1 << 10, 1)),
        ("32 KiB, 1 turn", chat(32 << 10, 1)),
        ("32 KiB, 32 turns", chat(32 << 10, 32)),
        ("1 MiB, 1 turn", chat(1 << 20, 1)),
    ];
    for (name, body) in bodies {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(name, body.as_bytes(), |bencher, body| {
            bencher.iter(|| {
                let view = parse(Endpoint::ChatCompletions, body).ok()?;
                let session = sources.find(&headers, &view, KEY, None).map(|it| it.key);
                Some((session, view.hash_prompt(KEY, None, BLOCK)))
            });
        });
    }
    group.finish();
}
