//! What the engine model costs: a replica's whole day, and the steps of a batch that only decodes.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{Answer, Engine, Job, Profile};
use types::{block::BlockHash, quantity::Tokens, request::RequestId};

const PROMPT: u32 = 1000;
const ANSWER: u32 = 500;

fn engine() -> Engine {
    let Ok(engine) = Profile::named("llama-3-8b-h100").map(Engine::new) else { unreachable!() };
    let Ok(engine) = engine else { unreachable!() };
    engine
}

/// A request that shares half of its prompt with one in 16.
fn job(id: u64) -> Job {
    let name = |block: u64| {
        let family = if block < 31 { id % 16 } else { 16 + id };
        BlockHash((family << 32) + block)
    };
    Job {
        id: RequestId(id),
        prompt: Tokens(PROMPT),
        blocks: (0..u64::from(PROMPT / 16)).map(name).collect::<Arc<[_]>>(),
        output: Tokens(ANSWER),
        answer: Answer::Private,
    }
}

/// Serves `jobs` that come 25 ms apart; returns the tokens.
fn serve(jobs: &[Job]) -> usize {
    let mut engine = engine();
    let (mut now, mut tokens) = (Duration::ZERO, 0);
    let mut progress = Vec::new();
    let mut coming = jobs.iter().zip(0..).peekable();
    loop {
        while let Some((job, _)) =
            coming.next_if(|(_, place)| Duration::from_millis(25).saturating_mul(*place) <= now)
        {
            let _ = engine.submit(job.clone());
        }
        let Some(step) = engine.begin_step() else {
            let Some((_, place)) = coming.peek() else { return tokens };
            now = Duration::from_millis(25).saturating_mul(*place);
            continue;
        };
        now += step;
        progress.clear();
        engine.finish_step(&mut progress);
        tokens += progress.len();
    }
}

fn steps(c: &mut Criterion) {
    let jobs: Vec<Job> = (0..750).map(job).collect();
    let mut group = c.benchmark_group("engine");
    group.throughput(Throughput::Elements(u64::from(ANSWER) * jobs.len() as u64));
    group.sample_size(20);
    group.bench_function("750 requests of 500 tokens, step by step", |bench| {
        bench.iter(|| black_box(serve(&jobs)));
    });
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
