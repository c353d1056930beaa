//! Looking for a replica: who might take a request, who of them may, and which one it is.

use smallvec::SmallVec;
use types::{
    quantity::{Blocks, Tokens},
    replica::{LoadReport, ReplicaId},
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{
    Dispatcher, Tried,
    admit::{Comes, Full},
    caches::Caches,
    warm::HeldBack,
};
use crate::{
    estimate::{Asked, Forecast, Lasting, replica::floor::of_fleet},
    event::Reason,
    explanation::PassedOver,
    fleet_view::Glance,
    prefix_index::{Hits, Slot},
    saturation::Bound,
    session::Turn,
    strategy::{Ask, Candidate, Key},
};

/// Where a request goes.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) chosen: Candidate,
    pub(super) reason: Reason,
    pub(super) asked: Asked,
    /// Whether the replica of its conversation takes requests.
    pub(super) home_takes_requests: bool,
    /// What that replica had of the prompt, and has no more.
    pub(super) lost: Option<(ReplicaId, Tokens)>,
    /// Most of the prompt that any replica is believed to hold.
    pub(super) most_cached: Option<Tokens>,
    pub(super) held: HeldBack,
}

/// What replicas hold of a prompt that was looked up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held<'a> {
    pub(super) request: &'a Request,
    pub(super) home: Option<(ReplicaId, Turn)>,
    pub(super) hits: &'a Hits,
    /// What engines say, where any does.
    told: Option<&'a Caches>,
    block: Tokens,
    most: Tokens,
}

/// What all replicas that take a request tell together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Survey {
    /// Requests on them.
    requests: usize,
    /// Most of the prompt that one of them holds.
    most_cached: Tokens,
    /// Whether there is one.
    is_any: bool,
    /// What the replica of its conversation holds of it.
    at_home: Option<Tokens>,
}

type Candidates = SmallVec<[Candidate; 64]>;

/// What was chosen, whether the replica of the request's conversation might have been, and what was held
/// back.
type Choice = (Option<(Candidate, Reason)>, bool, HeldBack);

impl Held<'_> {
    /// Tokens of the prompt that a replica holds, and those of them that the index names.
    pub(super) fn on(&self, it: &Glance) -> (Tokens, Tokens) {
        let hits = Blocks(self.hits.of(it.slot)).tokens(self.block);
        let held = match self.home {
            Some((id, turn)) if id == it.id => {
                turn.continued(hits, self.block, self.request.prompt)
            }
            Some(_) | None => hits,
        };
        let told = self.told.and_then(|caches| caches.told(it.id, self.request));
        (told.unwrap_or(held.min(self.most)), hits.min(self.most))
    }
}

impl Survey {
    /// Counts a replica that takes the request and holds `cached` tokens of its prompt.
    pub(super) fn count(&mut self, it: &Glance, cached: Tokens, held: &Held<'_>) {
        self.requests = self.requests.saturating_add(it.sharing.all as usize);
        self.most_cached = self.most_cached.max(cached);
        self.is_any = true;
        if held.home.is_some_and(|home| home.0 == it.id) {
            self.at_home = Some(cached);
        }
    }
}

impl Found {
    pub(super) const fn work_s(&self) -> f64 {
        self.chosen.forecast.work_s
    }
}

