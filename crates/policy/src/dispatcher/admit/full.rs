//! Why a request finds no room: what stands in its way on each replica, and for how long.

use std::time::Duration;

use types::{replica::ReplicaId, slo::Slo};

use crate::{
    admission::{Gate, gate::Closed},
    strategy::Candidate,
};

/// What stands in the way of a request everywhere.
#[derive(Clone, Copy, Debug)]
pub(in crate::dispatcher) struct Full {
    pub(in crate::dispatcher) gate: Gate,
    /// Until the first replica has room, were nobody else to come.
    pub(in crate::dispatcher) after_s: f64,
    /// Time to its first token on the replica that is quickest with it, had it nothing else to do.
    pub(super) alone_s: f64,
    /// Time per token where that is least with nobody else there; nothing where its pace stands in nobody's way.
    pub(super) alone_tpot_s: f64,
    /// The same with its margin.
    pub(super) raised_tpot_s: f64,
    /// Time for the rest of its answer.
    pub(super) answer_s: f64,
    pub(super) work_s: f64,
    /// The replica that has room first.
    pub(in crate::dispatcher) nearest: Option<ReplicaId>,
    pub(in crate::dispatcher) is_over_share: bool,
    /// Whether it might go elsewhere, and rather waits for the replica that has its prompt.
    pub(in crate::dispatcher) has_choice: bool,
    /// Time to its first token where it might go, if anywhere.
    pub(super) ready_s: f64,
}

impl Full {
    /// Of one that has not been looked for anywhere yet.
    pub(super) const fn nowhere(is_over_share: bool) -> Self {
        Self {
            gate: Gate::Count,
            after_s: f64::INFINITY,
            alone_s: f64::INFINITY,
            alone_tpot_s: f64::INFINITY,
            raised_tpot_s: f64::INFINITY,
            answer_s: f64::INFINITY,
            work_s: f64::INFINITY,
            nearest: None,
            is_over_share,
            has_choice: false,
            ready_s: f64::INFINITY,
        }
    }

    /// Which part of what it was promised no replica would keep, had it nothing else to do.
    pub(in crate::dispatcher) fn hopeless(&self, slo: &Slo) -> Option<Gate> {
        if is_less(slo.ttft.filter(|_| slo.completion.is_none()), self.alone_s) {
            Some(Gate::Ttft)
        } else {
            is_less(slo.tpot, self.alone_tpot_s).then_some(Gate::Tpot)
        }
    }

    /// For which part of what it was promised it would wait in vain: what no replica would keep, or no gate let in before
    /// its replica is idle, as the margin that was learned beside others says that it may not be kept.
    pub(in crate::dispatcher) fn in_vain(&self, slo: &Slo) -> Option<Gate> {
        let is_beyond = || is_less(slo.tpot, self.raised_tpot_s).then_some(Gate::Tpot);
        self.hopeless(slo).or_else(is_beyond)
    }

    /// Notes the pace of an answer that is alone on a replica, and the factor with which it is held against the promise.
    pub(super) fn note_pace(&mut self, margin: f64, step_s: f64) {
        let raised_s = margin * step_s;
        self.raised_tpot_s = self.raised_tpot_s.min(raised_s);
        // Where predictions were too long, as far as was seen, less can be kept.
        self.alone_tpot_s = self.alone_tpot_s.min(raised_s.min(step_s));
    }

    /// Whether one that asks for less than its share, and for what can be kept, would find no room either.
    pub(in crate::dispatcher) fn is_felt_by_all(&self, slo: &Slo) -> bool {
        !self.is_over_share && self.in_vain(slo).is_none()
    }

    /// Notes what stands in the way on `candidate`, and says for how long, seconds.
    pub(super) fn note(
        &mut self,
        candidate: &Candidate,
        closed: &Closed,
        output: f64,
        turn_s: f64,
    ) -> f64 {
        let forecast = &candidate.forecast;
        let after_s = match closed.gate {
            Gate::Ttft | Gate::E2e | Gate::Seats => closed.over_s,
            // What was placed fades with a time constant of four seconds: 4·ln(excess), nearly.
            Gate::Tpot => 8.0 * (closed.excess - 1.0) / (closed.excess + 1.0),
            Gate::KvCache | Gate::Count => turn_s,
        };
        if after_s < self.after_s {
            (self.gate, self.after_s) = (closed.gate, after_s);
            self.nearest = Some(candidate.id);
        }
        self.alone_s = self.alone_s.min(forecast.alone_s);
        self.answer_s = self.answer_s.min(output * forecast.tpot_s);
        self.work_s = self.work_s.min(forecast.work_s);
        after_s
    }
}

fn is_less(most: Option<Duration>, least_s: f64) -> bool {
    most.is_some_and(|most| most.as_secs_f64() < least_s)
}
