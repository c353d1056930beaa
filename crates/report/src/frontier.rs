//! The goodput frontier: what a fleet gives at each offered rate, and where that ends.
//!
//! A rate is measured by runs that know nothing of each other, each with a seed of its own. A figure
//! of a rate is the mean of its runs' figures; percentiles are exact within a run and averaged over
//! runs. [`knee`] has the rule for the knees.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::slo::Slo;

use crate::{
    classes::SloClass,
    disruption::{Blend, Split},
    knee::{self, Curve, Estimate, NoKnee},
    stats::{Stats, count, ratio},
    summary::Run,
};

/// What `frontier.json` calls its own layout.
pub const SCHEMA: &str = "sluice.frontier/1";

/// How far past its knee a fleet is judged.
pub const OVERLOAD: f64 = 1.5;

/// What caches and engines hold when measuring begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Warmth {
    /// Engines have just been started: caches are empty, and for a while everything takes longer.
    Cold,
    /// Engines run at full speed; caches are empty.
    WarmModelColdCache,
    /// Traffic of the same kind has come for the warm-up.
    Warm,
    /// It has come for so long that the hit rate has stopped growing.
    HotSteadyState,
    /// Warm, and then something happens.
    Disrupted,
}

impl Warmth {
    /// Every state, from the coldest on.
    pub const ALL: [Self; 5] =
        [Self::Cold, Self::WarmModelColdCache, Self::Warm, Self::HotSteadyState, Self::Disrupted];

    /// The name as files and command lines spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::WarmModelColdCache => "warm-model-cold-cache",
            Self::Warm => "warm",
            Self::HotSteadyState => "hot-steady-state",
            Self::Disrupted => "disrupted",
        }
    }
}

impl std::str::FromStr for Warmth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        let named = Self::ALL.into_iter().find(|it| it.as_str() == text);
        named.ok_or_else(|| format!("'{text}' is no state of caches; use one of {names}"))
    }
}

/// How near a rate is to the knee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Band {
    /// Up to half of the knee.
    Comfortable,
    /// Up to 70 %.
    Moderate,
    /// Up to 90 %.
    Busy,
    /// Up to 110 %.
    Stressed,
    /// Beyond.
    Overloaded,
}

impl Band {
    /// The band of a rate that is `load` times the knee.
    #[must_use]
    pub fn of(load: f64) -> Self {
        // A rate that is meant to be on an edge may miss it by what rounding leaves.
        match load - 1e-3 {
            it if it <= 0.5 => Self::Comfortable,
            it if it <= 0.7 => Self::Moderate,
            it if it <= 0.9 => Self::Busy,
            it if it <= 1.1 => Self::Stressed,
            _ => Self::Overloaded,
        }
    }

    /// The band as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Comfortable => "comfortable",
            Self::Moderate => "moderate",
            Self::Busy => "busy",
            Self::Stressed => "stressed",
            Self::Overloaded => "overloaded",
        }
    }
}

/// What was measured at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Rate that was asked for, in requests per second.
    pub rate_per_s: f64,
    /// Rate that came about.
    pub offered_rps: f64,
    /// How near it is to the knee.
    pub band: Band,
    /// Whether it is the one that stands for the knee: the highest rate measured that is not beyond.
    #[serde(default)]
    pub is_at_knee: bool,
    /// Runs.
    pub runs: u64,
    /// Requests of all runs.
    pub requests: u64,
    /// Completed requests per second of the window, whenever they were completed.
    pub request_throughput: f64,
    /// Answers that came per second of the window, whenever they were asked for: what the fleet
    /// sustains. It has the same denominator as the goodput and is never less.
    pub sustained_rps: f64,
    /// Good requests per second.
    pub request_goodput: f64,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// Output tokens of completed requests per second.
    pub output_token_throughput: f64,
    /// Output tokens of good requests per second.
    pub output_token_goodput: f64,
    /// Failed requests over all.
    pub error_rate: f64,
    /// Requests turned away over all.
    pub refusal_rate: f64,
    /// Times that requests were sent again, over all requests.
    pub retry_rate: f64,
    /// Cached over all prompt tokens.
    pub cache_hit_rate: Option<f64>,
    /// All costs for each good request.
    pub cost_per_accepted: Option<f64>,
    /// Time to first token.
    pub ttft_ms: Option<Stats>,
    /// Time per output token.
    pub tpot_ms: Option<Stats>,
    /// Time to the last token.
    pub e2e_ms: Option<Stats>,
    /// Time from the last scheduled send to the last token, in seconds.
    pub drain_s: f64,
    /// 99th percentile of how late requests were sent.
    pub generator_lag_ms_p99: Option<f64>,
    /// What each SLO class had, where there are classes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_slo_class: Vec<ClassPoint>,
}

/// What one SLO class had at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassPoint {
    /// Its name; empty for what belongs to none.
    pub name: String,
    /// Good requests per second.
    pub request_goodput: f64,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// For a batch: rows accepted within its completion window, over all rows.
    pub accepted_row_rate: Option<f64>,
}

