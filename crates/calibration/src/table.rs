//! Fits as tables for a terminal, at most 100 columns wide.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use engine::Profile;

use crate::{
    probe::Sweeps,
    requests_fit::RecordingFit,
    stage::Figures,
    stage_fit::{GroupFit, StageFit, error, median_error},
    timeline::Timeline,
};

/// Lines above and below the header and below the last row.
const STYLE: TableStyle =
    TableStyle::new().top_border(LINE).header_separator(LINE).bottom_border(LINE);

const LINE: LineStyle = LineStyle::none().fill('─').junction('─');

/// A fitted group: its coefficients, and each stage measured, fitted and held out.
#[must_use]
pub fn stages(fit: &GroupFit) -> String {
    let mut table = new(&[
        "stage", "req/s", "TPOT ms", "fit", "held", "TTFT p90", "fit", "held", "E2E s", "fit",
        "held",
    ]);
    for stage in &fit.stages {
        table.add_row(stage_row(stage));
    }
    right(&mut table);
    let coefficients = coefficients(&fit.start, &fit.profile);
    format!("{}\n{coefficients}{table}\n", fit.name)
}

fn stage_row(fit: &StageFit) -> Vec<String> {
    let StageFit { stage, fitted, held_out } = fit;
    let measured = &stage.measured;
    let mut row = vec![stage.name.clone(), format!("{}", stage.shape.rate_per_s)];
    // TPOT and TTFT in milliseconds, the whole answer in seconds.
    let read = |it: &Figures| {
        [it.tpot.mean.map(|s| s * 1e3), it.ttft.p90.or(it.ttft.mean).map(|s| s * 1e3), it.e2e.mean]
    };
    let held_out = held_out.as_ref().map_or([None; 3], read);
    for ((truth, fitted), held_out) in read(measured).into_iter().zip(read(fitted)).zip(held_out) {
        row.push(figure(truth));
        row.push(percent(error(fitted, truth)));
        row.push(percent(error(held_out, truth)));
    }
    if let Some(name) = row.first_mut() {
        match (measured.overloaded(), fitted.overloaded()) {
            (false, false) => {}
            (true, true) => name.push_str(" (overload)"),
            (true, false) => name.push_str(" (overload MISSED)"),
            (false, true) => name.push_str(" (overload WRONG)"),
        }
    }
    row
}

/// Median sizes of the errors over the stages of all groups that kept up.
#[must_use]
pub fn summary(fits: &[GroupFit]) -> String {
    let all = || fits.iter().flat_map(|fit| &fit.stages);
    let kept_up = || all().filter(|it| !it.stage.measured.overloaded());
    let mut table = new(&["median size of the error", "TPOT", "TTFT p90", "E2E", "stages"]);
    let read = |it: &Figures| [it.tpot.mean, it.ttft.p90, it.e2e.mean];
    let row = |name: &str, ours: fn(&StageFit) -> Option<&Figures>| {
        let error_of = |column: usize| {
            median_error(kept_up().map(|it| {
                let value = |figures| read(figures).get(column).copied().flatten();
                error(ours(it).and_then(value), value(&it.stage.measured))
            }))
        };
        let count = kept_up().filter(|it| ours(it).is_some()).count();
        let cells = [0, 1, 2].map(|column| error_of(column).map_or_else(dash, share));
        let [tpot, ttft, e2e] = cells;
        [name.to_owned(), tpot, ttft, e2e, count.to_string()]
    };
    table.add_row(row("fitted", |it| Some(&it.fitted)));
    table.add_row(row("held out", |it| it.held_out.as_ref()));
    right(&mut table);
    let overloaded = all().filter(|it| it.stage.measured.overloaded());
    let recognised = overloaded.clone().filter(|it| it.fitted.overloaded()).count();
    let count = overloaded.count();
    let wrong = kept_up().filter(|it| it.fitted.overloaded()).count();
    format!(
        "{table}\noverload: {recognised} of {count} recognised, {wrong} seen where there was none\n"
    )
}

/// A recording's fit: its coefficients, and each latency measured and simulated.
#[must_use]
pub fn recording(name: &str, fit: &RecordingFit) -> String {
    let mut table =
        new(&["", "mean s", "fit", "p50 s", "fit", "p90 s", "fit", "each request", "held out"]);
    for it in &fit.compared {
        let (ours, theirs) = (it.simulated, it.measured);
        let mut row = vec![it.name.to_owned()];
        for (ours, theirs) in
            [(ours.mean, theirs.mean), (ours.p50, theirs.p50), (ours.p90, theirs.p90)]
        {
            row.push(figure(Some(theirs)));
            row.push(percent(error(Some(ours), Some(theirs))));
        }
        row.extend([share(it.median_error), share(it.held_out_error)]);
        table.add_row(row);
    }
    right(&mut table);
    let coefficients = coefficients(&fit.start, &fit.profile);
    format!("{name}\n{coefficients}{table}\npreemptions: {}\n", fit.preemptions)
}

