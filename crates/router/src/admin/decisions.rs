//! `GET /admin/decisions`: the last decisions, what each was weighed on, and what came of it.

use std::{collections::VecDeque, sync::Arc};

use axum::{
    Json,
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use fleet::fleet::Fleet;
use parking_lot::Mutex;
use policy::admission::Gate;
use policy::explanation::{Considered, CostTerms, Explanation, Observed, PassedOver, Predicted};
use rustc_hash::FxHashMap;
use serde::Serialize;
use types::{
    replica::{LoadReport, ReplicaId},
    request::{ModelId, RequestId},
    time::Timestamp,
};

use crate::app::App;

/// Decisions that are shown where nobody says how many.
const LIMIT_DEFAULT: usize = 20;

/// Names that are remembered for each explanation that is kept: where not all decisions are explained,
/// those that are lie between many that are not.
const NAMES_PER_EXPLANATION: usize = 64;

/// What clients call the requests of late, by the dispatcher's number.
#[derive(Debug)]
pub(crate) struct RequestNames {
    most: usize,
    names: Mutex<VecDeque<(RequestId, Box<str>)>>,
}

impl RequestNames {
    /// Remembers as many as `explanations` are kept need; none where none is.
    pub(crate) fn new(explanations: u32) -> Self {
        let kept = usize::try_from(explanations).unwrap_or(usize::MAX);
        Self { most: kept.saturating_mul(NAMES_PER_EXPLANATION), names: Mutex::default() }
    }

    /// Remembers that the client calls `number` so.
    pub(crate) fn add(&self, number: RequestId, name: &str) {
        if self.most == 0 {
            return;
        }
        let name = Box::from(name);
        let mut names = self.names.lock();
        if names.len() >= self.most {
            names.pop_front();
        }
        names.push_back((number, name));
    }

    /// The numbers of the requests that a client called `name`: clients may use one again.
    fn numbers(&self, name: &str) -> Vec<RequestId> {
        self.names.lock().iter().filter(|it| &*it.1 == name).map(|it| it.0).collect()
    }

    fn names(&self, numbers: &[RequestId]) -> FxHashMap<RequestId, Box<str>> {
        let mut wanted: FxHashMap<RequestId, Box<str>> = FxHashMap::default();
        for (number, name) in self.names.lock().iter() {
            if numbers.contains(number) {
                wanted.insert(*number, name.clone());
            }
        }
        wanted
    }
}

/// Which decisions are shown.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    limit: usize,
    request: Option<String>,
}

impl Wanted {
    fn parse(query: &str) -> Result<Self, String> {
        let mut wanted = Self { limit: LIMIT_DEFAULT, request: None };
        for part in query.split('&').filter(|it| !it.is_empty()) {
            match part.split_once('=') {
                Some(("limit", value)) => {
                    wanted.limit = value.parse().map_err(|_| {
                        format!("limit: write a number, such as 50, not `{}`", value.escape_debug())
                    })?;
                }
                Some(("request", value)) => wanted.request = Some(value.to_owned()),
                Some(_) | None => {
                    let part = part.escape_debug();
                    return Err(format!("`{part}` is unknown; there are limit=N and request=ID"));
                }
            }
        }
        Ok(wanted)
    }
}

/// Shows decisions, the newest first.
pub(super) async fn decisions(State(app): State<Arc<App>>, RawQuery(query): RawQuery) -> Response {
    let wanted = match Wanted::parse(&query.unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(problem) => return super::errors::told(StatusCode::BAD_REQUEST, problem),
    };
    let numbers = wanted.request.as_deref().map(|it| app.request_names.numbers(it));
    let is_wanted = |it: &&Explanation| numbers.as_ref().is_none_or(|n| n.contains(&it.request));
    let (now, explanations): (Timestamp, Vec<Explanation>) =
        app.fleet.dispatch().inspect(|now, it| {
            let newest = it.explanations().newest().filter(is_wanted).take(wanted.limit);
            (now, newest.cloned().collect())
        });
    let numbers: Vec<RequestId> = explanations.iter().map(|it| it.request).collect();
    let known = Known { names: app.request_names.names(&numbers), ..Known::of(&app.fleet) };
    let decisions: Vec<DecisionView> =
        explanations.into_iter().map(|it| known.view(now, &it)).collect();
    Json(serde_json::json!({ "decisions": decisions })).into_response()
}

/// What numbers stand for.
#[derive(Default)]
struct Known {
    names: FxHashMap<RequestId, Box<str>>,
    replicas: FxHashMap<ReplicaId, String>,
    models: FxHashMap<ModelId, String>,
}

/// A decision as it is shown.
#[derive(Serialize)]
struct DecisionView {
    request_id: Option<Box<str>>,
    number: RequestId,
    age_s: f64,
    model: Option<String>,
    prompt_tokens: u32,
    strategy: &'static str,
    replica: Option<String>,
    reason: Option<&'static str>,
    attempt: Option<u32>,
    refused: Option<String>,
    instead_of: Option<String>,
    ranked_in: Option<&'static str>,
    candidates: Vec<CandidateView>,
    other_candidates: u32,
    regret: Regret,
    observed: ObservedView,
}

