//! Every mode at 1.4 times the knee: from nothing to all parts of the rule, and the limiters of others.

use policy::admission::{AdmissionConfig, AdmissionMode};

use crate::{
    Terms,
    case::{self, Case, mean},
    goodput::at_knee,
    line::{Bar, put},
};

/// The load at which modes are compared.
const TIMES: f64 = 1.4;

/// Numbers that `static` is tried with.
const BY_HAND: [u32; 5] = [32, 64, 96, 128, 160];

pub(crate) fn modes(terms: &Terms) {
    for case in case::synthetic(terms) {
        let knee =
            at_knee(&case, terms.seeds).iter().map(|it| it.0).sum::<f64>() / terms.seeds as f64;
        put("ablation", &case.name, "good/s at the knee without admission", knee, Bar::None);
        for mode in AdmissionMode::ALL {
            if mode != AdmissionMode::Static {
                one(&case, mode.as_str(), AdmissionConfig::of(mode), terms.seeds, knee);
            }
        }
        for in_flight_max in BY_HAND {
            let config =
                AdmissionConfig { in_flight_max, ..AdmissionConfig::of(AdmissionMode::Static) };
            one(&case, &format!("static {in_flight_max}"), config, terms.seeds, knee);
        }
    }
}

fn one(case: &Case, label: &str, config: AdmissionConfig, seeds: u64, knee: f64) {
    let runs = case.runs(config, TIMES, seeds);
    let line = |what: &str, figure| put("ablation", &case.name, what, figure, Bar::None);
    let good = mean(&runs, |it| it.good_per_s());
    line(&format!("{label}: good/s at {TIMES} x the knee"), good);
    line(&format!("{label}: % of the knee's"), 100.0 * good / knee);
    line(&format!("{label}: served as promised, %"), mean(&runs, |it| it.attained()));
}
