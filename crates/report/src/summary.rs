//! The figures of a run: `summary.json`.
//!
//! Every rate of a run has one denominator, its **window**: the time in which requests were
//! scheduled, from the end of the warm-up to the schedule's end. Each request counts in full, whenever it
//! ended. So goodput is the offered rate times the good fraction, two policies under the same
//! schedule are divided by the same number, and neither a straggler nor an answer that outlives a
//! short run moves the figures. The price: a fleet that is sent too much and works it off later
//! still shows the completed requests as throughput. `drain_s` tells that: the last whole answer
//! came much later after the window than an answer takes. What the fleet sustained is `served_rps`:
//! the answers that *came* within the window, whenever they were asked for, over the same window. A
//! run that counts from its first request begins with an empty fleet, whose first answers take
//! their time; there the window that is looked at begins and ends that much later. An answer that was
//! good came in time, wherever a short window ends, so no fleet sustains less than its goodput.

mod sums;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::time::Timestamp;

use self::sums::Sums;
use crate::{
    classes::{SloClass, by_slo_class},
    cost::{self, Breakdown, ClassCost, Costs, WorkloadClass},
    disruption::{Disruption, Split},
    histogram::Histogram,
    limits::Limits,
    record::{Ending, RequestRecord},
    regret::Regret,
    session::Sessions,
    stats::{Stats, count, quantile_unsorted, ratio},
};

/// The part of a run, one over this, that tells how long answers take before anything waits.
const EARLY_PART: usize = 10;

/// What `summary.json` calls its own layout.
pub const SCHEMA: &str = "sluice.summary/1";

/// A `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// One for each workload, policy, admission mode and seed.
    pub runs: Vec<Run>,
}

impl Summary {
    /// A summary of `runs`.
    #[must_use]
    pub fn new(runs: Vec<Run>) -> Self {
        Self { schema: SCHEMA.to_owned(), runs }
    }
}

/// What a run was, apart from its records.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// Name of the workload.
    pub workload: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the admission mode.
    pub admission: String,
    /// What every random draw followed from.
    pub seed: u64,
    /// Length of the schedule; absent where nothing but the last request ends it: then it lasts for
    /// the mean gap between requests after that.
    #[serde(rename = "scheduled_for_ms", alias = "scheduled_for")]
    #[serde(with = "crate::millis::optional")]
    pub scheduled_for: Option<Duration>,
    /// Start of the schedule that does not count: requests scheduled in it are left out.
    #[serde(rename = "warm_up_ms", alias = "warm_up", with = "crate::millis::required")]
    pub warm_up: Duration,
    /// What the fleet costs; absent where nobody said.
    pub costs: Option<Costs>,
    /// The kind of work that requests are which do not say; absent where nobody said.
    pub workload_class: Option<WorkloadClass>,
    /// Records there are of it; a file with another number of them is not whole. Absent where nobody
    /// said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// What is to be known before its figures are believed.
    #[serde(flatten)]
    pub caveats: Caveats,
}

/// What is to be known before the figures of a run are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Caveats {
    /// Whether it was stopped before its end: what was open then counts as failed.
    pub stopped: bool,
    /// Requests that were due and never left, because the generator could open no more.
    pub unsent: u64,
    /// Why its figures are not its target's, where they are not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
}

