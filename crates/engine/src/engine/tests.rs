//! The mechanics one by one, and the laws that hold after every step.

use std::{ops::Range, sync::Arc};

use proptest::prelude::*;
use types::block::BlockHash;

use super::*;
use crate::job::Answer;

/// A small replica: blocks of 4 tokens, 16 tokens a step, 4 seats.
fn profile(kv_blocks: u32) -> Profile {
    Profile {
        block_size: Tokens(4),
        kv_tokens: Tokens(kv_blocks * 4),
        max_model_len: Tokens(4 * 64),
        max_num_batched_tokens: Tokens(16),
        max_num_seqs: 4,
        ..Profile::named("llama-3-8b-h100").unwrap()
    }
}

fn engine(kv_blocks: u32) -> Engine {
    Engine::new(profile(kv_blocks)).unwrap()
}

fn names(range: Range<u64>) -> Arc<[BlockHash]> {
    range.map(BlockHash).collect()
}

/// A job whose prompt no other job shares.
fn job(id: u64, prompt: u32, output: u32) -> Job {
    shared(id, prompt, output, id * 1000)
}

/// A job whose prompt's blocks are named from `first` on.
fn shared(id: u64, prompt: u32, output: u32, first: u64) -> Job {
    Job {
        id: RequestId(id),
        prompt: Tokens(prompt),
        blocks: names(first..first + u64::from(prompt / 4)),
        output: Tokens(output),
        answer: Answer::Private,
    }
}

/// Runs one step and returns `(id, generated)` of every token it brought.
fn step(engine: &mut Engine) -> Vec<(u64, u32)> {
    let mut progress = Vec::new();
    assert!(engine.begin_step().is_some(), "a step was due");
    engine.finish_step(&mut progress);
    engine.batch.check();
    progress.iter().map(|it| (it.id.0, it.generated.0)).collect()
}

/// Runs until idle and returns the last token of every job.
fn drain(engine: &mut Engine) -> Vec<Progress> {
    let mut progress = Vec::new();
    while engine.begin_step().is_some() {
        engine.finish_step(&mut progress);
        engine.batch.check();
    }
    progress.retain(|it| it.last);
    progress
}

/// Runs a job alone and returns how much of its prompt was cached.
fn cached(engine: &mut Engine, job: Job) -> u32 {
    engine.submit(job).unwrap();
    drain(engine).first().unwrap().cached.0
}

#[test]
fn a_long_prompt_is_computed_in_chunks_of_the_budget() {
    let mut engine = engine(64);
    engine.submit(job(1, 40, 2)).unwrap();
    assert_eq!(step(&mut engine), []);
    assert_eq!(step(&mut engine), []);
    assert_eq!(step(&mut engine), [(1, 1)]);
    assert_eq!(step(&mut engine), [(1, 2)]);
    assert_eq!(engine.begin_step(), None);
}

#[test]
fn decodes_come_before_the_chunks_that_share_their_step() {
    let mut engine = engine(64);
    engine.submit(job(1, 4, 10)).unwrap();
    assert_eq!(step(&mut engine), [(1, 1)]);
    engine.submit(job(2, 30, 1)).unwrap();
    // 15 tokens are left beside the decode: the prompt needs two steps to the token.
    assert_eq!(step(&mut engine), [(1, 2)]);
    assert_eq!(step(&mut engine), [(1, 3), (2, 1)]);
}

#[test]
fn the_budget_left_over_admits_the_next_in_line() {
    let mut engine = engine(64);
    engine.submit(job(1, 10, 1)).unwrap();
    engine.submit(job(2, 10, 1)).unwrap();
    assert_eq!(step(&mut engine), [(1, 1)]);
    assert_eq!(step(&mut engine), [(2, 1)]);
}

