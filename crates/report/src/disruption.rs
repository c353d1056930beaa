//! Disruptions: what a deployment, a scale-out or a fault costs those who were being served.
//!
//! A disruption opens a window when it begins. The window stays open until the fleet has recovered:
//! prompts find as much in caches as before, and first tokens come as soon. Figures inside and outside
//! of the windows stand beside each other, and blended in the proportion that a number of such
//! disruptions a day makes: what a fleet is worth that is deployed to that often.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::time::Timestamp;

use crate::{
    cost::Costs,
    record::{Ending, RequestRecord},
    stats::{Stats, count, ratio},
    summary::{cache_hit_rate, stats_ms},
    windows::Window,
};

/// Seconds that are looked at together when asking whether the fleet has recovered.
const RECOVERED_FOR_S: usize = 5;

/// Share of the hit rate before the disruption that counts as recovered.
const HIT_RATE_SHARE: f64 = 0.9;

/// Median TTFT over that before the disruption that still counts as recovered.
const TTFT_FACTOR: f64 = 1.25;

/// Seconds in a day.
const DAY_S: f64 = 86_400.0;

/// Something that befell the fleet while it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disruption {
    /// What: `rolling-deployment`, `scale-out`, `rotate-salt` …
    pub kind: String,
    /// When it began.
    pub from: Timestamp,
    /// When its window closed.
    pub until: Timestamp,
    /// Whether the fleet had recovered then; if not, it was the run that ended, and the window is the
    /// shortest that it can have been.
    #[serde(default = "always")]
    pub recovered: bool,
}

/// What results say that were written before anybody asked.
const fn always() -> bool {
    true
}

impl Disruption {
    /// What befell the fleet `from` then on, until `ended` at least, in a run of these `windows`.
    #[must_use]
    pub fn seen(kind: String, windows: &[Window], from: Timestamp, ended: Timestamp) -> Self {
        let back = recovered(windows, from, ended);
        let end = Timestamp::from_elapsed(Duration::from_secs(windows.len() as u64));
        let until = back.unwrap_or_else(|| end.max(ended).max(from));
        Self { kind, from, until, recovered: back.is_some() }
    }

    /// Whether its window was open at any time from `from` to `until`.
    #[must_use]
    pub fn touches(&self, from: Timestamp, until: Timestamp) -> bool {
        from < self.until && self.from <= until
    }
}

/// When a fleet that was disrupted at `from`, until `ended` at least, had recovered: the first second
/// from which on, for five seconds, the hit rate was nine tenths of what it had been in the time
/// before, and the median TTFT at most a quarter longer. None where the run ends before that.
fn recovered(windows: &[Window], from: Timestamp, ended: Timestamp) -> Option<Timestamp> {
    let second = |at: Timestamp| usize::try_from(at.elapsed().as_secs()).unwrap_or(usize::MAX);
    let before = windows.get(..second(from).min(windows.len())).unwrap_or_default();
    // The start of a run, when caches were still filling, is no measure.
    let before = before.get(before.len() / 2..).unwrap_or_default();
    let (hit_before, ttft_before) = (mean_hit_rate(before), median_ttft(before));
    let start = second(ended.max(from));
    let last = windows.len();
    let is_back = |at: usize| {
        let Some(slice) = windows.get(at..at.saturating_add(RECOVERED_FOR_S)) else { return false };
        let hits = hit_before.is_none_or(|before| {
            mean_hit_rate(slice).is_some_and(|it| it >= before * HIT_RATE_SHARE)
        });
        let ttft = ttft_before
            .is_none_or(|before| median_ttft(slice).is_some_and(|it| it <= before * TTFT_FACTOR));
        hits && ttft
    };
    let at = (start..last).find(|at| is_back(*at))?;
    let at = Timestamp::from_elapsed(Duration::from_secs(at as u64));
    Some(at.max(ended).max(from))
}

fn mean_hit_rate(windows: &[Window]) -> Option<f64> {
    let rates = || windows.iter().filter_map(|it| it.cache_hit_rate);
    ratio(rates().sum(), count(rates().count()))
}

fn median_ttft(windows: &[Window]) -> Option<f64> {
    let mut medians: Vec<f64> = windows.iter().filter_map(|it| it.ttft_ms_p50).collect();
    crate::stats::quantile_unsorted(&mut medians, 0.5)
}

/// What requests met that were scheduled in a part of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// Length, in seconds.
    pub length_s: f64,
    /// Requests scheduled.
    pub requests: u64,
    /// Good ones per second.
    pub request_goodput: f64,
    /// Good ones over all.
    pub good_request_fraction: Option<f64>,
    /// Cached over all prompt tokens.
    pub cache_hit_rate: Option<f64>,
    /// Time to first token.
    pub ttft_ms: Option<Stats>,
    /// All costs for each good request.
    pub cost_per_accepted: Option<f64>,
}

/// A run inside and outside of its disruption windows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The disruptions.
    pub disruptions: Vec<Disruption>,
    /// Inside of their windows.
    pub inside: Part,
    /// Outside.
    pub outside: Part,
    /// Mean length of a window, in seconds.
    pub window_mean_s: f64,
}

