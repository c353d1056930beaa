//! Fits a profile to the measured stages of one model on one kind of GPU.
//!
//! Four factors scale the profile that the fit starts from: the step's base (overhead and weights),
//! what each running sequence adds (bookkeeping and context), prefill (tokens and attention), and
//! the API's overhead. They are few because stages tell little: TPOT over concurrency is a line, so
//! it gives two numbers, and TTFT a third. Each factor is pulled towards 1 as strongly as its start
//! is trusted, so that a factor which the stages say nothing about stays where arithmetic put it.

use std::collections::BTreeSet;

use engine::Profile;

use crate::{
    minimize::minimize,
    physics,
    run::RunError,
    stage::{Figures, Latency, Stage, median},
};

/// Stages of one model on one kind of GPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Model as its publisher writes it.
    pub model: String,
    /// Kind of GPU.
    pub gpu: String,
    /// GPUs that share the model.
    pub tp: u32,
    /// What was measured on them.
    pub stages: Vec<Stage>,
}

impl Group {
    /// What the group is called.
    #[must_use]
    pub fn name(&self) -> String {
        let short = self.model.rsplit('/').next().unwrap_or(&self.model);
        format!("{} {} TP{}", short, self.gpu, self.tp)
    }
}

/// Sorts stages into groups, in the order in which each first appears.
#[must_use]
pub fn groups(stages: Vec<Stage>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for stage in stages {
        let same =
            |it: &&mut Group| it.model == stage.model && it.gpu == stage.gpu && it.tp == stage.tp;
        match groups.iter_mut().find(same) {
            Some(group) => group.stages.push(stage),
            None => groups.push(Group {
                model: stage.model.clone(),
                gpu: stage.gpu.clone(),
                tp: stage.tp,
                stages: vec![stage],
            }),
        }
    }
    groups
}

/// Why a group cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum FitError {
    /// Neither the model and GPU nor a profile to start from is known.
    #[error(
        "{group}: nothing is known of this model on this GPU; pass --profile NAME to start from \
         (known models: {}; GPUs: {})",
        physics::models().collect::<Vec<_>>().join(", "),
        physics::gpus().collect::<Vec<_>>().join(", ")
    )]
    Unknown {
        /// The group.
        group: String,
    },
    /// There is nothing that two numbers could follow from.
    #[error(
        "{group}: {usable} stage(s) that the replica kept up with; a fit needs two at different loads"
    )]
    TooFew {
        /// The group.
        group: String,
        /// Stages that can be used.
        usable: usize,
    },
    /// A replica that gets faster with load is a measurement gone wrong.
    #[error(
        "{group}: TPOT falls from {before_ms:.2} to {after_ms:.2} ms as the load rises from {low} \
         to {high} requests/s in {workload:?}; measure again, or remove the row"
    )]
    Descending {
        /// The group.
        group: String,
        /// The stage at the higher load.
        workload: String,
        /// Requests per second.
        low: f64,
        /// Requests per second.
        high: f64,
        /// TPOT at the lower load.
        before_ms: f64,
        /// TPOT at the higher load.
        after_ms: f64,
    },
    /// A stage cannot be simulated.
    #[error("{group}: {source}")]
    Run {
        /// The group.
        group: String,
        /// Why.
        source: RunError,
    },
}

/// How a fit is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seconds of each stage that a trial simulates.
    pub horizon_s: f64,
    /// Most trials of one fit.
    pub trials_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { horizon_s: 60.0, trials_max: 120 }
    }
}

/// A fitted profile and how well it does.
#[derive(Clone, Debug)]
pub struct GroupFit {
    /// What the group is called.
    pub name: String,
    /// What the fit started from.
    pub start: Profile,
    /// What it found.
    pub profile: Profile,
    /// Each stage, measured and simulated.
    pub stages: Vec<StageFit>,
}

