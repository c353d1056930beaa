//! Counts of requests, and the figures they come to.

use serde::Serialize;

use crate::{
    cost::{Paid, Prices},
    record::{Ending, RequestRecord},
    stats::ratio,
};

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Counts {
    requests: u64,
    pub(super) completed: u64,
    good: u64,
    rejected: u64,
    labelled: u64,
    /// Requests that nobody waits for.
    batch: u64,
    pub(super) output_tokens: u64,
    good_tokens: u64,
    first_tokens: u64,
    ttft_s: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
    /// Tokens that were computed: prompts but for what was cached, and answers.
    computed_tokens: u64,
    /// What the requests cost by themselves.
    cost: f64,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.completed = self.completed.saturating_add(other.completed);
        self.good = self.good.saturating_add(other.good);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.labelled = self.labelled.saturating_add(other.labelled);
        self.batch = self.batch.saturating_add(other.batch);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.good_tokens = self.good_tokens.saturating_add(other.good_tokens);
        self.first_tokens = self.first_tokens.saturating_add(other.first_tokens);
        self.ttft_s += other.ttft_s;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
        self.computed_tokens = self.computed_tokens.saturating_add(other.computed_tokens);
        self.cost += other.cost;
    }

    pub(super) fn of(record: &RequestRecord, prices: Option<&Prices>) -> Self {
        let completed = record.ending == Ending::Completed;
        let tokens = if completed { u64::from(record.output_tokens.0) } else { 0 };
        let is_batch = record.slo.completion.is_some();
        // Of work that nobody waits for nobody asks when its first token came.
        let ttft = record.ttft().filter(|_| !is_batch);
        let cached = record.cached_tokens.filter(|_| completed);
        let was_read = record.ending != Ending::Rejected;
        let computed = record.input_tokens.saturating_sub(cached.unwrap_or_default());
        Self {
            requests: 1,
            completed: completed.into(),
            good: record.slo.good.into(),
            rejected: (record.ending == Ending::Rejected).into(),
            labelled: 0,
            batch: is_batch.into(),
            output_tokens: tokens,
            good_tokens: if record.slo.good { tokens } else { 0 },
            first_tokens: ttft.is_some().into(),
            ttft_s: ttft.unwrap_or_default().as_secs_f64(),
            prompt_tokens: cached.map_or(0, |_| record.input_tokens.0.into()),
            cached_tokens: cached.map_or(0, |it| it.0.into()),
            computed_tokens: if was_read {
                u64::from(computed.0).saturating_add(tokens)
            } else {
                0
            },
            cost: prices.map_or(0.0, |it| Paid::of(it, record).total()),
        }
    }

    /// A label changed a request of so many tokens to good or from it; `rework` is what it costs more when
    /// it is not.
    pub(super) fn relabel(
        &mut self,
        is_good: bool,
        was_good: bool,
        is_first: bool,
        tokens: u64,
        rework: f64,
    ) {
        self.labelled = self.labelled.saturating_add(is_first.into());
        if is_good && !was_good {
            self.good = self.good.saturating_add(1);
            self.good_tokens = self.good_tokens.saturating_add(tokens);
            self.cost -= rework;
        } else if was_good && !is_good {
            self.good = self.good.saturating_sub(1);
            self.good_tokens = self.good_tokens.saturating_sub(tokens);
            self.cost += rework;
        }
    }

    /// The share of `whole` that what is paid by the hour was spent on these: that of the tokens they had
    /// computed, or of requests where none was.
    pub(super) fn share_of(&self, whole: &Self) -> f64 {
        let share = |part: u64, whole: u64| ratio(part as f64, whole as f64);
        share(self.computed_tokens, whole.computed_tokens)
            .or_else(|| share(self.requests, whole.requests))
            .unwrap_or_default()
    }
}

/// Figures of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that have left.
    pub requests: u64,
    /// Whole answers.
    pub completed: u64,
    /// Good ones.
    pub good: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Requests that somebody judged.
    pub labelled: u64,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// The same where nobody waits for any of them: rows accepted within their completion window.
    pub accepted_row_rate: Option<f64>,
    /// Good requests per second; absent where no window bounds them.
    pub request_goodput: Option<f64>,
    /// Output tokens of good requests per second.
    pub output_token_goodput: Option<f64>,
    /// Mean time to first token, from the request's head; of those that somebody waits for.
    pub ttft_ms_mean: Option<f64>,
    /// Cached over all prompt tokens.
    pub cache_hit_rate: Option<f64>,
    /// What was paid; absent without prices.
    pub cost: Option<f64>,
    /// The same for each good request.
    pub cost_per_accepted: Option<f64>,
}

impl Figures {
    /// The figures of requests that left in so many seconds, where a window bounds them; `by_the_hour` is
    /// their share of what was paid by the hour, where prices are known.
    pub(super) fn of(it: &Counts, seconds: Option<f64>, by_the_hour: Option<f64>) -> Self {
        let per_s = |amount: u64| ratio(amount as f64, seconds?);
        let share = |part: u64, whole: u64| ratio(part as f64, whole as f64);
        let good = share(it.good, it.requests);
        let cost = by_the_hour.map(|paid| paid + it.cost);
        Self {
            requests: it.requests,
            completed: it.completed,
            good: it.good,
            rejected: it.rejected,
            labelled: it.labelled,
            good_request_fraction: good,
            accepted_row_rate: good.filter(|_| it.batch == it.requests),
            request_goodput: per_s(it.good),
            output_token_goodput: per_s(it.good_tokens),
            ttft_ms_mean: ratio(it.ttft_s * 1_000.0, it.first_tokens as f64),
            cache_hit_rate: share(it.cached_tokens, it.prompt_tokens),
            cost,
            cost_per_accepted: cost.and_then(|paid| ratio(paid, it.good as f64)),
        }
    }
}
