//! Benchmarks of the figures the project promises; recorded runs live in `runs/`.
//!
//! This library is what several of them need: prompts as chains of blocks, and a dispatcher that
//! knows a fleet.

use std::sync::Arc;

use policy::{
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::{Decision, Event},
};
use types::{
    block::{BlockHash, ChainSeed, HashKey, Scope, hash_block},
    outcome::Outcome,
    quantity::{Blocks, Tokens},
    replica::{Health, ReplicaId},
    request::{ModelId, Request, RequestId},
    time::Timestamp,
};

/// Blocks of a prompt of `family`, of which families in a group of 16 share the first half.
#[must_use]
pub fn prompt(family: u64, blocks: usize) -> Arc<[BlockHash]> {
    let mut parent = ChainSeed::new(HashKey(1), &Scope::default()).as_parent();
    (0..blocks)
        .map(|at| {
            let content = if at < blocks / 2 { family / 16 } else { family };
            parent = hash_block(parent, &content.to_le_bytes());
            parent
        })
        .collect()
}

/// Tokens of a block of [`request`]'s prompts.
pub const BLOCK_TOKENS: usize = 64;

/// A dispatcher's configuration with room in the index for `blocks` blocks and more.
#[must_use]
pub fn config(strategy: StrategyName, replicas: u32, blocks: usize) -> DispatcherConfig {
    let mut config = DispatcherConfig::new(strategy, 7);
    config.routing.saturation = None;
    // Room for what is indexed and for as much again, so that nothing is evicted.
    let block_bytes = 24 + 8 * usize::try_from(replicas.div_ceil(64)).unwrap_or(1);
    config.prefix.index_bytes_max = blocks.saturating_mul(2).max(4_096) * block_bytes;
    if let Ok(room) = usize::try_from(replicas).unwrap_or(1).try_into() {
        config.prefix.replicas = room;
    }
    config
}

/// Has `replicas` replicas join, ready.
pub fn join(replicas: u32, mut tell: impl FnMut(Event)) {
    for replica in (0..replicas).map(ReplicaId) {
        tell(Event::ReplicaJoined(replica));
        tell(Event::HealthChanged { replica, health: Health::Ready });
    }
}

/// A dispatcher with `replicas` ready replicas and an index that holds `blocks` blocks.
#[must_use]
pub fn dispatcher(
    strategy: StrategyName,
    replicas: u32,
    blocks: usize,
    prompt_blocks: usize,
) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(config(strategy, replicas, blocks));
    let mut decisions = Vec::new();
    join(replicas, |event| dispatcher.handle(Timestamp::ZERO, event, &mut decisions));
    let mut family = 0;
    while dispatcher.prefixes().len() < blocks {
        serve(&mut dispatcher, family, prompt(family, prompt_blocks), &mut decisions);
        family += 1;
    }
    dispatcher
}

/// A request whose prompt is `blocks`.
#[must_use]
pub fn request(id: u64, blocks: Arc<[BlockHash]>) -> Request {
    let prompt = Blocks(u32::try_from(blocks.len()).unwrap_or(u32::MAX)).tokens(Tokens(64));
    Request::new(RequestId(id), ModelId(1), prompt, blocks)
}

/// Places a request and lets it end; `decisions` is what it leaves behind.
pub fn serve(
    dispatcher: &mut Dispatcher,
    id: u64,
    blocks: Arc<[BlockHash]>,
    decisions: &mut Vec<Decision>,
) {
    decisions.clear();
    dispatcher.handle(Timestamp::ZERO, Event::Arrived(request(id, blocks)), decisions);
    let (request, outcome) = (RequestId(id), Outcome::Finished);
    let ended = Event::Ended { request, outcome, output: None, cached: None };
    dispatcher.handle(Timestamp::ZERO, ended, decisions);
}
