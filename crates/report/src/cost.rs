//! What accepted results cost: everything that was paid, over what was accepted.
//!
//! A *loaded* cost holds all that the work caused: replicas while they served and while they drained,
//! what else is paid by the hour, every call and token, the calls of retries and refusals, and the work
//! that a result nobody accepts brings about. It is divided by good results only, so waste shows.
//!
//! Results of different kinds of work are different things, so each kind has a unit of its own.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
pub use types::work::WorkloadClass;

use crate::{
    record::{Ending, RequestRecord},
    session::{Session, Sessions},
    stats::ratio,
};

/// The accepted results among `records`, which are all of this class, and the names of the
/// conversations that are no results, because they were not whole.
fn accepted(class: WorkloadClass, records: &[&RequestRecord]) -> (f64, BTreeSet<u64>) {
    match class {
        WorkloadClass::Rag | WorkloadClass::Extraction | WorkloadClass::Batch => {
            let good = records.iter().filter(|it| it.slo.good).count();
            (crate::stats::count(good), BTreeSet::new())
        }
        WorkloadClass::Conversational | WorkloadClass::Agentic => {
            let Sessions { whole, unfinished } = sessions(records);
            let good = whole.iter().filter(|it| it.is_good).count();
            (crate::stats::count(good), unfinished)
        }
        WorkloadClass::Voice => {
            let Sessions { whole, unfinished } = sessions(records);
            let good = whole.iter().filter(|it| it.is_good);
            let minutes = good.map(|it| it.until.since(it.from).as_secs_f64() / 60.0);
            (minutes.sum(), unfinished)
        }
    }
}

/// The conversations among `records`, and the names of those that were not whole. A request that
/// belongs to none is one of its own.
fn sessions(records: &[&RequestRecord]) -> Sessions {
    let mut all = Sessions::of(records.iter().copied());
    let alone = records.iter().filter(|it| it.session.is_none());
    all.whole.extend(alone.filter_map(|it| Session::of(std::iter::once(*it))));
    all
}

/// What is paid, in one currency. What is left out costs nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Prices {
    /// One replica for an hour.
    pub replica_hour: f64,
    /// Everything else that is paid by the hour: routers, storage, people on call.
    pub other_hour: f64,
    /// One call of a replica or a gateway, whatever becomes of it.
    pub request: f64,
    /// A million prompt tokens that were not cached.
    pub input_mtok: f64,
    /// A million prompt tokens that were.
    pub cached_mtok: f64,
    /// A million tokens of answers.
    pub output_mtok: f64,
    /// What an answer that came and was not good causes: another look at it, a person who steps in.
    pub rework: f64,
    /// The currency, as ISO 4217 has it.
    pub currency: String,
}

impl Default for Prices {
    fn default() -> Self {
        Self {
            replica_hour: 0.0,
            other_hour: 0.0,
            request: 0.0,
            input_mtok: 0.0,
            cached_mtok: 0.0,
            output_mtok: 0.0,
            rework: 0.0,
            currency: "USD".to_owned(),
        }
    }
}

impl Prices {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let Self { replica_hour, other_hour, request, .. } = *self;
        let Self { input_mtok, cached_mtok, output_mtok, rework, .. } = *self;
        let named = [
            ("replica_hour", replica_hour),
            ("other_hour", other_hour),
            ("request", request),
            ("input_mtok", input_mtok),
            ("cached_mtok", cached_mtok),
            ("output_mtok", output_mtok),
            ("rework", rework),
        ];
        let wrong = named.into_iter().filter(|(_, price)| !(price.is_finite() && *price >= 0.0));
        wrong
            .map(|(name, price)| format!("{name}: needs a price of 0 or more, has {price}"))
            .collect()
    }
}

/// What a fleet costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Costs {
    /// What is paid.
    pub prices: Prices,
    /// Replicas that are paid for.
    pub replicas: u32,
}

/// What was paid, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Breakdown {
    /// Replicas, from the window's start to the end of the drain.
    pub fleet: f64,
    /// What else is paid by the hour.
    pub other: f64,
    /// First calls that were not refused.
    pub calls: f64,
    /// Tokens of first calls.
    pub tokens: f64,
    /// Calls and prompts of retries.
    pub retries: f64,
    /// Calls that were refused.
    pub refusals: f64,
    /// What answers that were not good caused.
    pub rework: f64,
    /// All of it.
    pub total: f64,
}