impl Split {
    /// Splits the `records` scheduled between `from` and `until` by whether a window was open while they
    /// were under way: what is lost with a replica was sent to it before.
    #[must_use]
    pub fn of(
        records: &[RequestRecord],
        disruptions: Vec<Disruption>,
        (from, until): (Timestamp, Timestamp),
        costs: Option<&Costs>,
    ) -> Self {
        let is_inside = |record: &RequestRecord| {
            disruptions.iter().any(|it| it.touches(record.scheduled, record.ended))
        };
        let measured = records.iter().filter(|it| from <= it.scheduled && it.scheduled < until);
        let (inside, outside): (Vec<_>, Vec<_>) = measured.partition(|it| is_inside(it));
        let clipped = disruptions.iter().map(|it| (it.from.max(from), it.until.min(until)));
        let inside_s = union_s(clipped.collect());
        let outside_s = until.since(from).as_secs_f64() - inside_s;
        let lengths: f64 = disruptions.iter().map(|it| it.until.since(it.from).as_secs_f64()).sum();
        let window_mean_s = ratio(lengths, count(disruptions.len())).unwrap_or_default();
        Self {
            inside: Part::of(&inside, inside_s, costs),
            outside: Part::of(&outside, outside_s.max(0.0), costs),
            window_mean_s,
            disruptions,
        }
    }

    /// Disruptions that the fleet had not recovered from when the run ended.
    #[must_use]
    pub fn unrecovered(&self) -> usize {
        self.disruptions.iter().filter(|it| !it.recovered).count()
    }

    /// Most such windows that a day has room for.
    #[must_use]
    pub fn per_day_max(&self) -> Option<f64> {
        ratio(DAY_S, self.window_mean_s)
    }

    /// What a fleet is like that has so many such windows a day, each figure weighted by what it counts:
    /// TTFT by requests, the good fraction by requests, the hit rate by requests, the cost by good
    /// requests. None where both parts say nothing, or the windows fill more than the day. Where a fleet
    /// had not recovered when its run ended, a window takes longer than was seen, and the blend is too
    /// favourable.
    #[must_use]
    pub fn blended(&self, per_day: f64) -> Option<Blend> {
        let share = per_day * self.window_mean_s / DAY_S;
        if !(0.0..=1.0).contains(&share) {
            return None;
        }
        let (inside, outside) = (&self.inside, &self.outside);
        let rate = |part: &Part| ratio(part.requests as f64, part.length_s).unwrap_or_default();
        let by_requests = (share * rate(inside), (1.0 - share) * rate(outside));
        let by_good = (share * inside.request_goodput, (1.0 - share) * outside.request_goodput);
        let ttft = |part: &Part| part.ttft_ms.map(|it| it.mean);
        Some(Blend {
            per_day,
            share_of_time: share,
            is_bound: self.unrecovered() > 0,
            ttft_ms_mean: weighted(by_requests, ttft(inside), ttft(outside)),
            cache_hit_rate: weighted(by_requests, inside.cache_hit_rate, outside.cache_hit_rate),
            good_request_fraction: weighted(
                by_requests,
                inside.good_request_fraction,
                outside.good_request_fraction,
            ),
            cost_per_accepted: weighted(
                by_good,
                inside.cost_per_accepted,
                outside.cost_per_accepted,
            ),
        })
    }
}

/// What a fleet is like that is disrupted a number of times a day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Blend {
    /// Disruptions a day.
    pub per_day: f64,
    /// Share of the day in their windows.
    pub share_of_time: f64,
    /// Whether it is only a bound, since a fleet had not recovered when its run ended: it is no better than
    /// this.
    #[serde(default)]
    pub is_bound: bool,
    /// Mean time to first token.
    pub ttft_ms_mean: Option<f64>,
    /// Cached over all prompt tokens.
    pub cache_hit_rate: Option<f64>,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// All costs for each good request.
    pub cost_per_accepted: Option<f64>,
}

impl Part {
    fn of(records: &[&RequestRecord], length_s: f64, costs: Option<&Costs>) -> Self {
        let completed = || records.iter().filter(|it| it.ending == Ending::Completed).copied();
        let good = count(records.iter().filter(|it| it.slo.good).count());
        let asked = records.iter().filter(|it| it.ending != Ending::Cancelled).count();
        let cost = costs.map(|it| it.of(records.iter().copied(), length_s).total);
        Self {
            length_s,
            requests: records.len() as u64,
            request_goodput: ratio(good, length_s).unwrap_or_default(),
            good_request_fraction: ratio(good, count(asked)),
            cache_hit_rate: cache_hit_rate(completed()),
            ttft_ms: stats_ms(completed().map(RequestRecord::ttft)),
            cost_per_accepted: cost.and_then(|it| ratio(it, good)),
        }
    }
}

/// The mean of what is there, by weight.
fn weighted(weights: (f64, f64), one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one.filter(|_| weights.0 > 0.0), other.filter(|_| weights.1 > 0.0)) {
        (Some(one), Some(other)) => {
            ratio(one.mul_add(weights.0, other * weights.1), weights.0 + weights.1)
        }
        (one, other) => one.or(other),
    }
}

