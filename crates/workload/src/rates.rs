//! A rate of requests that changes over time: straight lines between points.
//!
//! Before the first point the rate is the first one's, after the last point the last one's. Two
//! points at one time are a step.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Most points that a series may have: a fortnight of minutes is 20,160.
const POINTS_MAX: usize = 100_000;

/// The rate at one time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePoint {
    /// When, from the run's start.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub at: Duration,
    /// Requests per second.
    pub rate_per_s: f64,
}

/// A rate that changes over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rates(pub Vec<RatePoint>);

/// Why a series of rates cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line}: {reason}; write `seconds,requests_per_second` on each line, or a JSON list of such \
     pairs"
)]
pub struct BadSeries {
    /// Line, from 1; 1 for a list that is no JSON.
    pub line: usize,
    /// What was found.
    pub reason: String,
}

impl Rates {
    /// The same rate at all times.
    #[must_use]
    pub fn constant(rate_per_s: f64) -> Self {
        Self(vec![RatePoint { at: Duration::ZERO, rate_per_s }])
    }

    /// A rate that changes evenly from one value to the other, and then stays.
    #[must_use]
    pub fn ramp(from_per_s: f64, to_per_s: f64, over: Duration) -> Self {
        Self(vec![
            RatePoint { at: Duration::ZERO, rate_per_s: from_per_s },
            RatePoint { at: over, rate_per_s: to_per_s },
        ])
    }

    /// Reads a series: comma-separated values whose first two columns are seconds and requests per
    /// second, with or without a header, or a JSON list of such pairs or of AIPerf's objects
    /// (`time_s` and `qps`).
    ///
    /// # Errors
    /// The first line that is neither; a header may only be the first.
    pub fn parse(text: &str) -> Result<Self, BadSeries> {
        let pairs = if text.trim_start().starts_with('[') {
            let items: Vec<Item> = serde_json::from_str(text)
                .map_err(|error| BadSeries { line: error.line(), reason: error.to_string() })?;
            items.into_iter().map(Item::pair).collect()
        } else {
            parse_lines(text)?
        };
        let point = |(seconds, rate_per_s): (f64, f64)| {
            let at = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
            RatePoint { at, rate_per_s }
        };
        Ok(Self(pairs.into_iter().map(point).collect()))
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.0.is_empty() || self.0.len() > POINTS_MAX {
            problems.push(format!("series: needs 1 to {POINTS_MAX} points, has {}", self.0.len()));
        }
        if !self.0.is_sorted_by_key(|it| it.at) {
            problems.push("series: its times must not go back".to_owned());
        }
        let wrong = self.0.iter().find(|it| !(it.rate_per_s.is_finite() && it.rate_per_s >= 0.0));
        if let Some(point) = wrong {
            problems.push(format!(
                "series: the rate at {:?} needs a number from 0, has {}",
                point.at, point.rate_per_s
            ));
        } else if self.peak_per_s() <= 0.0 {
            problems.push("series: needs a rate above 0 somewhere".to_owned());
        }
        problems
    }

    /// The highest rate, in requests per second.
    #[must_use]
    pub fn peak_per_s(&self) -> f64 {
        self.0.iter().map(|it| it.rate_per_s).fold(0.0, f64::max)
    }

    /// The rates, each `factor` times as high.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let scale = |it: &RatePoint| RatePoint { rate_per_s: it.rate_per_s * factor, ..*it };
        Self(self.0.iter().map(scale).collect())
    }

    /// The rates, each `delay` later.
    #[must_use]
    pub fn delayed(&self, delay: Duration) -> Self {
        let delay = |it: &RatePoint| RatePoint { at: it.at.saturating_add(delay), ..*it };
        Self(self.0.iter().map(delay).collect())
    }

    /// The rates at `speedup` times the pace: the same curve in less time.
    #[must_use]
    pub fn sped_up(&self, speedup: f64) -> Self {
        let earlier = |at: Duration| {
            Duration::try_from_secs_f64(at.as_secs_f64() / speedup).unwrap_or(Duration::MAX)
        };
        Self(self.0.iter().map(|it| RatePoint { at: earlier(it.at), ..*it }).collect())
    }

    /// Requests that come in the first `seconds`, on average.
    pub(crate) fn total(&self, seconds: f64) -> f64 {
        let area = |piece: &Piece| {
            let length_s = (seconds.min(piece.end_s) - piece.start_s).max(0.0);
            piece.work(piece.rate_per_s, length_s)
        };
        self.pieces().iter().map(area).sum()
    }

    /// The straight lines, the last of them endless.
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        let mut pieces = Vec::with_capacity(self.0.len().saturating_add(1));
        let mut start_s = 0.0;
        let mut rate_per_s = self.0.first().map_or(0.0, |it| it.rate_per_s);
        for point in &self.0 {
            let end_s = point.at.as_secs_f64();
            if end_s > start_s {
                let slope = (point.rate_per_s - rate_per_s) / (end_s - start_s);
                pieces.push(Piece { start_s, end_s, rate_per_s, slope });
            }
            start_s = end_s;
            rate_per_s = point.rate_per_s;
        }
        pieces.push(Piece { start_s, end_s: f64::INFINITY, rate_per_s, slope: 0.0 });
        pieces
    }
}