/// A stage with what a profile makes of it.
#[derive(Clone, Debug)]
pub struct StageFit {
    /// The stage.
    pub stage: Stage,
    /// As the profile fitted to all stages serves it.
    pub fitted: Figures,
    /// As the profile fitted to the other stages serves it; none where too few are left.
    pub held_out: Option<Figures>,
}

/// The profile that the group's fit starts from: the `named` one, else what arithmetic gives.
///
/// # Errors
/// Neither is known.
pub fn start(group: &Group, named: Option<&Profile>) -> Result<Profile, FitError> {
    if let Some(profile) = named {
        return Ok(profile.clone());
    }
    let known = physics::model(&group.model).zip(physics::accelerator(&group.gpu));
    let (model, gpu) = known.ok_or_else(|| FitError::Unknown { group: group.name() })?;
    Ok(physics::profile(model, gpu, group.tp))
}

/// Fits `start` to the group's stages, once to all and once without each.
///
/// # Errors
/// Too few stages, stages that contradict each other, or one that can't be simulated.
pub fn fit(group: &Group, start: &Profile, options: &Options) -> Result<GroupFit, FitError> {
    let failed = |source| FitError::Run { group: group.name(), source };
    let usable: Vec<&Stage> = group.stages.iter().filter(|it| !it.measured.overloaded()).collect();
    check(group, &usable)?;
    let (factors, profile) = search(start, &usable, &START, options).map_err(failed)?;
    let mut stages = Vec::new();
    for stage in &group.stages {
        let fitted = stage.simulate(&profile, REPORT_SEED).map_err(failed)?;
        let others: Vec<&Stage> = usable.iter().copied().filter(|it| *it != stage).collect();
        let held_out = if others.len() < 2 {
            None
        } else if others.len() == usable.len() {
            // Overloaded stages take no part in the fit, so they are held out already.
            Some(fitted)
        } else {
            let (_, profile) = search(start, &others, &factors, options).map_err(failed)?;
            Some(stage.simulate(&profile, REPORT_SEED).map_err(failed)?)
        };
        stages.push(StageFit { stage: stage.clone(), fitted, held_out });
    }
    Ok(GroupFit { name: group.name(), start: start.clone(), profile, stages })
}

/// Arrivals of the report differ from those that the fit has seen.
const REPORT_SEED: u64 = 2;

/// Logarithms of the factors that change nothing.
const START: [f64; 4] = [0.0; 4];

/// How far the logarithm of each factor may be expected to be from zero: base, sequence, prefill,
/// API.
const TRUST: [f64; 4] = [0.15, 0.3, 0.15, 0.5];

/// How well a stage is known and a simulation of it can be expected to come out, as a ratio.
const TPOT_SPREAD: f64 = 0.02;
const E2E_SPREAD: f64 = 0.02;
const TTFT_SPREAD: f64 = 0.08;

/// First step of the search, in logarithms of the factors.
const STEP: f64 = 0.1;

fn check(group: &Group, usable: &[&Stage]) -> Result<(), FitError> {
    let loads: BTreeSet<u64> = usable.iter().map(|it| it.shape.rate_per_s.to_bits()).collect();
    if usable.len() < 2 || loads.len() < 2 {
        return Err(FitError::TooFew { group: group.name(), usable: usable.len() });
    }
    for (low, high) in usable.iter().flat_map(|low| usable.iter().map(move |high| (low, high))) {
        let alike = low.limits == high.limits && same_requests(low, high);
        let busier = high.shape.rate_per_s > low.shape.rate_per_s * BUSIER;
        let tpot = low.measured.tpot.mean.zip(high.measured.tpot.mean);
        if let Some((before, after)) = tpot.filter(|_| alike && busier)
            && after < before * FASTER
        {
            return Err(FitError::Descending {
                group: group.name(),
                workload: high.name.clone(),
                low: low.shape.rate_per_s,
                high: high.shape.rate_per_s,
                before_ms: before * 1e3,
                after_ms: after * 1e3,
            });
        }
    }
    Ok(())
}

