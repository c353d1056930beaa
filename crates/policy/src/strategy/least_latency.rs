//! The replica where the request costs least, everything counted in seconds.
//!
//! Three terms: what the request suffers, its own predicted time to first token; what it inflicts
//! on the requests that are there, each of which waits while its work is done; and what its work
//! costs those who come later, which is nothing on an idle replica and without bound on a full one,
//! as in a queue. The second and third are proportional to the work it adds, so a replica that
//! holds its prompt is cheap; how cheap, against a shorter queue elsewhere, follows from the load:
//! a quiet fleet answers as fast as it can, a busy one recomputes nothing.
//!
//! Replicas without room are left out as long as another has it.

use rand::{Rng, RngExt as _};

use super::Candidate;
use crate::{config::CostWeights, event::Reason};

/// Utilisation beyond which the price of work no longer rises.
const UTILISATION_MAX: f64 = 0.97;

/// What a request costs on a replica, by term, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    /// Its own wait.
    pub(crate) wait_s: f64,
    /// The delay that it inflicts on those who are there.
    pub(crate) harm_s: f64,
    /// What its work costs those who come later.
    pub(crate) price_s: f64,
}

impl Cost {
    /// The cost of the request on `candidate`.
    pub(crate) fn of(candidate: &Candidate, weights: &CostWeights) -> Self {
        let forecast = &candidate.forecast;
        let utilisation = forecast.utilisation.clamp(0.0, UTILISATION_MAX);
        let congestion = utilisation / (1.0 - utilisation);
        Self {
            wait_s: weights.wait * forecast.ttft_s,
            harm_s: weights.harm * f64::from(candidate.requests) * forecast.work_s,
            price_s: weights.price * congestion * forecast.work_s,
        }
    }

    /// All of it.
    #[must_use]
    pub(crate) fn total_s(&self) -> f64 {
        self.wait_s + self.harm_s + self.price_s
    }
}

/// Chooses the cheapest, by lot among those that are as cheap but for chance and as little work.
pub(super) fn choose(
    weights: &CostWeights,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let has_room = candidates.iter().any(|it| it.has_room);
    let eligible = || candidates.iter().filter(|it| it.has_room || !has_room);
    let cost = |it: &Candidate| Cost::of(it, weights).total_s();
    let costs = eligible().map(|it| (cost(it), it));
    let (least, best) = costs.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let within = |value: f64, best: f64| value <= best * (1.0 + weights.tie);
    let work_s = best.forecast.work_s;
    let is_equal = |it: &&Candidate| {
        within(cost(it), least) && within(it.forecast.work_s, work_s) || it.id == best.id
    };
    let mut chosen = None;
    let mut equals = 0_u32;
    for candidate in eligible().filter(is_equal) {
        equals += 1;
        // Reservoir sampling: the n-th of n equals replaces the choice with chance 1/n.
        if equals == 1 || rng.random_range(0..equals) == 0 {
            chosen = Some(candidate);
        }
    }
    chosen.map(|it| (*it, Reason::Cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        estimate::Forecast,
        strategy::testing::{candidate, tally},
    };

    fn with(id: u32, requests: u32, ttft_s: f64, work_s: f64, utilisation: f64) -> Candidate {
        let forecast = Forecast { ttft_s, work_s, utilisation, ..Forecast::default() };
        Candidate { forecast, ..candidate(id, requests, 0) }
    }

    fn tallied(candidates: &[Candidate], weights: &CostWeights) -> Vec<usize> {
        tally(|rng| choose(weights, candidates, rng).map(|it| it.0), candidates)
    }

    #[test]
    fn a_quiet_fleet_answers_fast_and_a_busy_one_recomputes_nothing() {
        let weights = CostWeights::default();
        // The first holds the prompt and has a queue, the second would compute it anew.
        let at =
            |utilisation| [with(0, 2, 0.5, 0.05, utilisation), with(1, 0, 0.3, 0.25, utilisation)];
        assert_eq!(tallied(&at(0.05), &weights), [0, 1_000]);
        assert_eq!(tallied(&at(0.7), &weights), [1_000, 0]);
    }

    #[test]
    fn each_term_can_be_switched_off() {
        let weights = |wait, harm, price| CostWeights { wait, harm, price, tie: 0.0, memory: true };
        let slow = with(0, 0, 0.9, 0.1, 0.1);
        let crowded = with(1, 50, 0.1, 0.1, 0.1);
        let full = with(2, 0, 0.3, 0.1, 0.9);
        let all = [slow, crowded, full];
        assert_eq!(tallied(&all, &weights(1.0, 0.0, 0.0)), [0, 1_000, 0]);
        assert_eq!(tallied(&all, &weights(1.0, 1.0, 0.0)), [0, 0, 1_000]);
        assert_eq!(tallied(&all, &weights(1.0, 1.0, 6.0)), [1_000, 0, 0]);
    }

    #[test]
    fn near_equals_share() {
        let all = [with(0, 0, 1.0, 0.0, 0.0), with(1, 0, 1.015, 0.0, 0.0)];
        let tally = tallied(&all, &CostWeights::default());
        let more_work = [all[0], with(1, 0, 1.01, 0.02, 0.0)];
        let idle = CostWeights { price: 0.0, ..CostWeights::default() };
        assert_eq!(tallied(&more_work, &idle), [1_000, 0], "more work is no equal");
        assert!(tally.iter().all(|it| (430..570).contains(it)), "{tally:?}");
    }

    #[test]
    fn who_has_no_room_is_left_out_unless_nobody_has() {
        let full = Candidate { has_room: false, ..with(0, 0, 0.1, 0.1, 0.1) };
        let free = with(1, 0, 0.5, 0.1, 0.1);
        assert_eq!(tallied(&[full, free], &CostWeights::default()), [0, 1_000]);
        assert_eq!(tallied(&[full], &CostWeights::default()), [1_000]);
    }
}
