//! What an answer says, chunk by chunk, and when.

use std::time::Duration;

use types::{quantity::Tokens, time::Timestamp};
use wire::{
    openai::Endpoint,
    sse::Scanner,
    usage::{self, Answer, End, Usage},
};

/// Longest excerpt of an error that is kept, in characters.
const EXCERPT_CHARS_MAX: usize = 300;

/// One streamed answer as it comes.
///
/// A token's time is that of the chunk that carries it. Engines put one token into a chunk, or a few
/// when they are in haste; two chunks that one read finds together have no time between them.
#[derive(Debug)]
pub(crate) struct Observation {
    scanner: Scanner,
    answer: Answer,
    /// When the first token came.
    pub(crate) first_token: Option<Timestamp>,
    /// When the last token came.
    pub(crate) last_token: Option<Timestamp>,
    /// Times between chunks that carry tokens.
    pub(crate) gaps: Vec<Duration>,
    /// Chunks that carry tokens.
    chunks: u32,
    error: Option<String>,
}

impl Observation {
    /// Has seen nothing yet of an answer of `endpoint`.
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self {
            scanner: Scanner::new(),
            answer: Answer::new(endpoint),
            first_token: None,
            last_token: None,
            gaps: Vec::new(),
            chunks: 0,
            error: None,
        }
    }

    /// Takes in what was read `at` once.
    pub(crate) fn read(&mut self, at: Timestamp, bytes: &[u8]) {
        let Self { scanner, answer, first_token, last_token, gaps, chunks, error } = self;
        scanner.push(bytes, |event| {
            answer.event(&event);
            if answer.end() == Some(End::Failed) {
                error.get_or_insert_with(|| excerpt(event.data));
            } else if usage::carries_output(&event) {
                *chunks = chunks.saturating_add(1);
                first_token.get_or_insert(at);
                if let Some(before) = last_token.replace(at) {
                    gaps.push(at.since(before));
                }
            }
        });
    }

    /// Whether the answer has said that it ends.
    pub(crate) const fn has_ended(&self) -> bool {
        self.answer.end().is_some()
    }

    /// What the engine counted.
    pub(crate) const fn usage(&self) -> Usage {
        self.answer.usage()
    }

    /// Length of the answer: the engine's count, else the chunks that carried tokens.
    pub(crate) fn output_tokens(&self) -> Tokens {
        self.usage().completion.unwrap_or(Tokens(self.chunks))
    }

    /// Why the answer that ended here is no whole one.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.answer.end() {
            Some(End::Failed) => Some(self.error.clone().unwrap_or_default()),
            Some(End::Aborted) => Some("the engine aborted it".to_owned()),
            None => Some("the stream ended without [DONE]".to_owned()),
            Some(End::Complete) if self.chunks == 0 => Some("no token in the answer".to_owned()),
            Some(End::Complete) => None,
        }
    }
}

/// The start of `bytes`, fit for one line.
pub(crate) fn excerpt(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(EXCERPT_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLE: &str = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    const TOKEN: &str = r#"{"choices":[{"delta":{"content":" cat"},"finish_reason":null}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":8}}}"#;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(millis))
    }

    /// One event at each millisecond.
    fn observe(events: &[&str]) -> Observation {
        let mut seen = Observation::new(Endpoint::ChatCompletions);
        for (millis, data) in (1..).zip(events) {
            seen.read(at(millis), format!("data: {data}\n\n").as_bytes());
        }
        seen
    }

    #[test]
    fn the_first_token_is_the_first_text_and_not_the_role() {
        let seen = observe(&[ROLE, TOKEN, TOKEN, TOKEN, USAGE, "[DONE]"]);
        assert_eq!((seen.first_token, seen.last_token), (Some(at(2)), Some(at(4))));
        assert_eq!(seen.gaps, [Duration::from_millis(1); 2]);
        assert_eq!((seen.output_tokens(), seen.usage().cached), (Tokens(3), Some(Tokens(8))));
        assert_eq!(seen.fault(), None);
    }

    #[test]
    fn chunks_count_where_the_engine_does_not() {
        let seen = observe(&[ROLE, TOKEN, TOKEN, "[DONE]"]);
        assert_eq!((seen.output_tokens(), seen.usage().cached), (Tokens(2), None));
    }

    #[test]
    fn bad_endings_are_told_apart() {
        let aborted = TOKEN.replace("null", r#""abort""#);
        for (events, fault) in [
            (vec![TOKEN], "without [DONE]"),
            (vec![ROLE, "[DONE]"], "no token"),
            (vec![TOKEN, &aborted, "[DONE]"], "aborted"),
            (vec![TOKEN, r#"{"error":{"message":"core died"}}"#, "[DONE]"], "core died"),
        ] {
            let actual = observe(&events).fault().unwrap();
            assert!(actual.contains(fault), "{actual}");
        }
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"  a\r\nb "), "a  b");
        assert_eq!(excerpt(&[b'x'; 9_999]).len(), EXCERPT_CHARS_MAX);
    }
}