/// From which ratio of rates on a load is another one, and which fall of TPOT no noise explains.
const BUSIER: f64 = 1.2;
const FASTER: f64 = 0.95;

fn same_requests(a: &Stage, b: &Stage) -> bool {
    a.shape.prompt == b.shape.prompt && a.shape.output.0.abs_diff(b.shape.output.0) < 5
}

fn search(
    start: &Profile,
    stages: &[&Stage],
    from: &[f64; 4],
    options: &Options,
) -> Result<([f64; 4], Profile), RunError> {
    let mut failure = None;
    let found = minimize(
        |factors| match misfit(&scaled(start, factors), stages, options) {
            Ok(misfit) => misfit + prior(factors),
            Err(error) => {
                failure.get_or_insert(error);
                f64::INFINITY
            }
        },
        from,
        STEP,
        options.trials_max,
    );
    if let Some(error) = failure {
        return Err(error);
    }
    let mut factors = *from;
    factors.iter_mut().zip(&found.at).for_each(|(factor, at)| *factor = *at);
    Ok((factors, scaled(start, &factors)))
}

fn prior(factors: &[f64]) -> f64 {
    factors.iter().zip(TRUST).map(|(factor, trust)| (factor / trust).powi(2)).sum()
}

/// The profile with its coefficients scaled by the factors, whose logarithms are given.
fn scaled(start: &Profile, factors: &[f64]) -> Profile {
    let factor = |place: usize| factors.get(place).map_or(1.0, |it| it.exp());
    let (base, sequence, prefill, api) = (factor(0), factor(1), factor(2), factor(3));
    let mut profile = start.clone();
    profile.step.overhead_ms *= base;
    profile.step.weights_ms *= base;
    profile.step.sequence_us *= sequence;
    profile.step.context_ns *= sequence;
    profile.step.token_us *= prefill;
    profile.step.attention_ns *= prefill;
    profile.api_overhead_ms *= api;
    profile
}

/// Sum over stages and figures of the squared log ratios, each in units of its spread, large ones
/// counted by their size alone so that one bad stage does not rule the others.
fn misfit(profile: &Profile, stages: &[&Stage], options: &Options) -> Result<f64, RunError> {
    let mut sum = 0.0;
    for stage in stages {
        let simulated = stage.simulate_warm(profile, options.horizon_s)?;
        let measured = &stage.measured;
        for (ours, theirs, spread) in [
            (simulated.tpot, measured.tpot, TPOT_SPREAD),
            (simulated.e2e, measured.e2e, E2E_SPREAD),
            (simulated.ttft, measured.ttft, TTFT_SPREAD),
        ] {
            sum += distance(&ours, &theirs, spread);
        }
    }
    Ok(sum)
}

/// Middle and 90th percentile, where measured.
fn distance(ours: &Latency, theirs: &Latency, spread: f64) -> f64 {
    let middle = if theirs.p50.is_some() { ours.p50 } else { ours.mean };
    [(middle, theirs.typical()), (ours.p90, theirs.p90)]
        .into_iter()
        .filter_map(|(ours, theirs)| ours.zip(theirs))
        .map(|(ours, theirs)| soft_square((ours / theirs).ln() / spread))
        .sum()
}

/// The square of small numbers, the size of large ones (pseudo-Huber with its bend at 2).
fn soft_square(it: f64) -> f64 {
    const BEND: f64 = 2.0;
    2.0 * BEND * BEND * ((it / BEND).mul_add(it / BEND, 1.0).sqrt() - 1.0)
}

/// Median over the stages that the replica kept up with of the size of a relative error.
#[must_use]
pub fn median_error(errors: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    median(errors.flatten().map(f64::abs).collect())
}

/// `simulated / measured − 1`.
#[must_use]
pub fn error(simulated: Option<f64>, measured: Option<f64>) -> Option<f64> {
    simulated.zip(measured).map(|(ours, theirs)| ours / theirs - 1.0)
}

#[cfg(test)]
mod tests;
