//! Reads the part of a request body that routing needs; the body itself is forwarded as received.
//!
//! [`parse`] walks the body once and keeps slices of it. Fields that Sluice does not read are
//! skipped without being looked at. A field that it does read must be there at most once: were the
//! engine to take the other one, the request would be routed as something it is not.

use std::{borrow::Cow, fmt};

use serde_json::error::Category;
use types::quantity::Tokens;

use self::fields::{Field, Fields};
use crate::{json, prompt::Content};

mod fields;
#[cfg(test)]
mod tests;

/// What a path of the data port serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    ChatCompletions,
    Completions,
    Responses,
    Messages,
    Embeddings,
    Rerank,
    Score,
    Tokenize,
    Detokenize,
}

/// Whose error bodies and stream endings an endpoint's clients understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    OpenAi,
    Anthropic,
}

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 9] = [
        Self::ChatCompletions,
        Self::Completions,
        Self::Responses,
        Self::Messages,
        Self::Embeddings,
        Self::Rerank,
        Self::Score,
        Self::Tokenize,
        Self::Detokenize,
    ];

    /// The endpoint at exactly `path`; no prefix, no trailing slash, no escapes.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.path() == path)
    }

    /// Where the endpoint is served.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::Score => "/v1/score",
            Self::Tokenize => "/tokenize",
            Self::Detokenize => "/detokenize",
        }
    }

    /// Whether a body must name a model.
    #[must_use]
    pub const fn needs_model(self) -> bool {
        !matches!(self, Self::Tokenize | Self::Detokenize)
    }

    /// Whether a model writes the answer.
    #[must_use]
    pub const fn generates(self) -> bool {
        match self {
            Self::ChatCompletions | Self::Completions | Self::Responses | Self::Messages => true,
            Self::Embeddings | Self::Rerank | Self::Score | Self::Tokenize | Self::Detokenize => {
                false
            }
        }
    }

    /// The dialect of the endpoint's clients.
    #[must_use]
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Messages => Dialect::Anthropic,
            Self::ChatCompletions
            | Self::Completions
            | Self::Responses
            | Self::Embeddings
            | Self::Rerank
            | Self::Score
            | Self::Tokenize
            | Self::Detokenize => Dialect::OpenAi,
        }
    }
}

/// What routing reads of a request; borrows from its body.
#[derive(Clone)]
pub struct View<'a> {
    /// Model asked for; empty where the endpoint does not need one and the client names none.
    pub model: Cow<'a, str>,
    /// Whether the client asks for a stream.
    pub stream: bool,
    /// Whether the client asks for usage figures at the stream's end.
    pub include_usage: bool,
    /// Longest answer the client accepts; `None` where it does not say so in a whole number.
    pub output_max: Option<Tokens>,
    /// The client's own separator of caches.
    pub cache_salt: Option<Cow<'a, str>>,
    /// LoRA adapter, where it is not the model name itself (SGLang's `lora_path`).
    pub adapter: Option<Cow<'a, str>>,
    /// Service tier as the client names it.
    pub service_tier: Option<Cow<'a, str>>,
    /// What may name the session.
    pub session: SessionFields<'a>,
    pub(crate) content: Content<'a>,
}

/// Shows no content: prompts never reach a log.
impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("model", &self.model)
            .field("stream", &self.stream)
            .field("output_max", &self.output_max)
            .finish_non_exhaustive()
    }
}

/// The body's fields that may name a session. Anything but a string is taken as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFields<'a> {
    pub session_id: Option<Cow<'a, str>>,
    pub prompt_cache_key: Option<Cow<'a, str>>,
    /// `conversation`, or `conversation.id`.
    pub conversation: Option<Cow<'a, str>>,
    pub previous_response_id: Option<Cow<'a, str>>,
    pub safety_identifier: Option<Cow<'a, str>>,
    /// `user`; to Anthropic's clients `metadata.user_id`.
    pub user: Option<Cow<'a, str>>,
}

/// Why a body cannot be routed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The engines' parsers differ on such bytes.
    #[error("the body is not UTF-8: the first bad byte is at offset {offset}")]
    NotUtf8 { offset: usize },
    /// Broken off, or not JSON at all.
    #[error("the body is not JSON: {problem} at line {line}, column {column}")]
    NotJson { problem: String, line: usize, column: usize },
    /// JSON, but an array, a string or the like.
    #[error("the body must be a JSON object, such as {{\"model\": …}}")]
    NotAnObject,
    /// A field that routing cannot do without.
    #[error("`{param}` is missing: name one of the models that GET /v1/models lists")]
    Missing { param: &'static str },
    /// A field that would be routed by one meaning and served by another.
    #[error("`{param}` must be {expected}")]
    WrongType { param: &'static str, expected: &'static str },
    /// A field that is there twice.
    #[error("`{param}` appears more than once: send it once")]
    Duplicate { param: &'static str },
}

impl BadRequest {
    /// The field at fault, where it is one field's fault.
    #[must_use]
    pub const fn param(&self) -> Option<&'static str> {
        match self {
            Self::NotUtf8 { .. } | Self::NotJson { .. } | Self::NotAnObject => None,
            Self::Missing { param } | Self::WrongType { param, .. } | Self::Duplicate { param } => {
                Some(param)
            }
        }
    }
}

