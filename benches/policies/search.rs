//! Finds the highest rate that a policy carries.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use report::Run;
use serde_json::{Value, json};

use crate::case::Case;

/// Between rates that differ by less the capacity is read off a straight line.
const PRECISION: f64 = 1.025;

/// Factor between the first rates tried, and between those of later seeds.
const STRIDE: f64 = 1.2;
const STEP: f64 = 1.045;

/// Seeds, both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// What was found for one case, seed by seed.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) workload: String,
    pub(crate) label: String,
    pub(crate) rates: Vec<f64>,
    /// The runs at the highest rates that passed.
    pub(crate) runs: Vec<Run>,
}

impl Found {
    pub(crate) fn mean(&self) -> Option<f64> {
        let count = self.rates.len();
        (count > 0).then(|| self.rates.iter().sum::<f64>() / count as f64)
    }

    /// Half of the 95 % interval of the mean, by Student's t.
    pub(crate) fn half_interval(&self) -> Option<f64> {
        let (mean, count) = (self.mean()?, self.rates.len() as f64);
        let squares: f64 = self.rates.iter().map(|it| (it - mean).powi(2)).sum();
        let t = *[12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26]
            .get(self.rates.len().checked_sub(2)?)
            .unwrap_or(&2.0);
        Some(t * (squares / (count - 1.0) / count).sqrt())
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "workload": self.workload, "policy": self.label, "capacity": self.rates,
            "mean": self.mean(), "half_interval": self.half_interval(), "runs": self.runs })
    }
}

/// Finds the capacity of `case` with each seed.
pub(crate) fn capacity(
    case: &Case,
    hint: Option<f64>,
    attainment: f64,
    seeds: Seeds,
    jobs: usize,
) -> anyhow::Result<Found> {
    let hint = hint.unwrap_or_else(|| case.own_rate());
    let first = bisect(case, hint, STRIDE, attainment, seeds.first)?;
    // Seeds differ little: where one broke, the next one is near to it.
    let near = first.0.max(1e-6);
    let mut found = vec![first];
    found.extend(each_seed(Seeds { first: seeds.first + 1, ..seeds }, jobs, |seed| {
        bisect(case, near, STEP, attainment, seed)
    })?);
    let (rates, runs): (Vec<f64>, Vec<Run>) = found.into_iter().unzip();
    let (workload, label) = (case.workload.clone(), case.variant.label.clone());
    Ok(Found { workload, label, rates, runs })
}

/// The figures of `case` at `rate` with each seed.
pub(crate) fn at(case: &Case, rate: f64, seeds: Seeds, jobs: usize) -> anyhow::Result<Vec<Run>> {
    each_seed(seeds, jobs, |seed| case.run(rate, seed))
}

fn each_seed<T: Send>(
    seeds: Seeds,
    jobs: usize,
    run: impl Fn(u64) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let (next, results) = (AtomicU64::new(seeds.first), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > seeds.last {
                        break;
                    }
                    let result = run(seed);
                    results.lock().push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|it| it.0);
    results.into_iter().map(|it| it.1).collect()
}

/// The rate at which `attainment` is just reached, between the last that passed and the first that
/// did not, and the run at the former.
fn bisect(
    case: &Case,
    hint: f64,
    stride: f64,
    attainment: f64,
    seed: u64,
) -> anyhow::Result<(f64, Run)> {
    let share = |run: &Run| run.good_request_fraction.unwrap_or_default();
    let mut low: Option<(f64, Run)> = None;
    let mut high: Option<(f64, f64)> = None;
    let mut rate = hint;
    loop {
        let run = case.run(rate, seed)?;
        if share(&run) >= attainment {
            low = Some((rate, run));
        } else {
            high = Some((rate, share(&run)));
        }
        rate = match (&low, &high) {
            (Some((low, _)), None) => low * stride,
            (None, Some((high, _))) if *high < hint / 50.0 => {
                return Ok((0.0, case.run(rate, seed)?));
            }
            (None, Some((high, _))) => high / stride,
            (Some((low_rate, run)), Some((high_rate, missed))) => {
                if high_rate / low_rate < PRECISION {
                    let kept = share(run);
                    let part = (kept - attainment) / (kept - missed).max(1e-9);
                    let between = low_rate + part * (high_rate - low_rate);
                    return Ok((between, run.clone()));
                }
                (low_rate * high_rate).sqrt()
            }
            (None, None) => rate,
        };
    }
}
