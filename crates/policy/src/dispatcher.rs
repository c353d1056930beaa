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
#[cfg(test)]
mod tests;
mod warm;

use std::{collections::BTreeSet, time::Duration};

use rand::{SeedableRng as _, rngs::Xoshiro256PlusPlus};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use types::{
    quantity::{Blocks, Tokens},
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use self::{
    admit::Full,
    caches::{Caches, Reserved},
    warm::HeldBack,
};
pub use self::{
    admit::{AdmissionView, Outlook},
    caches::CacheMode,
};
use crate::{
    admission::Admission,
    config::{DispatcherConfig, Routing, Saturation, StrategyName},
    estimate::{Asked, Forecast, OutputLengths},
    event::{Decision, Event, Placement, Reason, Reject},
    explanation::{Book, PassedOver},
    fleet_view::{FleetView, Replica},
    held_index::HeldIndex,
    prefix_index::{Hits, PrefixIndex},
    saturation::Bound,
    session::{Sessions, Turn},
    strategy::{Ask, Candidate, Strategy},
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
    caches: Caches,
    sessions: Sessions,
    in_flight: FxHashMap<RequestId, InFlight>,
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
    /// What of its prompt was believed to be there, and when the last of that was used.
    believed: (Tokens, Option<u32>),
    /// Replicas that failed the request before.
    tried: Tried,
}

/// Where a request goes.
#[derive(Debug)]
struct Found {
    chosen: Candidate,
    reason: Reason,
    asked: Asked,
    /// Whether the replica of its conversation takes requests.
    home_takes_requests: bool,
    /// What that replica had of the prompt, and has no more.
    lost: Option<(ReplicaId, Tokens)>,
    /// Most of the prompt that any replica is believed to hold.
    most_cached: Option<Tokens>,
    held: HeldBack,
}

type Tried = SmallVec<[ReplicaId; 2]>;
type Candidates = SmallVec<[Candidate; 64]>;

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
            prefixes: PrefixIndex::new(prefix.index_bytes_max, prefix.replicas.get()),
            caches: Caches::new(&prefix),
            sessions: Sessions::new(session),
            in_flight: FxHashMap::default(),
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
                if let Some(it) = self.fleet.get_mut(replica) {
                    let sharing = it.sharing(now);
                    it.estimate.learn_gaps(now, tokens, waited, sharing);
                }
            }
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
                if let Some(replica) = self.fleet.get_mut(replica) {
                    replica.models = models;
                }
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
            Event::RoutingChanged(routing) => {
                self.routing = routing;
                self.strategy = Strategy::new(&routing);
                self.fallback = fallback_of(&routing);
            }
            Event::AdmissionChanged(config) => self.admission.config = config,
            Event::TimePassed => {}
        }
    }

    fn arrive(&mut self, now: Timestamp, request: Request, decisions: &mut Vec<Decision>) {
        let known =
            self.in_flight.contains_key(&request.id) || self.admission.queue.contains(request.id);
        debug_assert!(!known, "{:?} arrived twice", request.id);
        if known {
            return;
        }
        self.admission.came(now, request.priority);
        match self.seek(now, &request, now, &Tried::new()) {
            Ok(Some(found)) => self.commit(now, request, now, &found, Tried::new(), decisions),
            Ok(None) => self.refuse(now, &request, &Tried::new(), decisions),
            Err(full) => self.hold_or_refuse(now, request, &full, decisions),
        }
    }

    /// Gives back what the failed attempt reserved and places the request elsewhere. It has been let
    /// in before, and is not kept waiting now.
    fn retry(&mut self, now: Timestamp, id: RequestId, decisions: &mut Vec<Decision>) {
        let Some(it) = self.in_flight.remove(&id) else { return };
        debug_assert!(it.first_token.is_none(), "{id:?} asks for a retry after its first byte");
        self.release(now, &it);
        let InFlight { request, replica, arrived, mut tried, .. } = it;
        if let Some(session) = request.session {
            self.sessions.failed(session, replica);
        }
        tried.push(replica);
        if !self.admission.may_retry() {
            let verdict = Err(Reject::RetriesUsedUp { retry_after: RETRY_BUDGET_REFILLS });
            return self.decide(now, &request, verdict, decisions);
        }
        match self.seek(now, &request, arrived, &tried) {
            Ok(Some(found)) => self.commit(now, request, arrived, &found, tried, decisions),
            Ok(None) | Err(_) => self.refuse(now, &request, &tried, decisions),
        }
    }

    /// Looks for a replica that can take `request` now; none where nobody takes requests at all.
    fn seek(
        &mut self,
        now: Timestamp,
        request: &Request,
        arrived: Timestamp,
        tried: &Tried,
    ) -> Result<Option<Found>, Full> {
        let asked = self.asked(now, request, arrived);
        let mut candidates = std::mem::take(&mut self.candidates);
        let bound = request.session.and_then(|it| self.sessions.replica_of(now, it));
        let turn = request.session.zip(bound).map(|(it, on)| self.sessions.last_turn(it, on));
        let home = bound.zip(turn);
        self.find_candidates(now, request, &asked, tried, home, &mut candidates);
        let lost = home.and_then(|(id, turn)| {
            let there = candidates.iter().find(|it| it.id == id)?;
            Some((id, turn.lost(there.cached, self.block, request.prompt)))
        });
        // Whether others send at least a quarter of what the replicas have.
        let requests = candidates.iter().map(|it| it.requests as usize).sum::<usize>();
        let is_shared = self.in_flight.len() < requests / 4 * 3;
        let most_cached = candidates.iter().map(|it| it.cached).max();
        let ask = Ask {
            prompt: request.prompt,
            blocks: &request.blocks,
            block: self.block,
            bound,
            key: key_of(request),
            is_shared: is_shared && request.session.is_some(),
        };
        self.draft(now, request.id, &ask, &candidates);
        let mut held = self.hold_back(now, request, &mut candidates);
        let mut admitted = if candidates.is_empty() || !tried.is_empty() {
            Ok(())
        } else {
            self.admit(now, request, arrived, &asked, &mut candidates)
        };
        if admitted.is_err() && !held.candidates.is_empty() {
            // None of those that were to be preferred has room.
            candidates.extend(held.candidates.drain(..));
            admitted = self.admit(now, request, arrived, &asked, &mut candidates);
        }
        self.drafted_left(request.id, PassedOver::Admission, &candidates);
        let home_takes_requests = candidates.iter().any(|it| bound == Some(it.id));
        let chosen = admitted.map(|()| self.choose(request.id, &ask, &candidates));
        self.candidates = candidates;
        Ok(chosen?.map(|(chosen, reason)| Found {
            chosen,
            reason,
            asked,
            home_takes_requests,
            lost,
            most_cached,
            held,
        }))
    }

    /// What replicas are asked about `request`, which has waited since `arrived`.
    fn asked(&self, now: Timestamp, request: &Request, arrived: Timestamp) -> Asked {
        let waited_s = now.since(arrived).as_secs_f64();
        Asked {
            prompt: request.prompt,
            output: self.outputs.expected(request),
            ttft_max_s: request.slo.ttft.map(|it| (it.as_secs_f64() - waited_s).max(0.0)),
            tpot_max_s: request.slo.tpot.map(|it| it.as_secs_f64()),
            memory: self.routing.cost.memory,
            foresight: self.routing.cost.foresight,
        }
    }

    /// Decides that `request` goes where it was found to go, and reserves it there.
    fn commit(
        &mut self,
        now: Timestamp,
        request: Request,
        arrived: Timestamp,
        found: &Found,
        tried: Tried,
        decisions: &mut Vec<Decision>,
    ) {
        let Found { chosen, reason, asked, home_takes_requests, lost, most_cached, held } = found;
        self.count_held(held, chosen.id, request.model);
        let forecast = self.foresee(now, chosen, asked);
        if let Some((home, tokens)) = *lost
            && let Some(replica) = self.fleet.get_mut(home)
        {
            replica.evictions.lost(now, tokens);
        }
        // Only who follows conversations keeps one bound while it is served elsewhere: for the others
        // its replica is where its last turn is.
        let is_followed = self.routing.strategy == StrategyName::Sticky;
        if let Some(session) = request.session
            && !(is_followed && *home_takes_requests)
        {
            self.sessions.bind(now, session, chosen.id);
        }
        let placement = Placement {
            replica: chosen.id,
            strategy: self.routing.strategy,
            reason: if tried.is_empty() { *reason } else { Reason::Retry },
            cached: chosen.cached,
            attempt: u32::try_from(tried.len()).unwrap_or(u32::MAX).saturating_add(1),
            most_cached: *most_cached,
            ttft: explain::duration(forecast.ttft_s),
        };
        self.decide(now, &request, Ok(placement), decisions);
        self.admission.placed(now, &request, arrived, found.work_s());
        self.reserve(now, request, arrived, chosen, forecast, tried);
    }

    /// Reserves `request` on the replica that was chosen for it.
    fn reserve(
        &mut self,
        now: Timestamp,
        request: Request,
        arrived: Timestamp,
        chosen: &Candidate,
        forecast: Forecast,
        tried: Tried,
    ) {
        let uncached = request.prompt.saturating_sub(chosen.cached);
        let last_used = self.prefixes.insert_for(chosen.slot, request.tenant, &request.blocks);
        let reserved = self.caches.placed(chosen.id, &request);
        if let Some(replica) = self.fleet.get_mut(chosen.id) {
            replica.estimate.place(now, request.id, &forecast);
            replica.promises.add(request.slo.tpot);
        }
        self.fleet.reserve(chosen.id, uncached);
        self.strategy.placed(now, chosen.id, &request.blocks, &forecast);
        if !request.streamed {
            self.unseen.insert((due(now, &forecast), request.id));
        }
        let in_flight = InFlight {
            replica: chosen.id,
            arrived,
            placed: now,
            forecast,
            uncached,
            indexed: chosen.indexed,
            answering: false,
            reserved,
            believed: (chosen.cached, last_used),
            first_token: None,
            tried,
            request,
        };
        self.in_flight.insert(in_flight.request.id, in_flight);
    }

    /// Gives back what a request that leaves its replica still holds there.
    fn release(&mut self, now: Timestamp, it: &InFlight) {
        if !it.answering {
            self.release_prefill(now, it.replica, it.request.id, it.uncached);
        }
        self.fleet.release_request(it.replica);
        self.caches.gone(it.replica, &it.request, it.reserved);
        self.strategy.left(it.replica, &it.request.blocks);
        if let Some(replica) = self.fleet.get_mut(it.replica) {
            replica.estimate.left(&it.forecast, replica.load.in_flight == 0);
            replica.promises.remove(it.request.slo.tpot);
        }
        if !it.request.streamed {
            self.unseen.remove(&(due(it.placed, &it.forecast), it.request.id));
        }
    }

    fn release_prefill(&mut self, now: Timestamp, id: ReplicaId, of: RequestId, uncached: Tokens) {
        self.fleet.release_prefill(id, uncached);
        if let Some(replica) = self.fleet.get_mut(id) {
            replica.estimate.computed(now, of);
        }
    }

    /// Takes the prompts of answers that do not stream off the queues when they should be computed.
    fn pass_unseen(&mut self, now: Timestamp) {
        while let Some(&(due, id)) = self.unseen.first().filter(|it| it.0 <= now) {
            self.unseen.remove(&(due, id));
            let Some(it) = self.in_flight.get_mut(&id) else { continue };
            if !std::mem::replace(&mut it.answering, true) {
                let (replica, uncached) = (it.replica, it.uncached);
                self.release_prefill(now, replica, id, uncached);
            }
        }
    }

    /// The replicas that take `request`, with what each holds of its prompt.
    fn find_candidates(
        &mut self,
        now: Timestamp,
        request: &Request,
        asked: &Asked,
        tried: &Tried,
        home: Option<(ReplicaId, Turn)>,
        candidates: &mut Vec<Candidate>,
    ) {
        self.prefixes.hits(&request.blocks, &mut self.hits);
        self.caches.look_up(&request.blocks);
        // The last token is always computed, or there would be nothing to continue from.
        let cached_max = request.prompt.saturating_sub(Tokens(1));
        let (forecasts, follows_any) = (self.forecasts(), self.caches.follows_any());
        let candidate = |replica: &Replica| {
            let hits = Blocks(self.hits.of(replica.slot)).tokens(self.block);
            let held = match home {
                Some((id, turn)) if id == replica.id => {
                    turn.continued(hits, self.block, request.prompt)
                }
                Some(_) | None => hits,
            };
            let told = if follows_any { self.caches.told(replica.id, request) } else { None };
            let cached = told.unwrap_or(held.min(cached_max));
            let sharing = replica.sharing(now);
            Candidate {
                id: replica.id,
                slot: replica.slot,
                requests: sharing.all,
                queued_prefill: replica.load.queued_prefill,
                cached,
                indexed: hits.min(cached_max),
                forecast: if forecasts {
                    replica.forecast(now, asked, cached, sharing)
                } else {
                    Forecast::default()
                },
                has_room: replica.has_room(now, sharing),
                reported: replica.reported(),
            }
        };
        candidates.clear();
        candidates.reserve(self.fleet.replicas().len());
        let pool = self.fleet.pool_for(request.model, request.prompt, tried);
        // Not by `extend`, which moves each of them twice.
        for replica in pool {
            candidates.push(candidate(replica));
        }
    }

    /// Lets the strategy choose, and the fallback when that choice is saturated.
    fn choose(
        &mut self,
        request: RequestId,
        ask: &Ask<'_>,
        candidates: &[Candidate],
    ) -> Option<(Candidate, Reason)> {
        let (chosen, reason) = self.strategy.choose(ask, candidates, &mut self.rng)?;
        self.drafted_choice(request, ask, &chosen, None);
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
            Some((instead, _)) => {
                self.drafted_choice(request, ask, &instead, Some(&chosen));
                Some((instead, Reason::Fallback))
            }
            None => Some((chosen, reason)),
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

/// What a request has in common with those that should go where it goes.
fn key_of(request: &Request) -> Option<u64> {
    // The low half of a keyed hash is as good a hash.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    let session = request.session.map(|it| it.0 as u64);
    session.or_else(|| request.blocks.first().map(|it| it.0))
}

/// When a request placed at `placed` should have its first token.
fn due(placed: Timestamp, forecast: &Forecast) -> Timestamp {
    placed + Duration::try_from_secs_f64(forecast.ttft_s).unwrap_or_default()
}

fn fallback_of(routing: &Routing) -> Option<(Saturation, Strategy)> {
    routing.saturation.map(|it| (it, Strategy::fallback(it.fallback)))
}
