//! The server of the textbook: a count limit found by hand against those that find theirs.

use policy::{
    admission::{AdmissionConfig, AdmissionMode},
    config::StrategyName,
};

use crate::{
    Terms,
    case::{Case, mean},
    line::{Bar, put},
};

/// Numbers that are tried by hand.
const BY_HAND: [u32; 10] = [40, 45, 50, 55, 60, 65, 70, 75, 80, 90];

/// Requests a second that one server has on average.
const SERVED: f64 = 500.0;

pub(crate) fn against_the_best_count(terms: &Terms) {
    let mut case = Case::named("textbook-queue", SERVED);
    if !terms.wants(&case.name) {
        return;
    }
    case.after_seed = terms.after_seed;
    case.strategy = StrategyName::LeastRequest;
    // Twenty seconds each; what one run draws moves goodput by more than modes do.
    let seeds = terms.seeds.saturating_mul(8);
    for rate in [450.0, 560.0, 1_000.0] {
        let good = |config| mean(&case.runs(config, rate / SERVED, seeds), |it| it.good_per_s());
        let line = |what: &str, figure, bar| {
            put("textbook", "textbook-queue", &format!("{what} at {rate}/s"), figure, bar);
        };
        let by_hand = |in_flight_max| {
            let config = AdmissionConfig::of(AdmissionMode::Static);
            (good(AdmissionConfig { in_flight_max, ..config }), in_flight_max)
        };
        let (best, number) = BY_HAND
            .map(by_hand)
            .into_iter()
            .fold((0.0, 0), |best, it| if best.0 < it.0 { it } else { best });
        line(&format!("best number by hand ({number}): good/s"), best, Bar::None);
        let knee = good(AdmissionConfig::default());
        line("knee: good/s", knee, Bar::None);
        line("knee: % of the best number by hand", 100.0 * knee / best, Bar::Least(98.0));
        for mode in
            [AdmissionMode::Off, AdmissionMode::Gradient, AdmissionMode::Vegas, AdmissionMode::Aimd]
        {
            line(&format!("{mode}: good/s"), good(AdmissionConfig::of(mode)), Bar::None);
        }
    }
}
