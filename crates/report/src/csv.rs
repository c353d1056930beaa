//! Comma-separated values: `summary.csv` and `windows.csv`.
//!
//! Columns are called as in JSON; a structure's parts follow its name: `ttft_ms_p99`.

use crate::{stats::Stats, summary::Run, windows::Window};

/// `summary.csv`: a line for each run.
#[must_use]
pub fn runs(runs: &[Run]) -> String {
    let mut out = String::new();
    let statistics =
        ["generator_lag_ms", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms", "ttft_error_ms"];
    let parts = ["mean", "p50", "p90", "p95", "p99", "max"];
    let names = RUN_COLUMNS
        .into_iter()
        .map(str::to_owned)
        .chain(statistics.iter().flat_map(|name| parts.map(|part| format!("{name}_{part}"))));
    push_line(&mut out, names);
    for run in runs {
        let error_ms = run.regret.and_then(|it| it.ttft_error_ms);
        let statistics =
            [run.generator_lag_ms, run.ttft_ms, run.tpot_ms, run.itl_ms, run.e2e_ms, error_ms];
        let cells = statistics.into_iter().flat_map(|it| values(it).map(number));
        push_line(&mut out, run_cells(run).into_iter().chain(cells));
    }
    out
}

const RUN_COLUMNS: [&str; 22] = [
    "workload",
    "policy",
    "admission",
    "seed",
    "window_s",
    "drain_s",
    "requests",
    "completed",
    "good",
    "rejected",
    "failed",
    "offered_rps",
    "request_throughput",
    "request_goodput",
    "good_request_fraction",
    "good_session_fraction",
    "output_token_throughput",
    "output_token_goodput",
    "cache_hit_rate",
    "cost_per_accepted",
    "ttft_bias_ms",
    "recomputed_share",
];

/// The cells under [`RUN_COLUMNS`].
fn run_cells(run: &Run) -> [String; 22] {
    [
        text(&run.workload),
        text(&run.policy),
        text(&run.admission),
        run.seed.to_string(),
        run.window_s.to_string(),
        run.drain_s.to_string(),
        run.requests.to_string(),
        run.completed.to_string(),
        run.good.to_string(),
        run.rejected.to_string(),
        run.failed.to_string(),
        run.offered_rps.to_string(),
        run.request_throughput.to_string(),
        run.request_goodput.to_string(),
        number(run.good_request_fraction),
        number(run.good_session_fraction),
        run.output_token_throughput.to_string(),
        run.output_token_goodput.to_string(),
        number(run.cache_hit_rate),
        number(run.cost_per_accepted),
        number(run.regret.and_then(|it| it.ttft_bias_ms)),
        number(run.regret.and_then(|it| it.recomputed_share)),
    ]
}

/// `windows.csv`: a line for each second.
#[must_use]
pub fn windows(windows: &[Window]) -> String {
    let mut out = String::from(
        "second,offered,completed,good,rejected,failed,in_flight,output_tokens,ttft_ms_p50,\
         ttft_ms_p99,cache_hit_rate\n",
    );
    for window in windows {
        let counts = [
            window.second,
            window.offered,
            window.completed,
            window.good,
            window.rejected,
            window.failed,
            window.in_flight,
            window.output_tokens,
        ];
        let figures = [window.ttft_ms_p50, window.ttft_ms_p99, window.cache_hit_rate];
        let counts = counts.into_iter().map(|it| it.to_string());
        push_line(&mut out, counts.chain(figures.into_iter().map(number)));
    }
    out
}

fn values(stats: Option<Stats>) -> [Option<f64>; 6] {
    stats.map_or([None; 6], |it| [it.mean, it.p50, it.p90, it.p95, it.p99, it.max].map(Some))
}

/// A number, or nothing where there is none.
fn number(value: Option<f64>) -> String {
    value.map(|it| it.to_string()).unwrap_or_default()
}

/// Text, in quotes where RFC 4180 asks for them.
fn text(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn push_line(out: &mut String, cells: impl Iterator<Item = String>) {
    for (index, cell) in cells.enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&cell);
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{answered, records, run};

    #[test]
    fn every_line_has_every_column() {
        let csv = runs(&[run(&records()), run(&[])]);
        let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
        let value = |name| {
            let column = lines[0].iter().position(|it| *it == name).unwrap();
            (lines[1][column], lines[2][column])
        };
        assert_eq!(value("request_goodput"), ("0.25", "0"));
        assert_eq!(value("cost_per_accepted"), ("0.01", ""));
        assert_eq!(value("ttft_ms_p50"), ("300", ""));
        assert_eq!(value("e2e_ms_max"), ("3000", ""));
    }

    #[test]
    fn names_with_commas_are_quoted() {
        assert_eq!(text("a, \"b\""), "\"a, \"\"b\"\"\"");
        assert_eq!(text("least-latency"), "least-latency");
    }

    #[test]
    fn seconds_become_lines() {
        let csv = windows(&crate::windows::windows(&[answered(100, 200, Some(50))]));
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[1..], ["0,1,0,0,0,0,1,0,200,200,", "1,0,1,1,0,0,0,10,,,0.5"]);
    }
}
