//! What of a simulation is shown in detail: at each rate, the first seed of each policy.

use parking_lot::Mutex;
use replay::output::{self, Host};
use report::{
    Run,
    html::{Detail, Page},
    paired::Difference,
};
use serde_json::json;

use super::cases::{Case, Cases, Done};
use crate::{frontier::disruptions, results};

/// Most runs that are kept to be shown.
const SHOWN_MAX: usize = 16;

/// Runs to be shown.
#[derive(Debug, Default)]
pub(crate) struct Shown(Mutex<Vec<(String, u64, Detail)>>);

impl Shown {
    /// Looks at a run, and keeps what a page shows of it.
    pub(crate) fn look_at(&self, cases: &Cases, case: &Case, done: &Done) {
        let of = format!("{}, {}", done.info.workload, done.info.policy);
        {
            let kept = self.0.lock();
            let is_known = kept.iter().any(|it| it.0 == of && it.1 <= case.seed);
            let is_full = kept.len() >= SHOWN_MAX && !kept.iter().any(|it| it.0 == of);
            if is_known || is_full {
                return;
            }
        }
        let records = &done.recording.records;
        let detail = Detail::of(&of, records, &disruptions(&cases.scenario, records));
        let mut kept = self.0.lock();
        kept.retain(|it| it.0 != of || it.1 < case.seed);
        if !kept.iter().any(|it| it.0 == of) {
            kept.push((of, case.seed, detail));
        }
    }

    /// The page of all runs.
    pub(crate) fn into_page(
        self,
        cases: &Cases,
        runs: &[Run],
        differences: Vec<Difference>,
    ) -> Page {
        let mut kept = self.0.into_inner();
        // As policies stand in the results, whichever came first.
        let place =
            |of: &str| runs.iter().position(|it| format!("{}, {}", it.workload, it.policy) == of);
        kept.sort_by_key(|it| place(&it.0));
        Page {
            title: cases.scenario.name.clone(),
            slo: Some(cases.scenario.terms().slo),
            manifest: json!({
                "version": env!("CARGO_PKG_VERSION"),
                "commit": option_env!("SLUICE_COMMIT"),
                "command": results::command_line(),
                "host": Host::this(),
                "made": output::utc_now(),
                "scenario": cases.scenario,
            }),
            runs: runs.to_vec(),
            differences,
            details: kept.into_iter().map(|it| it.2).collect(),
            ..Page::default()
        }
    }
}
