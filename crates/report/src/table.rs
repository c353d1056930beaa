//! Tables for a terminal, at most 100 columns wide.

mod classes;
mod frontier;
mod limits;
mod regret;
mod seeds;
mod sweep;
mod work;

use std::fmt::Write as _;

use comfy_table::{
    CellAlignment, ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle,
};

pub use self::{
    classes::classes,
    frontier::{frontier, plan, promise},
    limits::limits,
    regret::regret,
    seeds::{differences, means},
    sweep::sweep,
    work::work,
};
use crate::{stats::Stats, summary::Run};

/// Lines above and below the header and below the last row.
const STYLE: TableStyle =
    TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);

/// Widest table, in columns of a terminal.
const COLUMNS_MAX: u16 = 100;

const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// Policies side by side: a table for each workload and rate, a row for each run.
#[must_use]
pub fn comparison(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|it| it.workload == first.workload).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut table =
            table(&["policy", "hit rate", "TTFT mean", "TTFT p99", "goodput", "good requests"]);
        for run in group {
            table.add_row([
                policy(run),
                percent(run.cache_hit_rate),
                millis(run.ttft_ms.map(|it| it.mean)),
                millis(run.ttft_ms.map(|it| it.p99)),
                format!("{:.1}/s", run.request_goodput),
                percent(run.good_request_fraction),
            ]);
        }
        align_right(&mut table);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}\n{table}",
            heading(
                &first.workload,
                &format!(
                    "{} requests at {:.1}/s for {:.0} s",
                    first.requests, first.offered_rps, first.window_s
                )
            )
        );
    }
    out
}

/// One run in full.
#[must_use]
pub fn single(run: &Run) -> String {
    let mut latencies = table(&["", "mean", "p50", "p90", "p95", "p99", "max"]);
    for (name, stats) in [
        ("time to first token", run.ttft_ms),
        ("time per output token", run.tpot_ms),
        ("inter-token latency", run.itl_ms),
        ("whole answer", run.e2e_ms),
        ("generator lag", run.generator_lag_ms),
    ] {
        let values = |it: Stats| [it.mean, it.p50, it.p90, it.p95, it.p99, it.max];
        let cells = stats.map_or([None; 6], |it| values(it).map(Some));
        latencies.add_row([name.to_owned()].into_iter().chain(cells.map(millis)));
    }
    align_right(&mut latencies);
    let Run { workload, requests, completed, good, rejected, failed, .. } = run;
    let fraction = percent(run.good_request_fraction);
    let cancelled = match run.cancelled {
        0 => String::new(),
        count => format!(", cancelled {count}"),
    };
    let hit_rate = percent(run.cache_hit_rate);
    let asked =
        format!("{requests} requests at {:.2}/s for {:.1} s", run.offered_rps, run.window_s);
    let heading = heading(workload, &asked);
    let disrupted =
        run.disruption.as_ref().map(|it| frontier::disruption(it, None, run.currency.as_deref()));
    let disrupted = disrupted.unwrap_or_default();
    format!(
        "{heading}\n\
         completed {completed}, rejected {rejected}, failed {failed}{cancelled}; good {good} ({fraction}); \
         last answer {:.1} s later\n\
         requests: throughput {:.2}/s, goodput {:.2}/s\n\
         output tokens: throughput {:.1}/s, goodput {:.1}/s\n\
         cache hit rate: {hit_rate}\n{latencies}\n{disrupted}",
        run.drain_s,
        run.request_throughput,
        run.request_goodput,
        run.output_token_throughput,
        run.output_token_goodput,
    )
}

/// A name and what is said of it, on two lines where one has no room for both.
fn heading(name: &str, said: &str) -> String {
    let columns = name.chars().count().saturating_add(said.chars().count()).saturating_add(2);
    let between = if columns > usize::from(COLUMNS_MAX) { "\n" } else { " " };
    format!("{name}:{between}{said}")
}

/// A table of cells, the first column to the left and the others to the right.
#[must_use]
pub fn plain<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut out = table(&header);
    for row in rows {
        out.add_row(row);
    }
    align_right(&mut out);
    out.to_string()
}

/// The same where the number of columns is not known before.
#[must_use]
pub fn rows(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut out = table(header);
    for row in rows {
        out.add_row(row);
    }
    align_right(&mut out);
    out.to_string()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(COLUMNS_MAX);
    table
}

/// Figures to the right and in one piece; names to the left, broken where there is no room for them.
fn align_right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
}

/// The policy, with the admission mode where there is one.
fn policy(run: &Run) -> String {
    run.rules()
}

/// A share of 0 to 1 in percent.
#[must_use]
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |it| format!("{:.1} %", it * 100.0))
}

/// Milliseconds with three digits or more that count, in seconds from ten seconds on.
fn millis(millis: Option<f64>) -> String {
    match millis {
        None => "-".to_owned(),
        Some(it) if it < 10.0 => format!("{it:.2} ms"),
        Some(it) if it < 100.0 => format!("{it:.1} ms"),
        Some(it) if it < 10_000.0 => format!("{it:.0} ms"),
        Some(it) => format!("{:.1} s", it / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    #[test]
    fn policies_stand_side_by_side() {
        let mut guarded = run(&records());
        guarded.admission = "knee".to_owned();
        let mut other = run(&[]);
        other.workload = "independent".to_owned();
        let table = comparison(&[run(&records()), guarded, other]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }

    #[test]
    fn long_names_are_broken_and_figures_are_not() {
        let mut long = run(&records());
        long.policy = "a-policy-with-a-name-that-nobody-would-call-short".to_owned();
        long.admission = "knee-of-some-new-kind".to_owned();
        long.workload = format!("{}.jsonl", "a-trace-with-a-name-of-many-words-".repeat(2));
        for table in [comparison(&[long.clone()]), single(&long), means(&[long])] {
            assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
            assert!(table.contains("0.25/s") || table.contains("0.2/s"), "{table}");
        }
    }

    #[test]
    fn one_run_is_told_in_full() {
        let table = single(&run(&records()));
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }
}
