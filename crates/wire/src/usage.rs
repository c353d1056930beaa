//! Reads what an answer says of its cost and of its end.
//!
//! A 200 is no promise: engines that die mid-stream send an error event and then a clean `[DONE]`,
//! engines that are told to stop end every answer with the finish reason `abort`, and some answers
//! just end. [`Answer`] watches the events go by and says at the end which it was. It looks for
//! three words before it parses anything, so that an ordinary token costs it three short searches.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder, FinderRev};
use serde::Deserialize;
use serde_json::value::RawValue;
use types::quantity::Tokens;

use crate::{json, openai::Endpoint, sse::Event, walk};

#[cfg(test)]
mod tests;

/// What an answer says that it cost; `None` for what it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, those found in the cache included.
    pub prompt: Option<Tokens>,
    /// Tokens of the prompt that were found in the cache.
    pub cached: Option<Tokens>,
    /// Tokens of the answer.
    pub completion: Option<Tokens>,
}

impl Usage {
    fn update(&mut self, later: &Self) {
        self.prompt = later.prompt.or(self.prompt);
        self.cached = later.cached.or(self.cached);
        self.completion = later.completion.or(self.completion);
    }
}

/// How an answer says that it ends, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// With what ends a good answer.
    Complete,
    /// The engine gave up on it, and says so only in its finish reason.
    Aborted,
    /// With an error.
    Failed,
}

/// What has been learned of one answer.
#[derive(Clone, Debug)]
pub struct Answer {
    endpoint: Endpoint,
    usage: Usage,
    end: Option<End>,
    is_over: bool,
}

impl Answer {
    /// Knows nothing yet of an answer of `endpoint`.
    #[must_use]
    pub const fn new(endpoint: Endpoint) -> Self {
        let usage = Usage { prompt: None, cached: None, completion: None };
        Self { endpoint, usage, end: None, is_over: false }
    }

    /// Learns from the next event of a streamed answer.
    pub fn event(&mut self, event: &Event<'_>) {
        match (self.endpoint, event.name) {
            (_, Some("error" | "response.failed")) => self.ends(End::Failed),
            (Endpoint::Messages, Some("message_stop"))
            | (Endpoint::Responses, Some("response.completed" | "response.incomplete")) => {
                self.ends(End::Complete);
            }
            (Endpoint::Messages | Endpoint::Responses, _) => {}
            _ if event.data == b"[DONE]" => {
                self.is_over = true;
                self.ends(End::Complete);
            }
            _ => {}
        }
        if !event.cut && is_worth_reading(event.data) {
            self.learn(event.data);
        }
    }

    /// Learns from the whole body of an answer that is not streamed.
    pub fn body(&mut self, body: &[u8]) {
        let understood = if may_have_failed(body) { self.learn(body) } else { self.figures(body) };
        if understood {
            self.ends(End::Complete);
        }
    }

    /// Reads the figures of an answer that mentions no failure, and nothing else of it. Returns
    /// whether `body` looks like an object; whether it is one, its client will see.
    fn figures(&mut self, body: &[u8]) -> bool {
        let body = body.trim_ascii();
        if !body.starts_with(b"{") || !body.ends_with(b"}") {
            return false;
        }
        if let Some(value) = last_figures(body) {
            self.take(value);
            return true;
        }
        let Ok(text) = std::str::from_utf8(body) else { return false };
        for (_, value) in walk::entries(text).into_iter().flatten().filter(|it| it.0 == "usage") {
            self.take(value);
        }
        true
    }

    fn take(&mut self, value: &str) {
        if let Ok(figures) = serde_json::from_str::<Figures>(value) {
            self.usage.update(&figures.usage());
        }
    }

    /// What the answer cost, as far as it has said.
    #[must_use]
    pub const fn usage(&self) -> Usage {
        self.usage
    }

    /// How the answer ends; `None` while it has not said so, and if it stops there it is broken off.
    #[must_use]
    pub const fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether `[DONE]` has come, after which nothing follows. What ends an answer of another dialect may be
    /// followed by some of its own.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether the answer has said that it failed, be it without calling that an error.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.end, Some(End::Failed | End::Aborted))
    }

    fn ends(&mut self, end: End) {
        self.end = self.end.max(Some(end));
    }

    /// Returns whether `data` was a JSON object.
    fn learn(&mut self, data: &[u8]) -> bool {
        let Ok(envelope) = serde_json::from_slice::<Envelope<'_>>(data) else { return false };
        if envelope.is_error() {
            self.ends(End::Failed);
        }
        let inner = envelope.response.or(envelope.message);
        let inner: Option<Inner<'_>> = inner.and_then(|raw| serde_json::from_str(raw.get()).ok());
        if inner.as_ref().is_some_and(|it| it.error.is_some()) {
            self.ends(End::Failed);
        }
        let reasons = envelope.choices.iter().flatten().filter_map(|it| it.finish_reason);
        if reasons.into_iter().any(|reason| json::quoted(reason.get()) == Some("abort")) {
            self.ends(End::Aborted);
        }
        for figures in [inner.and_then(|it| it.usage), envelope.usage].into_iter().flatten() {
            self.usage.update(&figures.usage());
        }
        true
    }
}

