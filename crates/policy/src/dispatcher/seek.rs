//! Looking for a replica: who might take a request, who of them may, and which one it is.

use smallvec::SmallVec;
use types::{
    quantity::{Blocks, Tokens},
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Dispatcher, Tried, admit::Full, warm::HeldBack};
use crate::{
    estimate::{Asked, Forecast},
    event::Reason,
    explanation::PassedOver,
    fleet_view::Replica,
    saturation::Bound,
    session::Turn,
    strategy::{Ask, Candidate},
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

type Candidates = SmallVec<[Candidate; 64]>;

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
        arrived: Timestamp,
        tried: &Tried,
    ) -> Result<Option<Found>, Full> {
        let asked = self.asked(now, request, arrived);
        let mut candidates = std::mem::take(&mut self.candidates);
        let bound = request.session.and_then(|it| self.sessions.replica_of(now, it));
        let turn = request.session.zip(bound).map(|(it, on)| self.sessions.last_turn(it, on));
        let home = bound.zip(turn);
        self.find_candidates(now, request, &asked, tried, home, &mut candidates);
        if self.routing.cost.copies && self.strategy.weighs_cost() {
            self.sharers.weigh(request, self.block, &mut candidates);
        }
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
    pub(super) fn asked(&self, now: Timestamp, request: &Request, arrived: Timestamp) -> Asked {
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

    /// The replicas that take `request`, with what each holds of its prompt.
    pub(super) fn find_candidates(
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
                own: 1.0,
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
}

/// What a request has in common with those that should go where it goes.
fn key_of(request: &Request) -> Option<u64> {
    // The low half of a keyed hash is as good a hash.
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
    let session = request.session.map(|it| it.0 as u64);
    session.or_else(|| request.blocks.first().map(|it| it.0))
}
