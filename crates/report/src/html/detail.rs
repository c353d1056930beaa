//! One run as a page shows it: quantiles, slices of time, and what each replica did.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use crate::{
    disruption::Disruption,
    record::{Ending, RequestRecord},
    stats::{quantile, ratio},
    windows::{self, Window},
};

/// Slices that a run is cut into at most.
const SLICES_MAX: u64 = 400;

/// Replicas that are told apart at most; the busiest.
const REPLICAS_MAX: usize = 128;

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Detail {
    /// What it is called.
    pub name: String,
    /// Shares of the requests that the quantiles belong to, 0 to 1.
    pub shares: Vec<f64>,
    /// Quantiles of the time to first token, in milliseconds, one for each share.
    pub ttft_ms: Vec<f64>,
    /// The same of the time per output token.
    pub tpot_ms: Vec<f64>,
    /// The same of the time to the last token.
    pub e2e_ms: Vec<f64>,
    /// Length of a slice, in seconds.
    pub slice_s: u64,
    /// The run in slices.
    pub slices: Vec<Slice>,
    /// What each replica did, the busiest first.
    pub replicas: Vec<ReplicaFigures>,
    /// When something was wrong.
    pub disruptions: Vec<Disrupted>,
}

/// A slice of a run: rates per second, and latencies in milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Slice {
    /// Start, in seconds.
    pub at: u64,
    /// Requests scheduled.
    pub offered: f64,
    /// Whole answers.
    pub completed: f64,
    /// Good ones.
    pub good: f64,
    /// Requests refused or failed.
    pub lost: f64,
    /// Requests in flight at its end.
    pub in_flight: u64,
    /// Median TTFT.
    pub ttft_p50: Option<f64>,
    /// 99th percentile.
    pub ttft_p99: Option<f64>,
    /// Cached over all prompt tokens.
    pub hits: Option<f64>,
}

/// What one replica did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplicaFigures {
    /// Its name.
    pub name: String,
    /// Whole answers.
    pub completed: u64,
    /// Good ones.
    pub good: u64,
    /// Cached over all prompt tokens.
    pub hits: Option<f64>,
}

/// When something was wrong, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Disrupted {
    /// What.
    pub kind: String,
    /// From when.
    pub from: f64,
    /// Until when caches and TTFT were as before.
    pub until: f64,
}

impl Detail {
    /// What `records` come to.
    #[must_use]
    pub fn of(name: &str, records: &[RequestRecord], disruptions: &[Disruption]) -> Self {
        let shares: Vec<f64> = (0..98)
            .map(|it| f64::from(it) / 100.0)
            .chain([0.98, 0.99, 0.995, 0.999, 1.0])
            .collect();
        let Looked { ttft_ms, tpot_ms, e2e_ms, replicas, last_s: seconds } = Looked::at(records);
        let quantiles = |mut all: Vec<f64>| -> Vec<f64> {
            all.sort_unstable_by(f64::total_cmp);
            shares.iter().filter_map(|share| quantile(&all, *share)).map(short).collect()
        };
        let slice_s = seconds.saturating_add(1).div_ceil(SLICES_MAX).max(1);
        let slices = windows::slices(records, slice_s);
        Self {
            name: name.to_owned(),
            ttft_ms: quantiles(ttft_ms),
            tpot_ms: quantiles(tpot_ms),
            e2e_ms: quantiles(e2e_ms),
            shares,
            slice_s,
            slices: slices.iter().map(|it| Slice::of(it, slice_s)).collect(),
            replicas: figures(replicas),
            disruptions: disruptions.iter().map(Disrupted::of).collect(),
        }
    }
}

impl Slice {
    fn of(window: &Window, slice_s: u64) -> Self {
        let per_s = |count: u64| short(count as f64 / slice_s as f64);
        Self {
            at: window.second,
            offered: per_s(window.offered),
            completed: per_s(window.completed),
            good: per_s(window.good),
            lost: per_s(window.rejected.saturating_add(window.failed)),
            in_flight: window.in_flight,
            ttft_p50: window.ttft_ms_p50.map(short),
            ttft_p99: window.ttft_ms_p99.map(short),
            hits: window.cache_hit_rate.map(short),
        }
    }
}