/// The load over time: its figures on the whole, and a moment in `ROWS` of it.
#[must_use]
pub fn timeline(timeline: &Timeline) -> String {
    let mut tracks = new(&["load", "mean", "simulated", "apart by", "most", "simulated"]);
    for it in &timeline.tracks {
        let figures =
            [it.measured_mean, it.simulated_mean, it.off_mean, it.measured_max, it.simulated_max];
        let cells = figures.into_iter().map(|value| figure(Some(value)));
        tracks.add_row([it.name.to_owned()].into_iter().chain(cells));
    }
    right(&mut tracks);
    let header = ["second", "running", "simulated", "waiting", "simulated", "KV use", "simulated"];
    let mut moments = new(&header);
    for (real, ours) in timeline.moments.iter().step_by((timeline.moments.len() / ROWS).max(1)) {
        let whole = |value: f64| format!("{value:.0}");
        let of_one = |value: f64| format!("{:.0} %", value * 100.0);
        moments.add_row([
            whole(real.at_s),
            whole(real.load.running),
            whole(ours.running),
            whole(real.load.waiting),
            whole(ours.waiting),
            of_one(real.load.kv_usage),
            of_one(ours.kv_usage),
        ]);
    }
    right(&mut moments);
    format!("{tracks}\n{moments}\n")
}

/// Moments that are shown of a whole run.
const ROWS: usize = 16;

/// What the sweeps of a live endpoint showed.
#[must_use]
pub fn sweeps(sweeps: &Sweeps) -> String {
    let mut table = new(&["prompt tokens", "TTFT ms", "at once", "TPOT ms"]);
    let rows = sweeps.lengths.len().max(sweeps.concurrency.len());
    for row in 0..rows {
        let cells = [sweeps.lengths.get(row), sweeps.concurrency.get(row)].into_iter();
        table.add_row(cells.flat_map(|point| match point {
            Some(point) => [point.at.to_string(), figure(Some(point.seconds * 1e3))],
            None => [String::new(), String::new()],
        }));
    }
    right(&mut table);
    let repeat = sweeps.repeat.map_or_else(String::new, |(new, again)| {
        let says = sweeps.cached.map_or_else(
            || "the endpoint does not say how many tokens it found in its cache".to_owned(),
            |it| format!("the endpoint says it found {it} tokens in its cache"),
        );
        let (new, again) = (new * 1e3, again * 1e3);
        format!(
            "prefix cache: the longest prompt took {new:.1} ms new, {again:.1} ms again; {says}\n"
        )
    });
    format!("{table}\n{repeat}")
}

/// The coefficients before and after.
fn coefficients(start: &Profile, fitted: &Profile) -> String {
    let mut table = new(&["", "o ms", "a ms", "b µs", "c µs", "d ns", "e ns", "overlap", "API ms"]);
    for (name, profile) in [("start", start), ("fit", fitted)] {
        let step = &profile.step;
        let values = [
            step.overhead_ms,
            step.weights_ms,
            step.token_us,
            step.sequence_us,
            step.context_ns,
            step.attention_ns,
            step.overlap,
            profile.api_overhead_ms,
        ];
        let cells = values.into_iter().map(|it| figure(Some(it)));
        table.add_row([name.to_owned()].into_iter().chain(cells));
    }
    right(&mut table);
    format!("{table}\n")
}

fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header);
    table
}

fn right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

/// Three digits or more that count.
fn figure(value: Option<f64>) -> String {
    match value {
        None => dash(),
        Some(it) if it.abs() < 10.0 => format!("{it:.3}"),
        Some(it) if it.abs() < 100.0 => format!("{it:.2}"),
        Some(it) if it.abs() < 1_000.0 => format!("{it:.1}"),
        Some(it) => format!("{it:.0}"),
    }
}

fn percent(error: Option<f64>) -> String {
    error.map_or_else(dash, |it| format!("{:+.1}%", it * 100.0))
}

fn share(size: f64) -> String {
    format!("{:.1} %", size * 100.0)
}

fn dash() -> String {
    "-".to_owned()
}