impl Dispatcher {
    /// Looks for a replica that can take `request` now; none where nobody takes requests at all.
    pub(super) fn seek(
        &mut self,
        now: Timestamp,
        request: &Request,
        comes: Comes,
        tried: &Tried,
    ) -> Result<Option<Found>, Full> {
        let mut asked = self.asked(now, request, comes.arrived());
        let bound = request.session.and_then(|it| self.sessions.replica_of(now, it));
        let turn = request.session.zip(bound).map(|(it, on)| self.sessions.last_turn(it, on));
        let home = bound.zip(turn);
        let alone = self.weighs_alone(now, request);
        self.look_up(now, request);
        asked.lasting = self.lasting(now, &asked, request, tried);
        let mut candidates = std::mem::take(&mut self.candidates);
        let there = self.what_is_held(request, home);
        let mut ask = Ask {
            prompt: request.prompt,
            blocks: &request.blocks,
            block: self.block,
            bound,
            key: key_of(request),
            is_shared: request.session.is_some() && self.is_shared(self.fleet.requests()),
        };
        let survey = match &alone {
            Some(weights) => {
                let asks = (&asked, &ask);
                self.shortlist(now, asks, &there, tried, weights, &mut candidates)
            }
            None => self.find_candidates(now, &asked, &there, tried, &mut candidates),
        };
        if alone.is_none() && self.weighs_copies() {
            self.sharers.weigh(request, self.block, &mut candidates);
        }
        ask.is_shared &= self.is_shared(survey.requests);
        let lost = home
            .zip(survey.at_home)
            .map(|((id, turn), cached)| (id, turn.lost(cached, self.block, request.prompt)));
        let found = if alone.is_some() {
            let before = cfg!(debug_assertions).then(|| self.rng.clone());
            let chosen = self.choose(request.id, &ask, &candidates);
            debug_assert!(
                before.is_none_or(|before| {
                    let there = self.what_is_held(request, home);
                    let choice = (&before, chosen.as_ref().map(|it| &it.0));
                    self.is_choice_of_all(now, &asked, &ask, &there, tried, choice)
                }),
                "the shortlist left out the choice"
            );
            Ok((chosen, survey.at_home.is_some(), HeldBack::default()))
        } else {
            self.draft(now, request.id, &ask, &candidates);
            self.choose_admitted(now, request, comes, (&asked, &ask), &mut candidates)
        };
        self.candidates = candidates;
        let (chosen, home_takes_requests, held) = found?;
        Ok(chosen.map(|(chosen, reason)| Found {
            chosen,
            reason,
            asked,
            home_takes_requests,
            lost,
            most_cached: survey.is_any.then_some(survey.most_cached),
            held,
        }))
    }

