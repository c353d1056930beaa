//! One decision: a request of 8,192 prompt tokens arrives, is placed, and leaves.
//!
//! The median is to stay under 2 µs with 64 replicas and a million blocks indexed, and under 20 µs with 1,024 replicas.

use std::hint::black_box;

use benches::{dispatcher, prompt, serve};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policy::config::StrategyName;

/// Prompt tokens of a request.
const PROMPT_TOKENS: usize = 8_192;

fn decide(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    let is_test = std::env::args().any(|it| it == "--test");
    let million = if is_test { 10_000 } else { 1_000_000 };
    for (strategy, replicas, blocks, block_tokens) in [
        (StrategyName::PrefixAware, 8, million, 64),
        (StrategyName::PrefixAware, 64, million, 64),
        (StrategyName::PrefixAware, 64, million, 16),
        (StrategyName::PrefixAware, 1_024, million, 64),
        (StrategyName::LeastLatency, 64, million, 64),
        (StrategyName::LeastLatency, 1_024, million, 64),
        (StrategyName::LeastRequest, 64, million, 64),
        (StrategyName::RoundRobin, 64, million, 64),
        (StrategyName::Sticky, 64, million, 64),
    ] {
        let prompt_blocks = PROMPT_TOKENS / block_tokens;
        let mut dispatcher = dispatcher(strategy, replicas, blocks, prompt_blocks);
        // Known prompts, known beginnings and unknown ones, in no order a cache could guess.
        let families = 2 * blocks / prompt_blocks;
        let prompts: Vec<_> = (0..4_096_u64)
            .map(|at| prompt(at.wrapping_mul(7_919) % families as u64, prompt_blocks))
            .collect();
        let name = format!(
            "{strategy}, {replicas} replicas, {blocks} blocks, {prompt_blocks}-block prompt"
        );
        let mut next = prompts.iter().cycle();
        let (mut id, mut decisions) = (1 << 40, Vec::new());
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                id += 1;
                let blocks = next.next().cloned().unwrap_or_default();
                serve(&mut dispatcher, id, black_box(blocks), &mut decisions);
                decisions.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decide);
criterion_main!(benches);
