//! AIPerf's inputs: the `inputs.json` that it writes, and the lines of its single-turn and multi-turn
//! data sets.
//!
//! ```json
//! {"data": [{"session_id": "a", "payloads": [{"model": "m", "messages": […], "stream": true}]}]}
//! {"text": "Hi", "timestamp": 1000}
//! {"session_id": "a", "turns": [{"text": "Hi"}, {"text": "And?", "delay": 500}]}
//! ```
//!
//! Payloads are sent as they are, the later ones of a session after the answer to the one before.
//! Texts become messages; what the model answered in an earlier turn is not in the file, so a text of
//! the assumed length stands for it. Times and delays are in milliseconds.

use serde::Deserialize;
use serde_json::value::RawValue;
use types::quantity::Tokens;

use crate::{
    prompt::{Message, Prompt, Role, Segment},
    seed::{Kind, segment_id},
    trace::{
        Recorded, Row, Trace,
        lines::{BadLine, Problem, Rows, duration_from_ms, line_of, numbered},
        openai::{asked, given},
        said::OUTPUT_ASSUMED,
    },
};

#[derive(Deserialize)]
struct Inputs<'a> {
    #[serde(borrow)]
    data: Vec<Session<'a>>,
}

#[derive(Deserialize)]
struct Session<'a> {
    #[serde(borrow)]
    payloads: Vec<&'a RawValue>,
}

/// A line: one turn, or the turns of a conversation.
#[derive(Deserialize)]
struct Line {
    turns: Option<Vec<Turn>>,
    #[serde(flatten)]
    only: Turn,
}

#[derive(Deserialize)]
struct Turn {
    text: Option<String>,
    texts: Option<Vec<String>>,
    #[serde(alias = "max_tokens")]
    output_length: Option<u32>,
    timestamp: Option<f64>,
    delay: Option<f64>,
}

/// Reads the inputs in `text`; `trace.file` only serves messages.
///
/// # Errors
/// A file that is no JSON, or the first request that cannot be read, unless such are to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    if is_inputs(text) {
        return read_inputs(trace, text);
    }
    let mut rows = Rows::new(trace);
    let (mut are_timed, mut sessions) = (true, 0_u64);
    for (number, text) in numbered(text) {
        let line: Result<Line, _> = serde_json::from_str(text);
        match line.map_err(Problem::from).and_then(|it| it.into_rows(sessions)) {
            Ok(turns) => {
                sessions = sessions.saturating_add(1);
                are_timed &= turns.iter().all(|(_, is_timed)| *is_timed);
                turns.into_iter().try_for_each(|(row, _)| rows.take(number, Ok(row)))?;
            }
            Err(problem) => rows.refuse(number, problem)?,
        }
    }
    Ok(if are_timed { rows.in_order(1) } else { rows.untimed() })
}

/// Whether `text` is an `inputs.json`, one object over many lines or on one.
pub(super) fn is_inputs(text: &str) -> bool {
    let head: String =
        text.chars().take(2_000).filter(|it| !it.is_whitespace()).take(400).collect();
    head.starts_with("{\"data\":[") && head.contains("\"payloads\"")
}

fn read_inputs(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let inputs: Inputs<'_> = serde_json::from_str(text).map_err(|error| BadLine {
        file: trace.file.clone(),
        line: error.line(),
        problem: Problem::from(error),
    })?;
    let mut rows = Rows::new(trace);
    for (session, payloads) in (0..).zip(inputs.data.iter().map(|it| &it.payloads)) {
        for (turn, payload) in (0..).zip(payloads) {
            let row = given(payload.get(), None).map(|(prompt, output)| Row {
                input: prompt.tokens(),
                output,
                session: Some(session),
                turn,
                follows: turn > 0,
                prompt: Some(prompt),
                ..Row::at(0.0)
            });
            rows.take(line_of(text, payload.get()), row)?;
        }
    }
    Ok(rows.untimed())
}

