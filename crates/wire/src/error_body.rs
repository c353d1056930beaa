//! Writes errors in the words that the client's SDK understands.
//!
//! An error that Sluice raises before the answer's head is a body; one that it raises in the middle
//! of a stream is a last event, in the dialect of the endpoint, so that a broken answer never looks
//! like a whole one.

use serde::{Deserialize, Serialize};

use crate::openai::{Dialect, Endpoint};

/// What kind of error it is, as far as SDKs tell errors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is at fault.
    InvalidRequest,
    /// No or a wrong key.
    Authentication,
    /// A key that may not do this.
    Permission,
    /// No such path or model.
    NotFound,
    /// A body over the limit.
    TooLarge,
    /// The tenant is over its own limit.
    RateLimit,
    /// The fleet is full, or none of it is ready.
    Overloaded,
    /// Time ran out.
    Timeout,
    /// A replica failed.
    Upstream,
}

impl ErrorKind {
    const fn name(self, dialect: Dialect) -> &'static str {
        match (dialect, self) {
            (_, Self::InvalidRequest) => "invalid_request_error",
            (_, Self::Authentication) => "authentication_error",
            (_, Self::Permission) => "permission_error",
            (_, Self::NotFound) => "not_found_error",
            (_, Self::RateLimit) => "rate_limit_error",
            (Dialect::Anthropic, Self::TooLarge) => "request_too_large",
            (Dialect::Anthropic, Self::Overloaded) => "overloaded_error",
            (Dialect::Anthropic, Self::Timeout) => "timeout_error",
            (Dialect::Anthropic, Self::Upstream) => "api_error",
            (Dialect::OpenAi, Self::TooLarge) => "invalid_request_error",
            (Dialect::OpenAi, Self::Overloaded | Self::Timeout | Self::Upstream) => "server_error",
        }
    }
}

/// An error as a client is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorBody<'a> {
    /// What kind it is.
    pub kind: ErrorKind,
    /// What is wrong and what to do.
    pub message: &'a str,
    /// The field at fault, where it is one field's fault.
    pub param: Option<&'a str>,
    /// Word for programs, such as `model_not_found`.
    pub code: Option<&'a str>,
}

impl ErrorBody<'_> {
    /// The body of an error response: JSON.
    #[must_use]
    pub fn body(&self, dialect: Dialect) -> Vec<u8> {
        match dialect {
            Dialect::OpenAi => json(&OpenAi { error: self.openai() }),
            Dialect::Anthropic => json(&Anthropic { kind: "error", error: self.anthropic() }),
        }
    }

    /// The bytes that end a stream whose head is out: one error event, and what this endpoint's
    /// clients wait for after it. They open with an empty line, as the stream may have stopped
    /// within an event.
    #[must_use]
    pub fn stream_end(&self, endpoint: Endpoint) -> Vec<u8> {
        let (head, data, tail): (&[u8], Vec<u8>, &[u8]) = match endpoint {
            Endpoint::Messages => {
                (b"\n\nevent: error\ndata: ", self.body(Dialect::Anthropic), b"\n\n")
            }
            Endpoint::Responses => {
                let Self { message, param, .. } = *self;
                let code = self.code.unwrap_or_else(|| self.kind.name(Dialect::OpenAi));
                let data = json(&Response { kind: "error", code, message, param });
                (b"\n\nevent: error\ndata: ", data, b"\n\n")
            }
            Endpoint::ChatCompletions
            | Endpoint::Completions
            | Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Score
            | Endpoint::Tokenize
            | Endpoint::Detokenize => {
                (b"\n\ndata: ", self.body(Dialect::OpenAi), b"\n\ndata: [DONE]\n\n")
            }
        };
        [head, &data, tail].concat()
    }

    const fn openai(&self) -> OpenAiError<'_> {
        let kind = self.kind.name(Dialect::OpenAi);
        OpenAiError { message: self.message, kind, param: self.param, code: self.code }
    }

    const fn anthropic(&self) -> AnthropicError<'_> {
        AnthropicError { kind: self.kind.name(Dialect::Anthropic), message: self.message }
    }
}

/// What vLLM's server says, with 500, once it has been told to end: it takes nothing more, though its
/// health path still answers 200.
const DRAINS: &str = "cannot schedule new futures after shutdown";

/// Whether the body of a replica's error says that its engine drains. The message must be that and nothing
/// else: one that repeats what a client wrote never is.
#[must_use]
pub fn says_it_drains(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Told<'a> {
        #[serde(borrow)]
        error: Message<'a>,
    }
    #[derive(Deserialize)]
    struct Message<'a> {
        message: &'a str,
    }
    serde_json::from_slice::<Told<'_>>(body).is_ok_and(|it| it.error.message == DRAINS)
}

#[derive(Serialize)]
struct OpenAi<'a> {
    error: OpenAiError<'a>,
}

#[derive(Serialize)]
struct OpenAiError<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: Option<&'a str>,
}

#[derive(Serialize)]
struct Anthropic<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicError<'a>,
}

#[derive(Serialize)]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

#[derive(Serialize)]
struct Response<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'a str,
    message: &'a str,
    param: Option<&'a str>,
}

/// Writes text fields as JSON, which cannot fail.
fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        sse::Scanner,
        usage::{Answer, End},
    };

    const ERROR: ErrorBody<'_> = ErrorBody {
        kind: ErrorKind::Overloaded,
        message: "the fleet is \"full\"\n",
        param: None,
        code: Some("overloaded"),
    };

    #[test]
    fn each_dialect_has_its_body() {
        assert_eq!(
            String::from_utf8(ERROR.body(Dialect::OpenAi)).unwrap(),
            r#"{"error":{"message":"the fleet is \"full\"\n","type":"server_error","param":null,"code":"overloaded"}}"#
        );
        assert_eq!(
            String::from_utf8(ERROR.body(Dialect::Anthropic)).unwrap(),
            r#"{"type":"error","error":{"type":"overloaded_error","message":"the fleet is \"full\"\n"}}"#
        );
    }

    #[test]
    fn an_engine_that_drains_is_known_by_its_whole_message() {
        let told = |message: &str| format!(r#"{{"error":{{"message":"{message}","code":500}}}}"#);
        assert!(says_it_drains(told("cannot schedule new futures after shutdown").as_bytes()));
        for other in ["bad prompt: cannot schedule new futures after shutdown", "", "boom"] {
            assert!(!says_it_drains(told(other).as_bytes()), "{other}");
        }
        assert!(!says_it_drains(b"cannot schedule new futures after shutdown"));
    }

    #[test]
    fn a_stream_that_breaks_within_an_event_ends_as_failed() {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Responses] {
            let mut answer = Answer::new(endpoint);
            let mut scanner = Scanner::new();
            let mut last = Vec::new();
            let broken = b"data: {\"choices\":[{\"delta\":{\"con";
            for chunk in [broken.as_slice(), &ERROR.stream_end(endpoint)] {
                scanner.push(chunk, |event| {
                    answer.event(&event);
                    last = event.data.to_vec();
                });
            }
            assert_eq!(answer.end(), Some(End::Failed), "{endpoint:?}");
            assert_eq!(last == b"[DONE]", endpoint == Endpoint::ChatCompletions);
        }
    }

    #[test]
    fn a_response_is_told_its_error_at_the_top() {
        let end = String::from_utf8(ERROR.stream_end(Endpoint::Responses)).unwrap();
        assert_eq!(
            end,
            "\n\nevent: error\ndata: {\"type\":\"error\",\"code\":\"overloaded\",\
             \"message\":\"the fleet is \\\"full\\\"\\n\",\"param\":null}\n\n"
        );
    }
}
