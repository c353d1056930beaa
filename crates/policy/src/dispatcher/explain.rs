//! Saying why: what a decision was weighed on, for those who ask.

#[cfg(test)]
mod tests;

use std::time::Duration;

use types::{
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Dispatcher, Tried};
use crate::{
    estimate::{Asked, Forecast},
    event::{Decision, Placement, Reject},
    explanation::{Book, Considered, ExplainConfig, PassedOver, Predicted},
    fleet_view::Replica,
    strategy::{Ask, Candidate, Strategy},
};

impl Dispatcher {
    /// The newest decisions with what they were weighed on.
    #[must_use]
    pub const fn explanations(&self) -> &Book {
        &self.book
    }

    /// Explains by `config` from now on, and forgets what was explained before.
    pub fn explain(&mut self, config: ExplainConfig) {
        self.book = Book::new(config);
    }

    /// Notes what `request` is weighed on, if that will be asked.
    pub(super) fn draft(
        &mut self,
        now: Timestamp,
        request: RequestId,
        ask: &Ask<'_>,
        candidates: &[Candidate],
    ) {
        if self.book.wants(now, request) {
            let predicts = self.forecasts();
            let of = (&self.strategy, ask, candidates);
            let considered = candidates.iter().map(|it| considered(of, it, predicts));
            self.book.draft(request, considered);
        }
    }

    /// Notes which of them are left, and why the others are not.
    pub(super) fn drafted_left(&mut self, request: RequestId, why: PassedOver, left: &[Candidate]) {
        if self.book.drafts(request) {
            self.book.left(why, |replica| left.iter().any(|it| it.id == replica));
        }
    }

    /// Notes which one was chosen, and in whose place.
    pub(super) fn drafted_choice(
        &mut self,
        request: RequestId,
        (ask, candidates): (&Ask<'_>, &[Candidate]),
        chosen: &Candidate,
        instead_of: Option<&Candidate>,
    ) {
        if self.book.drafts(request) {
            let it = considered((&self.strategy, ask, candidates), chosen, self.forecasts());
            self.book.chosen(it, instead_of.map(|it| it.id));
        }
    }

    /// Decides on `request`, and writes down why.
    pub(super) fn decide(
        &mut self,
        now: Timestamp,
        request: &Request,
        verdict: Result<Placement, Reject>,
        decisions: &mut Vec<Decision>,
    ) {
        self.book.decided(now, request, self.routing.strategy, verdict);
        decisions.push(Decision { request: request.id, verdict });
    }

    /// Turns `request` away because nobody can take it.
    pub(super) fn refuse(
        &mut self,
        now: Timestamp,
        request: &Request,
        tried: &Tried,
        decisions: &mut Vec<Decision>,
    ) {
        let verdict = Err(self.why_none(request, tried));
        self.decide(now, request, verdict, decisions);
    }

    fn why_none(&self, request: &Request, tried: &Tried) -> Reject {
        let longest = self.fleet.prompt_max(request.model);
        if let Some(prompt_max) = longest.filter(|it| *it < request.prompt) {
            Reject::TooLong { prompt_max }
        } else if self.fleet.ready_for(request.model).any(|it| tried.contains(&it.id)) {
            Reject::AllTried
        } else if self.fleet.knows(request.model) {
            Reject::NoReplicas
        } else {
            Reject::UnknownModel
        }
    }

    /// What a request is expected to meet on the replica it was found to go to; where nobody asked
    /// before, this is when it is worked out.
    pub(super) fn foresee(&self, now: Timestamp, chosen: &Candidate, asked: &Asked) -> Forecast {
        if self.forecasts() {
            return chosen.forecast;
        }
        let replica = self.fleet.get(chosen.id);
        let forecast = |it: &Replica| it.forecast(now, asked, chosen.cached, it.sharing(now));
        replica.map(forecast).unwrap_or_default()
    }
}

/// A predicted time in seconds as a duration; absent where nothing was predicted.
pub(super) fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|it| !it.is_zero())
}

/// A candidate as `strategy` sees it among all of them.
fn considered(
    (strategy, ask, all): (&Strategy, &Ask<'_>, &[Candidate]),
    it: &Candidate,
    predicts: bool,
) -> Considered {
    let Forecast { ttft_s, tpot_s, work_s, utilisation, .. } = it.forecast;
    Considered {
        replica: it.id,
        passed_over: None,
        gate: None,
        has_room: it.has_room,
        requests: it.requests,
        queued_prefill: it.queued_prefill,
        cached: it.cached,
        reported: it.reported,
        score: strategy.score(ask, all, it),
        predicted: predicts.then_some(Predicted { ttft_s, tpot_s, work_s, utilisation }),
        cost: strategy.terms(it),
    }
}