#[test]
fn no_more_sequences_run_than_there_are_seats() {
    let mut engine = engine(64);
    for id in 0..6 {
        engine.submit(job(id, 2, 2)).unwrap();
    }
    assert_eq!(step(&mut engine), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    assert_eq!((engine.load().running, engine.load().waiting), (4, 2));
    assert_eq!(step(&mut engine), [(0, 2), (1, 2), (2, 2), (3, 2)]);
    assert_eq!(step(&mut engine), [(4, 1), (5, 1)]);
}

#[test]
fn a_job_that_does_not_fit_holds_up_the_smaller_ones_behind_it() {
    let mut engine = engine(6);
    engine.submit(job(1, 13, 4)).unwrap();
    assert_eq!(step(&mut engine), [(1, 1)]);
    engine.submit(job(2, 13, 1)).unwrap();
    engine.submit(job(3, 2, 1)).unwrap();
    assert_eq!(step(&mut engine), [(1, 2)]);
    assert_eq!(engine.load().waiting, 2);
    let order: Vec<u64> = drain(&mut engine).iter().map(|it| it.id.0).collect();
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn a_repeated_prompt_is_cached_except_for_the_block_of_its_last_token() {
    let mut engine = engine(64);
    assert_eq!(cached(&mut engine, shared(1, 12, 1, 0)), 0);
    assert_eq!(cached(&mut engine, shared(2, 12, 1, 0)), 8);
    assert_eq!(cached(&mut engine, shared(3, 13, 1, 0)), 12);
    assert_eq!(cached(&mut engine, shared(4, 13, 1, 100)), 0);
    let Counters { prefix_queries, prefix_hits, prompt_tokens, .. } = *engine.counters();
    assert_eq!((prefix_queries, prefix_hits, prompt_tokens), (50, 20, 50));
}

#[test]
fn a_twin_in_the_same_step_shares_what_is_about_to_be_computed() {
    let mut engine = engine(64);
    engine.submit(shared(1, 9, 1, 0)).unwrap();
    engine.submit(shared(2, 9, 1, 0)).unwrap();
    let cached: Vec<u32> = drain(&mut engine).iter().map(|it| it.cached.0).collect();
    assert_eq!(cached, [0, 8]);
}

#[test]
fn a_prompt_that_quotes_an_answer_finds_the_blocks_filled_while_decoding() {
    let mut engine = engine(64);
    let answer = Answer::Known(names(2..5));
    engine.submit(Job { answer, ..shared(1, 10, 12, 0) }).unwrap();
    drain(&mut engine);
    // 22 tokens, of which the last one was never computed: five full blocks.
    assert_eq!(cached(&mut engine, shared(2, 25, 1, 0)), 20);
}

#[test]
fn a_private_answer_is_found_by_nobody() {
    let mut engine = engine(64);
    engine.submit(shared(1, 10, 12, 0)).unwrap();
    drain(&mut engine);
    assert_eq!(cached(&mut engine, shared(2, 25, 1, 0)), 8);
}

#[test]
fn the_last_admitted_makes_room_and_keeps_its_cached_blocks() {
    let mut engine = engine(6);
    engine.submit(job(1, 8, 8)).unwrap();
    engine.submit(job(2, 8, 8)).unwrap();
    let mut tokens = Vec::new();
    while engine.counters().preemptions == 0 {
        tokens.extend(step(&mut engine));
    }
    assert_eq!((engine.load().running, engine.load().waiting), (1, 1));
    assert!(tokens.contains(&(2, 4)), "{tokens:?}");
    let ended: Vec<(u64, u32)> =
        drain(&mut engine).iter().map(|it| (it.id.0, it.generated.0)).collect();
    assert_eq!(ended, [(1, 8), (2, 8)]);
    assert_eq!(engine.counters().preemptions, 1);
    assert_eq!(engine.counters().generation_tokens, 16);
    // The second look-up of a preempted job is not a new query.
    assert_eq!(engine.counters().prefix_queries, 16);
}

#[test]
fn a_prompt_waits_until_all_of_it_has_room() {
    let mut engine = engine(9);
    engine.submit(job(1, 4, 8)).unwrap();
    assert_eq!(step(&mut engine), [(1, 1)]);
    // A first chunk would fit into the 7 free blocks, the whole prompt needs 9.
    engine.submit(job(2, 33, 1)).unwrap();
    assert_eq!(step(&mut engine), [(1, 2)]);
    assert_eq!((engine.load().running, engine.load().waiting), (1, 1));
    let order: Vec<u64> = drain(&mut engine).iter().map(|it| it.id.0).collect();
    assert_eq!((order, engine.counters().preemptions), (vec![1, 2], 0));
}

#[test]
fn a_chunk_that_made_room_does_not_come_back_within_the_step() {
    let mut engine = engine(21);
    engine.submit(job(1, 4, 8)).unwrap();
    assert_eq!(step(&mut engine), [(1, 1)]);
    // 19 blocks, as many as are free beside the two of the decode.
    engine.submit(job(2, 76, 1)).unwrap();
    for generated in 2..=5 {
        assert_eq!(step(&mut engine), [(1, generated)]);
    }
    // The decode takes its third block, and the fifth chunk of 15 tokens finds 3 instead of 4.
    assert_eq!(step(&mut engine), [(1, 6)]);
    assert_eq!((engine.load().running, engine.counters().preemptions), (1, 1));
    let last = drain(&mut engine);
    assert_eq!(last.last().map(|it| (it.id.0, it.cached.0)), Some((2, 0)));
}

#[test]
fn an_aborted_job_frees_its_blocks_at_the_next_boundary() {
    let mut engine = engine(16);
    engine.submit(job(1, 12, 40)).unwrap();
    engine.submit(job(2, 40, 2)).unwrap();
    step(&mut engine);
    assert!(engine.begin_step().is_some());
    for id in [1, 2, 77] {
        engine.abort(RequestId(id));
    }
    assert!(engine.kv_free() < Blocks(16));
    let mut progress = Vec::new();
    engine.finish_step(&mut progress);
    assert_eq!(progress, []);
    assert_eq!((engine.kv_free(), engine.counters().aborted), (Blocks(16), 2));
    assert_eq!(engine.begin_step(), None);
    engine.submit(job(1, 4, 1)).unwrap();
}

#[test]
fn the_cache_can_be_reset_only_while_nothing_runs() {
    let mut engine = engine(16);
    engine.submit(shared(1, 9, 2, 0)).unwrap();
    step(&mut engine);
    assert!(!engine.reset_prefix_cache());
    drain(&mut engine);
    assert!(engine.reset_prefix_cache());
    assert_eq!(cached(&mut engine, shared(2, 9, 1, 0)), 0);
}

#[test]
fn a_job_that_can_never_run_is_refused() {
    let mut engine = engine(8);
    let refusal = |engine: &mut Engine, job| engine.submit(job).unwrap_err().to_string();
    assert_eq!(engine.submit(job(1, 0, 1)), Err(Refusal::EmptyPrompt));
    assert_eq!(engine.submit(job(1, 1, 0)), Err(Refusal::NoOutput));
    assert!(refusal(&mut engine, job(1, 250, 7)).contains("exceed the context of 256"));
    assert!(refusal(&mut engine, job(1, 30, 3)).contains("exceed the KV cache of 32"));
    let wrong = Job { blocks: names(0..1), ..job(1, 12, 1) };
    assert!(refusal(&mut engine, wrong).contains("blocks of 4 tokens need 3"));
    engine.submit(job(1, 4, 1)).unwrap();
    assert_eq!(engine.submit(job(1, 4, 1)), Err(Refusal::Duplicate { id: RequestId(1) }));
}

#[test]
fn a_lone_request_takes_exactly_the_time_of_the_formula() {
    let mut engine = Engine::new(Profile::named("llama-3-8b-h100").unwrap()).unwrap();
    let blocks = names(0..62);
    let (prompt, output) = (Tokens(1000), Tokens(3));
    let id = RequestId(1);
    engine.submit(Job { id, prompt, blocks, output, answer: Answer::Private }).unwrap();
    let mut milliseconds = Vec::new();
    while let Some(step) = engine.begin_step() {
        milliseconds.push(step.as_secs_f64() * 1e3);
        engine.finish_step(&mut Vec::new());
    }
    let prefill = 1.5 + 0.026 * 1000.0 + 1.06e-6 * 1000.0 * 500.0;
    let decode = |context: f64| 1.5 + 6.0 + 0.012 + 52e-6 * context;
    for (measured, expected) in milliseconds.iter().zip([prefill, decode(1000.0), decode(1001.0)]) {
        assert!((measured - expected).abs() < 1e-5, "{measured} ms, expected {expected} ms");
    }
    assert_eq!(milliseconds.len(), 3);
}

/// What a test does to an engine between steps.
#[derive(Clone, Debug)]
enum Move {
    Submit { prompt: u32, output: u32, family: u64 },
    Abort { id: u64 },
    Step,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let submit = (1..40_u32, 1..20_u32, 0..4_u64)
        .prop_map(|(prompt, output, family)| Move::Submit { prompt, output, family });
    let abort = (0..40_u64).prop_map(|id| Move::Abort { id });
    prop::collection::vec(prop_oneof![4 => submit, 1 => abort, 6 => Just(Move::Step)], 1..120)
}

/// Plays `moves`, drains the engine, and returns every token and the time it took.
fn play(moves: &[Move]) -> (Vec<Progress>, Duration, Vec<(RequestId, u32)>) {
    let mut engine = engine(16);
    let (mut progress, mut outputs) = (Vec::new(), Vec::new());
    for (id, it) in moves.iter().enumerate() {
        match *it {
            Move::Submit { prompt, output, family } => {
                let job = shared(id as u64, prompt, output, family * 1000);
                outputs.push((job.id, output));
                engine.submit(job).unwrap();
            }
            Move::Abort { id } => engine.abort(RequestId(id)),
            Move::Step => {
                if let Some(time) = engine.begin_step() {
                    assert!(!time.is_zero());
                    engine.finish_step(&mut progress);
                }
            }
        }
        engine.batch.check();
    }
    while engine.begin_step().is_some() {
        engine.finish_step(&mut progress);
        engine.batch.check();
    }
    let Counters { finished, aborted, generation_tokens, .. } = *engine.counters();
    assert_eq!(finished + aborted, outputs.len() as u64, "every job leaves once");
    assert_eq!(generation_tokens, progress.len() as u64);
    assert_eq!(engine.kv_free(), Blocks(16));
    assert!(engine.live.is_empty());
    (progress, engine.counters().busy, outputs)
}

proptest! {
    /// Each job that finishes got its tokens one by one, all of them, and the last one last.
    #[test]
    fn every_job_gets_exactly_its_tokens(moves in moves()) {
        let (progress, _, outputs) = play(&moves);
        for (id, output) in outputs {
            let mut ended = false;
            for (token, ordinal) in progress.iter().filter(|it| it.id == id).zip(1..) {
                prop_assert!(!ended);
                ended = token.last;
                prop_assert_eq!(token.generated.0, ordinal);
                prop_assert_eq!(token.last, ordinal == output);
            }
        }
    }

    /// The same moves bring the same tokens in the same time.
    #[test]
    fn an_engine_is_deterministic(moves in moves()) {
        prop_assert_eq!(play(&moves), play(&moves));
    }

    /// What is cached never exceeds the prompt less its last token, in whole blocks.
    #[test]
    fn the_last_token_is_always_computed(moves in moves()) {
        let (progress, ..) = play(&moves);
        for it in progress {
            let submitted = moves.iter().zip(0..).find(|(_, id)| *id == it.id.0);
            let Some((Move::Submit { prompt, .. }, _)) = submitted else {
                return Err(TestCaseError::fail("a token for no job"));
            };
            prop_assert!(it.cached.0 < *prompt && it.cached.0 % 4 == 0);
        }
    }
}
