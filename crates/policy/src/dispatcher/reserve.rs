//! Placing and reserving, which are one step, and giving back.

use std::time::Duration;

use types::{
    quantity::Tokens,
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Dispatcher, InFlight, Tried, explain, seek::Found};
use crate::{
    config::StrategyName,
    estimate::Forecast,
    event::{Decision, Placement, Reason},
    strategy::Candidate,
};

impl Dispatcher {
    /// Decides that `request` goes where it was found to go, and reserves it there.
    pub(super) fn commit(
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
        let line = self.fleet.line_of(request.model, request.prompt);
        self.admission.placed(now, (&request, line), arrived, found.work_s());
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
        let (tenant, blocks) = (request.tenant, &request.blocks);
        let last_used = self.prefixes.insert_found(chosen.slot, tenant, blocks, &self.hits);
        let reserved = self.caches.placed(chosen.id, &request);
        let mut promised = None;
        if let Some(replica) = self.fleet.get_mut(chosen.id) {
            // A pace that it can't have there, with nobody's prompt between its tokens, holds nobody back: it would
            // be broken all the same.
            let step_s = replica.estimate.margins().1.value() * forecast.step_s;
            promised = request.slo.tpot.filter(|it| step_s <= it.as_secs_f64());
            replica.estimate.place(now, request.id, &forecast);
            replica.promises.add(promised);
            if request.slo.completion.is_some() {
                replica.estimate.last_is_for_later();
            }
        }
        self.fleet.reserve(chosen.id, uncached);
        self.strategy.placed(now, chosen.id, &request.blocks, &forecast);
        if !request.streamed {
            self.unseen.insert((due(now, &forecast), request.id));
        }
        let is_counted = self.weighs_copies();
        if is_counted {
            self.sharers.come(&request.blocks);
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
            promised,
            is_counted,
            first_token: None,
            held: Duration::ZERO,
            tried,
            request,
        };
        self.in_flight.insert(in_flight.request.id, in_flight);
    }

    /// Gives back what a request that leaves its replica still holds there.
    pub(super) fn release(&mut self, now: Timestamp, it: &InFlight) {
        if !it.answering {
            self.release_prefill(now, it.replica, it.request.id, it.uncached);
        }
        self.fleet.release_request(it.replica);
        self.caches.gone(it.replica, &it.request, it.reserved);
        self.strategy.left(it.replica, &it.request.blocks);
        if it.is_counted {
            self.sharers.leave(&it.request.blocks);
        }
        if let Some(replica) = self.fleet.get_mut(it.replica) {
            if let Some(begun) = it.first_token {
                replica.estimate.ends(begun);
            }
            replica.estimate.left(&it.forecast, replica.known() == 0);
            replica.promises.remove(it.promised);
        }
        if !it.request.streamed {
            self.unseen.remove(&(due(it.placed, &it.forecast), it.request.id));
        }
    }

    pub(super) fn release_prefill(
        &mut self,
        now: Timestamp,
        id: ReplicaId,
        of: RequestId,
        uncached: Tokens,
    ) {
        self.fleet.release_prefill(id, uncached);
        if let Some(replica) = self.fleet.get_mut(id) {
            replica.estimate.computed(now, of);
        }
    }

    /// Takes the prompts of answers that do not stream off the queues when they should be computed.
    pub(super) fn pass_unseen(&mut self, now: Timestamp) {
        while let Some(&(due, id)) = self.unseen.first().filter(|it| it.0 <= now) {
            self.unseen.remove(&(due, id));
            let Some(it) = self.in_flight.get_mut(&id) else {
                self.computed_elsewhere(now, id);
                continue;
            };
            if !std::mem::replace(&mut it.answering, true) {
                let (replica, uncached) = (it.replica, it.uncached);
                self.release_prefill(now, replica, id, uncached);
            }
        }
    }
}

/// When a request placed at `placed` should have its first token.
pub(super) fn due(placed: Timestamp, forecast: &Forecast) -> Timestamp {
    placed + Duration::try_from_secs_f64(forecast.ttft_s).unwrap_or_default()
}
