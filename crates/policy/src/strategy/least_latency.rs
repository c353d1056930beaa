//! The replica where the request costs least, everything counted in seconds.
//!
//! Three terms: what the request suffers, its own predicted time to first token; what it inflicts
//! on the requests that are there, each of which waits while its work is done; and what its work
//! costs those who come later, which is nothing on an idle replica and without bound on a full one,
//! as in a queue. The second and third are proportional to the work it adds, so a replica that
//! holds its prompt is cheap; how cheap, against a shorter queue elsewhere, follows from the load:
//! a quiet fleet answers as fast as it can, a busy one recomputes nothing.
//!
//! Replicas on which the first token would come later than promised are left out as long as there are
//! others: a price that rises without bound would otherwise have a request wait for its cache until
//! its promise is broken. A replica without a seat or memory is no exception but a long wait: whoever
//! moves a conversation away from a full replica has it computed anew elsewhere, which takes memory there.

use rand::{Rng, RngExt as _};
use types::block::{BlockHash, hash_block};

use super::{Ask, Candidate, Key};
use crate::{
    config::CostWeights,
    estimate::{Forecast, replica::floor::Least},
    event::Reason,
};

/// Utilisation beyond which the price of work no longer rises as in a queue, which would be without bound,
/// but with the square of the utilisation.
const UTILISATION_MAX: f64 = 0.97;

/// Share by which a replica may cost more than the cheapest and be chosen by the request's key, where
/// others place requests too: as far as loads differ that nobody sees at once.
const TIE_SHARED: f64 = 1.0;

/// Share by which rounding may have the least that a request costs exceed what it costs: far more than it
/// does.
const ROUNDING: f64 = 1e-9;

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
        let Forecast { ttft_s, own_prefill_s, work_s, exposed, utilisation, .. } =
            candidate.forecast;
        // What others on their way will use as well is not this request's alone; what it pushes out is.
        let (own_s, shared_s) =
            (candidate.own * own_prefill_s, (1.0 - candidate.own) * own_prefill_s);
        let work_s = work_s - shared_s;
        let delay_s = f64::from(candidate.requests) * work_s + weights.young * exposed * own_s;
        Self {
            wait_s: weights.wait * (ttft_s - shared_s),
            harm_s: weights.harm * delay_s,
            price_s: weights.price * congestion(utilisation) * work_s,
        }
    }

    /// No more than the cost of a request on a replica with `requests` that meets `least` there, where
    /// `utilisation` is no more than the replica's.
    pub(crate) fn at_least(
        requests: u32,
        least: &Least,
        utilisation: f64,
        weights: &CostWeights,
    ) -> f64 {
        let of_work = weights.harm * f64::from(requests) + weights.price * congestion(utilisation);
        (weights.wait * least.ttft_s + of_work * least.work_s) * (1.0 - ROUNDING)
    }

    /// All of it.
    #[must_use]
    pub(crate) fn total_s(&self) -> f64 {
        self.wait_s + self.harm_s + self.price_s
    }
}

/// Seconds that a second of work costs those who come later, at a utilisation.
///
/// Up to [`UTILISATION_MAX`] as in a queue. Beyond it promises are broken whoever comes, and yet it matters
/// where: were all overfull replicas alike, short prompts would go where nobody waits for long ones, and
/// those conversations, which are at their beginning, would crowd there as they grow.
fn congestion(utilisation: f64) -> f64 {
    let within = utilisation.clamp(0.0, UTILISATION_MAX);
    let beyond = (utilisation / UTILISATION_MAX).max(1.0);
    within / (1.0 - within) * beyond * beyond
}

/// Share by which a replica may cost more than the cheapest and be chosen.
pub(crate) fn slack(weights: &CostWeights, ask: &Ask<'_>) -> f64 {
    if deciding_key(ask).is_some() { TIE_SHARED } else { weights.tie }
}

/// The key of a request, where it decides among near equals.
fn deciding_key(ask: &Ask<'_>) -> Option<u64> {
    ask.key.filter(|_| ask.is_shared && ask.bound.is_none()).map(Key::hash)
}

