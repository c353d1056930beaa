//! Whether a replica can take a request now so that every promise is kept: the request's own, and
//! those made to the requests that are there.
//!
//! A replica that prefills for a share `φ` of its time decodes in what is left, so that an answer
//! takes `step/(1 − φ)` a token: whoever comes with a long prompt slows everybody. That is the gate
//! which holds the knee; the time to first token alone lets a fleet in until nobody's answer runs
//! as promised.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::{replica::ReplicaId, slo::Slo, time::Timestamp};

use super::{UNPROMISED_WAIT, config::AdmissionMode};
use crate::{fleet_view::Replica, strategy::Candidate};

/// Share of a KV cache up to which requests are placed: what is beyond is for answers that turn out
/// longer than expected.
const KV_USAGE_MAX: f64 = 0.95;

/// What stands in the way of a request on a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gate {
    /// Its first token would come too late.
    Ttft,
    /// Its answer would run too slowly, or slow down one there more than was promised.
    Tpot,
    /// Its last token would come too late.
    E2e,
    /// Its context would not fit, or others wait for memory.
    KvCache,
    /// It would wait for a seat of the batch for longer than it may, or must not wait there.
    Seats,
    /// As many requests are there as the replica is known to serve in time.
    Count,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 6] =
        [Self::Ttft, Self::Tpot, Self::E2e, Self::KvCache, Self::Seats, Self::Count];

    /// The name as metrics and messages spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
            Self::KvCache => "kv-cache",
            Self::Seats => "seats",
            Self::Count => "count",
        }
    }
}

/// A gate that is closed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Closed {
    pub(crate) gate: Gate,
    /// By how much what is predicted exceeds what is allowed: more than 1.
    pub(crate) excess: f64,
    /// By how much, in the gate's own unit.
    pub(crate) over_s: f64,
}

/// What is asked of every gate about one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) now: Timestamp,
    pub(crate) mode: AdmissionMode,
    pub(crate) in_flight_max: u32,
    pub(crate) slo: &'a Slo,
    /// Tokens the answer is expected to have.
    pub(crate) output: f64,
    /// How long it has waited.
    pub(crate) waited: Duration,
    /// Factor on what is predicted: above 1 it is the room left for those who go first, below 1 that which they
    /// find.
    pub(crate) reserve: f64,
    /// Whether anything is known of the request that its time follows from.
    pub(crate) is_sized: bool,
    /// Share of its promise that it may wait, here and for a seat.
    pub(crate) wait_share: f64,
    /// Whether it must not be felt by those who are more urgent: it goes only where no prompt waits.
    pub(crate) is_for_later: bool,
    /// The replica that is kept for it. Nobody else is placed there meanwhile, so that what was measured says
    /// less than what is predicted.
    pub(crate) kept: Option<ReplicaId>,
    /// How many times the promise the pace that was measured may be.
    pub(crate) ease: f64,
}

