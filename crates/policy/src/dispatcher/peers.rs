//! What other routers of the fleet tell of their requests.
//!
//! A placement that another router tells of claims its blocks for its replica as one of this router's own
//! does, and binds its conversation; until it leaves, its work is on the replica as if it had been placed
//! here. It has no ticket, is not decided on, and is kept apart from this router's own requests: what
//! those reserve is theirs alone.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use types::{
    outcome::Outcome,
    quantity::Tokens,
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Dispatcher, caches::Reserved, reserve::due};
use crate::{
    config::StrategyName,
    estimate::Forecast,
    event::{News, PeerId},
    session::Turn,
};

/// Requests of others whose work is counted, at most; of further ones only the blocks are claimed.
const REQUESTS_MAX: usize = 1 << 16;

/// Blocks that are kept for them, at most.
const BLOCKS_MAX: usize = 1 << 20;

/// Bits of a request's number that are its router's own.
const OWN_BITS: u32 = 47;

/// Requests that other routers placed and that have not left, as far as they told.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// By their numbers here: those of one router follow each other.
    requests: BTreeMap<RequestId, Known>,
    blocks: usize,
}

/// A request of another router.
#[derive(Debug)]
struct Known {
    request: Request,
    replica: ReplicaId,
    placed: Timestamp,
    forecast: Forecast,
    /// Prompt tokens that count as waiting on the replica until its first token comes.
    uncached: Tokens,
    answering: bool,
    /// When its first token was told of.
    begun: Option<Timestamp>,
    /// Whether it counts as one who shares the beginning of its prompt.
    is_counted: bool,
    reserved: Option<Reserved>,
    /// What of its prompt was believed to be there, and when the last of that was used.
    believed: (Tokens, Option<u32>),
}

impl Elsewhere {
    /// Requests whose work is counted.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    fn has_room(&self, request: &Request) -> bool {
        self.requests.len() < REQUESTS_MAX
            && self.blocks.saturating_add(request.blocks.len()) <= BLOCKS_MAX
    }

    fn insert(&mut self, id: RequestId, known: Known) {
        self.blocks = self.blocks.saturating_add(known.request.blocks.len());
        self.requests.insert(id, known);
    }

    fn remove(&mut self, id: RequestId) -> Option<Known> {
        let known = self.requests.remove(&id)?;
        self.blocks = self.blocks.saturating_sub(known.request.blocks.len());
        Some(known)
    }

    /// The numbers of all requests of one router.
    fn of(&self, peer: PeerId) -> Vec<RequestId> {
        let all = number(peer, RequestId(0))..=number(peer, RequestId(u64::MAX));
        self.requests.range(all).map(|it| *it.0).collect()
    }
}

/// The number that another router's request goes by here: none of this router's own is as high.
fn number(peer: PeerId, id: RequestId) -> RequestId {
    let own = id.0 & ((1 << OWN_BITS) - 1);
    RequestId(1 << 63 | u64::from(peer.0) << OWN_BITS | own)
}

impl Dispatcher {
    /// Learns what another router says of its requests.
    pub(super) fn hear(&mut self, now: Timestamp, peer: PeerId, news: News) {
        match news {
            News::Placed { request, replica, cached } => {
                let id = number(peer, request.id);
                // One that is placed again failed where it was.
                if let Some(it) = self.leave_elsewhere(now, id) {
                    self.ended_elsewhere(now, &it, Outcome::Failed, None, None);
                }
                self.placed_elsewhere(now, Request { id, ..request }, replica, cached);
            }
            News::FirstToken(request) => self.first_token_elsewhere(now, number(peer, request)),
            News::Ended { request, outcome, output, cached } => {
                let Some(it) = self.leave_elsewhere(now, number(peer, request)) else { return };
                self.ended_elsewhere(now, &it, outcome, output, cached);
            }
            News::Lost => {
                for id in self.elsewhere.of(peer) {
                    self.leave_elsewhere(now, id);
                }
            }
        }
    }