/// The figures of each class, means over `runs`.
fn by_slo_class(runs: &[Run]) -> Vec<ClassPoint> {
    let mut classes: BTreeMap<&str, Vec<&SloClass>> = BTreeMap::new();
    for class in runs.iter().flat_map(|it| &it.by_slo_class) {
        classes.entry(&class.name).or_default().push(class);
    }
    let point = |(name, of): (&str, Vec<&SloClass>)| ClassPoint {
        name: name.to_owned(),
        request_goodput: mean(of.iter().map(|it| it.request_goodput)).unwrap_or_default(),
        good_request_fraction: mean(of.iter().filter_map(|it| it.good_request_fraction)),
        accepted_row_rate: mean(of.iter().filter_map(|it| it.accepted_row_rate)),
    };
    classes.into_iter().map(point).collect()
}

impl Point {
    /// The figures of `runs`, all of one rate.
    #[must_use]
    pub fn of(rate_per_s: f64, runs: &[Run]) -> Self {
        let mean = |of: fn(&Run) -> f64| mean(runs.iter().map(of)).unwrap_or_default();
        let some = |of: fn(&Run) -> Option<f64>| self::mean(runs.iter().filter_map(of));
        let stats = |of: fn(&Run) -> Option<Stats>| mean_stats(runs.iter().filter_map(of));
        let sum = |of: fn(&Run) -> u64| runs.iter().map(of).sum::<u64>();
        let requests = sum(|it| it.requests);
        // Whose client hung up on purpose was neither served well nor failed.
        let asked = requests.saturating_sub(sum(|it| it.cancelled));
        let share = |part: u64| ratio(part as f64, requests as f64).unwrap_or_default();
        // Costs over results of all runs: a mean of ratios would be none where one run had no result.
        let good = sum(|it| it.good) as f64;
        let cost = runs.iter().map(|it| it.cost.map(|it| it.total)).sum::<Option<f64>>();
        Self {
            rate_per_s,
            offered_rps: mean(|it| it.offered_rps),
            band: Band::Comfortable,
            is_at_knee: false,
            runs: runs.len() as u64,
            requests,
            request_throughput: mean(|it| it.request_throughput),
            sustained_rps: mean(|it| it.served_rps),
            request_goodput: mean(|it| it.request_goodput),
            good_request_fraction: ratio(good, asked as f64),
            output_token_throughput: mean(|it| it.output_token_throughput),
            output_token_goodput: mean(|it| it.output_token_goodput),
            error_rate: share(sum(|it| it.failed)),
            refusal_rate: share(sum(|it| it.rejected)),
            retry_rate: share(sum(|it| it.retries)),
            cache_hit_rate: some(|it| it.cache_hit_rate),
            cost_per_accepted: cost.and_then(|it| ratio(it, good)),
            ttft_ms: stats(|it| it.ttft_ms),
            tpot_ms: stats(|it| it.tpot_ms),
            e2e_ms: stats(|it| it.e2e_ms),
            drain_s: mean(|it| it.drain_s),
            generator_lag_ms_p99: some(|it| it.generator_lag_ms.map(|it| it.p99)),
            by_slo_class: by_slo_class(runs),
        }
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0.0, 0_usize), |(sum, n), it| (sum + it, n.saturating_add(1)));
    ratio(sum, count(n))
}

fn mean_stats(all: impl Iterator<Item = Stats>) -> Option<Stats> {
    let all: Vec<Stats> = all.collect();
    let of = |of: fn(&Stats) -> f64| mean(all.iter().map(of));
    Some(Stats {
        mean: of(|it| it.mean)?,
        std: of(|it| it.std)?,
        p50: of(|it| it.p50)?,
        p90: of(|it| it.p90)?,
        p95: of(|it| it.p95)?,
        p99: of(|it| it.p99)?,
        max: of(|it| it.max)?,
    })
}

/// What a fleet does in one state of caches and engines, all at one rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The state.
    pub warmth: Warmth,
    /// What was measured in it.
    pub point: Point,
}

/// A knee, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct KneeOf {
    /// Offered rate at the knee, in requests per second.
    pub rate_per_s: Option<Estimate>,
    /// What is had there.
    pub value: Option<f64>,
    /// Why there is none.
    pub none: Option<NoKnee>,
}

