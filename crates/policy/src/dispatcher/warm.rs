//! Replicas that are passed over as long as others will do: those that have just come, and those that
//! would have to load an adapter first.

#[cfg(test)]
mod tests;

use smallvec::SmallVec;
use types::{
    replica::ReplicaId,
    request::{ModelId, Request},
    time::Timestamp,
};

use super::Dispatcher;
use crate::{
    adapters::Adapters, explanation::PassedOver, fleet_view::Replica, saturation::Bound,
    slow_start::WARM, strategy::Candidate,
};

/// What is kept from one request as long as others will do.
#[derive(Debug, Default)]
pub(super) struct HeldBack {
    /// Replicas that are not warm yet, with their share of the request.
    shares: SmallVec<[(ReplicaId, f64); 2]>,
    /// Replicas that take the request only in need.
    pub(super) candidates: Vec<Candidate>,
    is_for_adapter: bool,
}

impl Dispatcher {
    /// Takes those of `candidates` out that are passed over as long as others will do.
    pub(super) fn hold_back(
        &mut self,
        now: Timestamp,
        request: &Request,
        candidates: &mut Vec<Candidate>,
    ) -> HeldBack {
        let mut held = self.hold_back_cold(now, candidates);
        if !held.candidates.is_empty() {
            self.drafted_left(request.id, PassedOver::SlowStart, candidates);
        }
        if self.fleet.is_adapter(request.model) {
            held.is_for_adapter = true;
            self.prefer_loaded(request, candidates, &mut held);
            self.drafted_left(request.id, PassedOver::Adapter, candidates);
        }
        held
    }

    /// Leaves those that have the adapter loaded that the request asks for, or else those that have room
    /// for it, unless all of them are saturated.
    fn prefer_loaded(
        &self,
        request: &Request,
        candidates: &mut Vec<Candidate>,
        held: &mut HeldBack,
    ) {
        let adapters = |it: &Candidate| self.fleet.get(it.id).map(|it| &it.adapters);
        let saturation = self.routing.saturation.unwrap_or_default();
        let bound = Bound::new(&saturation, candidates);
        let is_loaded = |it: &Candidate| {
            !bound.is_exceeded_by(it) && adapters(it).is_some_and(|it| it.has_loaded(request.model))
        };
        let is_roomy = |it: &Candidate| {
            !bound.is_exceeded_by(it) && adapters(it).is_some_and(Adapters::has_room)
        };
        let is_any_loaded = candidates.iter().any(is_loaded);
        if !is_any_loaded && !candidates.iter().any(is_roomy) {
            return;
        }
        candidates.retain(|it| {
            let keep = if is_any_loaded { is_loaded(it) } else { is_roomy(it) };
            if !keep {
                held.candidates.push(*it);
            }
            keep
        });
    }

    /// Takes out those that are not warm and have had their share, unless nobody would be left.
    fn hold_back_cold(&self, now: Timestamp, candidates: &mut Vec<Candidate>) -> HeldBack {
        let mut held = HeldBack::default();
        let slow_start = self.routing.slow_start;
        if !self.fleet.is_any_warming(now, &slow_start) {
            return held;
        }
        let weight = |it: &Candidate| self.fleet.weight(now, it.id, &slow_start);
        let most = candidates.iter().map(weight).fold(f64::MIN_POSITIVE, f64::max);
        let all: f64 = candidates.iter().map(|it| weight(it) / most).sum();
        candidates.retain(|it| {
            let relative = weight(it) / most;
            if WARM <= relative {
                return true;
            }
            held.shares.push((it.id, relative / all));
            let may_take = self.fleet.get(it.id).is_none_or(Replica::may_warm);
            if !may_take {
                held.candidates.push(*it);
            }
            may_take
        });
        if candidates.is_empty() {
            candidates.append(&mut held.candidates);
        }
        held
    }

    /// Counts a request that goes to `chosen` towards the shares of those that are not warm, and
    /// remembers that its adapter is loaded there.
    pub(super) fn count_held(&mut self, held: &HeldBack, chosen: ReplicaId, model: ModelId) {
        for (id, share) in &held.shares {
            if let Some(replica) = self.fleet.get_mut(*id) {
                replica.count_share(*share, *id == chosen);
            }
        }
        if let Some(replica) = self.fleet.get_mut(chosen).filter(|_| held.is_for_adapter) {
            replica.adapters.used(model);
        }
    }
}
