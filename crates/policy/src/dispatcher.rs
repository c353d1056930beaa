//! The policy as one state machine: events in, decisions out. Start here.
//!
//! A request arrives, is placed on a replica, and leaves; whatever it reserved on the way is given
//! back when it does, whichever way it goes. Placing and reserving are one step, so that requests
//! that arrive together see each other.

mod admit;
mod caches;
mod explain;
mod later;
mod learn;
mod peers;
mod reserve;
mod seek;
mod shortlist;
#[cfg(test)]
mod tests;
mod warm;

use std::{collections::BTreeSet, time::Duration};

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use types::{
    quantity::Tokens,
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use self::{
    admit::Comes,
    caches::{Caches, Reserved},
    peers::Elsewhere,
};
pub use self::{
    admit::{AdmissionView, Outlook},
    caches::CacheMode,
};
use crate::{
    admission::{Admission, AdmissionConfig},
    config::{DispatcherConfig, Routing, Saturation},
    estimate::{Forecast, OutputLengths},
    event::{Decision, Event, Reject},
    explanation::Book,
    fleet_view::FleetView,
    held_index::HeldIndex,
    prefix_index::{Hits, PrefixIndex},
    session::Sessions,
    sharers::Sharers,
    strategy::{Candidate, Strategy},
};

/// When those whose retry the budget did not allow may come again.
const RETRY_BUDGET_REFILLS: Duration = Duration::from_secs(1);

/// Turns events into decisions.
#[derive(Debug)]
pub struct Dispatcher {
    block: Tokens,
    routing: Routing,
    strategy: Strategy,
    fallback: Option<(Saturation, Strategy)>,
    fleet: FleetView,
    prefixes: PrefixIndex,
    sharers: Sharers,
    caches: Caches,
    sessions: Sessions,
    /// Boxed: the table keeps the room of the most requests there were at once, and moves them all when it grows.
    in_flight: FxHashMap<RequestId, Box<InFlight>>,
    elsewhere: Elsewhere,
    outputs: OutputLengths,
    admission: Admission,
    /// When requests whose first token can't be seen are taken to have it.
    unseen: BTreeSet<(Timestamp, RequestId)>,
    rng: Xoshiro256PlusPlus,
    hits: Hits,
    candidates: Vec<Candidate>,
    book: Book,
}

/// A request that has been placed and has not left.
#[derive(Debug)]
struct InFlight {
    request: Request,
    replica: ReplicaId,
    arrived: Timestamp,
    placed: Timestamp,
    forecast: Forecast,
    /// Prompt tokens reserved on the replica until the first token comes.
    uncached: Tokens,
    /// Prompt tokens that the index said the replica holds.
    indexed: Tokens,
    /// Whether its prompt is computed, so far as can be seen.
    answering: bool,
    /// What it keeps with the replica's cache, where that is followed.
    reserved: Option<Reserved>,
    first_token: Option<Timestamp>,
    /// For how long its client kept the end of its answer from coming.
    held: Duration,
    /// What of its prompt was believed to be there, and when the last of that was used.
    believed: (Tokens, Option<u32>),
    /// The time per token that those who come after it must leave it.
    promised: Option<Duration>,
    /// Whether it is counted among those that share a beginning.
    is_counted: bool,
    /// Replicas that failed the request before.
    tried: Tried,
}

type Tried = SmallVec<[ReplicaId; 2]>;

impl Dispatcher {
    /// A dispatcher that knows no replica yet.
    #[must_use]
    pub fn new(config: DispatcherConfig) -> Self {
        let DispatcherConfig { seed, routing, prefix, session, estimate, admission, explain } =
            config;
        Self {
            block: prefix.block,
            routing,
            strategy: Strategy::new(&routing),
            fallback: fallback_of(&routing),
            fleet: FleetView::new(estimate),
            sharers: Sharers::default(),
            prefixes: PrefixIndex::new(prefix.index_bytes_max, prefix.replicas.get()),
            caches: Caches::new(&prefix),
            sessions: Sessions::new(session),
            in_flight: FxHashMap::default(),
            elsewhere: Elsewhere::default(),
            outputs: OutputLengths::default(),
            admission: Admission::new(admission),
            unseen: BTreeSet::new(),
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            hits: Hits::default(),
            candidates: Vec::new(),
            book: Book::new(explain),
        }
    }

    /// Applies `event` and appends every decision it brings about to `decisions`.
    pub fn handle(&mut self, now: Timestamp, event: Event, decisions: &mut Vec<Decision>) {
        self.pass_unseen(now);
        let may_open = event.may_open_gates();
        self.apply(now, event, decisions);
        if may_open {
            self.let_in(now, decisions);
            self.look_for_room(now);
        }
    }

    fn apply(&mut self, now: Timestamp, event: Event, decisions: &mut Vec<Decision>) {
        match event {
            Event::Arrived(request) => self.arrive(now, request, decisions),
            Event::AttemptFailed(request) => self.retry(now, request, decisions),
            Event::FirstToken(request) => self.first_token(now, request),
            Event::TokensCame { replica, tokens, waited } => {
                self.fleet.learn(replica, |it| {
                    let sharing = it.sharing(now);
                    it.estimate.learn_gaps(now, tokens, waited, sharing);
                });
            }
            Event::AnswerHeld { request, held } => self.answer_held(request, held),
            Event::Ended { request, outcome, output, cached } => {
                self.end(now, request, outcome, output, cached);
            }
            Event::ReplicaJoined(id) => {
                if self.fleet.get(id).is_none() {
                    let slot = self.prefixes.join();
                    self.fleet.join(id, slot);
                }
            }
            Event::HealthChanged { replica, health } => {
                self.fleet.health_changed(now, replica, health);
            }
            Event::ModelsListed { replica, models } => {
                self.fleet.list_models(replica, models);
            }
            Event::PromptsBounded { replica, prompt_max } => {
                self.fleet.bound_prompts(replica, prompt_max);
            }
            Event::AdaptersListed { replica, adapters } => {
                self.fleet.list_adapters(replica, adapters);
            }
            Event::AdaptersInUse { replica, adapters, most } => {
                if let Some(it) = self.fleet.get_mut(replica) {
                    it.adapters.in_use(&adapters, most);
                }
            }
            Event::CacheLost(id) => self.cache_lost(now, id),
            Event::CacheSized { replica, tokens } if self.fleet.get(replica).is_some() => {
                self.caches.sized(replica, tokens);
                if let Some(it) = self.fleet.get_mut(replica) {
                    it.cache_sized(tokens);
                }
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
            Event::ReplicaLeft(id) => {
                if let Some(replica) = self.fleet.leave(id) {
                    self.prefixes.leave(replica.slot);
                }
                self.caches.leave(id);
            }
            Event::LoadReported { replica, report } => self.fleet.report(now, replica, report),
            Event::PeerTold { peer, news } => self.hear(now, peer, news),
            Event::RoutingChanged(routing) => self.route_by(routing),
            Event::AdmissionChanged(config) => self.admit_by(config),
            Event::TimePassed => {}
        }
    }

    fn route_by(&mut self, routing: Routing) {
        self.routing = routing;
        self.strategy = Strategy::new(&routing);
        self.fallback = fallback_of(&routing);
        // What was forecast for the last candidates may not be for the next.
        self.candidates.clear();
    }

    fn admit_by(&mut self, config: AdmissionConfig) {
        if config.mode != self.admission.config.mode {
            // What promises were broken under another mode says nothing of those that this one makes.
            self.fleet.forget_margins();
        }
        self.admission.config = config;
        self.candidates.clear();
    }

    fn arrive(&mut self, now: Timestamp, request: Request, decisions: &mut Vec<Decision>) {
        let known =
            self.in_flight.contains_key(&request.id) || self.admission.queue.contains(request.id);
        debug_assert!(!known, "{:?} arrived twice", request.id);
        if known {
            return;
        }
        let line = self.fleet.line_of(request.model, request.prompt);
        self.admission.came(now, &request, line);
        match self.seek(now, &request, Comes::At(now), &Tried::new()) {
            Ok(Some(found)) => self.commit(now, request, now, &found, Tried::new(), decisions),
            Ok(None) => self.refuse(now, &request, &Tried::new(), decisions),
            Err(full) => self.hold_or_refuse(now, request, &full, decisions),
        }
    }

    /// Gives back what the failed attempt reserved and places the request elsewhere, if there is room. It has been
    /// let in before, and is not kept waiting now.
    fn retry(&mut self, now: Timestamp, id: RequestId, decisions: &mut Vec<Decision>) {
        let Some(it) = self.in_flight.remove(&id) else { return };
        debug_assert!(it.first_token.is_none(), "{id:?} asks for a retry after its first byte");
        self.release(now, &it);
        let InFlight { request, replica, arrived, mut tried, .. } = *it;
        if let Some(session) = request.session {
            self.sessions.failed(session, replica);
        }
        tried.push(replica);
        if !self.admission.may_retry() {
            let verdict = Err(Reject::RetriesUsedUp { retry_after: RETRY_BUDGET_REFILLS });
            return self.decide(now, &request, verdict, decisions);
        }
        match self.seek(now, &request, Comes::Again(arrived), &tried) {
            Ok(Some(found)) => {
                return self.commit(now, request, arrived, &found, tried, decisions);
            }
            Ok(None) => self.refuse(now, &request, &tried, decisions),
            Err(full) => self.refuse_again(now, &request, &full, decisions),
        }
        self.admission.not_retried();
    }

    /// Requests placed and not yet gone.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A request that has been placed and has not left.
    #[must_use]
    pub fn request(&self, id: RequestId) -> Option<&Request> {
        self.in_flight.get(&id).map(|it| &it.request)
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