impl Caveats {
    /// Everything to be told before any figure, a sentence each.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let stopped = self.stopped.then(|| "THE RUN WAS STOPPED BEFORE ITS END".to_owned());
        stopped.into_iter().chain(self.doubts.iter().cloned()).collect()
    }
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Name of the workload.
    pub workload: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the admission mode.
    pub admission: String,
    /// What every random draw followed from.
    pub seed: u64,
    /// Length of the window, in seconds.
    pub window_s: f64,
    /// Time from the window's end to the last token of the last whole answer, in seconds.
    pub drain_s: f64,
    /// Requests scheduled.
    pub requests: u64,
    /// Requests whose whole answer came.
    pub completed: u64,
    /// Good requests.
    pub good: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Requests that ended in any other way.
    pub failed: u64,
    /// Requests whose clients hung up on purpose; they count as offered and in no fraction.
    #[serde(default)]
    pub cancelled: u64,
    /// Times that requests were sent again.
    #[serde(default)]
    pub retries: u64,
    /// Prompt tokens of completed requests.
    #[serde(default)]
    pub input_tokens: u64,
    /// Output tokens of completed requests.
    #[serde(default)]
    pub output_tokens: u64,
    /// Requests scheduled per second of the window.
    pub offered_rps: f64,
    /// Completed requests per second of the window.
    pub request_throughput: f64,
    /// Answers that came per second of the window: what the fleet sustained, at least its goodput.
    #[serde(default)]
    pub served_rps: f64,
    /// Good requests per second of the window.
    pub request_goodput: f64,
    /// Good requests over all that completed, failed or were rejected; null without any.
    pub good_request_fraction: Option<f64>,
    /// Sessions all whose turns were good, over all that were whole; null without any.
    pub good_session_fraction: Option<f64>,
    /// Sessions that were not whole, because turns of them came before counting began or were to come
    /// after the end; they are neither good nor bad.
    #[serde(default)]
    pub unfinished_sessions: u64,
    /// Sessions all whose turns were good, per second of the window.
    #[serde(default)]
    pub session_goodput: f64,
    /// Output tokens of completed requests per second of the window.
    pub output_token_throughput: f64,
    /// Output tokens of good requests per second of the window.
    pub output_token_goodput: f64,
    /// Cached over all prompt tokens, of completed requests whose engine says; null where none does.
    pub cache_hit_rate: Option<f64>,
    /// The busiest replica's completed requests over the mean replica's; null where nobody says who
    /// answered.
    #[serde(default)]
    pub imbalance: Option<f64>,
    /// All costs for each good request; null without costs or without any good request.
    pub cost_per_accepted: Option<f64>,
    /// What was paid, window and drain, by what for; null without costs.
    #[serde(default)]
    pub cost: Option<Breakdown>,
    /// The currency of all costs.
    #[serde(default)]
    pub currency: Option<String>,
    /// How late requests were sent; null where none was.
    pub generator_lag_ms: Option<Stats>,
    /// Time to first token of completed requests.
    pub ttft_ms: Option<Stats>,
    /// Time per output token of completed requests of two tokens or more.
    pub tpot_ms: Option<Stats>,
    /// Gaps between chunks of completed requests.
    pub itl_ms: Option<Stats>,
    /// Time to the last token of completed requests.
    pub e2e_ms: Option<Stats>,
    /// The same by SLO class, where there are classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_slo_class: Vec<SloClass>,
    /// What results cost, by the class of work, where it is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_workload_class: Vec<ClassCost>,
    /// What decisions turned out to cost; absent where no router said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regret: Option<Regret>,
    /// What no policy can exceed on these requests; absent where nobody computed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What it was like while something befell the fleet, and otherwise; absent where nothing did that is
    /// known of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Split>,
    /// What is to be known before these figures are believed.
    #[serde(flatten)]
    pub caveats: Caveats,
}

/// The policy, with the admission mode where there is one.
#[must_use]
pub fn rules(policy: &str, admission: &str) -> String {
    match admission {
        "" | "off" => policy.to_owned(),
        mode => format!("{policy} + {mode}"),
    }
}

impl Run {
    /// What it was decided by: the policy, with the admission mode where there is one.
    #[must_use]
    pub fn rules(&self) -> String {
        rules(&self.policy, &self.admission)
    }

    /// The figures of `records`, which are judged already, and of the `gaps` between tokens.
    #[must_use]
    pub fn measure(info: &RunInfo, records: &[RequestRecord], gaps: &Histogram) -> Self {
        let warm = Timestamp::from_elapsed(info.warm_up);
        let all = records;
        let records: Vec<&RequestRecord> = all.iter().filter(|it| it.scheduled >= warm).collect();
        let sums = Sums::of(&records);
        let window = Window::of(info, &sums, records.len());
        let served = window.served(all, info.warm_up);
        let per_s = |amount: f64| ratio(amount, window.length_s).unwrap_or_default();
        let paid_s = window.length_s + window.drain_s;
        let cost = info.costs.as_ref().map(|it| it.of(records.iter().copied(), paid_s));
        let sessions = Sessions::of(records.iter().copied());
        let good_sessions = count(sessions.whole.iter().filter(|it| it.is_good).count());
        let Sums { completed, good, rejected, failed, cancelled, retries, .. } = sums;
        let Sums { input_tokens, output_tokens, good_tokens, .. } = sums;
        let (judged, cache_hit_rate, imbalance) =
            (sums.judged(), sums.cache_hit_rate(), sums.imbalance());
        let [generator_lag_ms, ttft_ms, tpot_ms, e2e_ms] = sums.stats();
        let goods = good as f64;

        Self {
            workload: info.workload.clone(),
            policy: info.policy.clone(),
            admission: info.admission.clone(),
            seed: info.seed,
            window_s: window.length_s,
            drain_s: window.drain_s,
            requests: records.len() as u64,
            completed,
            good,
            rejected,
            failed,
            cancelled,
            retries,
            input_tokens,
            output_tokens,
            offered_rps: per_s(count(records.len())),
            request_throughput: per_s(completed as f64),
            served_rps: per_s(count(served).max(goods)),
            request_goodput: per_s(goods),
            good_request_fraction: ratio(goods, judged as f64),
            good_session_fraction: ratio(good_sessions, count(sessions.whole.len())),
            unfinished_sessions: sessions.unfinished.len() as u64,
            session_goodput: per_s(good_sessions),
            output_token_throughput: per_s(output_tokens as f64),
            output_token_goodput: per_s(good_tokens as f64),
            cache_hit_rate,
            imbalance,
            cost_per_accepted: cost.and_then(|it| ratio(it.total, goods)),
            cost,
            currency: info.costs.as_ref().map(|it| it.prices.currency.clone()),
            generator_lag_ms,
            ttft_ms,
            tpot_ms,
            itl_ms: gaps.stats_ms(),
            e2e_ms,
            by_slo_class: by_slo_class(&records, window.length_s),
            by_workload_class: cost::by_class(
                &records,
                info.workload_class,
                info.costs.as_ref().zip(cost.as_ref()),
            ),
            regret: Regret::of(records.iter().copied()),
            limits: None,
            disruption: None,
            caveats: info.caveats.clone(),
        }
    }
}