impl Line {
    /// The rows of the line, and whether the file tells when each is sent.
    fn into_rows(self, session: u64) -> Result<Vec<(Row, bool)>, Problem> {
        let is_single = self.turns.is_none();
        let turns = self.turns.unwrap_or_else(|| vec![self.only]);
        let (mut history, mut rows) = (Vec::new(), Vec::new());
        for (place, turn) in (0_u32..).zip(turns) {
            let text = turn.text.or_else(|| turn.texts.map(|it| it.concat()));
            let text = text.ok_or_else(|| Problem::unreadable("missing field `text`"))?;
            history.push(asked(&text).0);
            let output = turn.output_length.map_or(OUTPUT_ASSUMED, Tokens);
            let follows = place > 0 && turn.timestamp.is_none();
            let prompt = Prompt::new(history.clone());
            let row = Row {
                input: prompt.tokens(),
                output,
                session: (!is_single).then_some(session),
                turn: place,
                think: duration_from_ms(turn.delay.unwrap_or_default()),
                follows,
                prompt: Some(prompt),
                ..Row::at(turn.timestamp.unwrap_or_default() / 1_000.0)
            };
            rows.push((row, follows || turn.timestamp.is_some()));
            let id = segment_id(session, Kind::Assistant, place.into());
            history.push(Message::new(Role::Assistant, Segment { id, tokens: output }));
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn read_text(text: &str) -> Result<Recorded, BadLine> {
        read(&Trace::new("inputs.json".to_owned()), text)
    }

    /// The shape that AIPerf 0.13 writes.
    const INPUTS: &str = r#"{
  "data": [
    {
      "session_id": "1f4e",
      "payloads": [
        {"messages": [{"role": "user", "content": "one"}], "model": "m", "stream": true, "max_completion_tokens": 9},
        {"messages": [{"role": "user", "content": "two"}], "model": "m", "stream": true}
      ]
    },
    {"session_id": "77aa", "payloads": [{"prompt": "three", "model": "m"}]}
  ]
}"#;

    #[test]
    fn payloads_are_kept_as_they_are() {
        assert!(is_inputs(INPUTS));
        let recorded = read_text(INPUTS).unwrap();
        assert!(recorded.is_untimed);
        let told: Vec<_> =
            recorded.rows.iter().map(|it| (it.session, it.turn, it.output.0)).collect();
        assert_eq!(told, [(Some(0), 0, 9), (Some(0), 1, 128), (Some(1), 0, 128)]);
        let given = recorded.rows[2].prompt.as_ref().unwrap().given.as_deref().unwrap();
        assert_eq!(given.body, r#"{"prompt": "three", "model": "m"}"#);
    }

    #[test]
    fn a_bad_payload_is_named_by_its_line() {
        let error = read_text(&INPUTS.replace("\"prompt\"", "\"prompts\"")).unwrap_err();
        assert!(error.to_string().starts_with("inputs.json, line 10: neither"), "{error}");
    }

    #[test]
    fn single_and_multi_turn_lines_are_read() {
        let text = r#"{"text": "Hi", "timestamp": 1000}
{"session_id": "a", "turns": [{"text": "Hi", "timestamp": 500}, {"text": "And?", "delay": 250, "output_length": 7}]}"#;
        let recorded = read_text(text).unwrap();
        assert!(!recorded.is_untimed);
        let told: Vec<_> =
            recorded.rows.iter().map(|it| (it.at_s, it.session, it.turn, it.follows)).collect();
        assert_eq!(
            told,
            [(0.0, Some(1), 0, false), (0.0, Some(1), 1, true), (0.5, None, 0, false)]
        );
        let later = &recorded.rows[1];
        assert_eq!((later.output, later.think), (Tokens(7), Duration::from_millis(250)));
        let roles: Vec<Role> =
            later.prompt.as_ref().unwrap().messages.iter().map(|it| it.role).collect();
        assert_eq!(roles, [Role::User, Role::Assistant, Role::User]);
        let error = read_text(r#"{"turns": [{"image": "x"}]}"#).unwrap_err().to_string();
        assert!(error.contains("line 1: missing field `text`"), "{error}");
    }
}
