//! Requests as OpenAI's API takes them, one a line: bodies, or the lines of a batch file.
//!
//! ```json
//! {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 16, "stream": true}
//! {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "llama", "prompt": "Hi"}}
//! ```
//!
//! A body is sent as it is: its model, its sampling and whether it streams are its own. What the
//! simulator needs is read from it: texts by their bytes, the length of the answer by `max_tokens`.
//! AIPerf's `payload` is read as `body`.
//! `timestamp` and `delay` (milliseconds) and `session_id` beside a `body` say when it is sent;
//! without them the requests need a schedule.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use types::quantity::Tokens;

use crate::{
    prompt::{Api, Given, Message, Prompt, Role, segments_of},
    trace::{
        Recorded, Row, Trace,
        lines::{BadLine, Problem, Rows, Sessions, duration_from_ms, numbered},
        said::{OUTPUT_ASSUMED, Said, text_of, tokens_of},
    },
};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, alias = "payload")]
    body: Option<&'a RawValue>,
    url: Option<String>,
    timestamp: Option<f64>,
    delay: Option<f64>,
    session_id: Option<String>,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    messages: Option<Vec<Said<'a>>>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    /// Anthropic's place for the operator's words.
    #[serde(borrow)]
    system: Option<&'a RawValue>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
}

/// Reads the requests in `text`; `trace.file` only serves messages.
///
/// # Errors
/// The first line that cannot be read, unless such lines are to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut rows = Rows::new(trace);
    let mut sessions = Sessions::default();
    let mut are_timed = true;
    for (number, line) in numbered(text) {
        rows.take(number, row(line, &mut sessions, &mut are_timed))?;
    }
    Ok(if are_timed { rows.in_order(1) } else { rows.untimed() })
}

fn row(line: &str, sessions: &mut Sessions, are_timed: &mut bool) -> Result<Row, Problem> {
    let outer: Line<'_> = serde_json::from_str(line)?;
    let (prompt, output) = given(outer.body.map_or(line, RawValue::get), outer.url.as_deref())?;
    let place = outer.session_id.as_deref().map(|name| sessions.next_turn(name));
    let follows = outer.timestamp.is_none() && place.is_some_and(|(_, turn)| turn > 0);
    *are_timed &= outer.timestamp.is_some() || follows;
    Ok(Row {
        input: prompt.tokens(),
        output,
        session: place.map(|it| it.0),
        turn: place.map_or(0, |it| it.1),
        think: duration_from_ms(outer.delay.unwrap_or_default()),
        follows,
        prompt: Some(prompt),
        ..Row::at(outer.timestamp.unwrap_or_default() / 1_000.0)
    })
}

/// The prompt that sends `json` as it is, and the length of the answer it asks for; `url` is the
/// path that it is for, where the file says.
pub(super) fn given(json: &str, url: Option<&str>) -> Result<(Prompt, Tokens), Problem> {
    let body: Body<'_> = serde_json::from_str(json)?;
    let mut messages = Vec::new();
    if let Some(system) = body.system {
        messages.push(Message::from_text(Role::System, &text_of(system)?));
    }
    for said in body.messages.iter().flatten() {
        messages.push(Message::from_text(said.role().unwrap_or(Role::User), &said.text()?));
    }
    if let Some(prompt) = body.prompt {
        messages.push(completion_prompt(prompt)?);
    }
    if body.messages.is_none() && body.prompt.is_none() {
        return Err(Problem::unreadable("neither `messages` nor `prompt` in the request"));
    }
    // The texts are in the body; the messages only name them.
    messages.iter_mut().for_each(|it| it.text = None);
    let api = match url {
        Some(url) => Some(api_at(url)?),
        None if body.prompt.is_some() => Some(Api::Completions),
        None if body.system.is_some() => Some(Api::Messages),
        None => None,
    };
    let output = body.max_completion_tokens.or(body.max_tokens).map_or(OUTPUT_ASSUMED, Tokens);
    let given = Given { api, body: json.to_owned() };
    Ok((Prompt { messages, given: Some(Arc::new(given)) }, output))
}