impl Run {
    /// The same, with what it was like while `disruptions` befell the fleet.
    #[must_use]
    pub fn disrupted(
        self,
        info: &RunInfo,
        records: &[RequestRecord],
        disruptions: &[Disruption],
    ) -> Self {
        if disruptions.is_empty() {
            return self;
        }
        let from = Timestamp::from_elapsed(info.warm_up);
        let until = from + Duration::try_from_secs_f64(self.window_s).unwrap_or_default();
        let split = Split::of(records, disruptions.to_vec(), (from, until), info.costs.as_ref());
        Self { disruption: Some(split), ..self }
    }
}

/// The time that a run's rates refer to.
struct Window {
    start: Timestamp,
    end: Timestamp,
    length_s: f64,
    drain_s: f64,
}

impl Window {
    /// A schedule whose length is known starts with the run; one that is not, with its first request.
    /// There each request has a gap to the next one, the last one that of the mean: N requests over
    /// N − 1 gaps would be more than the rate. Requests that all leave at once have no window but the
    /// time it takes to answer them.
    fn of(info: &RunInfo, sums: &Sums<'_>, requests: usize) -> Self {
        let (start, end) = match info.scheduled_for {
            Some(length) => {
                (Timestamp::from_elapsed(info.warm_up), Timestamp::from_elapsed(length))
            }
            None => {
                let (first, last) = sums.scheduled.unwrap_or_default();
                let gaps = u32::try_from(requests.saturating_sub(1)).unwrap_or(u32::MAX);
                (first, last + last.since(first).checked_div(gaps).unwrap_or_default())
            }
        };
        let last = sums.last_token;
        let end = if end > start { end } else { last };
        let length_s = end.since(start).as_secs_f64();
        Self { start, end, length_s, drain_s: last.since(end).as_secs_f64() }
    }

    /// How many of the answers to `records`, those of the warm-up included, came within the window:
    /// moved on by what answers took when the run began, as far as the warm-up was shorter.
    fn served(&self, records: &[RequestRecord], warm_up: Duration) -> usize {
        let early = records.iter().take(records.len().div_ceil(EARLY_PART));
        let mut took: Vec<f64> = early.filter_map(|it| Some(it.e2e()?.as_secs_f64())).collect();
        let took = quantile_unsorted(&mut took, 0.5).unwrap_or_default();
        let moved = Duration::try_from_secs_f64(took).unwrap_or_default().saturating_sub(warm_up);
        let (from, until) = (self.start + moved, self.end + moved);
        let came = records.iter().filter(|it| it.ending == Ending::Completed);
        came.filter_map(|it| it.last_token).filter(|at| (from..=until).contains(at)).count()
    }
}

/// Exact statistics of the durations that are there, in milliseconds.
pub(crate) fn stats_ms(durations: impl Iterator<Item = Option<Duration>>) -> Option<Stats> {
    Stats::of(durations.flatten().map(|it| it.as_secs_f64() * 1_000.0).collect())
}

/// Cached over all prompt tokens of the requests whose engine says how many were cached.
pub(crate) fn cache_hit_rate<'a>(
    completed: impl Iterator<Item = &'a RequestRecord>,
) -> Option<f64> {
    let (mut cached, mut all) = (0.0, 0.0);
    for record in completed {
        if let Some(tokens) = record.cached_tokens {
            cached += f64::from(tokens.0);
            all += f64::from(record.input_tokens.0);
        }
    }
    ratio(cached, all)
}

/// Requests that could have been good: all but those whose clients hung up on purpose.
pub(crate) fn judged(records: &[&RequestRecord]) -> usize {
    records.iter().filter(|it| it.ending != Ending::Cancelled).count()
}

#[cfg(test)]
pub(crate) mod tests;
