//! What the records of a run add up to, in one pass: a million of them do not fit in a processor's cache, so
//! each look at all of them costs as much as a little arithmetic on each.

use std::{collections::BTreeMap, time::Duration};

use types::time::Timestamp;

use crate::{
    record::{Ending, RequestRecord},
    stats::{Stats, count, ratio},
};

/// What the records of a run add up to.
#[derive(Debug, Default)]
pub(super) struct Sums<'a> {
    pub(super) completed: u64,
    pub(super) good: u64,
    pub(super) rejected: u64,
    pub(super) failed: u64,
    pub(super) cancelled: u64,
    pub(super) retries: u64,
    /// Prompt tokens of completed requests.
    pub(super) input_tokens: u64,
    /// Output tokens of the same.
    pub(super) output_tokens: u64,
    /// Output tokens of good ones.
    pub(super) good_tokens: u64,
    /// When the first request was scheduled and when the last.
    pub(super) scheduled: Option<(Timestamp, Timestamp)>,
    /// When the last token of the last whole answer came.
    pub(super) last_token: Timestamp,
    cached_tokens: u64,
    /// Prompt tokens of those whose engine says how many were cached.
    prompt_tokens: u64,
    replicas: BTreeMap<&'a str, u64>,
    lag_ms: Vec<f64>,
    ttft_ms: Vec<f64>,
    tpot_ms: Vec<f64>,
    e2e_ms: Vec<f64>,
}

impl<'a> Sums<'a> {
    pub(super) fn of(records: &[&'a RequestRecord]) -> Self {
        let mut sums = Self::default();
        for record in records {
            sums.add(record);
        }
        sums
    }

    fn add(&mut self, record: &'a RequestRecord) {
        let Self { scheduled, completed, rejected, failed, cancelled, .. } = self;
        let at = record.scheduled;
        *scheduled =
            Some(scheduled.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        let of_ending = match record.ending {
            Ending::Completed => completed,
            Ending::Rejected => rejected,
            Ending::Failed => failed,
            Ending::Cancelled => cancelled,
        };
        *of_ending = of_ending.saturating_add(1);
        self.retries = self.retries.saturating_add(record.retries().into());
        self.lag_ms.extend(record.lag().map(millis));
        if record.slo.good {
            self.good = self.good.saturating_add(1);
            self.good_tokens = self.good_tokens.saturating_add(record.output_tokens.0.into());
        }
        if record.ending == Ending::Completed {
            self.add_answer(record);
        }
    }

    fn add_answer(&mut self, record: &'a RequestRecord) {
        self.input_tokens = self.input_tokens.saturating_add(record.input_tokens.0.into());
        self.output_tokens = self.output_tokens.saturating_add(record.output_tokens.0.into());
        self.last_token = self.last_token.max(record.last_token.unwrap_or_default());
        self.ttft_ms.extend(record.ttft().map(millis));
        self.tpot_ms.extend(record.tpot().map(millis));
        self.e2e_ms.extend(record.e2e().map(millis));
        if let Some(cached) = record.cached_tokens {
            self.cached_tokens = self.cached_tokens.saturating_add(cached.0.into());
            self.prompt_tokens = self.prompt_tokens.saturating_add(record.input_tokens.0.into());
        }
        if let Some(replica) = record.replica.as_deref() {
            let answers = self.replicas.entry(replica).or_default();
            *answers = answers.saturating_add(1);
        }
    }

    /// Requests that could have been good: all but those whose clients hung up on purpose.
    pub(super) fn judged(&self) -> u64 {
        self.completed.saturating_add(self.rejected).saturating_add(self.failed)
    }

    pub(super) fn cache_hit_rate(&self) -> Option<f64> {
        ratio(self.cached_tokens as f64, self.prompt_tokens as f64)
    }

    /// The busiest replica's requests over the mean replica's, of the replicas that answered any.
    pub(super) fn imbalance(&self) -> Option<f64> {
        let busiest = self.replicas.values().max().copied()?;
        let all: u64 = self.replicas.values().sum();
        ratio(busiest as f64 * count(self.replicas.len()), all as f64)
    }

    /// Statistics of lag, TTFT, TPOT and E2E.
    pub(super) fn stats(self) -> [Option<Stats>; 4] {
        [self.lag_ms, self.ttft_ms, self.tpot_ms, self.e2e_ms].map(Stats::of)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}
