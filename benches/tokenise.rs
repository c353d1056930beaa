//! A conversation's eighth turn in tokens: from scratch, and by a router that has seen the seven before.
//!
//! What is measured is all of it: the body is read, the chat rendered by its template and tokenised.
//! Remembering is to make it ten times faster, and the ids are checked to be the same. With `TOKENIZER`
//! set to a model's folder, that model's tokenizer is measured in place of the tiny one.

#![expect(clippy::expect_used, reason = "a benchmark without its subject ends")]

use std::{fs, hint::black_box, path::PathBuf};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use serde_json::json;
use tokens::model::{Files, Model};
use wire::openai::Endpoint;

/// What time it is for templates that ask: any.
const NOW: std::time::Duration = std::time::Duration::ZERO;

/// Words of a question and of an answer: those of the workload `support-chat` on average, four bytes a
/// token.
const WORDS: (usize, usize) = (87, 100);

/// Words of the system prompt: the 6,000 tokens of that workload.
const SYSTEM_WORDS: usize = 4_000;

fn text(words: usize, seed: usize) -> String {
    const SOME: [&str; 12] = [
        "routing", "a", "request", "costs", "what", "the", "cache", "lacks", "and", "nothing",
        "else,", "mostly.",
    ];
    let mut state = (seed as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut word = || {
        // Xorshift: no two texts are alike, or one would be remembered as the other.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let place = usize::try_from(state >> 33).unwrap_or_default() % SOME.len();
        SOME.get(place).copied().unwrap_or_default()
    };
    (0..words).map(|_| word()).collect::<Vec<_>>().join(" ")
}

/// The body of a conversation's `turn`-th request, counted from one.
fn body(turn: usize) -> Vec<u8> {
    let mut messages = vec![json!({"role": "system", "content": text(SYSTEM_WORDS, 0)})];
    for at in 1..turn {
        messages.push(json!({"role": "user", "content": text(WORDS.0, 2 * at)}));
        messages.push(json!({"role": "assistant", "content": text(WORDS.1, 2 * at + 1)}));
    }
    messages.push(json!({"role": "user", "content": text(WORDS.0, 2 * turn)}));
    json!({"model": "tiny", "messages": messages}).to_string().into_bytes()
}

fn model() -> Model {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/tokens/tests/tiny");
    let folder = std::env::var_os("TOKENIZER").map_or(tiny, PathBuf::from);
    let tokenizer = fs::read(folder.join("tokenizer.json")).unwrap_or_default();
    let config = fs::read(folder.join("tokenizer_config.json")).ok();
    let template = fs::read_to_string(folder.join("chat_template.jinja")).ok();
    let files =
        Files { tokenizer: &tokenizer, config: config.as_deref(), template: template.as_deref() };
    Model::new(files, 7).expect("the folder holds a model's tokenizer")
}

fn tokenise(criterion: &mut Criterion) {
    let ids = |model: &Model, body: &[u8]| {
        model.ids(Endpoint::ChatCompletions, black_box(body), NOW).unwrap_or_default()
    };
    let (seventh, eighth) = (body(7), body(8));
    let warm = || {
        let model = model();
        ids(&model, &seventh);
        model
    };
    assert_eq!(ids(&warm(), &eighth), ids(&model(), &eighth));
    let mut group = criterion.benchmark_group(format!("turn 8, {} bytes", eighth.len()));
    group.sample_size(30);
    group.bench_function("from scratch", |bencher| {
        bencher.iter_batched_ref(model, |it| ids(it, &eighth), BatchSize::PerIteration);
    });
    group.bench_function("after turn 7", |bencher| {
        bencher.iter_batched_ref(warm, |it| ids(it, &eighth), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, tokenise);
criterion_main!(benches);
