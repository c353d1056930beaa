//! Where a replay sends its requests and how long it waits.

use std::{fmt, str::FromStr, time::Duration};

use http::{HeaderValue, Uri, uri};
use report::Terms;
use wire::openai::Endpoint;
use workload::Arrival;

/// How a workload is sent.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// Servers that take turns.
    pub targets: Vec<Target>,
    /// Model to ask for.
    pub model: String,
    /// [`Endpoint::ChatCompletions`], or [`Endpoint::Completions`] for prompts of one message, whose
    /// length no chat template changes.
    pub endpoint: Endpoint,
    /// Key to send as `authorization: Bearer`.
    pub api_key: Option<String>,
    /// Starts every request's and session's name, so that two runs against one router do not meet.
    pub run_id: String,
    /// Whether to send `x-session-id`.
    pub session_header: bool,
    /// Most requests open at once; what is due beyond it is recorded as failed. Each takes a file
    /// descriptor and the memory of its body.
    pub open_requests_max: usize,
    /// Longest time from a request's schedule to its last token.
    pub request_deadline: Duration,
    /// Longest time from the last scheduled send to the last token of any request.
    pub drain_max: Duration,
    /// The terms on which requests are judged.
    pub terms: Terms,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self {
            targets: Vec::new(),
            model: String::new(),
            endpoint: Endpoint::ChatCompletions,
            api_key: None,
            run_id: "replay".to_owned(),
            session_header: true,
            open_requests_max: 5_000,
            request_deadline: Duration::from_secs(120),
            drain_max: Duration::from_secs(120),
            terms: Terms::default(),
        }
    }
}

/// Everything that keeps a replay from starting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Invalid(pub Vec<String>);

impl ReplayOptions {
    /// Everything wrong with the values, for the requests they are to send.
    #[must_use]
    pub fn problems(&self, arrivals: &[Arrival]) -> Vec<String> {
        let mut problems = Vec::new();
        if self.targets.is_empty() {
            problems.push("no target; pass --target http://HOST:PORT".to_owned());
        }
        if self.model.is_empty() {
            problems.push("no model; pass --model NAME".to_owned());
        }
        if self.open_requests_max == 0 {
            problems.push("open_requests_max: needs a number above 0".to_owned());
        }
        if header(&self.run_id).is_none() {
            problems.push(format!("run id {:?}: needs plain ASCII", self.run_id));
        }
        if self.api_key.as_deref().is_some_and(|key| header(key).is_none()) {
            problems.push("api key: holds characters that no header may".to_owned());
        }
        if self.endpoint != Endpoint::ChatCompletions && self.endpoint != Endpoint::Completions {
            problems.push(format!(
                "{} cannot be replayed; use chat completions or completions",
                self.endpoint.path()
            ));
        }
        let dialogues = arrivals.iter().any(|it| it.prompt.messages.len() != 1);
        if self.endpoint == Endpoint::Completions && dialogues {
            problems.push(
                "the workload holds conversations, which /v1/completions cannot carry; use chat \
                 completions"
                    .to_owned(),
            );
        }
        problems
    }
}

fn header(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(text).ok()
}

/// A server's address: `http://HOST:PORT`, with or without the `/v1` that SDKs append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    authority: uri::Authority,
    /// What comes before `/v1`.
    prefix: String,
}

/// Why an address is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// No address at all.
    #[error("target '{0}' is no address; write http://HOST:PORT")]
    Address(String),
    /// An address of another protocol.
    #[error("target '{0}' is not http; put a proxy that ends TLS before an https server")]
    Scheme(String),
}

impl Target {
    /// The URI of `path` on the server; none where `path` is not one.
    pub(crate) fn uri(&self, path: &str) -> Option<Uri> {
        let path = format!("{}{path}", self.prefix);
        Uri::builder()
            .scheme(uri::Scheme::HTTP)
            .authority(self.authority.clone())
            .path_and_query(path)
            .build()
            .ok()
    }
}

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = || BadTarget::Address(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| address())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some(_) => return Err(BadTarget::Scheme(text.to_owned())),
            None => return Err(address()),
        }
        let authority = uri.authority().cloned().ok_or_else(address)?;
        let path = uri.path().trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).to_owned();
        Ok(Self { authority, prefix })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_with_or_without_v1() {
        for (text, uri) in [
            ("http://a:1", "http://a:1/v1/models"),
            ("http://a:1/", "http://a:1/v1/models"),
            ("http://a:1/v1", "http://a:1/v1/models"),
            ("http://a/llm/v1/", "http://a/llm/v1/models"),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.uri("/v1/models").unwrap(), uri);
        }
    }

    #[test]
    fn other_addresses_are_refused_with_the_cure() {
        for text in ["", "a:1", "localhost", "http://"] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error, BadTarget::Address(text.to_owned()));
        }
        let error = "https://a".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("proxy that ends TLS"), "{error}");
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let options = ReplayOptions {
            endpoint: Endpoint::Embeddings,
            api_key: Some("a\nb".to_owned()),
            open_requests_max: 0,
            ..ReplayOptions::default()
        };
        assert_eq!(options.problems(&[]).len(), 5, "{:?}", options.problems(&[]));
    }
}