/// Whether an event carries a part of the answer, and not only its frame: the first that does is
/// the first token.
#[must_use]
pub fn carries_output(event: &Event<'_>) -> bool {
    const FIELDS: [&[u8]; 8] = [
        b"\"content\"",
        b"\"text\"",
        b"\"delta\"",
        b"\"reasoning_content\"",
        b"\"reasoning\"",
        b"\"arguments\"",
        b"\"partial_json\"",
        b"\"thinking\"",
    ];
    FIELDS.iter().any(|field| {
        memmem::find_iter(event.data, field).any(|at| {
            let text = value_at(event.data, at.saturating_add(field.len()));
            matches!(text, [b'"', next, ..] if *next != b'"')
        })
    })
}

/// What data hold that are worth reading; made once, because making a finder costs as much as using it.
struct Finders {
    usage: Finder<'static>,
    error: Finder<'static>,
    abort: Finder<'static>,
}

static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: Finder::new(b"\"usage\""),
    error: Finder::new(b"\"error\""),
    abort: Finder::new(b"\"abort\""),
});

static USAGE_FROM_END: LazyLock<FinderRev<'static>> =
    LazyLock::new(|| FinderRev::new(b"\"usage\""));

/// Whether the data may hold figures, an error or an abort. A quotation mark within a text is
/// escaped, so what a model says never looks like one of these.
fn is_worth_reading(data: &[u8]) -> bool {
    let usage = &FINDERS.usage;
    let has_figures = usage
        .find_iter(data)
        .any(|at| value_at(data, at.saturating_add(usage.needle().len())).starts_with(b"{"));
    has_figures || may_have_failed(data)
}

/// Whether the data mention an error or an abort.
fn may_have_failed(data: &[u8]) -> bool {
    FINDERS.error.find(data).is_some() || FINDERS.abort.find(data).is_some()
}

/// The value of the last `usage` in `body`, where nothing but more entries of the same object follow
/// it and then the end: most engines write it there, and what came before need not be walked over.
fn last_figures(body: &[u8]) -> Option<&str> {
    let finder = &*USAGE_FROM_END;
    let at = finder.rfind(body)?.saturating_add(finder.needle().len());
    let text = std::str::from_utf8(value_at(body, at)).ok()?;
    let (value, mut rest) = walk::take_value(text)?;
    while let Some((_, after)) = walk::take_value(rest) {
        rest = after;
    }
    // A list, or an object within this one, would end before the last brace.
    (rest.trim_ascii() == "}").then_some(value)
}

/// The text of the value whose key has ended before `at`.
fn value_at(data: &[u8], at: usize) -> &[u8] {
    let rest = data.get(at..).unwrap_or_default().trim_ascii_start();
    rest.strip_prefix(b":").map_or(b"", <[u8]>::trim_ascii_start)
}

/// The parts of an answer, or of one event of it, that are read.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    response: Option<&'a RawValue>,
    /// An object in Anthropic's first event, a text in SGLang's errors.
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Figures>,
}

impl Envelope<'_> {
    fn is_error(&self) -> bool {
        self.error.is_some()
            || [self.object, self.kind].into_iter().flatten().any(|it| it.get() == "\"error\"")
    }
}

#[derive(Deserialize)]
struct Inner<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    usage: Option<Figures>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Figures {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
    prompt_tokens_details: Option<Details>,
    input_tokens: Option<u32>,
    output_tokens: Option<u32>,
    input_tokens_details: Option<Details>,
    cache_read_input_tokens: Option<u32>,
    cache_creation_input_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
}

impl Figures {
    fn usage(&self) -> Usage {
        let details = [&self.prompt_tokens_details, &self.input_tokens_details];
        let detailed = details.into_iter().flatten().find_map(|it| it.cached_tokens);
        // Anthropic counts what was read from and written to the cache beside the input tokens.
        let beside = [self.cache_read_input_tokens, self.cache_creation_input_tokens];
        let input = self.input_tokens.map(|input| {
            beside.into_iter().flatten().fold(input, |sum, tokens| sum.saturating_add(tokens))
        });
        Usage {
            prompt: self.prompt_tokens.or(input).map(Tokens),
            cached: detailed.or(self.cache_read_input_tokens).map(Tokens),
            completion: self.completion_tokens.or(self.output_tokens).map(Tokens),
        }
    }
}
