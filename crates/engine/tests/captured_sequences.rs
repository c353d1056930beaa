//! The engine does what a real vLLM did, event for event.
//!
//! Each file in `captures/` is a recorded sequence of requests with everything that the recording
//! tells of the cache: the tokens that each request found, and every event in the order, and in the
//! messages, in which vLLM published it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use engine::{Answer, Engine, Job, KvMessage, Profile, Progress};
use serde::Deserialize;
use types::{block::BlockHash, quantity::Tokens, request::RequestId};

#[derive(Deserialize)]
struct Capture {
    vllm: String,
    block_size: u32,
    num_gpu_blocks: u32,
    max_model_len: u32,
    max_num_batched_tokens: u32,
    max_num_seqs: u32,
    jobs: Vec<Move>,
    /// Events of each message: `["S", parent, block …]`, `["R", block]` or `["C"]`.
    messages: Vec<Vec<Vec<serde_json::Value>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Move {
    Request(Request),
    Reset { reset: bool },
}

#[derive(Deserialize)]
struct Request {
    name: String,
    wait: Wait,
    prompt: u32,
    output: u32,
    blocks: Vec<u64>,
    answer: Vec<u64>,
    cached: Option<u32>,
    aborted_after: Option<u32>,
}

/// When a request reaches the engine.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wait {
    /// So many steps after the one before.
    Steps(u32),
    /// When nothing runs: `"idle"`.
    Idle(String),
}

struct Replay {
    engine: Engine,
    messages: Vec<Vec<KvMessage>>,
    /// The last token of each request, by its number.
    ended: Vec<Option<Progress>>,
    aborts: Vec<(RequestId, u32)>,
}

impl Replay {
    fn new(capture: &Capture) -> Self {
        let mut engine = Engine::new(Profile {
            block_size: Tokens(capture.block_size),
            // vLLM keeps one block back, the null block.
            kv_tokens: Tokens((capture.num_gpu_blocks - 1) * capture.block_size),
            max_model_len: Tokens(capture.max_model_len),
            max_num_batched_tokens: Tokens(capture.max_num_batched_tokens),
            max_num_seqs: capture.max_num_seqs,
            ..Profile::named("llama-3-8b-h100").unwrap()
        })
        .unwrap();
        engine.record_kv_events();
        Self { engine, messages: Vec::new(), ended: Vec::new(), aborts: Vec::new() }
    }

    /// Runs one step; false when there is nothing to do.
    fn step(&mut self) -> bool {
        if self.engine.begin_step().is_none() {
            return false;
        }
        let mut progress = Vec::new();
        self.engine.finish_step(&mut progress);
        let message = self.engine.drain_kv_messages();
        if !message.is_empty() {
            self.messages.push(message);
        }
        for token in progress {
            if token.last {
                self.ended[usize::try_from(token.id.0).unwrap()] = Some(token);
            }
            if self.aborts.contains(&(token.id, token.generated.0)) {
                self.engine.abort(token.id);
            }
        }
        true
    }

    fn run(&mut self, moves: &[Move]) {
        for (id, it) in moves.iter().enumerate() {
            self.ended.push(None);
            match it {
                Move::Reset { reset } => {
                    while self.step() {}
                    assert!(*reset && self.engine.reset_prefix_cache());
                }
                Move::Request(request) => self.submit(id as u64, request),
            }
        }
        while self.step() {}
    }

    fn submit(&mut self, id: u64, request: &Request) {
        match &request.wait {
            Wait::Idle(idle) => {
                assert_eq!(idle, "idle");
                while self.step() {}
            }
            Wait::Steps(steps) => (0..*steps).for_each(|_| assert!(self.step())),
        }
        let names = |numbers: &[u64]| numbers.iter().copied().map(BlockHash).collect();
        let id = RequestId(id);
        self.aborts.extend(request.aborted_after.map(|after| (id, after)));
        self.engine
            .submit(Job {
                id,
                prompt: Tokens(request.prompt),
                blocks: names(&request.blocks),
                output: Tokens(request.output),
                answer: Answer::Known(names(&request.answer)),
            })
            .unwrap();
    }
}

/// An event as a fixture holds it.
fn event(event: &[serde_json::Value]) -> KvMessage {
    let number = |value: &serde_json::Value| BlockHash(value.as_u64().unwrap());
    match (event[0].as_str().unwrap(), &event[1..]) {
        ("S", [parent, blocks @ ..]) => KvMessage::Stored {
            parent: Some(number(parent)).filter(|it| *it != BlockHash(0)),
            blocks: blocks.iter().map(number).collect(),
        },
        ("R", [block]) => KvMessage::Removed(number(block)),
        ("C", []) => KvMessage::Cleared,
        (kind, _) => panic!("an event of kind {kind}"),
    }
}

fn replay(text: &str) {
    let capture: Capture = serde_json::from_str(text).unwrap();
    let mut replay = Replay::new(&capture);
    replay.run(&capture.jobs);
    for (it, ended) in capture.jobs.iter().zip(&replay.ended) {
        let Move::Request(request) = it else { continue };
        assert_eq!(request.aborted_after.is_none(), ended.is_some(), "{} ends", request.name);
        if let (Some(cached), Some(token)) = (request.cached, ended) {
            assert_eq!(token.cached.0, cached, "cached tokens of {}", request.name);
        }
    }
    let expected = capture.messages.iter().map(|it| it.iter().map(|it| event(it)).collect());
    let expected: Vec<Vec<KvMessage>> = expected.collect();
    for (number, (replayed, expected)) in replay.messages.iter().zip(&expected).enumerate() {
        assert_eq!(replayed, expected, "message {number} of vLLM {}", capture.vllm);
    }
    assert_eq!(replay.messages.len(), expected.len());
}

#[test]
fn chats_a_burst_and_evictions_go_as_on_vllm_0_32() {
    replay(include_str!("captures/vllm-0.32.0.json"));
}

#[test]
fn chats_and_evictions_go_as_on_vllm_0_11() {
    replay(include_str!("captures/vllm-0.11.0.json"));
}