    /// Chooses among those of `candidates` that are neither held back nor closed.
    fn choose_admitted(
        &mut self,
        now: Timestamp,
        request: &Request,
        comes: Comes,
        (asked, ask): (&Asked, &Ask<'_>),
        candidates: &mut Vec<Candidate>,
    ) -> Result<Choice, Full> {
        // Whoever is passed over for now will have room again: a conversation that it served stays its own.
        let is_home_there = candidates.iter().any(|it| ask.bound == Some(it.id));
        let mut held = self.hold_back(now, request, candidates);
        let mut admitted = if candidates.is_empty() {
            Ok(())
        } else {
            self.admit(now, request, comes, asked, candidates)
        };
        if admitted.is_err() && !held.candidates.is_empty() {
            // None of those that were to be preferred has room.
            candidates.append(&mut held.candidates);
            admitted = self.admit(now, request, comes, asked, candidates);
        }
        self.drafted_left(request.id, PassedOver::Admission, candidates);
        admitted?;
        Ok((self.choose(request.id, ask, candidates), is_home_there, held))
    }

    /// Whether a copy that others on their way will use as well is cheaper to make.
    pub(super) fn weighs_copies(&self) -> bool {
        self.strategy.cost_weights().is_some_and(|it| it.copies)
    }

    /// Whether others who do not tell send at least a quarter of the `requests` that replicas have.
    fn is_shared(&self, requests: usize) -> bool {
        self.in_flight.len().saturating_add(self.elsewhere.len()) < requests / 4 * 3
    }

    /// What replicas are asked about `request`, which has waited since `arrived`.
    pub(super) fn asked(&self, now: Timestamp, request: &Request, arrived: Timestamp) -> Asked {
        let waited_s = now.since(arrived).as_secs_f64();
        Asked {
            prompt: request.prompt,
            output: self.outputs.expected(request),
            ttft_max_s: request.slo.ttft.map(|it| (it.as_secs_f64() - waited_s).max(0.0)),
            tpot_max_s: request.slo.tpot.map(|it| it.as_secs_f64()),
            memory: self.routing.cost.memory,
            foresight: self.routing.cost.foresight,
            lasting: Lasting::default(),
        }
    }

    /// How far the utilisation of replicas is the fleet's while the request's work lasts, where costs are weighed;
    /// as of the last refresh.
    fn lasting(&self, now: Timestamp, asked: &Asked, request: &Request, tried: &Tried) -> Lasting {
        if self.strategy.cost_weights().is_none() {
            return Lasting::default();
        }
        let pool = self.fleet.pool_for(request.model, request.prompt, tried);
        let fleet = of_fleet(pool.map(|(_, it)| it.floor.load(now, asked.tpot_max_s)));
        Lasting::new(self.fleet.prefill_s(request.prompt), fleet)
    }

    /// Finds what is held of the prompt, for [`Self::what_is_held`], and how the replicas are at `now`.
    pub(super) fn look_up(&mut self, now: Timestamp, request: &Request) {
        self.fleet.refresh(now);
        self.prefixes.hits(&request.blocks, &mut self.hits);
        self.caches.look_up(&request.blocks);
    }

    /// What replicas hold of the prompt that was looked up; `home` is where its conversation was.
    pub(super) fn what_is_held<'a>(
        &'a self,
        request: &'a Request,
        home: Option<(ReplicaId, Turn)>,
    ) -> Held<'a> {
        Held {
            request,
            home,
            hits: &self.hits,
            told: Some(&self.caches).filter(|it| it.follows_any()),
            block: self.block,
            // The last token is always computed, or there would be nothing to continue from.
            most: request.prompt.saturating_sub(Tokens(1)),
        }
    }

    /// The replicas that take a request, with what each holds of its prompt.
    pub(super) fn find_candidates(
        &self,
        now: Timestamp,
        asked: &Asked,
        held: &Held<'_>,
        tried: &Tried,
        candidates: &mut Vec<Candidate>,
    ) -> Survey {
        let mut survey = Survey::default();
        // Written over the last ones, which cost half as much as new ones that are moved to their place.
        let mut found = 0;
        for (at, it) in self.fleet.pool_for(held.request.model, held.request.prompt, tried) {
            let (cached, indexed) = held.on(it);
            survey.count(it, cached, held);
            if candidates.len() <= found {
                candidates.push(nobody());
            }
            if let Some(place) = candidates.get_mut(found) {
                self.fill(place, now, asked, at, it, (cached, indexed));
            }
            found = found.saturating_add(1);
        }
        candidates.truncate(found);
        survey
    }

    /// Describes in `place` the replica at a place of the fleet, which holds so much of the prompt, `indexed`
    /// of it by the index. Where nobody forecasts, nobody did for who is described there.
    pub(super) fn fill(
        &self,
        place: &mut Candidate,
        now: Timestamp,
        asked: &Asked,
        at: usize,
        it: &Glance,
        (cached, indexed): (Tokens, Tokens),
    ) {
        let Candidate {
            id,
            slot,
            requests,
            queued_prefill,
            cached: all_cached,
            indexed: all_indexed,
            own,
            forecast,
            has_room,
            reported,
        } = place;
        (*id, *slot) = (it.id, it.slot);
        (*requests, *queued_prefill) = (it.sharing.all, it.queued_prefill);
        (*all_cached, *all_indexed, *own) = (cached, indexed, 1.0);
        (*has_room, *reported) = (it.has_room, it.reported);
        if self.forecasts()
            && let Some(replica) = self.fleet.replicas().get(at)
        {
            *forecast = replica.forecast(now, asked, cached, it.sharing);
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
        self.drafted_choice(request, (ask, candidates), &chosen, None);
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
                self.drafted_choice(request, (ask, candidates), &instead, Some(&chosen));
                Some((instead, Reason::Fallback))
            }
            None => Some((chosen, reason)),
        }
    }
}

/// What a request has in common with those that should go where it goes.
fn key_of(request: &Request) -> Option<Key> {
    // The low half of a keyed hash is as good a hash.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    let session = request.session.map(|it| Key::Conversation(it.0 as u64));
    session.or_else(|| request.blocks.first().map(|it| Key::Beginning(it.0)))
}

/// A candidate before it is anybody.
pub(super) fn nobody() -> Candidate {
    Candidate {
        id: ReplicaId(0),
        slot: Slot::default(),
        requests: 0,
        queued_prefill: Tokens::ZERO,
        cached: Tokens::ZERO,
        indexed: Tokens::ZERO,
        own: 1.0,
        forecast: Forecast::default(),
        has_room: false,
        reported: LoadReport::default(),
    }
}
