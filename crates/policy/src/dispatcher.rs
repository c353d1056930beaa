//! The policy as one state machine: events in, decisions out. Start here.
//!
//! A request arrives, is placed on a replica, and leaves; whatever it reserved on the way is given
//! back when it does, whichever way it goes. Placing and reserving are one step, so that requests
//! that arrive together see each other.

mod caches;
#[cfg(test)]
mod tests;

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use types::{
    outcome::Outcome,
    quantity::{Blocks, Tokens},
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

pub use self::caches::CacheMode;
use self::caches::{Caches, Reserved};
use crate::{
    config::{DispatcherConfig, Routing, Saturation},
    event::{Decision, Event, Placement, Reason, Reject},
    fleet_view::{FleetView, Replica},
    held_index::HeldIndex,
    prefix_index::{Hits, PrefixIndex},
    saturation::Bound,
    session::Sessions,
    strategy::{Ask, Candidate, Strategy},
};

/// Turns events into decisions.
#[derive(Debug)]
pub struct Dispatcher {
    block: Tokens,
    routing: Routing,
    strategy: Strategy,
    fallback: Option<(Saturation, Strategy)>,
    fleet: FleetView,
    prefixes: PrefixIndex,
    caches: Caches,
    sessions: Sessions,
    in_flight: FxHashMap<RequestId, InFlight>,
    rng: Xoshiro256PlusPlus,
    hits: Hits,
}

/// A request that has been placed and has not left.
#[derive(Debug)]
struct InFlight {
    request: Request,
    replica: ReplicaId,
    /// Prompt tokens reserved on the replica until the first token comes.
    uncached: Tokens,
    answering: bool,
    /// What it keeps with the replica's cache, where that is followed.
    reserved: Option<Reserved>,
    /// What of its prompt was believed to be there, and when the last of that was used.
    believed: (Tokens, Option<u32>),
    /// Replicas that failed the request before.
    tried: Tried,
}

type Tried = SmallVec<[ReplicaId; 2]>;
type Candidates = SmallVec<[Candidate; 64]>;

impl Dispatcher {
    /// A dispatcher that knows no replica yet.
    #[must_use]
    pub fn new(config: DispatcherConfig) -> Self {
        let DispatcherConfig { seed, routing, prefix, session } = config;
        Self {
            block: prefix.block,
            routing,
            strategy: Strategy::new(&routing),
            fallback: fallback_of(&routing),
            fleet: FleetView::default(),
            prefixes: PrefixIndex::new(prefix.index_bytes_max, prefix.replicas.get()),
            caches: Caches::new(&prefix),
            sessions: Sessions::new(session),
            in_flight: FxHashMap::default(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            hits: Hits::default(),
        }
    }

    /// Applies `event` and appends every decision it brings about to `decisions`.
    pub fn handle(&mut self, now: Timestamp, event: Event, decisions: &mut Vec<Decision>) {
        match event {
            Event::Arrived(request) => self.arrive(now, request, decisions),
            Event::AttemptFailed(request) => self.retry(now, request, decisions),
            Event::FirstToken(request) => self.first_token(now, request),
            Event::Ended { request, outcome } => self.end(now, request, outcome),
            Event::ReplicaJoined(id) => {
                if self.fleet.get(id).is_none() {
                    let slot = self.prefixes.join();
                    self.fleet.join(id, slot);
                }
            }
            Event::HealthChanged { replica, health } => {
                if let Some(replica) = self.fleet.get_mut(replica) {
                    replica.health = health;
                }
            }
            Event::ModelsListed { replica, models } => {
                if let Some(replica) = self.fleet.get_mut(replica) {
                    replica.models = models;
                }
            }
            Event::CacheLost(id) => {
                if let Some(replica) = self.fleet.get_mut(id) {
                    self.prefixes.leave(replica.slot);
                    replica.slot = self.prefixes.join();
                }
                self.bound_prefixes(id);
                self.caches.lost(id);
            }
            Event::CacheSized { replica, tokens } if self.fleet.get(replica).is_some() => {
                self.caches.sized(replica, tokens);
                self.bound_prefixes(replica);
            }
            Event::CacheSized { .. } => {}
            Event::CacheFollowed { replica, follows: true } => {
                if self.fleet.get(replica).is_some() {
                    self.caches.follow(replica);
                }
            }
            Event::CacheFollowed { replica, follows: false } => self.caches.unfollow(replica),
            Event::BlocksStored { replica, parent, blocks } => {
                self.caches.stored(replica, parent, &blocks);
            }
            Event::BlocksRemoved { replica, blocks } => self.caches.removed(replica, &blocks),
            Event::Found { request, cached } => self.found(request, cached),
            Event::ReplicaLeft(id) => {
                if let Some(replica) = self.fleet.leave(id) {
                    self.prefixes.leave(replica.slot);
                }
                self.caches.leave(id);
            }
            Event::LoadReported { replica, report } => self.fleet.report(now, replica, report),
            Event::RoutingChanged(routing) => {
                self.routing = routing;
                self.strategy = Strategy::new(&routing);
                self.fallback = fallback_of(&routing);
            }
        }
    }

    fn arrive(&mut self, now: Timestamp, request: Request, decisions: &mut Vec<Decision>) {
        let known = self.in_flight.contains_key(&request.id);
        debug_assert!(!known, "{:?} arrived twice", request.id);
        if !known {
            self.place(now, request, Tried::new(), decisions);
        }
    }

    /// Gives back what the failed attempt reserved and places the request elsewhere.
    fn retry(&mut self, now: Timestamp, id: RequestId, decisions: &mut Vec<Decision>) {
        let Some(InFlight { request, replica, uncached, answering, reserved, mut tried, .. }) =
            self.in_flight.remove(&id)
        else {
            return;
        };
        debug_assert!(!answering, "{id:?} asks for a retry after its first byte");
        if !answering {
            self.fleet.release_prefill(replica, uncached);
        }
        self.fleet.release_request(replica);
        self.caches.gone(replica, &request, reserved);
        if let Some(session) = request.session {
            self.sessions.failed(session, replica);
        }
        tried.push(replica);
        self.place(now, request, tried, decisions);
    }

    /// Chooses a replica, reserves the request on it and decides.
    fn place(
        &mut self,
        now: Timestamp,
        request: Request,
        tried: Tried,
        decisions: &mut Vec<Decision>,
    ) {
        let candidates = self.candidates(now, &request, &tried);
        let bound = request.session.and_then(|it| self.sessions.replica_of(now, it));
        let ask = Ask { prompt: request.prompt, bound };
        let Some((chosen, reason)) = self.choose(&ask, &candidates) else {
            let reject = self.why_none(&request, &tried);
            decisions.push(Decision { request: request.id, verdict: Err(reject) });
            return;
        };
        let uncached = request.prompt.saturating_sub(chosen.cached);
        self.fleet.reserve(chosen.id, uncached);
        let last_used = self.prefixes.insert_for(chosen.slot, request.tenant, &request.blocks);
        let believed = (chosen.cached, last_used);
        let reserved = self.caches.placed(chosen.id, &request);
        if let Some(session) = request.session {
            let home_takes_requests = candidates.iter().any(|it| bound == Some(it.id));
            if !home_takes_requests {
                self.sessions.bind(now, session, chosen.id);
            }
        }
        let placement = Placement {
            replica: chosen.id,
            strategy: self.routing.strategy,
            reason: if tried.is_empty() { reason } else { Reason::Retry },
            cached: chosen.cached,
            attempt: u32::try_from(tried.len()).unwrap_or(u32::MAX).saturating_add(1),
        };
        decisions.push(Decision { request: request.id, verdict: Ok(placement) });
        let replica = chosen.id;
        let in_flight =
            InFlight { replica, uncached, answering: false, reserved, believed, tried, request };
        self.in_flight.insert(in_flight.request.id, in_flight);
    }

    /// The replicas that take `request`, with what each holds of its prompt.
    fn candidates(&mut self, now: Timestamp, request: &Request, tried: &Tried) -> Candidates {
        self.prefixes.hits(&request.blocks, &mut self.hits);
        self.caches.look_up(&request.blocks);
        // The last token is always computed, or there would be nothing to continue from.
        let cached_max = request.prompt.saturating_sub(Tokens(1));
        let believed = |replica: &Replica| {
            Blocks(self.hits.of(replica.slot)).tokens(self.block).min(cached_max)
        };
        let candidate = |replica: &Replica| Candidate {
            id: replica.id,
            slot: replica.slot,
            requests: replica.requests(now),
            queued_prefill: replica.load.queued_prefill,
            cached: self.caches.told(replica.id, request).unwrap_or_else(|| believed(replica)),
        };
        let ready = self.fleet.ready_for(request.model);
        ready.filter(|it| !tried.contains(&it.id)).map(candidate).collect()
    }

    /// Lets the strategy choose, and the fallback when that choice is saturated.
    fn choose(&mut self, ask: &Ask, candidates: &[Candidate]) -> Option<(Candidate, Reason)> {
        let (chosen, reason) = self.strategy.choose(ask, candidates, &mut self.rng)?;
        let Some((saturation, fallback)) = &mut self.fallback else {
            return Some((chosen, reason));
        };
        let bound = Bound::new(saturation, candidates);
        if !bound.is_exceeded_by(&chosen) {
            return Some((chosen, reason));
        }
        let free: Candidates =
            candidates.iter().filter(|it| !bound.is_exceeded_by(it)).copied().collect();
        // Where all are saturated the choice stands: moving it would only lose the cache.
        match fallback.choose(ask, &free, &mut self.rng) {
            Some((instead, _)) => Some((instead, Reason::Fallback)),
            None => Some((chosen, reason)),
        }
    }

    fn why_none(&self, request: &Request, tried: &Tried) -> Reject {
        if self.fleet.ready_for(request.model).any(|it| tried.contains(&it.id)) {
            Reject::AllTried
        } else if self.fleet.knows(request.model) {
            Reject::NoReplicas
        } else {
            Reject::UnknownModel
        }
    }

    fn first_token(&mut self, now: Timestamp, id: RequestId) {
        let Some(it) = self.in_flight.get_mut(&id) else { return };
        if std::mem::replace(&mut it.answering, true) {
            return;
        }
        self.fleet.release_prefill(it.replica, it.uncached);
        if let Some(session) = it.request.session {
            self.sessions.served(now, session, it.replica);
        }
    }

    fn end(&mut self, now: Timestamp, id: RequestId, outcome: Outcome) {
        let Some(it) = self.in_flight.remove(&id) else { return };
        if !it.answering {
            self.fleet.release_prefill(it.replica, it.uncached);
        }
        self.fleet.release_request(it.replica);
        self.caches.gone(it.replica, &it.request, it.reserved);
        match (outcome, it.request.session) {
            (Outcome::Finished, Some(session)) => self.sessions.served(now, session, it.replica),
            (Outcome::Failed, Some(session)) => self.sessions.failed(session, it.replica),
            (Outcome::Cancelled, Some(_)) | (_, None) => {}
        }
    }

    fn found(&mut self, id: RequestId, cached: Tokens) {
        let Some(it) = self.in_flight.get(&id) else { return };
        self.caches.found(it.replica, it.reserved, cached);
        // A hit that was not there: what was last used then is gone, and all that is staler.
        let (believed, last_used) = it.believed;
        let is_missing = cached + self.block < believed;
        let slot = self.fleet.get(it.replica).map(|it| it.slot);
        if let Some((slot, last_used)) = slot.zip(last_used).filter(|_| is_missing) {
            self.prefixes.lacks(slot, last_used);
        }
    }

    /// Tells the index how many blocks a replica's cache has room for, where that is known.
    fn bound_prefixes(&mut self, id: ReplicaId) {
        let slot = self.fleet.get(id).map(|it| it.slot);
        if let Some((slot, size)) = slot.zip(self.caches.size(id)) {
            self.prefixes.bound(slot, size.full_blocks(self.block).0);
        }
    }

    /// Requests placed and not yet gone.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// What is believed of the replicas.
    #[must_use]
    pub fn fleet(&self) -> &FleetView {
        &self.fleet
    }

    /// What is believed of their caches.
    #[must_use]
    pub fn prefixes(&self) -> &PrefixIndex {
        &self.prefixes
    }

    /// What engines say of their caches.
    #[must_use]
    pub const fn held(&self) -> &HeldIndex {
        self.caches.held()
    }

    /// How far a replica's word on its cache is taken.
    #[must_use]
    pub fn cache_mode(&self, replica: ReplicaId) -> CacheMode {
        self.caches.mode(replica)
    }

    /// Conversations remembered.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// How replicas are chosen now.
    #[must_use]
    pub fn routing(&self) -> Routing {
        self.routing
    }
}

fn fallback_of(routing: &Routing) -> Option<(Saturation, Strategy)> {
    routing.saturation.map(|it| (it, Strategy::fallback(it.fallback)))
}
