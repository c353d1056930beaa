//! Work for later, beside others that are more urgent and must not feel it.
//!
//! Engines compute prompts in the order in which they come, so whoever is urgent waits behind a prompt for later on the
//! replica that it goes to. A short one is hardly felt; a long one starts only where there are other replicas to go to,
//! and hardly any has a prompt for later.
//! And as it has time, such work waits for the replica that holds its prompt, instead of having it computed anew.

use types::{replica::ReplicaId, time::Timestamp};

use super::{Dispatcher, Tried, admit::Comes};
use crate::{
    admission::{Gate, gate::Closed},
    estimate::ReplicaEstimate,
    event::Decision,
    fleet_view::FleetView,
    strategy::Candidate,
    wait_queue::{Place, Waiting},
};

/// What stands in the way of who is not to go yet.
pub(super) const NOT_YET: Closed = Closed { gate: Gate::Ttft, excess: 1.0, over_s: 0.0 };

/// Those who can be done later that are looked at at once, at most, and the replicas that are looked at for them: the
/// more there are, the longer a look takes, and the more often is one.
const LOOKS_MAX: usize = 16;
const LOOKS_REPLICAS: usize = 128;

/// How much more work than where it is least it may be.
pub(super) const MORE_WORK: f64 = 1.05;

/// Part of an engine's chunk up to which a prompt counts as short.
const SHORT: f64 = 0.55;

/// Part of a chunk up to which a prompt that is there is hardly felt by who comes then.
const SLIGHT: f64 = 0.05;

/// One of so many of the other replicas has no prompt waiting when a long one for later starts, at least; and one of so
/// many of all has one for later then, at most.
const QUIET_OF: usize = 4;
const BUSY_OF: usize = 8;

/// Where work for later would not be felt by those who are more urgent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Later {
    /// The work that it is where it is least.
    work_s: f64,
    /// Whether those who are urgent find their way around one more prompt for later: a part of the others have no prompt
    /// waiting, and no more than a part of all have one for later.
    leaves_quiet: bool,
}

impl Later {
    pub(super) fn beside(fleet: &FleetView, candidates: &[Candidate]) -> Self {
        let has_none =
            |it: &&Candidate| fleet.get(it.id).is_some_and(|it| it.estimate.queued_s() <= 0.0);
        let quiet = candidates.iter().filter(has_none).count();
        let has_later = |it: &&Candidate| {
            let estimate = fleet.get(it.id).map(|it| &it.estimate);
            let is_felt = |it: &ReplicaEstimate| SLIGHT * it.chunk_s() < it.queued_s();
            estimate.is_some_and(|it| it.computes_for_later() && is_felt(it))
        };
        let busy = candidates.iter().filter(has_later).count();
        let leaves_quiet = candidates.len().saturating_sub(1) <= QUIET_OF * quiet.saturating_sub(1)
            && busy < (candidates.len() / BUSY_OF).max(1);
        let work_s = candidates.iter().map(|it| it.forecast.work_s).fold(f64::INFINITY, f64::min);
        Self { work_s, leaves_quiet }
    }

    /// Whether it would be felt on `candidate`, whose engine computes a chunk in `chunk_s`.
    pub(super) fn is_felt_on(self, candidate: &Candidate, chunk_s: f64) -> bool {
        let forecast = &candidate.forecast;
        let is_more = MORE_WORK * self.work_s < forecast.work_s;
        let is_long = SHORT * chunk_s < forecast.own_prefill_s;
        is_more || is_long && !self.leaves_quiet
    }
}

impl Dispatcher {
    /// Looks at some of those who can be done later, each time from where the last look ended: what is in the way of
    /// one, a cache or a prompt on a single replica, is not in the way of the next.
    pub(super) fn let_in_later(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        let mut place = self.admission.looked_until;
        let looks = LOOKS_REPLICAS / self.fleet.replicas().len().max(1);
        for _ in 0..looks.clamp(1, LOOKS_MAX) {
            place = self.admission.queue.next_later(place);
            let Some(next) = place else { break };
            self.look_again(now, next, decisions);
        }
        self.admission.looked_until = place;
    }

    /// Lets who waits at `place` go if it can; otherwise says which replica would have room first, if any will.
    pub(super) fn look_again(
        &mut self,
        now: Timestamp,
        place: Place,
        decisions: &mut Vec<Decision>,
    ) -> Option<Option<ReplicaId>> {
        let mut waiting = self.admission.queue.take(place)?;
        let mut nearest = None;
        match self.seek(now, &waiting.request, Comes::At(waiting.arrived), &Tried::new()) {
            Ok(Some(found)) => {
                let Waiting { request, arrived, .. } = waiting;
                self.commit(now, request, arrived, &found, Tried::new(), decisions);
                return None;
            }
            Ok(None) => {}
            Err(full) => {
                (waiting.gate, waiting.after_s) = (full.gate, full.after_s);
                (waiting.has_choice, waiting.is_over_share) = (full.has_choice, full.is_over_share);
                let may_go = full.in_vain(&waiting.request.slo).is_none();
                nearest = full.nearest.filter(|_| may_go);
            }
        }
        // There was room for it a moment ago.
        self.admission.queue.push(waiting, usize::MAX);
        Some(nearest)
    }
}