fn api_at(url: &str) -> Result<Api, Problem> {
    match url {
        _ if url.ends_with("/chat/completions") => Ok(Api::Chat),
        _ if url.ends_with("/completions") => Ok(Api::Completions),
        _ if url.ends_with("/messages") => Ok(Api::Messages),
        _ => Err(Problem::unreadable(format!(
            "`{url}` is not replayed, only chat completions, completions and messages are"
        ))),
    }
}

/// A `prompt`: a text, several, or token ids, which are as many tokens as there are.
fn completion_prompt(prompt: &RawValue) -> Result<Message, Problem> {
    let json = prompt.get();
    if json.starts_with('"') {
        let text: String = serde_json::from_str(json)?;
        return Ok(Message::from_text(Role::User, &text));
    }
    if let Ok(ids) = serde_json::from_str::<Vec<u32>>(json) {
        let bytes: Vec<u8> = ids.iter().flat_map(|it| it.to_le_bytes()).collect();
        return Ok(Message { role: Role::User, segments: segments_of(&bytes), text: None });
    }
    let texts: Vec<String> = serde_json::from_str(json)?;
    Ok(Message::from_text(Role::User, &texts.concat()))
}

/// A prompt of one text by the user, and its length.
pub(super) fn asked(text: &str) -> (Message, Tokens) {
    (Message::from_text(Role::User, text), tokens_of(text))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lines(text: &str, skip_bad_lines: bool) -> Result<Recorded, BadLine> {
        read(&Trace { skip_bad_lines, ..Trace::new("o.jsonl".to_owned()) }, text)
    }

    const BODY: &str = r#"{"model": "m", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "max_tokens": 16, "top_k": 3}"#;

    #[test]
    fn a_body_is_kept_as_it_is_and_read_for_what_it_costs() {
        let recorded = lines(BODY, false).unwrap();
        assert!(recorded.is_untimed);
        let row = &recorded.rows[0];
        assert_eq!((row.input, row.output), (Tokens(4), Tokens(16)));
        let given = row.prompt.as_ref().unwrap().given.as_deref().unwrap();
        assert_eq!((given.body.as_str(), given.api), (BODY, None));
    }

    #[test]
    fn a_batch_line_says_where_it_goes() {
        let line = r#"{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model":  "m", "prompt": [1, 2, 3]}}"#;
        let row = lines(line, false).unwrap().rows.remove(0);
        assert_eq!((row.input, row.output), (Tokens(3), OUTPUT_ASSUMED));
        let given = row.prompt.unwrap().given.unwrap();
        assert_eq!(given.body, r#"{"model":  "m", "prompt": [1, 2, 3]}"#);
        assert_eq!(given.api, Some(Api::Completions));
        let error = lines(&line.replace("completions", "embeddings"), false).unwrap_err();
        assert!(error.to_string().contains("`/v1/embeddings` is not replayed"), "{error}");
    }

    #[test]
    fn times_and_sessions_beside_a_body_are_kept() {
        let line = |more: &str| format!(r#"{{"body": {BODY}, {more}}}"#);
        let text = [
            line(r#""timestamp": 2000, "session_id": "a""#),
            line(r#""timestamp": 1000"#),
            line(r#""delay": 500, "session_id": "a""#),
        ]
        .join("\n");
        let recorded = lines(&text, false).unwrap();
        assert!(!recorded.is_untimed);
        let told: Vec<_> = recorded.rows.iter().map(|it| (it.at_s, it.turn, it.follows)).collect();
        assert_eq!(told, [(0.0, 0, false), (1.0, 0, false), (1.0, 1, true)]);
        assert_eq!(recorded.rows[2].think, Duration::from_millis(500));
    }

    #[test]
    fn a_line_that_is_no_request_is_named() {
        let text = format!("{BODY}\n{{\"model\": \"m\", \"input\": \"Hi\"}}");
        let error = lines(&text, false).unwrap_err().to_string();
        assert!(error.starts_with("o.jsonl, line 2: neither `messages` nor `prompt`"), "{error}");
        assert_eq!(lines(&text, true).unwrap().skipped.bad_lines, 1);
    }
}
