//! When requests come, as a scenario states it.

use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as friendly_optional, required as friendly,
};
use serde::{Deserialize, Serialize};
use workload::{Load, Pacing, Rates, Schedule};

/// When requests come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBlock {
    /// Requests per second, each rate a run of its own; a trace keeps its times where there is none.
    #[serde(default)]
    pub rates_per_s: Vec<f64>,
    /// How requests are spaced around a rate.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// Shape of the gaps where arrivals are `gamma`: below 1 they come in bursts, above 1 steadier
    /// than at random.
    #[serde(default = "unit")]
    pub burstiness: f64,
    /// Reaches each rate evenly, from a lower or higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<Ramp>,
    /// A rate that changes over time. Where rates are given as well, each run has this curve with
    /// that rate as its peak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<Rates>,
    /// How many times faster than recorded a trace is sent.
    #[serde(default = "unit")]
    pub speedup: f64,
    /// How long requests come; a trace otherwise goes to its end.
    #[serde(default, with = "friendly_optional")]
    pub duration: Option<Duration>,
    /// Start of the run that does not count.
    #[serde(default, with = "friendly")]
    pub warm_up: Duration,
}

/// How requests are spaced around a rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// At random, independent of each other.
    #[default]
    Poisson,
    /// At equal distances.
    Constant,
    /// At gaps of a gamma distribution.
    Gamma,
}

/// A rate that is reached evenly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The rate at the start, in requests per second.
    pub from_per_s: f64,
    /// How long it takes to reach the other.
    #[serde(with = "friendly")]
    pub over: Duration,
}

const fn unit() -> f64 {
    1.0
}

impl LoadBlock {
    /// The schedule whose rate is `rate_per_s`, or reaches it.
    #[must_use]
    pub fn at(&self, rate_per_s: f64) -> Schedule {
        let pacing = self.pacing();
        if let Some(series) = &self.series {
            let rates = series.scaled(rate_per_s / series.peak_per_s());
            return Schedule::Varying { pacing, rates };
        }
        if let Some(Ramp { from_per_s, over }) = self.ramp {
            return Schedule::Varying { pacing, rates: Rates::ramp(from_per_s, rate_per_s, over) };
        }
        match pacing {
            Pacing::Poisson => Schedule::Poisson { rate_per_s },
            Pacing::Constant => Schedule::Constant { rate_per_s },
            Pacing::Gamma { burstiness } => Schedule::Gamma { rate_per_s, burstiness },
        }
    }

    /// The rates to run at, each with its load; none stands for times that are not one rate's: a
    /// series', or a trace's own.
    pub(super) fn loads(&self, seed: u64) -> Vec<(Option<f64>, Load)> {
        let load = |schedule| Load { schedule, duration: self.duration, seed };
        if !self.rates_per_s.is_empty() {
            return self.rates_per_s.iter().map(|it| (Some(*it), load(self.at(*it)))).collect();
        }
        let schedule = match &self.series {
            Some(series) => Schedule::Varying { pacing: self.pacing(), rates: series.clone() },
            None => Schedule::Trace { speedup: self.speedup },
        };
        vec![(None, load(schedule))]
    }

    const fn pacing(&self) -> Pacing {
        match self.arrivals {
            Arrivals::Poisson => Pacing::Poisson,
            Arrivals::Constant => Pacing::Constant,
            Arrivals::Gamma => Pacing::Gamma { burstiness: self.burstiness },
        }
    }

    /// Everything wrong with the values; `is_trace` where the workload has times and an end of its
    /// own.
    pub(super) fn problems(&self, is_trace: bool) -> Vec<String> {
        let mut problems: Vec<String> =
            self.loads(0).iter().flat_map(|(_, load)| load.problems()).collect();
        if !is_trace && self.rates_per_s.is_empty() && self.series.is_none() {
            problems.push(
                "rates_per_s: needs at least one rate, or a series; only a trace has its own times"
                    .to_owned(),
            );
        }
        if !is_trace && self.duration.is_none() {
            problems.push("duration: needs a time; only a trace has an end of its own".to_owned());
        }
        if self.ramp.is_some() && (self.rates_per_s.is_empty() || self.series.is_some()) {
            problems.push("ramp: needs rates_per_s to reach, and no series beside it".to_owned());
        }
        if self.duration.is_some_and(|it| it <= self.warm_up) {
            problems.push("warm_up: is not shorter than the duration".to_owned());
        }
        problems
    }
}
