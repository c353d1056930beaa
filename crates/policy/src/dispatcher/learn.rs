//! What the dispatcher learns from answers, and of caches.

use std::time::Duration;

use types::{
    outcome::Outcome, quantity::Tokens, replica::ReplicaId, request::RequestId, time::Timestamp,
};

use super::{Dispatcher, InFlight};
use crate::{fleet_view::Accuracy, session::Turn};

impl Dispatcher {
    /// Learns that a first token came.
    pub(super) fn first_token(&mut self, now: Timestamp, id: RequestId) {
        let Some(it) = self.in_flight.get_mut(&id) else { return };
        if it.first_token.replace(now).is_some() {
            return;
        }
        let was_computed = std::mem::replace(&mut it.answering, true);
        let (replica, uncached, session) = (it.replica, it.uncached, it.request.session);
        let (forecast, placed) = (it.forecast, it.placed);
        let took_s = now.since(placed).as_secs_f64();
        let is_sized = it.request.prompt > Tokens::ZERO;
        if !was_computed {
            self.release_prefill(now, replica, id, uncached);
        }
        self.book.first_token(id, took_s);
        // Without a prompt there is nothing that the time could follow from.
        self.fleet.learn(replica, |it| {
            it.estimate.begins(now);
            if is_sized {
                it.learn_seats(now, placed, &forecast);
                it.estimate.learn_ttft(now, placed, &forecast);
                Accuracy::move_to(&mut it.accuracy.ttft, forecast.ttft_s, took_s);
            }
        });
        if let Some(session) = session {
            self.sessions.served(now, session, replica);
        }
    }

    /// Learns that the end of an answer may have been there for as long as `held`.
    pub(super) fn answer_held(&mut self, id: RequestId, held: Duration) {
        if let Some(it) = self.in_flight.get_mut(&id) {
            it.held = held;
        }
    }

    /// Learns that a request left, whichever way.
    pub(super) fn end(
        &mut self,
        now: Timestamp,
        id: RequestId,
        outcome: Outcome,
        output: Option<Tokens>,
        cached: Option<Tokens>,
    ) {
        let Some(it) = self.in_flight.remove(&id) else { return self.stop_waiting(id) };
        self.book.ended(id, outcome, output, cached);
        if let (Outcome::Finished, Some(cached)) = (outcome, cached) {
            self.found(&it, cached);
            if let Some(replica) = self.fleet.get_mut(it.replica) {
                replica.evictions.observe(now, it.request.prompt, it.indexed, cached);
            }
        }
        self.release(now, &it);
        if outcome == Outcome::Finished
            && let Some(replica) = self.fleet.get_mut(it.replica)
        {
            replica.overrun.ended();
            replica.estimate.moves(it.came_to_its_end(now));
        }
        match (outcome, it.request.session) {
            (Outcome::Finished, Some(session)) => self.sessions.served(now, session, it.replica),
            (Outcome::Failed, Some(session)) => self.sessions.failed(session, it.replica),
            (Outcome::Cancelled, Some(_)) | (_, None) => {}
        }
        if let (Outcome::Finished, Some(output)) = (outcome, output) {
            self.learn_answer(now, &it, output);
        }
    }

    /// Learns how many tokens of its prompt an answer found in its replica's cache.
    pub(super) fn found(&mut self, it: &InFlight, cached: Tokens) {
        self.caches.found(it.replica, it.reserved, cached);
        self.lacked(it.replica, it.believed, cached);
    }

    /// Learns that an answer found `cached` tokens where `believed` was believed to be, the last of which
    /// was last used then.
    pub(super) fn lacked(
        &mut self,
        replica: ReplicaId,
        (believed, last_used): (Tokens, Option<u32>),
        cached: Tokens,
    ) {
        // A hit that was not there: what was last used then is gone, and all that is staler.
        let is_missing = cached + self.block < believed;
        let slot = self.fleet.get(replica).map(|it| it.slot);
        if let Some((slot, last_used)) = slot.zip(last_used).filter(|_| is_missing) {
            self.prefixes.lacks(slot, last_used);
        }
    }

    /// Takes a replica to be `prefill` and `decode` times as slow as the form says, for good.
    pub fn know_speed(&mut self, id: ReplicaId, prefill: f64, decode: f64) {
        if let Some(replica) = self.fleet.get_mut(id) {
            replica.estimate.know(prefill, decode);
        }
    }

    /// Learns that a replica lost what its cache held.
    pub(super) fn cache_lost(&mut self, now: Timestamp, id: ReplicaId) {
        self.fleet.cache_lost(now, id);
        if let Some(replica) = self.fleet.get_mut(id) {
            self.prefixes.leave(replica.slot);
            replica.slot = self.prefixes.join();
        }
        self.bound_prefixes(id);
        self.caches.lost(id);
    }

    /// Tells the index how many blocks a replica's cache has room for, where that is known.
    pub(super) fn bound_prefixes(&mut self, id: ReplicaId) {
        let slot = self.fleet.get(id).map(|it| it.slot);
        if let Some((slot, size)) = slot.zip(self.caches.size(id)) {
            self.prefixes.bound(slot, size.full_blocks(self.block).0);
        }
    }

    /// Learns from an answer that came to its end after `output` tokens.
    pub(super) fn learn_answer(&mut self, now: Timestamp, it: &InFlight, output: Tokens) {
        self.outputs.observe(&it.request, output);
        if let Some(session) = it.request.session {
            let turn = Turn { prompt: it.request.prompt, answer: output };
            self.sessions.answered(session, it.replica, turn);
        }
        let now = it.came_to_its_end(now);
        let gaps = output.saturating_sub(Tokens(1)).0;
        let first = it.first_token.filter(|_| gaps > 0);
        let tpot_s = first.map(|first| now.since(first).as_secs_f64() / f64::from(gaps));
        if let Some((took_s, most)) = tpot_s.zip(it.promised) {
            self.admission.ease.answered(now, most.as_secs_f64() < took_s);
        }
        if !it.held.is_zero() {
            // When the last tokens came is not known, so that it looks quicker than it was.
            return;
        }
        // What nobody could keep was not promised, and is not broken: or whoever asks for it would have its replica believed
        // to be slow. Where it was kept all the same, what kept it from being promised was too cautious.
        let kept = |took_s| it.request.slo.tpot.filter(|most| took_s <= most.as_secs_f64());
        let judged =
            tpot_s.and_then(|took_s| Some((took_s, it.promised.or_else(|| kept(took_s))?)));
        if let Some((tpot_s, tpot_max)) = judged {
            self.fleet.learn_tpot(now, it.replica, &it.forecast, tpot_s, tpot_max.as_secs_f64());
        }
        self.learn_limits(now, it, tpot_s);
    }
}

impl InFlight {
    /// When an answer that ends `now` was last seen to go on, as far as that is its replica's doing.
    fn came_to_its_end(&self, now: Timestamp) -> Timestamp {
        Timestamp::from_elapsed(now.elapsed().saturating_sub(self.held))
    }
}
