//! One workload at rising rates, as a table.

use super::{align_right, millis, percent, table};
use crate::summary::Run;

/// A row for each rate, in requests per second, and what came of it.
#[must_use]
pub fn sweep<'a>(runs: impl IntoIterator<Item = (f64, &'a Run)>) -> String {
    let header = [
        "rate", "offered", "goodput", "good", "hits", "TTFT p50", "p99", "TPOT p99", "refused",
        "failed",
    ];
    let mut table = table(&header);
    for (rate, run) in runs {
        table.add_row([
            format!("{rate}/s"),
            format!("{:.1}/s", run.offered_rps),
            format!("{:.1}/s", run.request_goodput),
            percent(run.good_request_fraction),
            percent(run.cache_hit_rate),
            millis(run.ttft_ms.map(|it| it.p50)),
            millis(run.ttft_ms.map(|it| it.p99)),
            millis(run.tpot_ms.map(|it| it.p99)),
            run.rejected.to_string(),
            run.failed.to_string(),
        ]);
    }
    align_right(&mut table);
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    #[test]
    fn every_rate_has_its_row_and_the_table_its_width() {
        let run = run(&records());
        let table = sweep([8.5, 16.0, 1_000.25].map(|rate| (rate, &run)));
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }
}
