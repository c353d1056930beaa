//! Mooncake's trace format: one JSON object a line, with the names of the prompt's KV blocks.
//!
//! ```json
//! {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48]}
//! ```
//!
//! Times are in milliseconds, lengths in tokens. A name stands for a block *and all before it*, so
//! equal names mean equal prefixes. In Mooncake's own files a block has 512 tokens and the last one
//! may be partial; files that others made with 16 tokens a block name full blocks only. Both are
//! read, told apart by the number of names, and neither invents reuse: what no name covers is text
//! of the row's own. `session_id`, `turn`, `delay_ms` (time the user thinks, or a tool runs, before
//! this turn), `tenant`, `slo_class` and `workload_class` are read where recorders add them, and AIPerf's
//! variants: `delay` for `delay_ms`, in place of a timestamp for later turns, and `text_input` in place of a
//! length. Other keys are ignored.

use serde::Deserialize;
use types::{quantity::Tokens, work::WorkloadClass};

use crate::{
    prompt::{Message, Prompt, Role},
    trace::{
        Recorded, Row, Trace,
        lines::{BadLine, Problem, Rows, Sessions, check_blocks, duration_from_ms, numbered},
    },
};

/// Mooncake's own block size.
pub(super) const BLOCK_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Line {
    /// Milliseconds.
    timestamp: Option<f64>,
    input_length: Option<u32>,
    text_input: Option<String>,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
    /// Conversation, as recorders of agents name it.
    session_id: Option<String>,
    turn: Option<u32>,
    /// Milliseconds between the answer before this turn and this turn.
    #[serde(alias = "delay")]
    delay_ms: Option<f64>,
    tenant: Option<u32>,
    slo_class: Option<String>,
    workload_class: Option<WorkloadClass>,
}

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// The first line that cannot be read, unless such lines are to be skipped; and the first whose
/// names do not fit the block size, also then where most do not, since the whole file would be misread.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let block = trace.block_tokens.unwrap_or(BLOCK_TOKENS);
    let mut rows = Rows::new(trace);
    let mut sessions = Sessions::default();
    for (number, text) in numbered(text) {
        let row = serde_json::from_str::<Line>(text).map_err(Problem::from);
        rows.take(number, row.and_then(|line| line.into_row(&mut sessions, block)))?;
    }
    rows.in_blocks(block)
}

