//! Azure's trace format: comma-separated values with a time, and the lengths of prompt and answer.
//!
//! ```text
//! TIMESTAMP,ContextTokens,GeneratedTokens
//! 2023-11-16 18:15:46.6805900,374,44
//! ```
//!
//! Nothing names the prompts, so every row's text is its own: no reuse is invented. Columns are found
//! by name; others are ignored. Times are in UTC, with or without an offset that says so.

use jiff::{Timestamp, civil::DateTime, tz::Offset};
use types::quantity::Tokens;

use crate::{
    range::TOKENS_MAX,
    trace::{
        Recorded, Row, Skipped, Trace,
        mooncake::{BadLine, Problem},
    },
};

/// How the format's first line begins, by which it is told from others.
pub(super) const HEADER_START: &str = "TIMESTAMP,";

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// A header without one of the columns, or the first line that cannot be read, unless such lines are
/// to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let bad = |line: usize, reason: String| BadLine {
        file: trace.file.clone(),
        line,
        problem: Problem::Unreadable { reason },
    };
    let mut lines = text.lines().enumerate();
    let header: Vec<&str> = lines.next().map_or("", |it| it.1).split(',').map(str::trim).collect();
    let column = |name: &str| {
        let place = header.iter().position(|it| *it == name);
        place.ok_or_else(|| bad(1, format!("there is no column {name}")))
    };
    let columns = [column("TIMESTAMP")?, column("ContextTokens")?, column("GeneratedTokens")?];
    let (mut rows, mut skipped) = (Vec::new(), Skipped::default());
    for (index, line) in lines.filter(|it| !it.1.trim().is_empty()) {
        match row(line, columns) {
            Ok(row) if row.input == Tokens::ZERO || row.output == Tokens::ZERO => {
                skipped.zero_length += 1;
            }
            Ok(row) => rows.push(row),
            Err(_) if trace.skip_bad_lines => skipped.bad_lines += 1,
            Err(reason) => return Err(bad(index.saturating_add(1), reason)),
        }
    }
    Ok(Recorded::in_order(rows, skipped))
}

fn row(line: &str, columns: [usize; 3]) -> Result<Row, String> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at, input, output] = columns.map(|it| cells.get(it).copied().unwrap_or_default());
    let tokens = |text: &str| {
        let tokens: Option<u32> = text.parse().ok().filter(|it| *it <= TOKENS_MAX);
        tokens.map(Tokens).ok_or_else(|| format!("`{text}` is no number of tokens"))
    };
    let at_s = seconds(at).ok_or_else(|| format!("`{at}` is no time"))?;
    Ok(Row { input: tokens(input)?, output: tokens(output)?, ..Row::at(at_s) })
}

/// Seconds since 1970, to the precision that a schedule needs.
fn seconds(text: &str) -> Option<f64> {
    let with_offset = text.parse::<Timestamp>();
    let plain = || Offset::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    let at = with_offset.ok().or_else(plain)?;
    Some(at.as_duration().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_lines(lines: &str, skip_bad_lines: bool) -> Result<Recorded, BadLine> {
        let trace = Trace { skip_bad_lines, ..Trace::new("a.csv".to_owned()) };
        read(&trace, &format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{lines}"))
    }

    #[test]
    fn times_count_from_the_first_request() {
        let lines = "2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:46.6805900,374,44\n\n\
                     2023-11-16 18:15:47+00:00,5,0";
        let recorded = read_lines(lines, false).unwrap();
        let rows: Vec<(u32, u32)> =
            recorded.rows.iter().map(|it| (it.input.0, it.output.0)).collect();
        assert_eq!(rows, [(374, 44), (396, 109)]);
        assert!((recorded.rows[1].at_s - 4.314_579).abs() < 1e-5, "{}", recorded.rows[1].at_s);
        assert_eq!(recorded.skipped.zero_length, 1);
    }

    #[test]
    fn a_bad_line_is_named_and_can_be_skipped() {
        for line in ["yesterday,1,1", "2023-11-16 18:15:47,-1,1", "2023-11-16 18:15:47,1"] {
            let error = read_lines(line, false).unwrap_err().to_string();
            assert!(error.starts_with("a.csv, line 2: `"), "{error}");
            assert_eq!(read_lines(line, true).unwrap().skipped.bad_lines, 1);
        }
        let trace = Trace::new("a.csv".to_owned());
        let error = read(&trace, "TIMESTAMP,ContextTokens\n").unwrap_err().to_string();
        assert!(error.contains("no column GeneratedTokens"), "{error}");
    }
}