/// A point in JSON: a pair, or an object as AIPerf has it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Item {
    Pair(f64, f64),
    Object { time_s: f64, qps: f64 },
}

impl Item {
    const fn pair(self) -> (f64, f64) {
        match self {
            Self::Pair(seconds, rate_per_s) => (seconds, rate_per_s),
            Self::Object { time_s, qps } => (time_s, qps),
        }
    }
}

fn parse_lines(text: &str) -> Result<Vec<(f64, f64)>, BadSeries> {
    let mut pairs = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|it| !it.1.trim().is_empty()) {
        let mut cells = line.split(',').map(|it| it.trim().parse::<f64>());
        match (cells.next(), cells.next()) {
            (Some(Ok(seconds)), Some(Ok(rate_per_s))) => pairs.push((seconds, rate_per_s)),
            // The names of the columns.
            _ if index == 0 => {}
            _ => {
                let reason = format!("`{}` is no pair of numbers", line.trim());
                return Err(BadSeries { line: index.saturating_add(1), reason });
            }
        }
    }
    Ok(pairs)
}

/// A stretch of time over which the rate changes evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    /// At the start.
    pub(crate) rate_per_s: f64,
    /// Change of the rate, per second and second.
    pub(crate) slope: f64,
}

impl Piece {
    /// The rate at `at_s`, which lies in the stretch.
    pub(crate) fn rate_at(&self, at_s: f64) -> f64 {
        (self.rate_per_s + self.slope * (at_s - self.start_s)).max(0.0)
    }

    /// Requests that come, on average, in `length_s` from where the rate is `rate_per_s`.
    pub(crate) fn work(&self, rate_per_s: f64, length_s: f64) -> f64 {
        if length_s > 0.0 { (rate_per_s + self.slope * length_s / 2.0) * length_s } else { 0.0 }
    }

    /// How long it takes from where the rate is `rate_per_s` until `work` requests have come on
    /// average: the positive root of `slope/2 · t² + rate · t = work`, written so that it loses no
    /// digits where the slope is small; without end where that many never come.
    pub(crate) fn time_for(&self, work: f64, rate_per_s: f64) -> f64 {
        if self.slope.abs() < f64::MIN_POSITIVE {
            return work / rate_per_s;
        }
        let root = rate_per_s.mul_add(rate_per_s, 2.0 * self.slope * work);
        if root < 0.0 { f64::INFINITY } else { 2.0 * work / (rate_per_s + root.sqrt()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_read_from_columns_and_from_json() {
        // The head of ServeGen's rate curve of m-large (Alibaba, Apache-2.0).
        let curve = "window_start_s,total_rps,active_clients\n0,212.7800,43\n600,179.6983,40\n";
        let rates = Rates::parse(curve).unwrap();
        assert_eq!(rates.0.len(), 2);
        assert_eq!(rates.0[1].at, Duration::from_secs(600));
        assert!((rates.peak_per_s() - 212.78).abs() < 1e-9);
        assert_eq!(Rates::parse("[[0, 212.78], [600, 179.6983]]").unwrap(), rates);
        let objects = r#"[{"time_s": 0, "qps": 212.78}, {"time_s": 600, "qps": 179.6983}]"#;
        assert_eq!(Rates::parse(objects).unwrap(), rates);
    }

    #[test]
    fn a_line_that_is_no_pair_is_named() {
        let error = Rates::parse("0,1\n60;5\n").unwrap_err().to_string();
        assert!(error.starts_with("line 2: `60;5` is no pair of numbers"), "{error}");
        assert!(Rates::parse("[[0, 1], [2]]").is_err());
    }

    #[test]
    fn impossible_series_are_named() {
        let rates = |points: &[(u64, f64)]| {
            let point =
                |it: &(u64, f64)| RatePoint { at: Duration::from_secs(it.0), rate_per_s: it.1 };
            Rates(points.iter().map(point).collect())
        };
        for (points, culprit) in [
            (rates(&[]), "has 0"),
            (rates(&[(5, 1.0), (4, 1.0)]), "must not go back"),
            (rates(&[(5, -1.0)]), "needs a number from 0"),
            (rates(&[(5, f64::NAN)]), "needs a number from 0"),
            (rates(&[(5, 0.0)]), "above 0 somewhere"),
        ] {
            let problems = points.problems().join("; ");
            assert!(problems.contains(culprit), "{problems}");
        }
        assert!(rates(&[(5, 0.0), (5, 2.0)]).problems().is_empty());
    }

    #[test]
    fn the_total_is_the_area_under_the_line() {
        let rates = Rates::ramp(0.0, 10.0, Duration::from_secs(10));
        assert!((rates.total(5.0) - 12.5).abs() < 1e-9);
        assert!((rates.total(20.0) - 150.0).abs() < 1e-9);
        assert!((rates.delayed(Duration::from_secs(10)).total(20.0) - 50.0).abs() < 1e-9);
        assert!((rates.sped_up(2.0).total(5.0) - 25.0).abs() < 1e-9);
    }
}
