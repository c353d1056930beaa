//! Predictions that are wrong, signals that are late, replicas that differ, answers in one piece.

use std::time::Duration;

use policy::{
    admission::AdmissionConfig,
    estimate::{Coefficients, EstimateConfig},
};
use simulator::Fault;
use types::quantity::Tokens;

use crate::{
    Terms,
    case::{self, Case, mean},
    goodput::at_knee,
    line::{Bar, put},
};

/// Loads at which the conditions are tried.
const TIMES: [f64; 2] = [1.4, 2.0];

/// Least share of the knee's goodput.
const LEAST: f64 = 95.0;

/// What the modelled replicas have, as far as the form of predictions goes.
fn right() -> Coefficients {
    Coefficients {
        step_ms: 7.5,
        prefill_us: 26.0,
        sequence_us: 38.0,
        context_ns: 52.0,
        attention_ns: 1.06,
        request_ms: 5.0,
        chunk: Tokens(2_048),
        sequences_max: 256,
    }
}

/// Predictions that are wrong by these factors, of prefill and of decoding, and never learn better.
fn wrong(case: &Case, prefill: f64, decode: f64) -> Case {
    let it = right();
    let coefficients = Coefficients {
        step_ms: it.step_ms * decode,
        sequence_us: it.sequence_us * decode,
        context_ns: it.context_ns * decode,
        prefill_us: it.prefill_us * prefill,
        attention_ns: it.attention_ns * prefill,
        ..it
    };
    let mut case = case.clone();
    case.scenario.policy.estimate = EstimateConfig { coefficients, frozen: true };
    case
}

/// The conditions, each with what the knee is measured under.
fn cases(case: &Case) -> Vec<(String, Case)> {
    let mut all = Vec::new();
    for (prefill, decode) in
        [(0.7, 0.7), (0.85, 0.85), (1.15, 1.15), (1.3, 1.3), (0.7, 1.3), (1.3, 0.7)]
    {
        let label = format!("prefill x {prefill}, decode x {decode}, never learned");
        all.push((label, wrong(case, prefill, decode)));
    }
    let mut late = case.clone();
    late.scenario.signals.scrape_delay = Duration::from_secs(1);
    all.push(("load reports 1 s late".to_owned(), late));
    let mut late = case.clone();
    late.scenario.signals.scrape_delay = Duration::from_secs(1);
    late.scenario.signals.event_lag = Some(Duration::from_secs(1));
    all.push(("load reports and cache events 1 s late".to_owned(), late));
    let mut without = case.clone();
    without.scenario.signals.scrape_interval = None;
    all.push(("no load reports".to_owned(), without));
    let mut unlike = case.clone();
    let slow = |replica| Fault::Slow {
        at: Duration::ZERO,
        replica,
        lasts: Duration::from_secs(3_600),
        factor: 2.0,
    };
    unlike.scenario.faults = (0..case.scenario.fleet.replicas / 2).map(slow).collect();
    // Half of the fleet at half the speed.
    unlike.knee = case.knee * 0.75;
    all.push(("half of the replicas at half the speed".to_owned(), unlike));
    let mut unstreamed = case.clone();
    unstreamed.scenario.unstreamed = 0.5;
    all.push(("half of the answers in one piece".to_owned(), unstreamed));
    all
}

pub(crate) fn conditions(terms: &Terms) {
    for case in case::synthetic(terms) {
        let plain: Vec<f64> = at_knee(&case, terms.seeds).iter().map(|it| it.0).collect();
        for (label, changed) in cases(&case) {
            // Where the fleet itself is another one, so is its knee.
            let is_another = !changed.scenario.faults.is_empty();
            let knee = if is_another {
                at_knee(&changed, terms.seeds).iter().map(|it| it.0).collect()
            } else {
                plain.clone()
            };
            let knee = knee.iter().sum::<f64>() / terms.seeds as f64;
            for times in TIMES {
                let runs = changed.runs(AdmissionConfig::default(), times, terms.seeds);
                let of_knee = 100.0 * mean(&runs, |it| it.good_per_s()) / knee;
                let what = format!("{label}: goodput, % of the knee's, at {times} x");
                put("robust", &case.name, &what, of_knee, Bar::Least(LEAST));
                let attained = mean(&runs, |it| it.attained());
                let what = format!("  {label}: served as promised, %, at {times} x");
                put("robust", &case.name, &what, attained, Bar::None);
            }
        }
    }
}
