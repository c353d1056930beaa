//! What an answer says, chunk by chunk, and when.

use types::{quantity::Tokens, time::Timestamp};
use wire::{
    openai::Endpoint,
    sse::Scanner,
    usage::{self, Answer, End, Usage},
};

/// Longest excerpt of an error that is kept, in characters.
const EXCERPT_CHARS_MAX: usize = 300;

/// Most tokens that a chunk can hold: engines send a few at once when they are in haste. Who counts more
/// has miscounted.
const CHUNK_TOKENS_MAX: u32 = 1_000;

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
    /// Times between chunks that carry tokens, in microseconds: of thousands of long answers these
    /// are most of what a run keeps.
    pub(crate) gaps_us: Vec<u32>,
    /// Chunks that carry tokens.
    chunks: u32,
    /// Whether it comes in chunks.
    is_stream: bool,
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
            gaps_us: Vec::new(),
            chunks: 0,
            is_stream: true,
            error: None,
        }
    }

    /// Takes in what was read `at` once.
    pub(crate) fn read(&mut self, at: Timestamp, bytes: &[u8]) {
        let Self { scanner, answer, first_token, last_token, gaps_us, chunks, error, .. } = self;
        scanner.push(bytes, |event| {
            answer.event(&event);
            if answer.end() == Some(End::Failed) {
                error.get_or_insert_with(|| excerpt(event.data));
            } else if usage::carries_output(&event) {
                *chunks = chunks.saturating_add(1);
                first_token.get_or_insert(at);
                if let Some(before) = last_token.replace(at) {
                    gaps_us.push(u32::try_from(at.since(before).as_micros()).unwrap_or(u32::MAX));
                }
            }
        });
    }

    /// Takes in an answer that is not streamed, which came whole `at` once.
    pub(crate) fn read_whole(&mut self, at: Timestamp, body: &[u8]) {
        self.answer.body(body);
        self.is_stream = false;
        if self.answer.end() == Some(End::Complete) {
            self.chunks = 1;
            (self.first_token, self.last_token) = (Some(at), Some(at));
        } else {
            self.error.get_or_insert_with(|| excerpt(body));
        }
    }

    /// Chunks that carried tokens, so far.
    pub(crate) const fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Whether the answer has said that it ends.
    pub(crate) const fn has_ended(&self) -> bool {
        self.answer.end().is_some()
    }

    /// What the engine counted.
    pub(crate) const fn usage(&self) -> Usage {
        self.answer.usage()
    }

    /// Length of the answer: the engine's count where it can be true, else the chunks that carried tokens.
    pub(crate) fn output_tokens(&self) -> Tokens {
        let counted = self.usage().completion.filter(|_| !self.is_miscounted());
        counted.unwrap_or(Tokens(self.chunks))
    }

    /// Whether the engine counts more tokens than the chunks of its answer can have held.
    pub(crate) fn is_miscounted(&self) -> bool {
        let most = self.chunks.saturating_mul(CHUNK_TOKENS_MAX);
        self.is_stream && self.usage().completion.is_some_and(|it| it.0 > most)
    }

    /// Why the answer that ended here is no whole one.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.answer.end() {
            Some(End::Failed) => Some(self.error.clone().unwrap_or_default()),
            Some(End::Aborted) => Some("the engine aborted it".to_owned()),
            None => Some(
                self.error.clone().unwrap_or("the stream ended without its last event".to_owned()),
            ),
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
    use std::time::Duration;

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
        assert_eq!(seen.gaps_us, [1_000; 2]);
        assert_eq!((seen.output_tokens(), seen.usage().cached), (Tokens(3), Some(Tokens(8))));
        assert_eq!(seen.fault(), None);
    }

    #[test]
    fn chunks_count_where_the_engine_does_not() {
        let seen = observe(&[ROLE, TOKEN, TOKEN, "[DONE]"]);
        assert_eq!((seen.output_tokens(), seen.usage().cached), (Tokens(2), None));
    }

    #[test]
    fn a_count_that_cannot_be_true_is_not_taken() {
        let claims = |tokens: u32| {
            let usage = USAGE
                .replace(r#""completion_tokens":3"#, &format!(r#""completion_tokens":{tokens}"#));
            let seen = observe(&[ROLE, TOKEN, TOKEN, TOKEN, &usage, "[DONE]"]);
            (seen.output_tokens(), seen.is_miscounted())
        };
        assert_eq!(claims(u32::MAX), (Tokens(3), true));
        assert_eq!(claims(3_001), (Tokens(3), true));
        assert_eq!(claims(3_000), (Tokens(3_000), false));
    }

    #[test]
    fn bad_endings_are_told_apart() {
        let aborted = TOKEN.replace("null", r#""abort""#);
        for (events, fault) in [
            (vec![TOKEN], "without its last event"),
            (vec![ROLE, "[DONE]"], "no token"),
            (vec![TOKEN, &aborted, "[DONE]"], "aborted"),
            (vec![TOKEN, r#"{"error":{"message":"core died"}}"#, "[DONE]"], "core died"),
        ] {
            let actual = observe(&events).fault().unwrap();
            assert!(actual.contains(fault), "{actual}");
        }
    }

    #[test]
    fn an_answer_that_is_not_streamed_comes_at_once() {
        let body = br#"{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
        let mut seen = Observation::new(Endpoint::ChatCompletions);
        seen.read_whole(at(5), body);
        assert_eq!((seen.first_token, seen.last_token), (Some(at(5)), Some(at(5))));
        assert_eq!((seen.output_tokens(), seen.fault()), (Tokens(3), None));
        let mut seen = Observation::new(Endpoint::ChatCompletions);
        seen.read_whole(at(5), b"<html>");
        assert_eq!(seen.fault().unwrap(), "<html>");
    }

    #[test]
    fn an_excerpt_is_one_short_line() {
        assert_eq!(excerpt(b"  a\r\nb "), "a  b");
        assert_eq!(excerpt(&[b'x'; 9_999]).len(), EXCERPT_CHARS_MAX);
    }
}
