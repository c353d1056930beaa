//! BurstGPT's trace format: comma-separated values, one request a line.
//!
//! ```text
//! Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
//! 5,1044,8.22,ChatGPT,472,18,490,Conversation log
//! ```
//!
//! Times are in seconds. The first release has neither `Session ID` nor `Elapsed time`; columns are
//! found by name. Some 8 % of the rows had no answer: they are counted and left out. Nothing names
//! the prompts, so every row's text is its own.

use std::{collections::BTreeMap, time::Duration};

use crate::trace::{
    Recorded, Row, Trace,
    columns::{Cells, Table},
    lines::{BadLine, Problem, Rows, Sessions},
};

/// The columns that every release has, by which the format is told from others.
pub(super) const COLUMNS: [&str; 3] = ["Timestamp", "Request tokens", "Response tokens"];

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// A header without one of the columns, or the first line that cannot be read, unless such lines are
/// to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let table = Table::new(text);
    let [at, input, output] = COLUMNS.map(|name| table.column(&trace.file, name));
    let columns = Columns {
        at: at?,
        input: input?,
        output: output?,
        session: table.find("Session ID"),
        elapsed: table.find("Elapsed time"),
    };
    let mut rows = Rows::new(trace);
    let mut past = Past::default();
    for (number, cells) in table.lines() {
        rows.take(number, columns.row(&cells, &mut past))?;
    }
    Ok(rows.in_order(1))
}

struct Columns {
    at: usize,
    input: usize,
    output: usize,
    session: Option<usize>,
    elapsed: Option<usize>,
}

/// What came before in each conversation.
#[derive(Default)]
struct Past {
    sessions: Sessions,
    /// When the last answer of a conversation was whole, in seconds.
    answered_s: BTreeMap<u64, f64>,
}

impl Columns {
    fn row(&self, cells: &Cells<'_>, past: &mut Past) -> Result<Row, Problem> {
        let at_s = cells.seconds(self.at)?;
        let mut row = Row {
            input: cells.tokens(self.input)?,
            output: cells.tokens(self.output)?,
            ..Row::at(at_s)
        };
        let name = self.session.map(|it| cells.text(it)).filter(|it| !it.is_empty());
        if let Some(name) = name {
            let (session, turn) = past.sessions.next_turn(name);
            (row.session, row.turn) = (Some(session), turn);
            let elapsed_s = self.elapsed.map_or(Ok(0.0), |it| cells.seconds(it))?;
            let answered_s = past.answered_s.insert(session, at_s + elapsed_s);
            let think_s = answered_s.map_or(0.0, |it| at_s - it);
            row.think = Duration::try_from_secs_f64(think_s).unwrap_or_default();
        }
        Ok(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by hand after the description of HPMLL/BurstGPT (CC-BY-4.0).
    const WITH_SESSIONS: &str = "\
Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,1044,8,ChatGPT,472,18,490,Conversation log
45,,2,GPT-4,1087,230,1317,API log
50,1044,4,ChatGPT,520,0,520,Conversation log
60,1044,3.5,ChatGPT,610,44,654,Conversation log
";

    #[test]
    fn sessions_are_told_and_rows_without_an_answer_counted() {
        let recorded = read(&Trace::new("b.csv".to_owned()), WITH_SESSIONS).unwrap();
        let told: Vec<_> = recorded
            .rows
            .iter()
            .map(|it| (it.at_s, it.input.0, it.output.0, it.session, it.turn))
            .collect();
        assert_eq!(
            told,
            [(0.0, 472, 18, Some(0), 0), (40.0, 1_087, 230, None, 0), (55.0, 610, 44, Some(0), 2)]
        );
        assert_eq!(recorded.rows[2].think, Duration::from_secs(6));
        assert_eq!(recorded.skipped.zero_length, 1);
    }

    #[test]
    fn the_first_release_has_fewer_columns() {
        let text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                    5,ChatGPT,472,18,490,Conversation log\nsoon,ChatGPT,1,1,2,API log\n";
        let trace = Trace::new("b.csv".to_owned());
        let error = read(&trace, text).unwrap_err().to_string();
        assert!(error.starts_with("b.csv, line 3: `soon` is no number of seconds"), "{error}");
        let recorded = read(&Trace { skip_bad_lines: true, ..trace }, text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.bad_lines), (1, 1));
    }
}
