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
//! this turn) and `tenant` are read where recorders add them; other keys are ignored.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use types::quantity::Tokens;

use crate::{
    range::TOKENS_MAX,
    trace::{Recorded, Row, Skipped, Trace},
};

/// Block sizes that files in the wild use, for the cure of a mismatch.
const BLOCK_TOKENS_KNOWN: [u32; 7] = [512, 16, 64, 32, 128, 256, 1_024];

/// Why a line of a trace cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct BadLine {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is not an object with the three numbers.
    #[error("{reason}; correct or remove the line, or set skip_bad_lines (--skip-bad-lines)")]
    Unreadable {
        /// What the parser found.
        reason: String,
    },
    /// The number of names does not fit the block size.
    #[error("{names} hash_ids for {input} tokens do not fit blocks of {block} tokens; {cure}")]
    BlockMismatch {
        /// Names on the line.
        names: usize,
        /// Length of the prompt.
        input: u32,
        /// Block size as given.
        block: u32,
        /// What to do.
        cure: String,
    },
}

#[derive(Deserialize)]
struct Line {
    /// Milliseconds.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
    /// Conversation, as recorders of agents name it.
    session_id: Option<String>,
    turn: Option<u32>,
    /// Milliseconds between the answer before this turn and this turn.
    #[serde(default)]
    delay_ms: f64,
    tenant: Option<u32>,
}

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// The first line that cannot be read, unless such lines are to be skipped; and the first whose
/// names do not fit the block size, always, since the whole file would be misread.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut rows = Vec::new();
    let mut sessions = BTreeMap::new();
    let mut skipped = Skipped::default();
    for (index, text) in text.lines().enumerate() {
        if text.trim().is_empty() {
            continue;
        }
        match parse(text, trace.block_tokens) {
            Ok(line) if line.input_length == 0 || line.output_length == 0 => {
                skipped.zero_length += 1;
            }
            Ok(line) => rows.push(line.into_row(&mut sessions)),
            Err(Problem::Unreadable { .. }) if trace.skip_bad_lines => skipped.bad_lines += 1,
            Err(problem) => {
                let line = index.saturating_add(1);
                return Err(BadLine { file: trace.file.clone(), line, problem });
            }
        }
    }
    Ok(Recorded::in_order(rows, skipped))
}

fn parse(text: &str, block: u32) -> Result<Line, Problem> {
    let line: Line = serde_json::from_str(text)
        .map_err(|error| Problem::Unreadable { reason: error.to_string() })?;
    let longest = line.input_length.max(line.output_length);
    if longest > TOKENS_MAX {
        let reason = format!("a length of {longest} tokens is above {TOKENS_MAX}");
        return Err(Problem::Unreadable { reason });
    }
    let (input, names) = (line.input_length, line.hash_ids.len());
    if names == 0 || fits(input, names, block) {
        return Ok(line);
    }
    let fitting = BLOCK_TOKENS_KNOWN.into_iter().find(|it| fits(input, names, *it));
    let cure = match fitting {
        Some(size) => {
            format!("blocks of {size} would: set block_tokens to {size} (--block-tokens {size})")
        }
        None => "correct the line or set block_tokens (--block-tokens) to the file's".to_owned(),
    };
    Err(Problem::BlockMismatch { names, input, block, cure })
}

/// Whether `names` name the blocks of `input` tokens, the partial last one counted or not.
fn fits(input: u32, names: usize, block: u32) -> bool {
    let full = input.checked_div(block).and_then(|it| usize::try_from(it).ok());
    let all = usize::try_from(input.div_ceil(block.max(1))).ok();
    Some(names) == full || Some(names) == all
}

impl Line {
    /// The line as a request; conversations are numbered as they come.
    fn into_row(self, sessions: &mut BTreeMap<String, u64>) -> Row {
        let next = sessions.len() as u64;
        let session = self.session_id.map(|name| *sessions.entry(name).or_insert(next));
        Row {
            input: Tokens(self.input_length),
            output: Tokens(self.output_length),
            blocks: self.hash_ids,
            session,
            turn: self.turn.unwrap_or_default(),
            tenant: self.tenant,
            think: Duration::try_from_secs_f64(self.delay_ms / 1_000.0).unwrap_or_default(),
            ..Row::at(self.timestamp / 1_000.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(block_tokens: u32, skip_bad_lines: bool, text: &str) -> Result<Recorded, BadLine> {
        read(&Trace { file: "t.jsonl".to_owned(), block_tokens, skip_bad_lines }, text)
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
        for (good, bad) in [("40", "-1"), ("40", "4e3"), ("40", "10000001"), ("5000", "\"5 s\"")] {
            let error = read_with(16, false, &ROW.replace(good, bad)).unwrap_err();
            assert!(matches!(error.problem, Problem::Unreadable { .. }), "{error}");
        }
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
}
