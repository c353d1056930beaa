//! Azure's trace format: comma-separated values with a time, and the lengths of prompt and answer.
//!
//! ```text
//! TIMESTAMP,ContextTokens,GeneratedTokens
//! 2023-11-16 18:15:46.6805900,374,44
//! ```
//!
//! Nothing names the prompts, so every row's text is its own: no reuse is invented. Columns are found
//! by name; others are ignored. Times are in UTC, with or without an offset that says so, as the
//! files of 2024 have them and those of 2023 do not.

use jiff::{Timestamp, civil::DateTime, tz::Offset};

use crate::trace::{
    Recorded, Row, Trace,
    columns::{Cells, Table},
    lines::{BadLine, Problem, Rows},
};

/// The columns that are read, by which the format is told from others.
pub(super) const COLUMNS: [&str; 3] = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// A header without one of the columns, or the first line that cannot be read, unless such lines are
/// to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let table = Table::new(text);
    let [at, input, output] = COLUMNS.map(|name| table.column(&trace.file, name));
    let columns = [at?, input?, output?];
    let mut rows = Rows::new(trace);
    for (number, cells) in table.lines() {
        rows.take(number, row(&cells, columns))?;
    }
    Ok(rows.in_order(1))
}

fn row(cells: &Cells<'_>, [at, input, output]: [usize; 3]) -> Result<Row, Problem> {
    let text = cells.text(at);
    let at_s = seconds(text);
    let at_s = at_s.ok_or_else(|| Problem::unreadable(format!("`{text}` is no time")))?;
    Ok(Row { input: cells.tokens(input)?, output: cells.tokens(output)?, ..Row::at(at_s) })
}

/// Seconds since 1970, to the precision that a schedule needs.
pub(super) fn seconds(text: &str) -> Option<f64> {
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
        // From Azure/AzurePublicDataset, AzureLLMInferenceTrace_conv.csv, CC-BY-4.0; the last is ours.
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
