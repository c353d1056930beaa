//! The whole path of a request: read it, plan its answers, queue them, send them.

use std::sync::Arc;

use bytes::Bytes;
use engine::{Job, Profile, Refusal};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};
use types::{
    block::{BlockHash, ChainSeed, HashKey, Scope, hash_block},
    quantity::Tokens,
    request::RequestId,
};

use crate::{
    answer::{self, Answer},
    dialect::Dialect,
    drive::{Planned, Replica, Ticket},
    error::ApiError,
    faults::{Cut, Fault},
    inbox::Reached,
    kv_events::Content,
    prompt::Prompt,
    reply::{self, Head, Usage},
    request::{self, Asked, Delivery},
    serve::{Body, Failure, json},
    stream::Events,
};

/// Longest body that is read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// What every request of a replica shares.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) model: String,
    pub(crate) profile: Profile,
    pub(crate) replica: Arc<Replica>,
    /// Makes the ids of this process's answers unlike those of another.
    pub(crate) id_seed: u64,
    /// Whether it publishes what its engine caches.
    pub(crate) publishes: bool,
}

/// Answers a request to generate.
pub(crate) async fn complete(
    app: &App,
    dialect: Dialect,
    request: Request<Incoming>,
    fault: Fault,
) -> Result<Response<Body>, Failure> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let body = read(body).await?;
    let context = app.profile.max_model_len;
    let asked = request::parse(dialect, &body, &app.model, context)?;
    drop(body);
    let plan = Plan::new(app, dialect, &asked);

    let ready = arrived + app.profile.api_overhead();
    sleep_until(ready).await;
    let ticket = app.replica.submit(plan.jobs.into_iter(), arrived, ready).map_err(refused)?;
    let id = completion_id(dialect, &parts.headers, app.id_seed, &ticket);
    let head = Head::new(dialect, &id, &app.model);

    match asked.delivery {
        Delivery::Stream { usage: wanted, continuous_usage } => {
            let events = Events::new(&head, plan.answers, ticket, plan.usage, fault.cut())
                .with_usage(wanted, continuous_usage);
            let mut response = Response::new(Body::Events(Box::new(events)));
            let kind = header::HeaderValue::from_static("text/event-stream; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            Ok(response)
        }
        Delivery::Whole => {
            let reached = ticket.inbox.ended().await;
            match fault.cut() {
                None => {}
                Some((Cut::Break, _)) => return Err(Failure::Abrupt),
                Some((Cut::Stall, _)) => std::future::pending().await,
                Some((Cut::EngineDeath, _)) => return Err(ApiError::engine_dead().into()),
            }
            let body = reply::whole(&head, &plan.answers, &plan.usage.of(&reached));
            Ok(json(StatusCode::OK, body))
        }
    }
}

/// Reads a body to its end.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Failure> {
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Err(ApiError::of_status(StatusCode::PAYLOAD_TOO_LARGE).into())
        }
        // The client hung up while sending.
        Err(_) => Err(Failure::Abrupt),
    }
}

fn refused(refusal: Refusal) -> Failure {
    ApiError::bad_request(refusal.to_string(), None).into()
}

/// The client's own id where it sends one, as vLLM does.
fn completion_id(dialect: Dialect, headers: &HeaderMap, seed: u64, ticket: &Ticket) -> String {
    let prefix = dialect.id_prefix();
    match headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
        Some(id) => format!("{prefix}{id}"),
        None => {
            let BlockHash(id) = hash_block(BlockHash(seed), &ticket.first_id().to_le_bytes());
            format!("{prefix}{id:016x}")
        }
    }
}

/// The jobs of a request and the answers they will give, in the order of the choices.
struct Plan {
    jobs: Vec<Planned>,
    answers: Vec<Answer>,
    usage: UsageOf,
}

impl Plan {
    fn new(app: &App, dialect: Dialect, asked: &Asked) -> Self {
        let App { model, profile, publishes, .. } = app;
        let scope = Scope { model, cache_salt: asked.cache_salt.as_deref(), ..Scope::default() };
        let seed = ChainSeed::new(HashKey(0), &scope).as_parent();
        let block = profile.block_size;
        let (mut jobs, mut answers) = (Vec::new(), Vec::new());
        for prompt in &asked.prompts {
            let room = profile.max_model_len.saturating_sub(prompt.tokens());
            let tokens_max = asked.tokens_max.unwrap_or(room);
            for choice in 0..asked.choices {
                let content = hash_block(prompt.hash(seed), &choice.to_le_bytes());
                let answer = answer::generate(content, tokens_max, asked.ignore_eos);
                let (blocks, filled) = prompt.names(seed, block, &answer.text);
                let mut content = Content::default();
                if *publishes {
                    let names = blocks.iter().chain(&filled).copied();
                    content.blocks = names.zip(prompt.ids(block, &answer.text)).collect();
                    content.salt.clone_from(&asked.cache_salt);
                }
                let job = Job {
                    id: RequestId(0),
                    prompt: prompt.tokens(),
                    blocks: blocks.into(),
                    output: answer.tokens,
                    answer: engine::Answer::Known(filled.into()),
                };
                let finish_reason = answer.finish_reason;
                jobs.push(Planned { job, finish_reason, content });
                answers.push(answer);
            }
        }
        let prompts = asked.prompts.iter().map(Prompt::tokens).collect();
        let usage = UsageOf { dialect, prompts, choices: asked.choices, block };
        Self { jobs, answers, usage }
    }
}

/// Computes the usage of a request from how far its answers are.
#[derive(Debug)]
pub(crate) struct UsageOf {
    dialect: Dialect,
    prompts: Vec<Tokens>,
    choices: usize,
    block: Tokens,
}

impl UsageOf {
    /// Every prompt counts once. What was cached of it is what its last choice found, as in vLLM.
    pub(crate) fn of(&self, reached: &[Reached]) -> Usage {
        let last = |choices: &[Reached]| choices.last().map_or(Tokens::ZERO, |it| it.cached);
        let cached: Tokens = reached.chunks(self.choices.max(1)).map(last).sum();
        let full = self.prompts.iter().map(|it| it.full_blocks(self.block).tokens(self.block));
        Usage {
            dialect: self.dialect,
            prompt: self.prompts.iter().copied().sum(),
            completion: reached.iter().map(|it| it.generated).sum(),
            cached,
            created: full.sum::<Tokens>().saturating_sub(cached),
        }
    }
}
