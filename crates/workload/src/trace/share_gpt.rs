//! Conversations as ShareGPT's files have them: a JSON array, or one conversation a line.
//!
//! ```json
//! [{"id": "a1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]}]
//! ```
//!
//! OpenAI's words (`messages`, `role`, `content`) are read as well. Each answer makes a request: all
//! that was said before it is the prompt, its length is the answer's. Only `start_s` tells when a
//! conversation began, where a recorder added it; otherwise conversations need a schedule. Later
//! turns follow the answer and a time to think, which no file tells.

use serde::Deserialize;
use serde_json::value::RawValue;
use types::quantity::Tokens;

use crate::{
    prompt::{Prompt, Role},
    range::DurationRange,
    seed::{Purpose, generator},
    trace::{
        Recorded, Row, Trace,
        lines::{BadLine, Problem, Rows, line_of, numbered},
        said::{Said, tokens_of},
    },
};

#[derive(Deserialize)]
struct Conversation<'a> {
    #[serde(borrow, alias = "messages")]
    conversations: Vec<Said<'a>>,
    start_s: Option<f64>,
}

/// Reads the conversations in `text`; `trace.file` only serves messages.
///
/// # Errors
/// A text that is no JSON, or the first conversation that cannot be read, unless such are to be
/// skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut reader = Reader {
        rows: Rows::new(trace),
        think: trace.think_time,
        // Files have no seed; two runs think alike, as they do over a trace that tells.
        thinking: generator(0, Purpose::ThinkTimes),
        sessions: 0,
        are_timed: true,
    };
    if text.trim_start().starts_with('[') {
        let elements = serde_json::from_str::<Vec<&RawValue>>(text).map_err(|error| BadLine {
            file: trace.file.clone(),
            line: error.line(),
            problem: Problem::from(error),
        })?;
        for element in elements {
            reader.take(line_of(text, element.get()), element.get())?;
        }
    } else {
        for (number, line) in numbered(text) {
            reader.take(number, line)?;
        }
    }
    Ok(if reader.are_timed { reader.rows.in_order(1) } else { reader.rows.untimed() })
}

struct Reader<'a> {
    rows: Rows<'a>,
    think: DurationRange,
    thinking: rand::rngs::Xoshiro256PlusPlus,
    sessions: u64,
    are_timed: bool,
}

impl Reader<'_> {
    fn take(&mut self, line: usize, json: &str) -> Result<(), BadLine> {
        match self.turns(json) {
            Ok(turns) if turns.is_empty() => {
                self.rows.leave_unanswered();
                Ok(())
            }
            Ok(turns) => {
                self.sessions = self.sessions.saturating_add(1);
                turns.into_iter().try_for_each(|row| self.rows.take(line, Ok(row)))
            }
            Err(problem) => self.rows.refuse(line, problem),
        }
    }

    fn turns(&mut self, json: &str) -> Result<Vec<Row>, Problem> {
        let conversation: Conversation<'_> = serde_json::from_str(json)?;
        self.are_timed &= conversation.start_s.is_some();
        let start_s = conversation.start_s.unwrap_or_default();
        let (mut history, mut turns) = (Vec::new(), Vec::new());
        for said in &conversation.conversations {
            let message = said.message()?;
            let is_asked = history.iter().any(|it: &crate::Message| it.role == Role::User);
            if message.role == Role::Assistant && is_asked {
                let prompt = Prompt::new(history.clone());
                let turn = u32::try_from(turns.len()).unwrap_or(u32::MAX);
                turns.push(Row {
                    input: prompt.tokens(),
                    output: message.text.as_deref().map_or(Tokens::ZERO, tokens_of),
                    session: Some(self.sessions),
                    turn,
                    follows: turn > 0,
                    think: if turn > 0 {
                        self.think.draw(&mut self.thinking)
                    } else {
                        <_>::default()
                    },
                    prompt: Some(prompt),
                    ..Row::at(start_s)
                });
            }
            history.push(message);
        }
        Ok(turns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TALK: &str = r#"[
  {"id": "a1", "conversations": [
    {"from": "human", "value": "What is a sluice?"},
    {"from": "gpt", "value": "A gate that lets water through."},
    {"from": "human", "value": "And \"sluicing\"?"},
    {"from": "gpt", "value": "Washing."}]},
  {"id": "a2", "conversations": [{"from": "human", "value": "Nobody answers."}]}
]"#;

    fn lines(text: &str, skip_bad_lines: bool) -> Result<Recorded, BadLine> {
        read(&Trace { skip_bad_lines, ..Trace::new("s.json".to_owned()) }, text)
    }

    #[test]
    fn every_answer_makes_a_request_with_all_that_was_said() {
        let recorded = lines(TALK, false).unwrap();
        assert!(recorded.is_untimed);
        assert_eq!(recorded.skipped.unanswered, 1);
        assert!(recorded.skipped.to_string().ends_with("and 1 conversations without an answer"));
        let [first, second] = recorded.rows.as_slice() else { panic!("two answers") };
        assert_eq!((first.turn, first.input, first.output), (0, Tokens(5), Tokens(8)));
        assert_eq!((second.turn, second.session, second.follows), (1, Some(0), true));
        let messages = &second.prompt.as_ref().unwrap().messages;
        assert_eq!(messages.len(), 3);
        assert_eq!(messages[2].text.as_deref(), Some("And \"sluicing\"?"));
        assert!(second.think >= Duration::from_secs(2) && second.think <= Duration::from_secs(6));
    }

    #[test]
    fn openais_words_and_a_start_are_read() {
        // The shape of SWE-agent's demonstrations as a recorder wrote them; the words are ours.
        let text = r#"{"session_id": "swe-0", "start_s": 25.5, "messages": [{"role": "system", "content": "You program."}, {"role": "user", "content": [{"type": "text", "text": "Fix it."}]}, {"role": "assistant", "content": "Done."}]}
{"session_id": "swe-1", "start_s": 20.0, "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}"#;
        let recorded = lines(text, false).unwrap();
        assert!(!recorded.is_untimed);
        let times: Vec<f64> = recorded.rows.iter().map(|it| it.at_s).collect();
        assert_eq!(times, [0.0, 5.5]);
        assert_eq!(recorded.rows[1].prompt.as_ref().unwrap().messages.len(), 2);
    }

    #[test]
    fn a_bad_conversation_is_named_by_its_line_and_can_be_skipped() {
        let text = TALK.replace("\"from\": \"gpt\", \"value\": \"Washing.\"", "\"from\": \"cat\"");
        let error = lines(&text, false).unwrap_err().to_string();
        assert!(error.starts_with("s.json, line 2: `cat` is no role"), "{error}");
        let recorded = lines(&text, true).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.bad_lines), (0, 1));
        let error = lines("[{\"conversations\": [}", true).unwrap_err().to_string();
        assert!(error.starts_with("s.json, line 1: expected value"), "{error}");
    }
}