/// One policy's frontier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// Name of the workload.
    pub workload: String,
    /// Name of the policy.
    pub policy: String,
    /// Which clock: `real` or `virtual`.
    pub clock: String,
    /// What the fleet's caches held when each run began to count.
    pub warmth: Warmth,
    /// How that was brought about, in a sentence.
    pub warmth_produced: String,
    /// Replicas, where known.
    pub replicas: Option<u32>,
    /// The promise.
    #[serde(with = "crate::millis::slo")]
    pub slo: Slo,
    /// The currency of all costs.
    pub currency: Option<String>,
    /// What was measured, by rate.
    pub points: Vec<Point>,
    /// The knee of the goodput.
    pub knee_by_goodput: KneeOf,
    /// The knee of the throughput.
    pub knee_by_throughput: KneeOf,
    /// Goodput at 1.5 times the knee over that at the knee.
    pub collapse_ratio: Option<Estimate>,
    /// The same rate in each state, where that was measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<State>,
    /// What a disruption did to the disrupted state.
    #[serde(default)]
    pub disruption: Option<Split>,
    /// The same blended for a number of disruptions a day.
    #[serde(default)]
    pub blend: Option<Blend>,
    /// Why figures are not the target's, where they are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
}

/// A `frontier.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frontiers {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// One for each policy.
    pub frontiers: Vec<Frontier>,
}

impl Frontiers {
    /// A file of `frontiers`.
    #[must_use]
    pub fn new(frontiers: Vec<Frontier>) -> Self {
        Self { schema: SCHEMA.to_owned(), frontiers }
    }
}

/// The points and knees of the runs at each rate, ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// What was measured, by rate.
    pub points: Vec<Point>,
    /// The knee of the goodput.
    pub knee_by_goodput: KneeOf,
    /// The knee of the throughput.
    pub knee_by_throughput: KneeOf,
    /// Goodput at 1.5 times the knee over that at the knee.
    pub collapse_ratio: Option<Estimate>,
}

impl Measured {
    /// Measures the runs at each rate, ascending.
    #[must_use]
    pub fn of(rates: &[(f64, Vec<Run>)]) -> Self {
        let curve = |of: &dyn Fn(&Run) -> f64| {
            let values = |runs: &[Run]| runs.iter().map(of).collect();
            Curve(rates.iter().map(|(rate, runs)| (*rate, values(runs))).collect())
        };
        let goodput = curve(&|it| it.request_goodput);
        let throughput = curve(&|it| it.served_rps);
        let of_smooth = |points: &[(f64, f64)]| knee::find(&knee::running_maximum(points));
        let of_goodput = |points: &[(f64, f64)]| of_smooth(&knee::smoothed(points));
        let knee_by_goodput = knee_of(&goodput, of_goodput);
        let collapse_ratio = goodput.estimate(|points| {
            let points = knee::smoothed(points);
            let knee = of_smooth(&points).ok()?.rate_per_s;
            let at_knee = knee::value_at(&points, knee)?;
            ratio(knee::value_at(&points, knee * OVERLOAD)?, at_knee)
        });
        let mut points: Vec<Point> =
            rates.iter().map(|(rate, runs)| Point::of(*rate, runs)).collect();
        let best = points.iter().max_by(|a, b| a.request_goodput.total_cmp(&b.request_goodput));
        let knee = knee_by_goodput.rate_per_s.map(|it| it.value);
        let knee = knee.or(best.map(|it| it.rate_per_s)).unwrap_or(f64::INFINITY);
        for point in &mut points {
            point.band = Band::of(point.rate_per_s / knee);
        }
        let knee = knee_by_goodput.rate_per_s.map(|it| it.value);
        let below = |it: &&mut Point| knee.is_some_and(|knee| it.rate_per_s <= knee * 1.001);
        if let Some(point) = points.iter_mut().rfind(below) {
            point.is_at_knee = true;
        }
        let knee_by_throughput = knee_of(&throughput, knee::find);
        Self { points, knee_by_goodput, knee_by_throughput, collapse_ratio }
    }
}

fn knee_of(curve: &Curve, rule: impl Fn(&[(f64, f64)]) -> Result<knee::Knee, NoKnee>) -> KneeOf {
    match rule(&curve.mean()) {
        Err(none) => KneeOf { rate_per_s: None, value: None, none: Some(none) },
        Ok(knee) => KneeOf {
            rate_per_s: curve.estimate(|points| rule(points).ok().map(|it| it.rate_per_s)),
            value: Some(knee.value),
            none: None,
        },
    }
}

impl Frontier {
    /// The state called `warmth`, where it was measured.
    #[must_use]
    pub fn state(&self, warmth: Warmth) -> Option<&Point> {
        self.states.iter().find(|it| it.warmth == warmth).map(|it| &it.point)
    }

    /// The rate at the knee by goodput, or that of the most goodput where there is none.
    #[must_use]
    pub fn knee_or_best(&self) -> Option<f64> {
        let best =
            || self.points.iter().max_by(|a, b| a.request_goodput.total_cmp(&b.request_goodput));
        let knee = self.knee_by_goodput.rate_per_s.map(|it| it.value);
        knee.or_else(|| best().map(|it| it.rate_per_s))
    }

    /// The point that stands for the knee: the highest rate measured that is not beyond; none where
    /// there is no knee.
    #[must_use]
    pub fn at_knee(&self) -> Option<&Point> {
        self.points.iter().find(|it| it.is_at_knee)
    }
}

#[cfg(test)]
pub(crate) mod tests;