/// A candidate as it is shown.
#[derive(Serialize)]
struct CandidateView {
    replica: String,
    chosen: bool,
    passed_over: Option<&'static str>,
    gate: Option<&'static str>,
    has_room: bool,
    requests: u32,
    queued_prefill_tokens: u32,
    hit_tokens: u32,
    reported: LoadReport,
    score: Option<f64>,
    cost: Option<CostTerms>,
    predicted: Option<Predicted>,
}

/// What a decision turned out to cost; absent as long as it is not known.
#[derive(Serialize)]
struct Regret {
    ttft_error_s: Option<f64>,
    recomputed_tokens: Option<u32>,
}

/// What was observed, as it is shown.
#[derive(Serialize)]
struct ObservedView {
    outcome: Option<types::outcome::Outcome>,
    ttft_s: Option<f64>,
    cached_tokens: Option<u32>,
    output_tokens: Option<u32>,
}

impl Known {
    fn of(fleet: &Fleet) -> Self {
        let mut known = Self::default();
        for replica in fleet.replicas() {
            known.replicas.insert(replica.id(), replica.name().to_owned());
            for model in &*replica.models() {
                known.models.insert(ModelId::from_name(&model.name), model.name.clone());
            }
        }
        known
    }

    /// A replica's name; one that has left is called by its number.
    fn replica(&self, id: ReplicaId) -> String {
        self.replicas.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    fn view(&self, now: Timestamp, it: &Explanation) -> DecisionView {
        let placement = it.verdict.ok();
        let chosen = placement.map(|it| it.replica);
        let Observed { ttft_s, cached, output, outcome } = it.observed;
        let predicted_s = placement.and_then(|it| it.ttft).map(|it| it.as_secs_f64());
        DecisionView {
            request_id: self.names.get(&it.request).cloned(),
            number: it.request,
            age_s: now.since(it.at).as_secs_f64(),
            // Names come from replicas: what a client makes up is not repeated.
            model: self.models.get(&it.model).cloned(),
            prompt_tokens: it.prompt.0,
            strategy: it.strategy.as_str(),
            replica: chosen.map(|it| self.replica(it)),
            reason: placement.map(|it| it.reason.as_str()),
            attempt: placement.map(|it| it.attempt),
            refused: it.verdict.err().map(|it| it.to_string()),
            instead_of: it.instead_of.map(|it| self.replica(it)),
            ranked_in: it.strategy.ranks_in(),
            candidates: it.candidates.iter().map(|it| self.candidate(it, chosen)).collect(),
            other_candidates: it.others,
            regret: Regret {
                ttft_error_s: ttft_s.zip(predicted_s).map(|(came_s, told_s)| came_s - told_s),
                recomputed_tokens: placement.zip(cached).map(|(it, found)| it.recomputed(found).0),
            },
            observed: ObservedView {
                outcome,
                ttft_s,
                cached_tokens: cached.map(|it| it.0),
                output_tokens: output.map(|it| it.0),
            },
        }
    }

    fn candidate(&self, it: &Considered, chosen: Option<ReplicaId>) -> CandidateView {
        CandidateView {
            replica: self.replica(it.replica),
            chosen: chosen == Some(it.replica),
            passed_over: it.passed_over.map(PassedOver::as_str),
            gate: it.gate.map(Gate::as_str),
            has_room: it.has_room,
            requests: it.requests,
            queued_prefill_tokens: it.queued_prefill.0,
            hit_tokens: it.cached.0,
            reported: it.reported,
            score: it.score,
            cost: it.cost,
            predicted: it.predicted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_says_how_many_or_which() {
        let parsed = |query| Wanted::parse(query).unwrap();
        assert_eq!(parsed(""), Wanted { limit: LIMIT_DEFAULT, request: None });
        let one = Wanted { limit: 3, request: Some("req-1".to_owned()) };
        assert_eq!(parsed("limit=3&request=req-1"), one);
        for wrong in ["limit=many", "limit", "model=x"] {
            assert!(Wanted::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_remembered_up_to_a_bound() {
        let names = RequestNames::new(1);
        for number in 0..100 {
            let name = if number & 1 == 0 { "even" } else { "odd" };
            names.add(RequestId(number), name);
        }
        assert_eq!(names.names.lock().len(), NAMES_PER_EXPLANATION);
        assert_eq!(names.numbers("even").len(), NAMES_PER_EXPLANATION / 2);
        assert_eq!(names.names(&[RequestId(99), RequestId(1)]).len(), 1);
        let none = RequestNames::new(0);
        none.add(RequestId(1), "x");
        assert!(none.numbers("x").is_empty());
    }
}