impl Pass<'_> {
    /// What stands in the way of the request on `replica`.
    pub(crate) fn closed(&self, replica: &Replica, candidate: &Candidate) -> Option<Closed> {
        match self.mode {
            AdmissionMode::Off => None,
            AdmissionMode::Static => self.count(candidate, f64::from(self.in_flight_max)),
            AdmissionMode::Gradient | AdmissionMode::Vegas | AdmissionMode::Aimd => {
                self.count(candidate, replica.peer_limit.value())
            }
            AdmissionMode::Knee
            | AdmissionMode::TtftOnly
            | AdmissionMode::InstantTpot
            | AdmissionMode::FixedMargins
            | AdmissionMode::SizeBlind => self.knee(replica, candidate),
        }
    }

    fn knee(&self, replica: &Replica, candidate: &Candidate) -> Option<Closed> {
        // Where nobody is there is nobody to wait for or to harm, and a prediction that says
        // otherwise could never be put right.
        if candidate.requests == 0 {
            return None;
        }
        if replica.lacks_memory(self.now) {
            return Some(Closed { gate: Gate::KvCache, excess: 1.05, over_s: 0.0 });
        }
        // Its own first token may come whenever it comes: nothing else would hold its prompt back.
        let queued_s = replica.estimate.queued_s();
        if self.is_for_later && (queued_s > 0.0 || !candidate.has_room) {
            return Some(Closed { gate: Gate::Ttft, excess: 1.05, over_s: queued_s });
        }
        if !self.is_sized || !replica.is_predictable() {
            return self.count(candidate, replica.limit.value());
        }
        let all = [
            self.latency(replica, candidate),
            self.seat(replica, candidate),
            over(
                Gate::KvCache,
                replica.kv_usage_with(self.now, candidate),
                KV_USAGE_MAX / self.reserve,
            ),
        ];
        all.into_iter().flatten().max_by(|a, b| a.excess.total_cmp(&b.excess))
    }

    /// The wait for a seat, which is no different from one at the router: both together have their share of the
    /// promise. Who gives way does not wait for one where nobody can pass it, but at the router.
    fn seat(&self, replica: &Replica, candidate: &Candidate) -> Option<Closed> {
        let room_s = candidate.forecast.room_s;
        if room_s <= 0.0 {
            return None;
        }
        if self.reserve > 1.0 {
            return Some(Closed { gate: Gate::Seats, excess: 1.05, over_s: room_s });
        }
        let margin = replica.estimate.ttft_margin(&candidate.forecast).value();
        let most_s = self.wait_share
            * self.slo.ttft.or(self.slo.e2e).unwrap_or(UNPROMISED_WAIT).as_secs_f64();
        over(Gate::Seats, self.waited.as_secs_f64() + margin * room_s, most_s)
    }

    /// The gates of time.
    fn latency(&self, replica: &Replica, candidate: &Candidate) -> Option<Closed> {
        let tpot_margin = replica.estimate.margins().1;
        let ttft_margin = replica.estimate.ttft_margin(&candidate.forecast);
        let is_fixed = self.mode == AdmissionMode::FixedMargins;
        let raised = |margin: f64| if is_fixed { self.reserve } else { margin * self.reserve };
        let forecast = &candidate.forecast;
        let waited_s = self.waited.as_secs_f64();
        let ttft_s = waited_s + raised(ttft_margin.value()) * forecast.ttft_s;
        let predicted_s = if self.mode == AdmissionMode::InstantTpot {
            forecast.step_s
        } else if self.mode == AdmissionMode::SizeBlind {
            forecast.tpot_before_s
        } else {
            forecast.tpot_s.max(forecast.brief_tpot_s)
        };
        let predicted_s = raised(tpot_margin.value()) * predicted_s;
        // What prompts really took from answers, those included that were not found where they were believed
        // to be, shows in their pace, and long before they end.
        let counts = self.mode == AdmissionMode::Knee && self.kept != Some(candidate.id);
        let measured_s = if counts { self.reserve * forecast.pace_s } else { 0.0 };
        let ttft = self.slo.ttft.and_then(|it| over(Gate::Ttft, ttft_s, it.as_secs_f64()));
        if self.mode == AdmissionMode::TtftOnly {
            return ttft;
        }
        let promised = [self.slo.tpot, replica.promises.tightest()].into_iter().flatten().min();
        let tpot_s = predicted_s.max(measured_s / self.ease);
        let tpot = promised.and_then(|it| over(Gate::Tpot, tpot_s, it.as_secs_f64()));
        // Whether whole answers come later than promised shows only once they all do.
        let e2e_s = ttft_s + (self.output - 1.0).max(0.0) * predicted_s.max(measured_s);
        let e2e = self.slo.e2e.and_then(|it| over(Gate::E2e, e2e_s, it.as_secs_f64()));
        [ttft, tpot, e2e].into_iter().flatten().max_by(|a, b| a.excess.total_cmp(&b.excess))
    }

    /// The factor on a predicted pace on `replica` with which it is held against the promise, were nobody to be left
    /// room for; nothing where the pace stands in nobody's way.
    pub(crate) fn pace_margin(&self, replica: &Replica) -> f64 {
        let looks = self.mode.predicts() && self.mode != AdmissionMode::TtftOnly;
        if !looks || !self.is_sized || !replica.is_predictable() {
            0.0
        } else if self.mode == AdmissionMode::FixedMargins {
            1.0
        } else {
            replica.estimate.margins().1.value()
        }
    }

    fn count(&self, candidate: &Candidate, most: f64) -> Option<Closed> {
        over(Gate::Count, f64::from(candidate.requests) + 1.0, (most / self.reserve).max(1.0))
    }
}

fn over(gate: Gate, predicted: f64, allowed: f64) -> Option<Closed> {
    let over_s = predicted - allowed;
    (over_s > 0.0).then(|| Closed { gate, excess: predicted / allowed.max(1e-9), over_s })
}