/// Reads what routing needs of `body`.
///
/// # Errors
///
/// [`BadRequest`] when the body is not a JSON object, lacks a model where the endpoint needs one,
/// or has a field that routing reads twice or in the wrong type.
pub fn parse(endpoint: Endpoint, body: &[u8]) -> Result<View<'_>, BadRequest> {
    let text = std::str::from_utf8(body)
        .map_err(|error| BadRequest::NotUtf8 { offset: error.valid_up_to() })?;
    let fields = Fields::read(text).map_err(|error| not_json(&error))?;
    if let Some(param) = fields.duplicate {
        return Err(BadRequest::Duplicate { param });
    }
    let anthropic = endpoint.dialect() == Dialect::Anthropic;
    Ok(View {
        model: model(&fields, endpoint)?,
        stream: flag(&fields, Field::Stream)?,
        include_usage: include_usage(&fields),
        output_max: [Field::MaxCompletionTokens, Field::MaxTokens, Field::MaxOutputTokens]
            .into_iter()
            .find_map(|field| tokens(fields.get(field)?)),
        cache_salt: cache_salt(&fields)?,
        adapter: fields.text(Field::LoraPath),
        service_tier: fields.text(Field::ServiceTier),
        session: SessionFields {
            session_id: fields.text(Field::SessionId),
            prompt_cache_key: fields.text(Field::PromptCacheKey),
            conversation: fields
                .text(Field::Conversation)
                .or_else(|| entry(fields.get(Field::Conversation)?, "id")),
            previous_response_id: fields.text(Field::PreviousResponseId),
            safety_identifier: fields.text(Field::SafetyIdentifier),
            user: if anthropic {
                fields.get(Field::Metadata).and_then(|it| entry(it, "user_id"))
            } else {
                fields.text(Field::User)
            },
        },
        content: content(&fields, endpoint)?,
    })
}

fn not_json(error: &serde_json::Error) -> BadRequest {
    match error.classify() {
        Category::Data => BadRequest::NotAnObject,
        Category::Io | Category::Syntax | Category::Eof => {
            let (line, column) = (error.line(), error.column());
            let problem = error.to_string();
            let place = format!(" at line {line} column {column}");
            let problem = problem.strip_suffix(&place).unwrap_or(&problem).to_owned();
            BadRequest::NotJson { problem, line, column }
        }
    }
}

fn model<'a>(fields: &Fields<'a>, endpoint: Endpoint) -> Result<Cow<'a, str>, BadRequest> {
    let param = Field::Model.name();
    let Some(raw) = fields.get(Field::Model) else {
        if endpoint.needs_model() {
            return Err(BadRequest::Missing { param });
        }
        return Ok(Cow::Borrowed(""));
    };
    json::string(raw)
        .filter(|name| !name.is_empty())
        .ok_or(BadRequest::WrongType { param, expected: "a string that is not empty" })
}

fn flag(fields: &Fields<'_>, field: Field) -> Result<bool, BadRequest> {
    match fields.get(field) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(BadRequest::WrongType { param: field.name(), expected: "true or false" }),
    }
}

fn include_usage(fields: &Fields<'_>) -> bool {
    let options = fields.get(Field::StreamOptions).and_then(json::entries);
    options.and_then(|it| it.get("include_usage")).is_some_and(|it| it == "true")
}

/// A wrong type is an error: ignored, it would put the prompt among those that have no salt.
fn cache_salt<'a>(fields: &Fields<'a>) -> Result<Option<Cow<'a, str>>, BadRequest> {
    [Field::CacheSalt, Field::PromptCacheIsolationKey, Field::ExtraKey]
        .into_iter()
        .find_map(|field| Some((field, fields.get(field)?)))
        .map(|(field, raw)| {
            let wrong = BadRequest::WrongType { param: field.name(), expected: "a string" };
            json::string(raw).ok_or(wrong)
        })
        .transpose()
}

/// A whole number of tokens, at most `u32::MAX`; anything else is the engine's to refuse.
fn tokens(value: &str) -> Option<Tokens> {
    let count: u64 = value.parse().ok()?;
    Some(Tokens(u32::try_from(count).unwrap_or(u32::MAX)))
}

fn entry<'a>(object: &'a str, name: &str) -> Option<Cow<'a, str>> {
    json::string(json::entries(object)?.get(name)?)
}

fn content<'a>(fields: &Fields<'a>, endpoint: Endpoint) -> Result<Content<'a>, BadRequest> {
    let conversation = |system: Option<&'a str>, turns: Option<&'a str>| Content::Conversation {
        tools: fields.get(Field::Tools),
        system,
        turns,
    };
    Ok(match endpoint {
        Endpoint::ChatCompletions => conversation(None, fields.array(Field::Messages)?),
        Endpoint::Messages => {
            conversation(fields.text_or_array(Field::System)?, fields.array(Field::Messages)?)
        }
        Endpoint::Responses => conversation(
            fields.text_or_array(Field::Instructions)?,
            fields.text_or_array(Field::Input)?,
        ),
        Endpoint::Completions => Content::Prompts(fields.text_or_array(Field::Prompt)?),
        Endpoint::Embeddings => Content::Prompts(fields.get(Field::Input)),
        Endpoint::Rerank => Content::Pairs(fields.get(Field::Query), fields.get(Field::Documents)),
        Endpoint::Score => Content::Pairs(fields.get(Field::Text1), fields.get(Field::Text2)),
        Endpoint::Tokenize | Endpoint::Detokenize => Content::None,
    })
}
