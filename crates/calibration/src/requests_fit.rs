//! Fits a profile to what a real engine did with each request of a recorded workload.
//!
//! A recording shows the engine at every batch size between one request and its cap, so each
//! coefficient of a step has its own factor. Each is pulled towards 1 as strongly as its start is
//! trusted, as in [`crate::stage_fit`]. The fit looks at every other request; the rest, which the
//! same simulation serves, show how well it does on what it has not seen.

use engine::Profile;
use report::Stats;

use crate::{
    minimize::minimize,
    requests::MeasuredRequest,
    run::{Answered, Run, RunError, Sample, Sent, Setting, run},
    stage::median,
};

/// A recorded workload and how the real engine served it.
#[derive(Clone, Debug)]
pub struct Recording {
    /// What was sent.
    pub workload: Vec<Sent>,
    /// What came out, in the same order.
    pub measured: Vec<MeasuredRequest>,
    /// The engines it ran on.
    pub setting: Setting,
}

/// One latency, measured and simulated: mean, median and 90th percentile, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compared {
    /// TTFT, TPOT or E2E.
    pub name: &'static str,
    /// As the real engine did.
    pub measured: Stats,
    /// As the simulated one does.
    pub simulated: Stats,
    /// Median over the requests of the size of the relative error.
    pub median_error: f64,
    /// The same over the requests that the fit has not seen.
    pub held_out_error: f64,
}

/// A fitted profile and how well it does.
#[derive(Clone, Debug)]
pub struct RecordingFit {
    /// What the fit started from.
    pub start: Profile,
    /// What it found.
    pub profile: Profile,
    /// TTFT, TPOT and E2E.
    pub compared: Vec<Compared>,
    /// The simulated load at each second.
    pub samples: Vec<Sample>,
    /// Times a running request had to give up its blocks.
    pub preemptions: u64,
}

/// Why a recording cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// Too few to tell eight coefficients apart.
    #[error("holds {0} requests; a fit needs at least {REQUESTS_MIN}")]
    TooFew(usize),
    /// A request ends before it starts.
    #[error("request {0} has its last token before its first, or its first before it was sent")]
    Backwards(usize),
    /// It cannot be simulated.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The simulated engine does not get through the workload.
    #[error("the simulated engine did not answer request {0}")]
    Unanswered(usize),
}

/// Fewest requests that a fit is made from.
const REQUESTS_MIN: usize = 20;

/// Serves the recording's workload on `profile` and compares.
///
/// # Errors
/// A recording that makes no sense, or a profile that cannot serve it.
pub fn compare(recording: &Recording, profile: &Profile) -> Result<RecordingFit, RecordingError> {
    let served = run(profile, &recording.workload, &recording.setting)?;
    let pairs = pairs(recording, &served)?;
    let compared = LATENCIES.iter().filter_map(|latency| compared(&pairs, latency)).collect();
    let Run { samples, preemptions, .. } = served;
    let (start, profile) = (profile.clone(), profile.clone());
    Ok(RecordingFit { start, profile, compared, samples, preemptions })
}

/// Fits `start` to the recording.
///
/// # Errors
/// A recording that makes no sense or is too short, or a profile that cannot serve it.
pub fn fit(
    recording: &Recording,
    start: &Profile,
    trials_max: usize,
) -> Result<RecordingFit, RecordingError> {
    check(recording)?;
    compare(recording, start)?;
    let misfit = |factors: &[f64]| {
        let profile = scaled(start, factors);
        let served = run(&profile, &recording.workload, &recording.setting).ok();
        let pairs = served.and_then(|served| pairs(recording, &served).ok());
        pairs.map_or(f64::INFINITY, |pairs| misfit(&pairs) + prior(factors))
    };
    // A simplex that has collapsed onto a ridge of the rough surface starts again around its best.
    let mut found = minimize(misfit, &[0.0; FACTORS], STEP, trials_max / ROUNDS);
    for _ in 1..ROUNDS {
        found = minimize(misfit, &found.at, STEP, trials_max / ROUNDS);
    }
    let fitted = compare(recording, &scaled(start, &found.at))?;
    Ok(RecordingFit { start: start.clone(), ..fitted })
}

/// First step of each search, in logarithms of the factors.
const STEP: f64 = 0.15;

/// Searches, each from where the last one ended.
const ROUNDS: usize = 4;

/// Overhead, weights, token, sequence, context, attention, API overhead; and the overlap, whose
/// factor is added to its log-odds.
const FACTORS: usize = 8;

/// How far each factor's logarithm may be expected to be from zero.
const TRUST: [f64; FACTORS] = [0.7, 0.3, 0.4, 0.7, 0.5, 0.3, 0.7, 1.5];

