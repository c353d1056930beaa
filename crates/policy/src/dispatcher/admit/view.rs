//! What admission knows, as people are told.

use std::collections::BTreeMap;

use types::{quantity::Tokens, request::ModelId, time::Timestamp};

use super::super::Dispatcher;
use crate::{admission::AdmissionMode, estimate::Asked, fleet_view::Replica};

/// Utilisation from which the rate of late says where the knee is.
const KNEE_FROM: f64 = 0.5;

/// What admission knows of the fleet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdmissionView {
    /// The rule in force.
    pub mode: AdmissionMode,
    /// Requests placed in a second, of late.
    pub placed_per_s: f64,
    /// Share of the replicas' time that is spoken for at the pace that was promised: nothing on an idle fleet, 1 at
    /// the knee.
    pub utilisation: f64,
    /// Requests a second that the fleet could take if they were like those of late, by the time per token, until the
    /// first of its models or pools is full; absent below half of that, where too little is asked to tell.
    pub knee_per_s: Option<f64>,
}

impl Dispatcher {
    /// What admission knows, for people.
    #[must_use]
    pub fn admission_view(&self, now: Timestamp) -> AdmissionView {
        let placed_per_s = self.admission.rate_per_s(now);
        let prompt = Tokens(1);
        let asked = Asked { prompt, output: 1.0, ..Asked::default() };
        let taken = |it: &Replica| {
            let tpot_max_s = it.promises.tightest().map(|it| it.as_secs_f64());
            let asked = Asked { tpot_max_s, ..asked };
            let forecast = it.estimate.forecast(now, &asked, Tokens(0), 1.0, it.sharing(now));
            it.estimate.taken(forecast.utilisation, tpot_max_s)
        };
        // Those that are asked the same fill together.
        let mut alike: BTreeMap<(Vec<ModelId>, Tokens), (f64, f64)> = BTreeMap::new();
        for it in self.fleet.replicas().iter().filter(|it| it.is_ready()) {
            let (sum, count) = alike.entry((bases_of(it), it.longest())).or_default();
            (*sum, *count) = (*sum + taken(it), *count + 1.0);
        }
        let all = alike.values().fold((0.0, 0.0), |all, it| (all.0 + it.0, all.1 + it.1));
        let utilisation = all.0 / f64::max(all.1, 1.0);
        let fullest = alike.values().map(|it| it.0 / it.1).fold(0.0, f64::max);
        let knee_per_s = (KNEE_FROM <= fullest).then(|| placed_per_s / fullest);
        AdmissionView { mode: self.admission.config.mode, placed_per_s, utilisation, knee_per_s }
    }
}

/// The models that a replica serves but for its adapters, in order, each once; all where nobody says which those are.
fn bases_of(replica: &Replica) -> Vec<ModelId> {
    let all = replica.models.iter().copied();
    let mut bases: Vec<ModelId> = all.clone().filter(|it| !replica.adapters.lists(*it)).collect();
    if bases.is_empty() {
        bases.extend(all);
    }
    bases.sort_unstable();
    bases.dedup();
    bases
}
