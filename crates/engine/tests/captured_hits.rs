//! The engine finds in its cache what a real one found.
//!
//! The figures are the `usage` of answers recorded from vLLM 0.32.0 with KV blocks of 32 tokens:
//! prompt tokens, cached tokens, and how many leading tokens the prompt shares with those before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use engine::{Answer, Engine, Job, Profile};
use types::{block::BlockHash, quantity::Tokens, request::RequestId};

const BLOCK: u32 = 32;

fn engine() -> Engine {
    Engine::new(Profile {
        block_size: Tokens(BLOCK),
        kv_tokens: Tokens(512 * BLOCK),
        max_model_len: Tokens(8192),
        ..Profile::named("llama-3-8b-h100").unwrap()
    })
    .unwrap()
}

/// A prompt that shares its first `shared` blocks with every other one of the same `salt`.
fn job(id: u64, prompt: u32, shared: u64, salt: u64, question: u64) -> Job {
    let blocks = u64::from(prompt / BLOCK);
    Job {
        id: RequestId(id),
        prompt: Tokens(prompt),
        blocks: (0..blocks)
            .map(|it| BlockHash(salt + it + if it < shared { 0 } else { question }))
            .collect(),
        output: Tokens(8),
        answer: Answer::Private,
    }
}

/// Runs all of `jobs` at once and returns the cached tokens of each.
fn cached(engine: &mut Engine, jobs: impl IntoIterator<Item = Job>) -> Vec<u32> {
    for job in jobs {
        engine.submit(job).unwrap();
    }
    let mut progress = Vec::new();
    while engine.begin_step().is_some() {
        engine.finish_step(&mut progress);
    }
    progress.iter().filter(|it| it.last).map(|it| it.cached.0).collect()
}

#[test]
fn a_conversation_hits_as_it_did_on_vllm() {
    let mut engine = engine();
    // chat_1_cold: 269 tokens; then the same system prompt (224 tokens of whole blocks) with
    // another question; then that request once more; then the first blocks under a salt.
    assert_eq!(cached(&mut engine, [job(1, 269, 7, 0, 1 << 20)]), [0]);
    assert_eq!(cached(&mut engine, [job(2, 267, 7, 0, 2 << 20)]), [224]);
    assert_eq!(cached(&mut engine, [job(3, 267, 7, 0, 2 << 20)]), [256]);
    assert_eq!(cached(&mut engine, [job(4, 260, 7, 1 << 40, 3 << 20)]), [0]);
    // chat_n2: two choices for one new question report the hit of the second, which shares the
    // block that the first is computing in the same step.
    let twins = [job(5, 260, 7, 0, 4 << 20), job(6, 260, 7, 0, 4 << 20)];
    assert_eq!(cached(&mut engine, twins), [224, 256]);
    // chat_after_reset.
    assert!(engine.reset_prefix_cache());
    assert_eq!(cached(&mut engine, [job(7, 258, 7, 0, 5 << 20)]), [0]);
}

#[test]
fn a_repeat_that_ends_on_a_block_boundary_hits_one_block_less() {
    let mut engine = engine();
    // completion_token_ids and completion_token_ids_repeat: 128 tokens, 4 blocks.
    assert_eq!(cached(&mut engine, [job(1, 128, 4, 0, 0)]), [0]);
    assert_eq!(cached(&mut engine, [job(2, 128, 4, 0, 0)]), [96]);
}
