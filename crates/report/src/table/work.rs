//! What accepted results cost, as a table.

use super::{align_right, table};
use crate::summary::Run;

/// The cost of results by class of work, a row for each run and class; empty where nobody said what kind
/// of work it was.
#[must_use]
pub fn work(runs: &[Run]) -> String {
    let mut table = table(&["policy", "seed", "class", "requests", "accepted", "cost", "each"]);
    for run in runs {
        for it in &run.by_workload_class {
            let currency = run.currency.as_deref().unwrap_or_default();
            let unit = it.class.unit();
            table.add_row([
                run.policy.clone(),
                run.seed.to_string(),
                it.class.as_str().to_owned(),
                it.requests.to_string(),
                format!("{:.1} {unit}s", it.accepted),
                it.cost.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}")),
                it.cost_per_accepted
                    .map_or_else(|| "-".to_owned(), |it| format!("{it:.5} {currency}")),
            ]);
        }
    }
    if table.is_empty() {
        return String::new();
    }
    align_right(&mut table);
    let unfinished: u64 =
        runs.iter().flat_map(|it| &it.by_workload_class).map(|it| it.unfinished).sum();
    let note = match unfinished {
        0 => String::new(),
        count => format!("{count} conversations were not whole and are left out\n"),
    };
    format!("cost of accepted results by class of work\n{table}\n{note}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        RunInfo,
        cost::WorkloadClass,
        histogram::Histogram,
        summary::tests::{info, records, run},
    };

    #[test]
    fn every_class_has_its_unit() {
        let info = RunInfo { workload_class: Some(WorkloadClass::Conversational), ..info() };
        let table = work(&[Run::measure(&info, &records(), &Histogram::new())]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }

    #[test]
    fn work_of_no_class_has_no_table() {
        assert_eq!(work(&[run(&records())]), "");
    }
}
