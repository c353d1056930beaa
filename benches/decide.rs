//! What one decision costs: a request of 8,192 prompt tokens arrives and is placed, an earlier one
//! leaves, with a full index.
//!
//! After the benchmarks it prints how long single decisions took, as the mean hides the slow ones.

#![allow(clippy::print_stdout, reason = "a benchmark reports on stdout")]

use std::time::{Duration, Instant};

use benches::load::{Fleet, Traffic};
use criterion::{BatchSize, BenchmarkId, Criterion};
use policy::config::StrategyName;

/// KV blocks in 8,192 tokens at the default block of 64, and at vLLM's 16.
const DEPTH: u32 = 128;
const DEPTH_OF_SMALL_BLOCKS: u32 = 512;

/// Requests made at a time, outside the measured time.
const BATCH: BatchSize = BatchSize::NumIterations(64);

fn main() {
    let mut criterion = benches::criterion();
    let sizes: &[usize] = if benches::is_trial() { &[10_000] } else { &[100_000, 1_000_000] };
    for &blocks in sizes {
        for replicas in [8, 64, 512] {
            for strategy in StrategyName::ALL {
                decide(&mut criterion, strategy, replicas, blocks, DEPTH);
            }
            let strategy = StrategyName::PrefixAware;
            decide(&mut criterion, strategy, replicas, blocks, DEPTH_OF_SMALL_BLOCKS);
        }
    }
    criterion.final_summary();
    for depth in [DEPTH, DEPTH_OF_SMALL_BLOCKS] {
        for replicas in [8, 64, 512] {
            print_single_decisions(replicas, sizes.last().copied().unwrap_or_default(), depth);
        }
    }
}

fn decide(
    criterion: &mut Criterion,
    strategy: StrategyName,
    replicas: u32,
    blocks: usize,
    depth: u32,
) {
    let mut group = criterion.benchmark_group("decide");
    let name = format!("{replicas} replicas, {blocks} blocks, {depth} a prompt");
    let mut built = None;
    group.bench_function(BenchmarkId::new(strategy.as_str(), name), |bencher| {
        let (traffic, fleet) = built.get_or_insert_with(|| {
            let mut traffic = Traffic::new(depth, blocks);
            let fleet = Fleet::filled(strategy, replicas, blocks, &mut traffic);
            (traffic, fleet)
        });
        bencher.iter_batched(|| traffic.request(), |request| fleet.decide(request), BATCH);
    });
    group.finish();
}

/// Times decisions one by one.
fn print_single_decisions(replicas: u32, blocks: usize, depth: u32) {
    let count = if benches::is_trial() { 100 } else { 200_000 };
    let mut traffic = Traffic::new(depth, blocks);
    let mut fleet = Fleet::filled(StrategyName::PrefixAware, replicas, blocks, &mut traffic);
    let mut times: Vec<Duration> = Vec::with_capacity(count);
    for _ in 0..count {
        let request = traffic.request();
        let start = Instant::now();
        std::hint::black_box(fleet.decide(request));
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let quantile = |per_mille: usize| {
        let time = times.get(count * per_mille / 1_000).copied().unwrap_or_default();
        time.as_secs_f64() * 1e6
    };
    println!(
        "single decisions, prefix-aware, {replicas} replicas, {blocks} blocks, {depth} a prompt: \
         p50 {:.1} µs, p90 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs",
        quantile(500),
        quantile(900),
        quantile(990),
        quantile(999),
    );
}