impl Costs {
    /// What `records` cost in a fleet that was paid for `seconds`.
    #[must_use]
    pub fn of<'a>(
        &self,
        records: impl Iterator<Item = &'a RequestRecord>,
        seconds: f64,
    ) -> Breakdown {
        let prices = &self.prices;
        let hours = seconds / 3_600.0;
        let mut it = Breakdown {
            fleet: prices.replica_hour * f64::from(self.replicas) * hours,
            other: prices.other_hour * hours,
            ..Breakdown::default()
        };
        for record in records {
            let Paid { call, tokens, retries, rework } = Paid::of(prices, record);
            match record.ending {
                Ending::Rejected => it.refusals += call,
                Ending::Completed | Ending::Failed | Ending::Cancelled => it.calls += call,
            }
            it.tokens += tokens;
            it.retries += retries;
            it.rework += rework;
        }
        it.total =
            it.fleet + it.other + it.calls + it.tokens + it.retries + it.refusals + it.rework;
        it
    }
}

/// What one request is paid for by itself.
pub(crate) struct Paid {
    call: f64,
    tokens: f64,
    retries: f64,
    rework: f64,
}

impl Paid {
    pub(crate) fn of(prices: &Prices, record: &RequestRecord) -> Self {
        let cached = record.cached_tokens.unwrap_or_default();
        let computed = record.input_tokens.saturating_sub(cached);
        let mtok = |tokens: u32, price: f64| f64::from(tokens) / 1e6 * price;
        let prompt = mtok(computed.0, prices.input_mtok) + mtok(cached.0, prices.cached_mtok);
        let was_read = record.ending != Ending::Rejected;
        let is_waste = record.ending == Ending::Completed && !record.slo.good;
        Self {
            call: prices.request,
            tokens: if was_read { prompt } else { 0.0 }
                + mtok(record.output_tokens.0, prices.output_mtok),
            retries: f64::from(record.retries()) * (prices.request + prompt),
            rework: if is_waste { prices.rework } else { 0.0 },
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.call + self.tokens + self.retries + self.rework
    }
}

/// What results of one class of work cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassCost {
    /// The class.
    pub class: WorkloadClass,
    /// Requests.
    pub requests: u64,
    /// Accepted results, in the class's unit.
    pub accepted: f64,
    /// Conversations that were not whole, because turns of them came before counting began or were to
    /// come after the end: no results, neither accepted nor refused.
    #[serde(default)]
    pub unfinished: u64,
    /// What the class cost; none where nobody said what anything costs.
    pub cost: Option<f64>,
    /// The same for each accepted result, without what unfinished conversations cost.
    pub cost_per_accepted: Option<f64>,
}

/// The cost of each class among `records`; what has no class is of `default`, or left out without one.
///
/// What is paid by the hour is divided among all requests by the tokens they had computed: prompt
/// tokens that were not cached, and answers.
#[must_use]
pub fn by_class(
    records: &[&RequestRecord],
    default: Option<WorkloadClass>,
    costs: Option<(&Costs, &Breakdown)>,
) -> Vec<ClassCost> {
    if default.is_none() && records.iter().all(|it| it.workload_class.is_none()) {
        return Vec::new();
    }
    let mut classes: BTreeMap<WorkloadClass, Vec<&RequestRecord>> = BTreeMap::new();
    for record in records {
        if let Some(class) = record.workload_class.or(default) {
            classes.entry(class).or_default().push(record);
        }
    }
    let work = |of: &[&RequestRecord]| -> f64 {
        of.iter()
            .map(|it| {
                let cached = it.cached_tokens.unwrap_or_default();
                f64::from(it.input_tokens.saturating_sub(cached).0) + f64::from(it.output_tokens.0)
            })
            .sum()
    };
    let all = work(records);
    let share = |of: &[&RequestRecord]| {
        let by_number = || ratio(crate::stats::count(of.len()), crate::stats::count(records.len()));
        ratio(work(of), all).or_else(by_number).unwrap_or_default()
    };
    let class_cost = |(class, of): (WorkloadClass, Vec<&RequestRecord>)| {
        let cost = |of: &[&RequestRecord]| {
            costs.map(|(costs, all)| {
                let own: f64 = of.iter().map(|it| Paid::of(&costs.prices, it).total()).sum();
                (all.fleet + all.other) * share(of) + own
            })
        };
        let (accepted, unfinished) = accepted(class, &of);
        let is_whole = |it: &RequestRecord| it.session.is_none_or(|it| !unfinished.contains(&it));
        let whole: Vec<&RequestRecord> = of.iter().copied().filter(|it| is_whole(it)).collect();
        ClassCost {
            class,
            requests: of.len() as u64,
            accepted,
            unfinished: unfinished.len() as u64,
            cost: cost(&of),
            cost_per_accepted: cost(&whole).and_then(|it| ratio(it, accepted)),
        }
    };
    classes.into_iter().map(class_cost).collect()
}

#[cfg(test)]
mod tests;
