//! Looking closely at those replicas alone that may be chosen.
//!
//! Where costs alone decide, the least that a request may cost on each replica is told at a glance. Whoever
//! costs more at the least than another one in all, by more than what counts as equal, is not chosen,
//! whatever it costs in all. The choice among those that are left is the choice among all; debug builds
//! make both and compare them.

use smallvec::SmallVec;
use types::{quantity::Tokens, request::Request, time::Timestamp};

use super::{
    Dispatcher, Tried,
    seek::{Held, Survey, nobody},
};
use crate::{
    config::CostWeights,
    estimate::{Asked, replica::floor::Added},
    fleet_view::Glance,
    sharers::Shares,
    strategy::{Ask, Candidate, Cost, cost_slack},
};

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

    /// Leaves those replicas that take the request and may be chosen, each with its share of the prefill there.
    /// `ask` may take the request for shared though it is not.
    pub(super) fn shortlist(
        &self,
        now: Timestamp,
        (asked, ask): (&Asked, &Ask<'_>),
        held: &Held<'_>,
        tried: &Tried,
        weights: &CostWeights,
        candidates: &mut Vec<Candidate>,
    ) -> Survey {
        let form = self.fleet.form();
        let added = Added::new(form, asked);
        let whole_s = form.prefill_s(Tokens::ZERO, asked.prompt);
        let slack = 1.0 + cost_slack(weights, ask);
        // Those that would be late are the choice only where all would, and bound nobody's cost.
        let most_s = |it: &Candidate| {
            let bounds = !weights.promise || !it.forecast.is_late;
            if bounds { Cost::of(it, weights).total_s() * slack } else { f64::INFINITY }
        };
        let mut shares = self.shares(held, asked, tried);
        let mut own = |cached| shares.as_mut().map_or(1.0, |it| it.own(cached));
        let likely = self.likely(held, tried);
        let mut bound_s = likely.map_or(f64::INFINITY, |(at, it)| {
            let of_prompt = held.on(it);
            most_s(&self.in_full(now, asked, at, it, of_prompt, own(of_prompt.0)))
        });
        let mut survey = Survey::default();
        candidates.clear();
        for (at, it) in self.fleet.pool_for(held.request.model, asked.prompt, tried) {
            let (cached, indexed) = held.on(it);
            survey.count(it, cached, held);
            let prefill_s = if cached == Tokens::ZERO {
                whole_s
            } else {
                form.prefill_s(cached, asked.prompt.saturating_sub(cached))
            };
            let own = own(cached);
            let (requests, least) = (it.sharing.all, it.floor.under(&added, prefill_s, own));
            let fullness = it.floor.fullness(now, &added);
            if bound_s < Cost::at_least(requests, &least, fullness, weights) {
                continue;
            }
            // A nearer one takes divisions.
            let utilisation = it.floor.utilisation(now, &added);
            if bound_s < Cost::at_least(requests, &least, utilisation, weights) {
                continue;
            }
            let candidate = self.in_full(now, asked, at, it, (cached, indexed), own);
            bound_s = bound_s.min(most_s(&candidate));
            candidates.push(candidate);
        }
        survey
    }

    /// A replica that takes the request and may well be chosen: its conversation's, or one that holds the
    /// most of its prompt by the index.
    fn likely(&self, held: &Held<'_>, tried: &Tried) -> Option<(usize, &Glance)> {
        let at = match held.home {
            Some((home, _)) => self.fleet.position(home).ok()?,
            None => self.fleet.place_of(held.hits.deepest()?)?,
        };
        let glance = self.fleet.glances().get(at)?;
        let is_taking = self.fleet.takes(at, held.request.model, tried);
        is_taking.then_some((at, glance))
    }

    fn in_full(
        &self,
        now: Timestamp,
        asked: &Asked,
        at: usize,
        it: &Glance,
        of_prompt: (Tokens, Tokens),
        own: f64,
    ) -> Candidate {
        let mut candidate = nobody();
        self.fill(&mut candidate, now, asked, at, it, of_prompt);
        candidate.own = own;
        candidate
    }

    /// What tells which part of the prefill is the request's own, where others on their way share its beginning.
    fn shares(&self, held: &Held<'_>, asked: &Asked, tried: &Tried) -> Option<Shares> {
        if !self.weighs_copies() || !self.sharers.shares(held.request) {
            return None;
        }
        let pool = self.fleet.pool_for(held.request.model, asked.prompt, tried);
        let cached: SmallVec<[Tokens; 64]> = pool.map(|(_, it)| held.on(it).0).collect();
        self.sharers.among(held.request, self.block, cached.iter().copied())
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
        if self.weighs_copies() {
            self.sharers.weigh(held.request, self.block, &mut all);
        }
        let mut rng = before.clone();
        let among_all = self.strategy.clone().choose(ask, &all, &mut rng);
        among_all.map(|it| it.0) == chosen.copied() && rng == self.rng
    }
}
