//! What looking at a stream costs for each event: finding it, and reading what it says.

use benches::text::TOKEN_EVENT;
use criterion::{Criterion, Throughput};
use wire::{
    openai::Endpoint,
    sse::Scanner,
    usage::{Answer, carries_output},
};

/// Events that are looked at in one go.
const EVENTS: usize = 100;

fn main() {
    let mut criterion = benches::criterion();
    let stream = TOKEN_EVENT.repeat(EVENTS);
    // A gateway between may cut a stream anywhere.
    let cuts = [
        ("an event a chunk", TOKEN_EVENT.len()),
        ("half an event a chunk", TOKEN_EVENT.len().div_ceil(2)),
        ("16 KiB a chunk", 16 << 10),
    ];
    let mut group = criterion.benchmark_group("sse");
    group.throughput(Throughput::Elements(EVENTS as u64));
    for (name, chunk_bytes) in cuts {
        group.bench_with_input(name, stream.as_bytes(), |bencher, stream| {
            bencher.iter(|| {
                let mut scanner = Scanner::new();
                let mut answer = Answer::new(Endpoint::ChatCompletions);
                let mut has_token = false;
                for chunk in stream.chunks(chunk_bytes) {
                    scanner.push(chunk, |event| {
                        // As the router does: only until the first token has come.
                        has_token = has_token || carries_output(&event);
                        answer.event(&event);
                    });
                }
                (has_token, answer.end())
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
