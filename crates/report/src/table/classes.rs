//! The figures of each SLO class, as a table.

use std::collections::BTreeMap;

use super::{align_right, millis, percent, policy, table};
use crate::{classes::SloClass, stats::count, summary::Run};

/// What each SLO class had: a table for each workload, a row for each policy and class, means over the
/// seeds; empty where there is one promise for all.
#[must_use]
pub fn classes(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|it| it.workload == first.workload).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        out.push_str(&of_workload(&first.workload, group));
    }
    out
}

fn of_workload(workload: &str, runs: &[Run]) -> String {
    let mut order: Vec<(String, &str)> = Vec::new();
    let mut found: BTreeMap<(String, &str), Vec<&SloClass>> = BTreeMap::new();
    for run in runs {
        for class in &run.by_slo_class {
            let key = (policy(run), class.name.as_str());
            if !found.contains_key(&key) {
                order.push(key.clone());
            }
            found.entry(key).or_default().push(class);
        }
    }
    if order.is_empty() {
        return String::new();
    }
    let header =
        ["policy", "class", "requests", "goodput", "good", "rows in time", "TTFT p99", "E2E p99"];
    let mut table = table(&header);
    for key in order {
        let all = found.remove(&key).unwrap_or_default();
        let mean = |of: &dyn Fn(&SloClass) -> Option<f64>| -> Option<f64> {
            let values: Vec<f64> = all.iter().filter_map(|it| of(it)).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len()))
        };
        let requests = mean(&|it| Some(it.requests as f64)).unwrap_or_default();
        let goodput = mean(&|it| Some(it.request_goodput)).unwrap_or_default();
        table.add_row([
            key.0,
            if key.1.is_empty() { "(none)" } else { key.1 }.to_owned(),
            format!("{requests:.0}"),
            format!("{goodput:.2}/s"),
            percent(mean(&|it| it.good_request_fraction)),
            percent(mean(&|it| it.accepted_row_rate)),
            millis(mean(&|it| Some(it.ttft_ms?.p99))),
            millis(mean(&|it| Some(it.e2e_ms?.p99))),
        ]);
    }
    align_right(&mut table);
    format!("{workload}: by SLO class\n{table}\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::slo::Slo;

    use super::*;
    use crate::{
        RequestRecord, Terms,
        summary::tests::{answered, records, run},
    };

    fn classed() -> Vec<RequestRecord> {
        let completion = Some(Duration::from_millis(1_200));
        let batch = Terms { slo: Slo { completion, ..Slo::default() }, retries_max: None };
        let mut records: Vec<RequestRecord> =
            (0..6).map(|it| answered(it * 1_000, 200 + it * 100, None)).collect();
        for (number, record) in (0..).zip(&mut records) {
            let is_batch = number % 2 == 0;
            record.slo_class = Some(if is_batch { "batch" } else { "interactive" }.to_owned());
            record.slo = if is_batch { batch } else { Terms::default() }.judge(record);
        }
        records
    }

    #[test]
    fn classes_stand_below_each_other_and_a_batch_has_rows() {
        let again = Run { seed: 2, ..run(&classed()) };
        let table = classes(&[run(&classed()), again]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }

    #[test]
    fn one_promise_for_all_has_no_table() {
        assert_eq!(classes(&[run(&records())]), "");
    }
}
