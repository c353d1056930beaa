//! What the engine model costs a simulation: a replica that serves chats, by single steps and by
//! steps that are planned together.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{Answer, Engine, Job, Profile, Progress};
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

/// Time between two arrivals: seven tenths of what the replica can serve.
const GAP: Duration = Duration::from_millis(50);

/// Serves `jobs` that come one after the other; returns the steps and the tokens reported.
fn serve(jobs: &[Job], together: bool) -> (u64, usize) {
    let mut engine = engine();
    let (mut begun, mut tokens) = (Duration::ZERO, 0);
    let mut progress = Vec::new();
    for (job, place) in jobs.iter().zip(0..) {
        let now = GAP.saturating_mul(place);
        tokens += run(&mut engine, &mut begun, now, together, &mut progress);
        let _ = engine.submit_during(job.clone(), now.saturating_sub(begun));
        if engine.planned().is_empty() {
            begun = now;
            begin(&mut engine, together);
        }
    }
    tokens += run(&mut engine, &mut begun, Duration::MAX, together, &mut progress);
    (engine.counters().steps, tokens)
}

fn begin(engine: &mut Engine, together: bool) {
    if together {
        engine.begin_steps();
    } else {
        engine.begin_step();
    }
}

/// Ends the steps that end before `until`.
fn run(
    engine: &mut Engine,
    begun: &mut Duration,
    until: Duration,
    together: bool,
    progress: &mut Vec<Progress>,
) -> usize {
    let mut tokens = 0;
    while let Some(end) = engine.planned().last().map(|end| begun.saturating_add(*end))
        && end < until
    {
        progress.clear();
        if together {
            engine.finish_steps(progress);
        } else {
            engine.finish_step(progress);
        }
        tokens += progress.len();
        *begun = end;
        begin(engine, together);
    }
    tokens
}

fn steps(c: &mut Criterion) {
    let jobs: Vec<Job> = (0..750).map(job).collect();
    assert_eq!(serve(&jobs, false).0, serve(&jobs, true).0, "the same steps");
    let mut group = c.benchmark_group("engine, 750 requests of 500 tokens");
    group.throughput(Throughput::Elements(u64::from(ANSWER) * jobs.len() as u64));
    group.sample_size(20);
    for (name, together) in [("step by step", false), ("planned together", true)] {
        group.bench_function(name, |bench| bench.iter(|| black_box(serve(&jobs, together))));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
