//! Gives a recorded sequence of requests to the engine and lists what differs from the recording.
//!
//! [`compare`] is the entry; `captures/README.md` describes the files.

use std::fmt::Debug;

use engine::{Answer, Engine, Job, KvMessage, Profile, Progress, Release};
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
    /// The step that brought the last token.
    ended: Option<u64>,
    /// Times that the request had to give up its blocks.
    #[serde(default)]
    preempted: u64,
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
    steps: u64,
    /// The step and the last token of each request, by its number.
    ended: Vec<Option<(u64, Progress)>>,
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
            release: if capture.vllm.starts_with("0.11.") {
                Release::V0_11
            } else {
                Release::V0_32
            },
            ..Profile::named("llama-3-8b-h100").unwrap()
        })
        .unwrap();
        engine.record_kv_events();
        Self { engine, messages: Vec::new(), steps: 0, ended: Vec::new(), aborts: Vec::new() }
    }

    /// Runs one step; false when there is nothing to do.
    fn step(&mut self) -> bool {
        if self.engine.begin_step().is_none() {
            return false;
        }
        self.steps += 1;
        let mut progress = Vec::new();
        self.engine.finish_step(&mut progress);
        let message = self.engine.drain_kv_messages();
        if !message.is_empty() {
            self.messages.push(message);
        }
        for token in progress {
            if token.last {
                let place = usize::try_from(token.id.0).unwrap();
                *self.ended.get_mut(place).unwrap() = Some((self.steps, token));
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

/// An event as a fixture holds it; none where it is none.
fn event(event: &[serde_json::Value]) -> Option<KvMessage> {
    let number = |value: &serde_json::Value| value.as_u64().map(BlockHash);
    match event {
        [kind, parent, blocks @ ..] if kind == "S" => Some(KvMessage::Stored {
            parent: number(parent).filter(|it| *it != BlockHash(0)),
            blocks: blocks.iter().map(number).collect::<Option<_>>()?,
        }),
        [kind, block] if kind == "R" => number(block).map(KvMessage::Removed),
        [kind] if kind == "C" => Some(KvMessage::Cleared),
        _ => None,
    }
}

/// What a replay found.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    pub(crate) requests: usize,
    /// Requests of which the recording tells the cached tokens, and those equal in the replay.
    pub(crate) cached: (usize, usize),
    pub(crate) preemptions: u64,
    pub(crate) events: usize,
    /// Everything that is not as recorded.
    pub(crate) differences: Vec<String>,
}

impl Comparison {
    fn check<T: PartialEq + Debug>(&mut self, what: &str, replayed: &T, recorded: &T) -> bool {
        if replayed != recorded {
            self.differences.push(format!("{what}: {replayed:?}, recorded {recorded:?}"));
        }
        replayed == recorded
    }
}

/// Replays the recording in `text`.
pub(crate) fn compare(text: &str) -> serde_json::Result<Comparison> {
    let capture: Capture = serde_json::from_str(text)?;
    let mut replay = Replay::new(&capture);
    replay.run(&capture.jobs);
    let mut found = Comparison::default();
    for (number, (it, ended)) in capture.jobs.iter().zip(&replay.ended).enumerate() {
        let Move::Request(request) = it else { continue };
        found.requests += 1;
        found.preemptions += request.preempted;
        let what = |what| format!("request {number} ({}): {what}", request.name);
        found.check(&what("ended"), &ended.is_some(), &request.aborted_after.is_none());
        let Some((step, token)) = ended else { continue };
        if let Some(cached) = request.cached {
            found.cached.0 += 1;
            let equal = found.check(&what("cached tokens"), &token.cached.0, &cached);
            found.cached.1 += usize::from(equal);
        }
        if let Some(recorded) = request.ended {
            found.check(&what("step of the last token"), step, &recorded);
        }
    }
    let preemptions = found.preemptions;
    found.check("preemptions", &replay.engine.counters().preemptions, &preemptions);
    found.check("messages", &replay.messages.len(), &capture.messages.len());
    for (number, (replayed, recorded)) in replay.messages.iter().zip(&capture.messages).enumerate()
    {
        found.events += recorded.len();
        let replayed: Vec<Option<KvMessage>> = replayed.iter().cloned().map(Some).collect();
        let recorded = recorded.iter().map(|it| event(it)).collect();
        found.check(&format!("message {number}"), &replayed, &recorded);
    }
    Ok(found)
}
