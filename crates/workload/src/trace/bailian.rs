//! The trace format of Alibaba's Bailian (Qwen) traces: one JSON object a line.
//!
//! ```json
//! {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 521,
//!  "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090]}
//! ```
//!
//! Times are in seconds, names stand for blocks of 16 tokens and all before them. A request names the
//! one whose answer it continues, −1 for none: a conversation is a chain of them. How long a user
//! thought is what is left of the gap when an allowance for the answer is taken from it, since the
//! trace does not say when answers ended.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use types::quantity::Tokens;

use crate::trace::{
    ANSWER_TIME_PER_TOKEN, Recorded, Row, Trace,
    lines::{BadLine, Problem, Rows, check_blocks, numbered},
};

/// Bailian's own block size.
pub(super) const BLOCK_TOKENS: u32 = 16;

#[derive(Deserialize)]
struct Line {
    chat_id: i64,
    parent_chat_id: i64,
    /// Seconds.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

/// A request that others may continue.
#[derive(Clone, Copy)]
struct Chat {
    session: u64,
    turn: u32,
    at_s: f64,
    output: Tokens,
}

/// Reads the trace `text`; `trace.file` only serves messages.
///
/// # Errors
/// As for Mooncake's format.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let block = trace.block_tokens.unwrap_or(BLOCK_TOKENS);
    let mut rows = Rows::new(trace);
    let mut chats = BTreeMap::new();
    for (number, text) in numbered(text) {
        let line = serde_json::from_str::<Line>(text).map_err(Problem::from);
        rows.take(number, line.and_then(|it| it.into_row(&mut chats, block)))?;
    }
    rows.in_blocks(block)
}

impl Line {
    fn into_row(self, chats: &mut BTreeMap<i64, Chat>, block: u32) -> Result<Row, Problem> {
        check_blocks(self.input_length, self.hash_ids.len(), block)?;
        let parent = chats.get(&self.parent_chat_id).copied();
        let next = chats.len() as u64;
        let chat = Chat {
            session: parent.map_or(next, |it| it.session),
            turn: parent.map_or(0, |it| it.turn.saturating_add(1)),
            at_s: self.timestamp,
            output: Tokens(self.output_length),
        };
        chats.insert(self.chat_id, chat);
        let think_s = parent.map_or(0.0, |it| {
            let answer = ANSWER_TIME_PER_TOKEN.saturating_mul(it.output.0);
            self.timestamp - it.at_s - answer.as_secs_f64()
        });
        Ok(Row {
            input: Tokens(self.input_length),
            output: chat.output,
            blocks: self.hash_ids,
            session: Some(chat.session),
            turn: chat.turn,
            think: Duration::try_from_secs_f64(think_s).unwrap_or_default(),
            ..Row::at(self.timestamp)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by hand after the description of alibaba-edu/qwen-bailian-usagetraces-anon.
    const CHATS: &str = r#"
{"chat_id": 7, "parent_chat_id": -1, "timestamp": 1.5, "input_length": 40, "output_length": 10, "type": "text", "turn": 1, "hash_ids": [1, 2, 3]}
{"chat_id": 8, "parent_chat_id": -1, "timestamp": 2.0, "input_length": 32, "output_length": 5, "type": "search", "turn": 1, "hash_ids": [1, 9]}
{"chat_id": 9, "parent_chat_id": 7, "timestamp": 11.5, "input_length": 64, "output_length": 3, "type": "text", "turn": 2, "hash_ids": [1, 2, 4, 5]}
"#;

    #[test]
    fn a_chain_of_requests_is_a_conversation() {
        let recorded = read(&Trace::new("q.jsonl".to_owned()), CHATS).unwrap();
        let told: Vec<_> = recorded.rows.iter().map(|it| (it.session, it.turn)).collect();
        assert_eq!(told, [(Some(0), 0), (Some(1), 0), (Some(0), 1)]);
        let [first, _, last] = recorded.rows.as_slice() else { panic!("three rows") };
        assert_eq!((first.at_s, last.at_s), (0.0, 10.0));
        // Ten seconds, less 10 tokens of 30 ms.
        assert_eq!(last.think, Duration::from_millis(9_700));
        assert_eq!((recorded.block, last.blocks.len()), (Tokens(16), 4));
    }

    #[test]
    fn a_bad_line_is_named() {
        let text = CHATS.replace("\"timestamp\": 2.0", "\"timestamp\": {}");
        let error = read(&Trace::new("q.jsonl".to_owned()), &text).unwrap_err().to_string();
        assert!(error.starts_with("q.jsonl, line 3: invalid type"), "{error}");
    }
}
