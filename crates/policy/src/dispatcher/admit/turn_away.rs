//! Who finds no room: whether it waits, and what it is told where it does not.

use std::time::Duration;

use rand::RngExt as _;
use types::{request::Request, time::Timestamp};

use super::{super::Dispatcher, Full};
use crate::{
    admission::Admission,
    event::{Decision, Reject},
    wait_queue::Waiting,
};

impl Dispatcher {
    /// Has a request that finds no gate open wait, or turns it away.
    pub(in crate::dispatcher) fn hold_or_refuse(
        &mut self,
        now: Timestamp,
        request: Request,
        full: &Full,
        decisions: &mut Vec<Decision>,
    ) {
        let latest = self.admission.latest(&request, now, full.alone_s, full.answer_s);
        let rank = (request.priority, full.is_over_share);
        let line = self.fleet.line_of(request.model, request.prompt);
        let ahead_s = self.admission.expected_wait_s(now, line, rank, latest);
        let ends_well = ahead_s <= latest.since(now).as_secs_f64() && now < latest;
        let queue_max = self.admission.config.queue_max as usize;
        let latest = if full.has_choice {
            latest.min(Admission::latest_choice(&request, now, full.ready_s))
        } else {
            latest
        };
        let may_wait = full.has_choice
            || full.in_vain(&request.slo).is_none()
                && self.admission.config.mode.predicts()
                && queue_max > 0
                && ends_well
                && (request.came_again == 0 || self.admission.claims.take(request.tenant));
        if !may_wait {
            let reject = self.refusal(now, &request, full);
            return self.decide(now, &request, Err(reject), decisions);
        }
        let (id, work_s) = (request.id, full.work_s);
        let Full { gate, after_s, has_choice, is_over_share, .. } = *full;
        let waiting = Waiting {
            request,
            arrived: now,
            latest,
            work_s,
            gate,
            after_s,
            has_choice,
            is_over_share,
            line,
        };
        if let Some(out) = self.admission.queue.push(waiting, queue_max) {
            if out.request.id == id && 0 < out.request.came_again {
                self.admission.claims.give_back(out.request.tenant);
            }
            let is_full = !out.is_over_share;
            let retry_after = self.turn_away(now, &out.request, (out.after_s, out.work_s), is_full);
            let reject = if out.is_over_share {
                Reject::OverShare { gate: out.gate, retry_after }
            } else if out.request.id == id {
                Reject::Saturated { gate, retry_after }
            } else {
                Reject::Evicted { gate: out.gate, retry_after }
            };
            self.decide(now, &out.request, Err(reject), decisions);
        }
    }

    /// Turns a request away that was placed before, and for which nobody else has room.
    pub(in crate::dispatcher) fn refuse_again(
        &mut self,
        now: Timestamp,
        request: &Request,
        full: &Full,
        decisions: &mut Vec<Decision>,
    ) {
        let is_full = full.is_felt_by_all(&request.slo);
        let retry_after = self.turn_away(now, request, (full.after_s, full.work_s), is_full);
        let reject = Reject::Saturated { gate: full.gate, retry_after };
        self.decide(now, request, Err(reject), decisions);
    }

    pub(super) fn refusal(&mut self, now: Timestamp, request: &Request, full: &Full) -> Reject {
        let is_full = full.is_felt_by_all(&request.slo);
        let retry_after = self.turn_away(now, request, (full.after_s, full.work_s), is_full);
        let gate = full.in_vain(&request.slo).unwrap_or(full.gate);
        if let Some(gate) = full.hopeless(&request.slo) {
            // Coming more slowly would not help it.
            Reject::Infeasible { gate, retry_after }
        } else if full.is_over_share {
            Reject::OverShare { gate, retry_after }
        } else {
            Reject::Saturated { gate, retry_after }
        }
    }

    /// Notes that a request of `work_s` is turned away, and says when it is worth coming again: after the middle of what
    /// it took of late until there was room for its like, or, where nobody did, once what is there has been worked off; spread, so that those
    /// who were turned away together do not come again together. `is_full` where others like it would have found no room either.
    pub(super) fn turn_away(
        &mut self,
        now: Timestamp,
        request: &Request,
        (guess_s, work_s): (f64, f64),
        is_full: bool,
    ) -> Duration {
        // Anybody can ask for what nobody can keep, for more than a share, or say that it comes again.
        if is_full && request.came_again == 0 && request.slo.completion.is_none() {
            self.admission.ease.turned_away(now);
        }
        self.admission.sizes.decided(now, work_s, false);
        let line = self.fleet.line_of(request.model, request.prompt);
        let room = self.admission.room_of(line, request);
        let after_s = room.after_s(work_s, guess_s);
        room.turned_away(now, request, work_s, after_s);
        Duration::from_secs_f64(after_s * self.rng.random_range(0.7..1.3))
    }

    /// Looks whether there is room for one of those who were turned away: one at a time, as everybody waits for it.
    pub(in crate::dispatcher) fn look_for_room(&mut self, now: Timestamp) {
        let Some(it) = self.admission.watched(now, self.fleet.replicas().len()) else { return };
        let has_some = self.outlook(now, &it.request).is_open;
        let line = self.fleet.line_of(it.request.model, it.request.prompt);
        let room = self.admission.room_of(line, &it.request);
        if has_some { room.had_some(now, &it) } else { room.had_none(now, it) }
    }
}