    fn placed_elsewhere(
        &mut self,
        now: Timestamp,
        request: Request,
        replica: ReplicaId,
        cached: Tokens,
    ) {
        let Some(slot) = self.fleet.get(replica).map(|it| it.slot) else { return };
        if let Some(session) = request.session {
            // Who follows conversations keeps those that it has where they are.
            if self.routing.strategy == StrategyName::Sticky {
                self.sessions.served(now, session, replica);
            } else {
                self.sessions.bind(now, session, replica);
            }
        }
        self.caches.look_up(&request.blocks);
        let last_used = self.prefixes.insert_for(slot, request.tenant, &request.blocks);
        if !self.elsewhere.has_room(&request) {
            return;
        }
        let cached = cached.min(request.prompt.saturating_sub(Tokens(1)));
        let asked = self.asked(now, &request, now);
        let Some(it) = self.fleet.get_mut(replica) else { return };
        let forecast = it.forecast(now, &asked, cached, it.sharing(now));
        let uncached = request.prompt.saturating_sub(cached);
        it.estimate.place(now, request.id, &forecast);
        it.estimate.told(now);
        it.told.in_flight = it.told.in_flight.saturating_add(1);
        it.told.queued_prefill += uncached;
        self.strategy.placed(now, replica, &request.blocks, &forecast);
        if !request.streamed {
            self.unseen.insert((due(now, &forecast), request.id));
        }
        let reserved = self.caches.placed(replica, &request);
        let is_counted = self.weighs_copies();
        if is_counted {
            self.sharers.come(&request.blocks);
        }
        let known = Known {
            replica,
            placed: now,
            forecast,
            uncached,
            answering: false,
            begun: None,
            is_counted,
            reserved,
            believed: (cached, last_used),
            request,
        };
        self.elsewhere.insert(known.request.id, known);
    }

    fn first_token_elsewhere(&mut self, now: Timestamp, id: RequestId) {
        self.computed_elsewhere(now, id);
        let Some(it) = self.elsewhere.requests.get_mut(&id) else { return };
        if it.begun.is_none() {
            it.begun = Some(now);
            let replica = it.replica;
            if let Some(replica) = self.fleet.get_mut(replica) {
                replica.estimate.begins(now);
            }
        }
    }

    /// Takes the prompt of a request of another router off the queue.
    pub(super) fn computed_elsewhere(&mut self, now: Timestamp, id: RequestId) {
        let Some(it) = self.elsewhere.requests.get_mut(&id) else { return };
        if std::mem::replace(&mut it.answering, true) {
            return;
        }
        let (replica, uncached) = (it.replica, it.uncached);
        self.release_elsewhere(now, replica, id, uncached);
    }

    fn release_elsewhere(&mut self, now: Timestamp, on: ReplicaId, of: RequestId, tokens: Tokens) {
        if let Some(replica) = self.fleet.get_mut(on) {
            replica.told.queued_prefill = replica.told.queued_prefill.saturating_sub(tokens);
            replica.estimate.computed(now, of);
        }
    }

    /// Takes a request of another router off its replica, if it is known.
    fn leave_elsewhere(&mut self, now: Timestamp, id: RequestId) -> Option<Known> {
        let it = self.elsewhere.remove(id)?;
        if !it.answering {
            self.release_elsewhere(now, it.replica, id, it.uncached);
        }
        if let Some(replica) = self.fleet.get_mut(it.replica) {
            replica.told.in_flight = replica.told.in_flight.saturating_sub(1);
            if let Some(begun) = it.begun {
                replica.estimate.ends(begun);
            }
            replica.estimate.left(&it.forecast, replica.known() == 0);
        }
        self.caches.gone(it.replica, &it.request, it.reserved);
        self.strategy.left(it.replica, &it.request.blocks);
        if it.is_counted {
            self.sharers.leave(&it.request.blocks);
        }
        if !it.request.streamed {
            self.unseen.remove(&(due(it.placed, &it.forecast), id));
        }
        Some(it)
    }

    /// Learns what can be learned from the end of another router's request.
    fn ended_elsewhere(
        &mut self,
        now: Timestamp,
        it: &Known,
        outcome: Outcome,
        output: Option<Tokens>,
        cached: Option<Tokens>,
    ) {
        match (outcome, it.request.session) {
            (Outcome::Finished, Some(session)) => {
                self.sessions.served(now, session, it.replica);
                if let Some(answer) = output {
                    let turn = Turn { prompt: it.request.prompt, answer };
                    self.sessions.answered(session, it.replica, turn);
                }
            }
            (Outcome::Failed, Some(session)) => self.sessions.failed(session, it.replica),
            (Outcome::Cancelled, Some(_)) | (_, None) => {}
        }
        if let Some(cached) = cached.filter(|_| outcome == Outcome::Finished) {
            self.lacked(it.replica, it.believed, cached);
        }
    }
}