impl Line {
    fn into_row(self, sessions: &mut Sessions, block: u32) -> Result<Row, Problem> {
        let said = self.text_input.map(|it| Message::from_text(Role::User, &it));
        let input = said.as_ref().map(|it| it.tokens().0).or(self.input_length);
        let input = input.ok_or_else(|| Problem::unreadable("missing field `input_length`"))?;
        let (session, place) = match &self.session_id {
            Some(name) => {
                let (number, turn) = sessions.next_turn(name);
                (Some(number), turn)
            }
            None => (None, 0),
        };
        let follows = self.timestamp.is_none() && place > 0 && self.delay_ms.is_some();
        let timestamp = self.timestamp.or(follows.then_some(0.0));
        let at_ms = timestamp.ok_or_else(|| Problem::unreadable("missing field `timestamp`"))?;
        if said.is_none() {
            check_blocks(input, self.hash_ids.len(), block)?;
        }
        Ok(Row {
            input: Tokens(input),
            output: Tokens(self.output_length),
            blocks: self.hash_ids,
            session,
            turn: self.turn.unwrap_or(place),
            tenant: self.tenant,
            slo_class: self.slo_class.map(Into::into),
            workload_class: self.workload_class,
            think: duration_from_ms(self.delay_ms.unwrap_or_default()),
            follows,
            prompt: said.map(|it| Prompt::new(vec![it])),
            ..Row::at(at_ms / 1_000.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read_with(block_tokens: u32, skip_bad_lines: bool, text: &str) -> Result<Recorded, BadLine> {
        let trace = Trace::new("t.jsonl".to_owned());
        read(&Trace { block_tokens: Some(block_tokens), skip_bad_lines, ..trace }, text)
    }

    const ROW: &str =
        r#"{"timestamp": 5000, "input_length": 40, "output_length": 2, "hash_ids": [7, 8, 9]}"#;

    #[test]
    fn partial_last_blocks_may_be_named_or_not() {
        assert!(read_with(16, false, ROW).is_ok());
        assert!(read_with(16, false, &ROW.replace(", 9", "")).is_ok());
        assert!(read_with(16, false, &ROW.replace(r#", "hash_ids": [7, 8, 9]"#, "")).is_ok());
        assert!(read_with(16, false, &ROW.replace(", 9", ", 9, 10")).is_err());
    }

    #[test]
    fn a_wrong_block_size_is_named_with_the_right_one() {
        let error = read_with(512, true, ROW).unwrap_err().to_string();
        assert_eq!(
            error,
            "t.jsonl, line 1: 3 hash_ids for 40 tokens do not fit blocks of 512 tokens; blocks of \
             16 would: set block_tokens to 16 (--block-tokens 16)"
        );
    }

    #[test]
    fn a_line_whose_names_misfit_can_be_skipped_where_most_fit() {
        let misfit = ROW.replace(", 9", ", 9, 10");
        let text = format!("{ROW}\n{misfit}\n{ROW}");
        let error = read_with(16, false, &text).unwrap_err().to_string();
        assert!(error.starts_with("t.jsonl, line 2: 4 hash_ids"), "{error}");
        let recorded = read_with(16, true, &text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.bad_lines), (2, 1));
        // As many that misfit as fit: it is the block size that is wrong.
        assert!(read_with(16, true, &format!("{text}\n{misfit}")).is_err());
    }

    #[test]
    fn a_truncated_line_is_named_and_can_be_skipped() {
        let text = format!("{ROW}\n\n{}", ROW.split_at(30).0);
        let error = read_with(16, false, &text).unwrap_err().to_string();
        assert!(error.starts_with("t.jsonl, line 3: EOF while parsing"), "{error}");
        assert!(error.ends_with("(--skip-bad-lines)"), "{error}");
        let recorded = read_with(16, true, &text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.bad_lines), (1, 1));
    }

    #[test]
    fn impossible_values_are_unreadable() {
        for (good, bad) in [
            ("40", "-1"),
            ("40", "4e3"),
            ("5000", "\"5 s\""),
            ("5000", "null"),
            (", \"hash_ids\": [7, 8, 9]}", ", \"text_input\": 4}"),
        ] {
            let error = read_with(16, false, &ROW.replace(good, bad)).unwrap_err();
            assert!(matches!(error.problem, Problem::Unreadable { .. }), "{error}");
        }
        let long = ROW.replace("40", "10000001").replace(", \"hash_ids\": [7, 8, 9]", "");
        let error = read_with(16, false, &long).unwrap_err().to_string();
        assert!(error.contains("10000001 tokens is above"), "{error}");
    }

    #[test]
    fn rows_of_zero_length_are_counted() {
        let text = ROW.replace(": 2,", ": 0,");
        let recorded = read_with(16, false, &text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.zero_length), (0, 1));
    }

    #[test]
    fn times_start_at_zero_and_are_in_order() {
        let text = format!("{ROW}\n{}\n{ROW}", ROW.replace("5000", "4000"));
        let rows = read_with(16, false, &text).unwrap().rows;
        let times: Vec<f64> = rows.iter().map(|it| it.at_s).collect();
        assert_eq!(times, [0.0, 1.0, 1.0]);
    }

    #[test]
    fn conversations_are_told_where_the_trace_tells_them() {
        let turn = |session: &str, turn: u32| {
            let more = format!(r#","session_id":"{session}","turn":{turn},"delay_ms":1500}}"#);
            ROW.replace('}', &more)
        };
        let text = [turn("b", 0), turn("a", 0), turn("b", 1), ROW.to_owned()].join("\n");
        let rows = read_with(16, false, &text).unwrap().rows;
        let told: Vec<_> = rows.iter().map(|it| (it.session, it.turn)).collect();
        assert_eq!(told, [(Some(0), 0), (Some(1), 0), (Some(0), 1), (None, 0)]);
        assert_eq!(rows[0].think, Duration::from_millis(1_500));
    }

    #[test]
    fn later_turns_may_have_a_delay_in_place_of_a_time() {
        let lines = r#"{"timestamp": 100, "text_input": "what is a sluice?", "output_length": 9, "session_id": "a"}
{"timestamp": 900, "input_length": 30, "output_length": 9}
{"delay": 2000, "input_length": 30, "output_length": 9, "session_id": "a"}"#;
        let rows = read_with(16, false, lines).unwrap().rows;
        let told: Vec<_> = rows.iter().map(|it| (it.turn, it.follows, it.input.0)).collect();
        assert_eq!(told, [(0, false, 5), (1, true, 30), (0, false, 30)]);
        assert_eq!(rows[1].think, Duration::from_secs(2));
    }
}