/// Chooses the cheapest; of those that are as cheap but for chance, and as little work, by lot.
///
/// Where other routers place requests as well, a conversation that this one has never met may be one that
/// another has placed: its key decides, more freely, among replicas that hold as much of the prompt, and
/// the same key leads all routers to the same replica.
pub(super) fn choose(
    weights: &CostWeights,
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let keeps = |it: &Candidate| !weights.promise || !it.forecast.is_late;
    let any_keeps = candidates.iter().any(keeps);
    let eligible = || candidates.iter().filter(|it| keeps(it) || !any_keeps);
    let cost = |it: &Candidate| Cost::of(it, weights).total_s();
    let costs = eligible().map(|it| (cost(it), it));
    let (least, best) = costs.min_by(|a, b| a.0.total_cmp(&b.0))?;
    if let Some(key) = deciding_key(ask) {
        let holds_as_much = |it: &&Candidate| best.cached <= it.cached + ask.block;
        let near = |it: &&Candidate| cost(it) <= least * (1.0 + TIE_SHARED) || it.id == best.id;
        let rank = |it: &&Candidate| hash_block(BlockHash(key), &it.id.0.to_le_bytes()).0;
        let first = eligible().filter(holds_as_much).filter(near).max_by_key(rank)?;
        return Some((*first, Reason::Cost));
    }
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
    use crate::strategy::testing::{ask, candidate, tally};

    fn with(id: u32, requests: u32, ttft_s: f64, work_s: f64, utilisation: f64) -> Candidate {
        let forecast = Forecast { ttft_s, work_s, utilisation, ..Forecast::default() };
        Candidate { forecast, ..candidate(id, requests, 0) }
    }

    fn tallied(candidates: &[Candidate], weights: &CostWeights) -> Vec<usize> {
        tally(|rng| choose(weights, &ask(100, None), candidates, rng).map(|it| it.0), candidates)
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
    fn of_replicas_that_are_overfull_the_fuller_one_is_dearer() {
        let weights = CostWeights::default();
        // Nobody waits at the first, which is the fuller one.
        let all = [with(0, 80, 0.1, 0.05, 1.4), with(1, 80, 0.6, 0.05, 1.0)];
        assert_eq!(tallied(&all, &weights), [0, 1_000]);
        let at = [0.0, 0.5, 0.9, 0.97, 0.98, 1.0, 2.0].map(congestion);
        assert!(at.is_sorted_by(|a, b| a < b), "{at:?}");
        assert!(congestion(0.98) < 1.05 * congestion(0.97), "no step");
    }

    #[test]
    fn each_term_can_be_switched_off() {
        let weights = |wait, harm, price| CostWeights {
            wait,
            harm,
            price,
            tie: 0.0,
            ..CostWeights::default()
        };
        let slow = with(0, 0, 0.9, 0.1, 0.1);
        let crowded = with(1, 50, 0.1, 0.1, 0.1);
        let full = with(2, 0, 0.3, 0.1, 0.9);
        let all = [slow, crowded, full];
        assert_eq!(tallied(&all, &weights(1.0, 0.0, 0.0)), [0, 1_000, 0]);
        assert_eq!(tallied(&all, &weights(1.0, 1.0, 0.0)), [0, 0, 1_000]);
        assert_eq!(tallied(&all, &weights(1.0, 1.0, 6.0)), [1_000, 0, 0]);
    }

    #[test]
    fn a_long_prompt_goes_where_no_answer_has_just_begun() {
        let exposed = |id, exposed| {
            let it = with(id, 4, 0.5, 0.4, 0.1);
            let forecast = Forecast { exposed, own_prefill_s: 0.4, ..it.forecast };
            Candidate { forecast, ..it }
        };
        let all = [exposed(0, 3.0), exposed(1, 0.0)];
        assert_eq!(tallied(&all, &CostWeights::default()), [0, 1_000]);
        let alike = tallied(&all, &CostWeights { young: 0.0, ..CostWeights::default() });
        assert!(alike.iter().all(|it| (430..570).contains(it)), "{alike:?}");
    }

    #[test]
    fn what_others_will_use_as_well_is_cheap_to_copy() {
        let holder = with(0, 12, 0.06, 0.02, 0.1);
        let mut cold = with(1, 2, 0.25, 0.2, 0.1);
        cold.forecast.own_prefill_s = 0.18;
        let weights = CostWeights::default();
        assert_eq!(tallied(&[holder, cold], &weights), [1_000, 0]);
        cold.own = 0.1;
        assert_eq!(tallied(&[holder, cold], &weights), [0, 1_000]);
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
    fn routers_that_share_a_fleet_decide_near_equals_alike() {
        let all: Vec<Candidate> = (0..4).map(|id| with(id, 1, 1.0, 0.1, 0.3)).collect();
        let home = |key, all: &[Candidate]| {
            let ask = Ask { key: Some(Key::Beginning(key)), is_shared: true, ..ask(100, None) };
            let tally =
                tally(|rng| choose(&CostWeights::default(), &ask, all, rng).map(|it| it.0), all);
            tally.iter().position(|it| *it == 1_000).unwrap()
        };
        let homes: Vec<usize> = (0..40).map(|key| home(key, &all)).collect();
        assert!((0..4).all(|it| homes.contains(&it)), "{homes:?}");
        // Each sees loads of its own; who knows where the prompt is follows it.
        let mut seen = all;
        seen[homes[7]].forecast.ttft_s = 1.3;
        assert_eq!(home(7, &seen), homes[7]);
        let holder = (homes[7] + 1) % 4;
        seen[holder].cached = types::quantity::Tokens(1_000);
        seen[holder].forecast.work_s = 0.01;
        assert_eq!(home(7, &seen), holder);
    }

    #[test]
    fn who_would_be_late_is_left_out_unless_all_would() {
        let late =
            |it: Candidate| Candidate { forecast: Forecast { is_late: true, ..it.forecast }, ..it };
        let (holder, other) = (with(0, 0, 2.5, 0.1, 0.9), with(1, 0, 0.5, 0.4, 0.9));
        let weights = CostWeights::default();
        assert_eq!(tallied(&[holder, other], &weights), [1_000, 0]);
        assert_eq!(tallied(&[late(holder), other], &weights), [0, 1_000]);
        assert_eq!(tallied(&[late(holder), late(other)], &weights), [1_000, 0]);
        let off = CostWeights { promise: false, ..weights };
        assert_eq!(tallied(&[late(holder), other], &off), [1_000, 0]);
    }
}
