//! Looking closely at those replicas alone that may be chosen.
//!
//! Where costs alone decide, the least that a request may cost on each replica is told at a glance. Whoever
//! costs more at the least than another one in all, by more than what counts as equal, is not chosen,
//! whatever it costs in all. The choice among those that are left is the choice among all; debug builds
//! make both and compare them.

use types::{quantity::Tokens, request::Request, time::Timestamp};

use super::{
    Dispatcher, Tried,
    seek::{Held, Survey, nobody},
};
use crate::{
    config::CostWeights,
    estimate::{
        Asked,
        replica::floor::{Added, Least},
    },
    strategy::{Ask, Candidate, Cost, cost_slack},
};

/// A replica that might be chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prospect {
    /// Its place in the fleet.
    at: usize,
    cached: Tokens,
    indexed: Tokens,
    least: Least,
    /// What the request costs there at the least, were the replica of no use to anybody else.
    least_s: f64,
}

impl Dispatcher {
    /// The weights, where costs weighed by them alone decide where `request` goes: nothing else leaves
    /// somebody out, and nobody asks what it would have cost elsewhere.
    pub(super) fn weighs_alone(
        &mut self,
        now: Timestamp,
        request: &Request,
    ) -> Option<CostWeights> {
        let weights = self.strategy.cost_weights()?;
        let is_alone = self.fallback.is_none()
            && !self.admission.is_on()
            && !self.fleet.is_any_warming(now, &self.routing.slow_start)
            && !self.fleet.is_adapter(request.model)
            && !self.book.wants(now, request.id);
        is_alone.then_some(weights)
    }

    /// Notes of every replica that takes the request what it costs there at the least.
    pub(super) fn find_prospects(
        &self,
        held: &Held<'_>,
        asked: &Asked,
        tried: &Tried,
        weights: &CostWeights,
        prospects: &mut Vec<Prospect>,
    ) -> Survey {
        let form = self.fleet.form();
        let added = Added::new(form, asked);
        let whole_s = form.prefill_s(Tokens::ZERO, asked.prompt);
        let mut survey = Survey::default();
        prospects.clear();
        for (at, it) in self.fleet.pool_for(held.request.model, asked.prompt, tried) {
            let (cached, indexed) = held.on(it);
            survey.count(it, cached, held);
            let prefill_s = if cached == Tokens::ZERO {
                whole_s
            } else {
                form.prefill_s(cached, asked.prompt.saturating_sub(cached))
            };
            let least = it.floor.under(&added, prefill_s);
            let least_s = Cost::at_least(it.sharing.all, &least, 0.0, weights);
            prospects.push(Prospect { at, cached, indexed, least, least_s });
        }
        survey
    }

    /// Leaves those of `prospects` that may be chosen, in full.
    pub(super) fn shortlist(
        &self,
        now: Timestamp,
        asked: &Asked,
        ask: &Ask<'_>,
        weights: &CostWeights,
        prospects: &[Prospect],
        candidates: &mut Vec<Candidate>,
    ) {
        let slack = 1.0 + cost_slack(weights, ask);
        let added = Added::new(self.fleet.form(), asked);
        // How full a replica is takes divisions, and so is looked at only where it matters.
        let least_s = |it: &Prospect| {
            let glance = self.fleet.glances().get(it.at);
            glance.map_or(it.least_s, |glance| {
                let utilisation = glance.floor.utilisation(now, &added);
                Cost::at_least(glance.sharing.all, &it.least, utilisation, weights)
            })
        };
        // Those that would be late are the choice only where all would, and bound nobody's cost.
        let most_s = |it: &Candidate| {
            let bounds = !weights.promise || !it.forecast.is_late;
            if bounds { Cost::of(it, weights).total_s() * slack } else { f64::INFINITY }
        };
        candidates.clear();
        let by_least = |a: &&Prospect, b: &&Prospect| a.least_s.total_cmp(&b.least_s);
        let Some(first) = prospects.iter().min_by(by_least) else { return };
        let Some(likely) = self.in_full(now, asked, first) else { return };
        let mut bound_s = most_s(&likely);
        for it in prospects {
            if it.at == first.at {
                candidates.push(likely);
            } else if bound_s < it.least_s || bound_s < least_s(it) {
                continue;
            } else if let Some(candidate) = self.in_full(now, asked, it) {
                bound_s = bound_s.min(most_s(&candidate));
                candidates.push(candidate);
            }
        }
    }

    fn in_full(&self, now: Timestamp, asked: &Asked, it: &Prospect) -> Option<Candidate> {
        let glance = self.fleet.glances().get(it.at)?;
        let mut candidate = nobody();
        self.fill(&mut candidate, now, asked, it.at, glance, (it.cached, it.indexed));
        Some(candidate)
    }

    /// Whether `chosen` is what would have been chosen among all who take the request, with as many lots
    /// drawn.
    pub(super) fn is_choice_of_all(
        &self,
        now: Timestamp,
        asked: &Asked,
        ask: &Ask<'_>,
        held: &Held<'_>,
        tried: &Tried,
        (before, chosen): (&rand::rngs::Xoshiro256PlusPlus, Option<&Candidate>),
    ) -> bool {
        let mut all = Vec::new();
        self.find_candidates(now, asked, held, tried, &mut all);
        let mut rng = before.clone();
        let among_all = self.strategy.clone().choose(ask, &all, &mut rng);
        among_all.map(|it| it.0) == chosen.copied() && rng == self.rng
    }
}
