//! The newest explanations.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use types::{
    outcome::Outcome,
    quantity::Tokens,
    replica::ReplicaId,
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Considered, ExplainConfig, Explanation, Observed, PassedOver};
use crate::{
    admission::Gate,
    config::StrategyName,
    event::{Placement, Reject},
};

/// Keeps the newest explanations, and finds them by request.
#[derive(Debug)]
pub struct Book {
    config: ExplainConfig,
    /// Explanations that may be made now.
    budget: f64,
    refilled: Timestamp,
    kept: VecDeque<Explanation>,
    /// How many have been dropped from the front of `kept`.
    dropped: u64,
    /// Where to find the explanation of a request that has not left.
    open: FxHashMap<RequestId, u64>,
    draft: Draft,
}

/// What was looked at last.
#[derive(Debug, Default)]
struct Draft {
    request: Option<RequestId>,
    candidates: Vec<Considered>,
    others: u32,
    instead_of: Option<ReplicaId>,
}

impl Book {
    pub(crate) fn new(config: ExplainConfig) -> Self {
        Self {
            config,
            budget: f64::from(config.keep),
            refilled: Timestamp::ZERO,
            kept: VecDeque::new(),
            dropped: 0,
            open: FxHashMap::default(),
            draft: Draft::default(),
        }
    }

    /// What is kept, the newest first.
    pub fn newest(&self) -> impl Iterator<Item = &Explanation> {
        self.kept.iter().rev()
    }

    /// Whether a decision on `request` is to be explained.
    pub(crate) fn wants(&mut self, now: Timestamp, request: RequestId) -> bool {
        if self.config.keep == 0 {
            return false;
        }
        if let Some(only) = self.config.only {
            return only == request;
        }
        let refill = now.since(self.refilled).as_secs_f64() * f64::from(self.config.per_second);
        self.refilled = now;
        self.budget = (self.budget + refill).min(f64::from(self.config.keep));
        self.budget >= 1.0
    }

    /// Notes the replicas that `request` is weighed on, the best of them in full.
    pub(crate) fn draft(
        &mut self,
        request: RequestId,
        candidates: impl Iterator<Item = Considered>,
    ) {
        let Draft { candidates: kept, others, .. } = &mut self.draft;
        kept.clear();
        let most = usize::try_from(self.config.candidates).unwrap_or(usize::MAX);
        let mut seen = 0_u32;
        for it in candidates {
            seen = seen.saturating_add(1);
            if kept.len() >= most && kept.last().is_some_and(|last| !it.is_before(last)) {
                continue;
            }
            let at = kept.iter().position(|other| it.is_before(other)).unwrap_or(kept.len());
            kept.insert(at, it);
            kept.truncate(most);
        }
        *others = seen.saturating_sub(u32::try_from(kept.len()).unwrap_or(u32::MAX));
        (self.draft.request, self.draft.instead_of) = (Some(request), None);
    }

    /// Learns which replica the rule chose for `request`, what it is put at, and which one it stands in
    /// for, so that it is named.
    pub(crate) fn chosen(&mut self, chosen: Considered, instead_of: Option<ReplicaId>) {
        let Draft { candidates, .. } = &mut self.draft;
        if candidates.iter().all(|it| it.replica != chosen.replica) {
            candidates.pop();
            candidates.push(chosen);
        }
        self.draft.instead_of = instead_of;
    }

    /// Learns which of the replicas are left, and why the others are not.
    pub(crate) fn left(&mut self, why: PassedOver, is_left: impl Fn(ReplicaId) -> bool) {
        for it in &mut self.draft.candidates {
            let before = it.passed_over.unwrap_or(why);
            it.passed_over = (!is_left(it.replica)).then_some(before);
            it.gate = it.gate.filter(|_| it.passed_over.is_some());
        }
    }

    /// Learns which gate is closed for the request at a replica.
    pub(crate) fn closed(&mut self, replica: ReplicaId, gate: Gate) {
        if let Some(it) = self.draft.candidates.iter_mut().find(|it| it.replica == replica) {
            it.gate = Some(gate);
        }
    }

    /// Whether `request` is the one that was looked at last.
    pub(crate) fn drafts(&self, request: RequestId) -> bool {
        self.draft.request == Some(request)
    }

    /// Writes down what was decided on `request`, if that is wanted.
    pub(crate) fn decided(
        &mut self,
        now: Timestamp,
        request: &Request,
        strategy: StrategyName,
        verdict: Result<Placement, Reject>,
    ) {
        let is_drafted = self.drafts(request.id);
        if !is_drafted && !self.wants(now, request.id) {
            return;
        }
        let draft = if is_drafted { std::mem::take(&mut self.draft) } else { Draft::default() };
        self.budget -= 1.0;
        let most = usize::try_from(self.config.keep).unwrap_or(usize::MAX);
        while self.kept.len() >= most {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.dropped = self.dropped.saturating_add(1);
            if self.place_of(oldest.request).is_none() {
                self.open.remove(&oldest.request);
            }
        }
        if verdict.is_ok() {
            self.open.insert(request.id, self.dropped.saturating_add(self.kept.len() as u64));
        }
        self.kept.push_back(Explanation {
            at: now,
            request: request.id,
            model: request.model,
            prompt: request.prompt,
            strategy,
            verdict,
            instead_of: draft.instead_of,
            candidates: draft.candidates,
            others: draft.others,
            observed: Observed::default(),
        });
    }