fn scaled(start: &Profile, factors: &[f64]) -> Profile {
    let mut profile = start.clone();
    let step = &mut profile.step;
    let scaled = [
        &mut step.overhead_ms,
        &mut step.weights_ms,
        &mut step.token_us,
        &mut step.sequence_us,
        &mut step.context_ns,
        &mut step.attention_ns,
        &mut profile.api_overhead_ms,
    ];
    scaled.into_iter().zip(factors).for_each(|(value, factor)| *value *= factor.exp());
    let share = step.overlap.clamp(OVERLAP_EDGE, 1.0 - OVERLAP_EDGE);
    let odds = (share / (1.0 - share)) * factors.get(7).map_or(1.0, |it| it.exp());
    step.overlap = odds / (1.0 + odds);
    profile
}

/// Keeps the odds finite.
const OVERLAP_EDGE: f64 = 0.05;

fn prior(factors: &[f64]) -> f64 {
    factors.iter().zip(TRUST).map(|(factor, trust)| (factor / trust).powi(2)).sum()
}

/// A latency of a simulated and of a measured request, and how well it can be expected to come out.
struct LatencyOf {
    name: &'static str,
    simulated: fn(&Answered) -> Option<f64>,
    measured: fn(&MeasuredRequest) -> Option<f64>,
    spread: f64,
}

const LATENCIES: [LatencyOf; 3] = [
    LatencyOf {
        name: "TTFT",
        simulated: |it| Some(it.ttft_s()),
        measured: |it| Some(it.first_s - it.sent_s),
        spread: 0.1,
    },
    LatencyOf {
        name: "TPOT",
        simulated: Answered::tpot_s,
        measured: |it| {
            let after = it.output.0.checked_sub(1).filter(|it| *it > 0)?;
            Some((it.last_s - it.first_s) / f64::from(after))
        },
        spread: 0.02,
    },
    LatencyOf {
        name: "E2E",
        simulated: |it| Some(it.e2e_s()),
        measured: |it| Some(it.last_s - it.sent_s),
        spread: 0.02,
    },
];

fn check(recording: &Recording) -> Result<(), RecordingError> {
    let count = recording.measured.len();
    if count < REQUESTS_MIN {
        return Err(RecordingError::TooFew(count));
    }
    let backwards = |it: &MeasuredRequest| it.last_s < it.first_s || it.first_s < it.sent_s;
    match recording.measured.iter().position(backwards) {
        Some(index) => Err(RecordingError::Backwards(index)),
        None => Ok(()),
    }
}

type Pair<'a> = (Answered, &'a MeasuredRequest);

fn pairs<'a>(recording: &'a Recording, served: &Run) -> Result<Vec<Pair<'a>>, RecordingError> {
    let both = served.answers.iter().zip(&recording.measured).enumerate();
    both.map(|(index, (answer, measured))| {
        Ok(((*answer).ok_or(RecordingError::Unanswered(index))?, measured))
    })
    .collect()
}

/// Squared log ratios in units of their spread over every other request, those beyond twice the
/// spread counted by their size; in all as much as [`WEIGHT`] figures of a stage.
fn misfit(pairs: &[Pair<'_>]) -> f64 {
    let seen = pairs.iter().step_by(2);
    let count = seen.len().max(1) as f64;
    let sum: f64 = seen
        .flat_map(|pair| LATENCIES.iter().map(move |latency| (pair, latency)))
        .filter_map(|((simulated, measured), latency)| {
            let ratio = (latency.simulated)(simulated)?.max(SHORTEST_S)
                / (latency.measured)(measured)?.max(SHORTEST_S);
            let off = ratio.ln().abs() / latency.spread;
            Some(if off < 2.0 { off * off } else { 4.0 * off - 4.0 })
        })
        .sum();
    WEIGHT * sum / count
}

/// How much a recording weighs against what the start is trusted.
const WEIGHT: f64 = 100.0;

/// Shorter latencies count as this one.
const SHORTEST_S: f64 = 1e-4;

fn compared(pairs: &[Pair<'_>], latency: &LatencyOf) -> Option<Compared> {
    let both: Vec<(f64, f64)> = pairs
        .iter()
        .filter_map(|(ours, theirs)| (latency.simulated)(ours).zip((latency.measured)(theirs)))
        .collect();
    let error = |(ours, theirs): &(f64, f64)| (ours / theirs.max(SHORTEST_S) - 1.0).abs();
    Some(Compared {
        name: latency.name,
        simulated: Stats::of(both.iter().map(|it| it.0).collect())?,
        measured: Stats::of(both.iter().map(|it| it.1).collect())?,
        median_error: median(both.iter().map(error).collect())?,
        held_out_error: median(both.iter().skip(1).step_by(2).map(error).collect())?,
    })
}

#[cfg(test)]
mod tests;