impl Disrupted {
    fn of(it: &Disruption) -> Self {
        Self {
            kind: it.kind.clone(),
            from: it.from.elapsed().as_secs_f64(),
            until: it.until.elapsed().as_secs_f64(),
        }
    }
}

/// What one look at all records finds.
#[derive(Default)]
struct Looked<'a> {
    ttft_ms: Vec<f64>,
    tpot_ms: Vec<f64>,
    e2e_ms: Vec<f64>,
    replicas: BTreeMap<&'a str, Sums>,
    /// When the last request ended, in seconds.
    last_s: u64,
}

#[derive(Default)]
struct Sums {
    completed: u64,
    good: u64,
    cached: u64,
    prompt: u64,
}

impl<'a> Looked<'a> {
    fn at(records: &'a [RequestRecord]) -> Self {
        let ms = |it: Duration| it.as_secs_f64() * 1_000.0;
        let mut looked = Self::default();
        for record in records {
            looked.last_s = looked.last_s.max(record.ended.elapsed().as_secs());
            if record.ending != Ending::Completed {
                continue;
            }
            looked.ttft_ms.extend(record.ttft().map(ms));
            looked.tpot_ms.extend(record.tpot().map(ms));
            looked.e2e_ms.extend(record.e2e().map(ms));
            let Some(name) = record.replica.as_deref() else { continue };
            let sums = looked.replicas.entry(name).or_default();
            sums.completed = sums.completed.saturating_add(1);
            sums.good = sums.good.saturating_add(record.slo.good.into());
            if let Some(cached) = record.cached_tokens {
                sums.cached = sums.cached.saturating_add(cached.0.into());
                sums.prompt = sums.prompt.saturating_add(record.input_tokens.0.into());
            }
        }
        looked
    }
}

/// The figures of each replica, the busiest first.
fn figures(all: BTreeMap<&str, Sums>) -> Vec<ReplicaFigures> {
    let figures = |(name, sums): (&str, Sums)| ReplicaFigures {
        name: name.to_owned(),
        completed: sums.completed,
        good: sums.good,
        hits: ratio(sums.cached as f64, sums.prompt as f64).map(short),
    };
    let mut all: Vec<ReplicaFigures> = all.into_iter().map(figures).collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.completed));
    all.truncate(REPLICAS_MAX);
    all
}

/// A number in the four digits that a chart can show.
fn short(value: f64) -> f64 {
    if value.abs() < 1e-12 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10.0_f64.powf(3.0 - value.abs().log10().floor());
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::answered;

    fn record(number: u64) -> RequestRecord {
        RequestRecord {
            replica: Some(format!("replica-{}", number % 3)),
            ..answered(number * 10, 200 + number % 700, Some(50))
        }
    }

    #[test]
    fn a_page_does_not_grow_with_the_requests() {
        let size = |requests: u64| {
            let records: Vec<RequestRecord> = (0..requests).map(record).collect();
            serde_json::to_string(&Detail::of("x", &records, &[])).unwrap().len()
        };
        let large = size(200_000);
        assert!(large < 100_000 && large < 5 * size(5_000), "{large}");
    }

    #[test]
    fn replicas_are_told_apart_the_busiest_first() {
        let records: Vec<RequestRecord> = (0..10).map(record).collect();
        let replicas = Detail::of("x", &records, &[]).replicas;
        let completed: Vec<u64> = replicas.iter().map(|it| it.completed).collect();
        assert_eq!((completed.as_slice(), replicas[0].hits), (&[4, 3, 3][..], Some(0.5)));
    }

    #[test]
    fn quantiles_are_exact_to_what_a_chart_shows() {
        let records: Vec<RequestRecord> = (0..101).map(|it| answered(0, it, None)).collect();
        let detail = Detail::of("x", &records, &[]);
        assert_eq!(detail.shares.len(), detail.ttft_ms.len());
        let at = |share: f64| {
            let place = detail.shares.iter().position(|it| (*it - share).abs() < 1e-9).unwrap();
            detail.ttft_ms[place]
        };
        assert!((at(0.5) - 50.0).abs() < 1e-9 && (at(1.0) - 100.0).abs() < 1e-9);
        assert!((short(123_456.0) - 123_500.0).abs() < 1e-6);
    }
}