/// Length of what the intervals cover together, in seconds.
fn union_s(mut intervals: Vec<(Timestamp, Timestamp)>) -> f64 {
    intervals.sort_unstable();
    let mut covered = Duration::ZERO;
    let mut reached = Timestamp::ZERO;
    for (from, until) in intervals {
        covered = covered.saturating_add(until.since(from.max(reached)));
        reached = reached.max(until);
    }
    covered.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cost::Prices, summary::tests::answered};

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(seconds))
    }

    fn near(actual: Option<f64>, expected: f64) {
        assert!(actual.is_some_and(|it| (it - expected).abs() < 1e-9), "{actual:?}, {expected}");
    }

    /// A hundred seconds with a request each; from 40 to 60 it finds nothing cached and is slow.
    fn records() -> Vec<RequestRecord> {
        let is_bad = |second: u64| (40..60).contains(&second);
        (0..100)
            .map(|it| {
                // Done within its second, but where it is slow.
                let (ttft, cached) = if is_bad(it) { (800, 0) } else { (50, 80) };
                answered(it * 1_000, ttft, Some(cached))
            })
            .collect()
    }

    fn split() -> Split {
        let kind = "rolling-deployment".to_owned();
        let disruption = Disruption { kind, from: at(40), until: at(60), recovered: true };
        let prices = Prices { replica_hour: 36.0, ..Prices::default() };
        let costs = Costs { prices, replicas: 1 };
        Split::of(&records(), vec![disruption], (at(0), at(100)), Some(&costs))
    }

    #[test]
    fn inside_and_outside_are_told_apart() {
        let split = split();
        let (inside, outside) = (split.inside, split.outside);
        assert_eq!((inside.requests, outside.requests), (20, 80));
        near(Some(inside.length_s), 20.0);
        near(inside.cache_hit_rate, 0.0);
        near(outside.cache_hit_rate, 0.8);
        near(inside.ttft_ms.map(|it| it.mean), 800.0);
        near(outside.good_request_fraction, 1.0);
        // A cent a second; inside, none of the twenty was good.
        assert_eq!(inside.cost_per_accepted, None);
        near(outside.cost_per_accepted, 0.01);
    }

    #[test]
    fn what_was_under_way_when_a_window_opened_is_inside() {
        let kind = "crash".to_owned();
        let window = Disruption { kind, from: at(40), until: at(60), recovered: true };
        let split = |scheduled_s: u64, ttft_ms: u64| {
            let record = answered(scheduled_s * 1_000, ttft_ms, None);
            let split = Split::of(&[record], vec![window.clone()], (at(0), at(100)), None);
            (split.inside.requests, split.outside.requests)
        };
        assert_eq!(split(38, 500), (0, 1));
        assert_eq!(split(38, 5_000), (1, 0));
        assert_eq!((split(59, 500), split(60, 500)), ((1, 0), (0, 1)));
    }

    #[test]
    fn windows_that_overlap_are_counted_once() {
        near(Some(union_s(vec![(at(5), at(9)), (at(1), at(6)), (at(20), at(21))])), 9.0);
    }

    #[test]
    fn blending_weighs_by_the_time_that_disruptions_take() {
        let split = split();
        // 432 windows of 20 seconds are a tenth of a day.
        let blend = split.blended(432.0).unwrap();
        near(Some(blend.share_of_time), 0.1);
        near(blend.cache_hit_rate, 0.72);
        near(blend.ttft_ms_mean, 125.0);
        near(blend.good_request_fraction, 0.9);
        near(split.blended(0.0).unwrap().cache_hit_rate, 0.8);
        assert_eq!(split.blended(1e6), None);
    }

    #[test]
    fn a_window_stays_open_until_caches_are_warm_again() {
        let windows = crate::windows::windows(&records());
        let seen = |ended| Disruption::seen("crash".to_owned(), &windows, at(40), ended);
        let closed = seen(at(45));
        let second = closed.until.elapsed().as_secs();
        assert!((58..=62).contains(&second) && closed.recovered, "{closed:?}");
        // What recovers before the event itself is over is open until then.
        assert_eq!(seen(at(80)).until, at(80));
    }

    #[test]
    fn a_fleet_that_has_not_recovered_is_not_told_as_one_that_has() {
        // The run ends while everything is still slow; and while it has been as before for two seconds.
        for last_s in [55, 62] {
            let records: Vec<RequestRecord> = records().into_iter().take(last_s).collect();
            let windows: Vec<Window> =
                crate::windows::windows(&records).into_iter().take(last_s).collect();
            let open = Disruption::seen("crash".to_owned(), &windows, at(40), at(45));
            let until = open.until.elapsed().as_secs();
            assert!(!open.recovered && until == last_s as u64, "{last_s}: {open:?}");
            let split = Split::of(&records, vec![open], (at(0), at(last_s as u64)), None);
            assert_eq!(split.unrecovered(), 1);
            assert!(split.blended(2.0).unwrap().is_bound);
        }
        assert!(!split().blended(2.0).unwrap().is_bound);
    }
}
