//! What no policy can exceed on the requests of a run, as `summary.json` has it.

use serde::{Deserialize, Serialize};

use crate::summary::Run;

/// What no policy can exceed on the requests of a run. What is absent is not known, or bounds
/// nothing: a run without promises has no limit of good requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Tokens that all caches of the fleet hold together.
    pub cache_tokens: u64,
    /// Hit rate in a cache without end.
    pub hit_rate_endless: Option<f64>,
    /// Hit rate of the best eviction from one cache of the whole fleet's size: no routing and no
    /// eviction exceeds it.
    pub hit_rate_best: Option<f64>,
    /// Hit rate of least-recently-used eviction from one cache of the whole fleet's size: what a fleet
    /// has that keeps nothing twice.
    pub hit_rate_lru_fleet: Option<f64>,
    /// The same for one replica's size: what a fleet has that keeps everything everywhere.
    pub hit_rate_lru_replica: Option<f64>,
    /// Hit rate of least-recently-used eviction by the size of the cache (Mattson's curve).
    pub lru_curve: Vec<CurvePoint>,
    /// The rate up to which the fleet could keep its promises, were work a fluid and every cache
    /// endless.
    pub knee_rps: Option<f64>,
    /// The most requests that can be good, as a share of all.
    pub good_request_fraction: Option<f64>,
    /// Whether a schedule exists that has as many, and not only none that has more.
    pub good_is_exact: bool,
}

/// A point of a hit-rate curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Tokens that the cache holds.
    pub cache_tokens: u64,
    /// Share of all prompt tokens that is found in it.
    pub hit_rate: f64,
}

impl Run {
    /// The hit rate as a share of the best possible one; none where nothing can be hit.
    #[must_use]
    pub fn hit_rate_of_limit(&self) -> Option<f64> {
        share(self.cache_hit_rate?, self.limits.as_ref()?.hit_rate_best?)
    }

    /// The good requests as a share of the most that are possible.
    #[must_use]
    pub fn good_of_limit(&self) -> Option<f64> {
        share(self.good_request_fraction?, self.limits.as_ref()?.good_request_fraction?)
    }

    /// The good requests per second as a share of the rate at the fluid knee.
    #[must_use]
    pub fn goodput_of_knee(&self) -> Option<f64> {
        share(self.request_goodput, self.limits.as_ref()?.knee_rps?)
    }
}

fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
