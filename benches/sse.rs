//! What the router does with one server-sent event besides passing it on: finding it, and reading
//! what it says.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wire::{openai::Endpoint, sse::Scanner, usage::Answer};

/// A chunk as vLLM sends it.
const EVENT: &str = "data: {\"id\":\"chatcmpl-b42e0e14cc889f3c\",\"object\":\"chat.completion.chunk\",\
\"created\":1795422329,\"model\":\"tiny-llama\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\
\"logprobs\":null,\"finish_reason\":null,\"token_ids\":null}]}\n\n";

fn sse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sse");
    let mut scanner = Scanner::new();
    let mut answer = Answer::new(Endpoint::ChatCompletions);
    group.bench_function("find and read an event", |bencher| {
        bencher.iter(|| scanner.push(black_box(EVENT.as_bytes()), |event| answer.event(&event)));
    });
    group.finish();
}

criterion_group!(benches, sse);
criterion_main!(benches);