    fn place_of(&self, request: RequestId) -> Option<usize> {
        let number = *self.open.get(&request)?;
        usize::try_from(number.checked_sub(self.dropped)?).ok()
    }

    fn observed(&mut self, request: RequestId) -> Option<&mut Observed> {
        if self.open.is_empty() {
            return None;
        }
        let place = self.place_of(request)?;
        self.kept.get_mut(place).map(|it| &mut it.observed)
    }

    /// Learns when the first token came, in seconds from the decision.
    pub(crate) fn first_token(&mut self, request: RequestId, took_s: f64) {
        if let Some(observed) = self.observed(request) {
            observed.ttft_s = Some(took_s);
        }
    }

    /// Learns how the request ended.
    pub(crate) fn ended(
        &mut self,
        request: RequestId,
        outcome: Outcome,
        output: Option<Tokens>,
        cached: Option<Tokens>,
    ) {
        if let Some(observed) = self.observed(request) {
            (observed.outcome, observed.output, observed.cached) = (Some(outcome), output, cached);
            self.open.remove(&request);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::{replica::LoadReport, request::ModelId};

    use super::*;
    use crate::event::Reason;

    fn considered(replica: u32, score: f64) -> Considered {
        Considered {
            replica: ReplicaId(replica),
            passed_over: None,
            gate: None,
            has_room: true,
            requests: replica,
            queued_prefill: Tokens::ZERO,
            cached: Tokens::ZERO,
            reported: LoadReport::default(),
            score: Some(score),
            predicted: None,
            cost: None,
        }
    }

    fn request(id: u64) -> Request {
        Request::new(RequestId(id), ModelId(1), Tokens(10), Vec::new().into())
    }

    fn refused(book: &mut Book, now: Timestamp, id: u64) {
        book.decided(now, &request(id), StrategyName::Random, Err(Reject::NoReplicas));
    }

    fn kept(book: &Book) -> Vec<u64> {
        book.newest().map(|it| it.request.0).collect()
    }

    #[test]
    fn the_best_are_named_in_order_and_the_chosen_one_always() {
        let mut book = Book::new(ExplainConfig { candidates: 2, ..ExplainConfig::default() });
        assert!(book.wants(Timestamp::ZERO, RequestId(1)));
        let scores = [(0, 5.0), (1, 1.0), (2, 3.0), (3, 2.0)];
        book.draft(RequestId(1), scores.into_iter().map(|(id, score)| considered(id, score)));
        book.chosen(considered(0, 5.0), Some(ReplicaId(1)));
        refused(&mut book, Timestamp::ZERO, 1);
        let it = book.newest().next().unwrap();
        let named: Vec<u32> = it.candidates.iter().map(|it| it.replica.0).collect();
        assert_eq!((named, it.others, it.instead_of), (vec![1, 0], 2, Some(ReplicaId(1))));
    }

    #[test]
    fn no_more_are_made_than_kept_at_once_and_allowed_in_a_second() {
        let config = ExplainConfig { keep: 4, per_second: 2, ..ExplainConfig::default() };
        let mut book = Book::new(config);
        (0..10).for_each(|id| refused(&mut book, Timestamp::ZERO, id));
        assert_eq!(kept(&book), [3, 2, 1, 0]);
        let later = Timestamp::from_elapsed(Duration::from_secs(1));
        (10..20).for_each(|id| refused(&mut book, later, id));
        assert_eq!(kept(&book), [11, 10, 3, 2]);
    }

    #[test]
    fn what_comes_of_a_decision_is_added_while_it_is_kept() {
        let config = ExplainConfig { keep: 2, per_second: 1_000_000, ..ExplainConfig::default() };
        let mut book = Book::new(config);
        let placement = Placement {
            replica: ReplicaId(0),
            strategy: StrategyName::Random,
            reason: Reason::Load,
            cached: Tokens::ZERO,
            attempt: 1,
            most_cached: None,
            ttft: None,
        };
        for id in 0..4 {
            let now = Timestamp::from_elapsed(Duration::from_millis(id));
            book.decided(now, &request(id), StrategyName::Random, Ok(placement));
        }
        for id in 0..4 {
            book.first_token(RequestId(id), 0.5);
            book.ended(RequestId(id), Outcome::Finished, Some(Tokens(7)), None);
        }
        assert_eq!(kept(&book), [3, 2]);
        assert!(book.newest().all(|it| it.observed.output == Some(Tokens(7))));
        assert!(book.open.is_empty());
    }

    #[test]
    fn nothing_is_explained_where_nobody_wants_it() {
        let mut book = Book::new(ExplainConfig::off());
        refused(&mut book, Timestamp::ZERO, 1);
        assert_eq!(kept(&book), [0; 0]);
        let mut book = Book::new(ExplainConfig::only(RequestId(2)));
        (0..4).for_each(|id| refused(&mut book, Timestamp::ZERO, id));
        assert_eq!(kept(&book), [2]);
    }
}
