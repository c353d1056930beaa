//! Finds which conversation a request belongs to.
//!
//! Clients name their sessions in many ways. [`Sources`] is the order in which Sluice looks; the
//! first name found wins. A name becomes a [`SessionKey`], bound to tenant and model, so that
//! nothing of what the client sent is kept.

use std::{borrow::Cow, fmt, str::FromStr};

use http::{HeaderMap, header::HeaderName};
use types::{block::HashKey, request::SessionKey};

use super::{SESSION_AFFINITY, SESSION_ID};
use crate::openai::View;

/// Longest name of a session, in bytes; a longer one is no session.
pub const NAME_BYTES_MAX: usize = 256;

/// Where Sluice looks unless told otherwise, after [`SESSION_ID`].
///
/// `header:x-correlation-id` is left out: some clients keep it for a session, others make a new
/// one for each request.
pub const SOURCES: [&str; 20] = [
    "header:x-session-id",
    "body:session_id",
    "header:x-session-affinity",
    "header:x-claude-code-session-id",
    "header:session-id",
    "header:session_id",
    "header:thread-id",
    "header:x-dynamo-session-id",
    "header:x-qwen-code-session-id",
    "header:x-litellm-session-id",
    "header:x-litellm-trace-id",
    "header:x-smg-routing-key",
    "header:x-aibrix-session-key",
    "header:x-multi-turn-session-id",
    "body:prompt_cache_key",
    "body:conversation",
    "body:previous_response_id",
    "body:safety_identifier",
    "body:user",
    "first-turn",
];

/// One place where a session may be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `header:NAME`.
    Header(HeaderName),
    /// `body:FIELD`.
    Body(BodyField),
    /// `first-turn`: what all requests of a conversation share, hashed.
    FirstTurn,
}

/// A field of the body that may name a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyField {
    SessionId,
    PromptCacheKey,
    Conversation,
    PreviousResponseId,
    SafetyIdentifier,
    User,
}

impl BodyField {
    const ALL: [Self; 6] = [
        Self::SessionId,
        Self::PromptCacheKey,
        Self::Conversation,
        Self::PreviousResponseId,
        Self::SafetyIdentifier,
        Self::User,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::SessionId => "session_id",
            Self::PromptCacheKey => "prompt_cache_key",
            Self::Conversation => "conversation",
            Self::PreviousResponseId => "previous_response_id",
            Self::SafetyIdentifier => "safety_identifier",
            Self::User => "user",
        }
    }

    fn of<'v>(self, view: &'v View<'_>) -> Option<&'v str> {
        let session = &view.session;
        let field: &Option<Cow<'_, str>> = match self {
            Self::SessionId => &session.session_id,
            Self::PromptCacheKey => &session.prompt_cache_key,
            Self::Conversation => &session.conversation,
            Self::PreviousResponseId => &session.previous_response_id,
            Self::SafetyIdentifier => &session.safety_identifier,
            Self::User => &session.user,
        };
        field.as_deref()
    }
}

/// Why a line of `policy.session.keys` names no source.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSource {
    /// Not one of the three kinds.
    #[error("`{0}` is no session key: write `header:NAME`, `body:FIELD` or `first-turn`")]
    Kind(String),
    /// Not a header name.
    #[error("`header:{0}` holds no header name: write letters, digits and hyphens")]
    Header(String),
    /// Not a field that is read.
    #[error(
        "`body:{0}` is not read: write session_id, prompt_cache_key, conversation, \
         previous_response_id, safety_identifier or user"
    )]
    Field(String),
}

impl FromStr for Source {
    type Err = BadSource;

    fn from_str(text: &str) -> Result<Self, BadSource> {
        match text.split_once(':') {
            Some(("header", name)) => {
                name.parse().map(Self::Header).map_err(|_| BadSource::Header(name.to_owned()))
            }
            Some(("body", name)) => BodyField::ALL
                .into_iter()
                .find(|it| it.name() == name)
                .map(Self::Body)
                .ok_or_else(|| BadSource::Field(name.to_owned())),
            None if text == "first-turn" => Ok(Self::FirstTurn),
            _ => Err(BadSource::Kind(text.to_owned())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Body(field) => write!(f, "body:{}", field.name()),
            Self::FirstTurn => f.write_str("first-turn"),
        }
    }
}

/// The order in which a session is looked for; [`SESSION_ID`] always goes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    explicit: Source,
    others: Vec<Source>,
    /// The headers among the others.
    header_names: Vec<HeaderName>,
}

/// A session and where it was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session<'s> {
    /// Key of the session.
    pub key: SessionKey,
    /// Where its name was found.
    pub source: &'s Source,
}

impl Default for Sources {
    /// The order of [`SOURCES`].
    fn default() -> Self {
        Self::new(SOURCES.iter().filter_map(|it| it.parse().ok()).collect())
    }
}

impl Sources {
    /// Looks in the order of `others`, after [`SESSION_ID`].
    #[must_use]
    pub fn new(others: Vec<Source>) -> Self {
        let header = |source: &Source| match source {
            Source::Header(name) => Some(name.clone()),
            Source::Body(_) | Source::FirstTurn => None,
        };
        let header_names = others.iter().filter_map(header).collect();
        Self { explicit: Source::Header(SESSION_ID), others, header_names }
    }

    /// The session of a request, `None` where it names none or wants none.
    ///
    /// A [`SESSION_ID`] that is malformed means no session: its sender asked for one in
    /// particular, and any other would be a wrong guess. Elsewhere, a name that is empty or too
    /// long counts as absent. `first_turn` is what [`View::hash_prompt`] says of it.
    #[must_use]
    pub fn find(
        &self,
        headers: &HeaderMap,
        view: &View<'_>,
        key: HashKey,
        tenant: Option<&str>,
        first_turn: Option<u128>,
    ) -> Option<Session<'_>> {
        if headers
            .get(SESSION_AFFINITY)
            .is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"off"))
        {
            return None;
        }
        let named = |name: &[u8]| SessionKey::new(key, tenant, &view.model, name);
        if headers.contains_key(SESSION_ID) {
            let name = header_name(headers, &SESSION_ID)?;
            return Some(Session { key: named(name), source: &self.explicit });
        }
        // Few requests name a session in a header: one walk over theirs is cheaper than a search for
        // each of the many names.
        let has_any = headers.keys().any(|name| self.header_names.contains(name));
        self.others.iter().find_map(|source| {
            let key = match source {
                Source::Header(_) if !has_any => return None,
                Source::Header(name) => named(header_name(headers, name)?),
                Source::Body(field) => named(fit(field.of(view)?.as_bytes())?),
                Source::FirstTurn => named(&first_turn?.to_le_bytes()),
            };
            Some(Session { key, source })
        })
    }
}

/// The one value of a header; a header that is there twice names nothing.
fn header_name<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    fit(value.as_bytes().trim_ascii())
}

fn fit(name: &[u8]) -> Option<&[u8]> {
    (1..=NAME_BYTES_MAX).contains(&name.len()).then_some(name)
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::openai::{Endpoint, parse};

    const KEY: HashKey = HashKey(5);
    const BODY: &str = r#"{"model":"m","user":"u","prompt_cache_key":"p","session_id":"s",
        "messages":[{"role":"system","content":"be brief"},{"role":"user","content":"hi"}]}"#;

    /// Where the default order finds the session of a request.
    fn found(headers: &[(&'static str, &str)], body: &str) -> Option<(String, SessionKey)> {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect();
        let view = parse(Endpoint::ChatCompletions, body.as_bytes()).unwrap();
        let sources = Sources::default();
        let first_turn = view.hash_prompt(KEY, Some("tenant"), Tokens(16)).first_turn;
        let session = sources.find(&headers, &view, KEY, Some("tenant"), first_turn)?;
        Some((session.source.to_string(), session.key))
    }

    fn source(headers: &[(&'static str, &str)], body: &str) -> Option<String> {
        found(headers, body).map(|it| it.0)
    }

    #[test]
    fn the_first_source_that_names_a_session_wins() {
        let all = [("x-session-id", "a"), ("thread-id", "b"), ("x-sluice-session-id", "c")];
        assert_eq!(source(&all, BODY).unwrap(), "header:x-sluice-session-id");
        assert_eq!(source(&all[..2], BODY).unwrap(), "header:x-session-id");
        assert_eq!(source(&all[1..2], BODY).unwrap(), "body:session_id");
        let (_, key) = found(&all, BODY).unwrap();
        assert_eq!(key, SessionKey::new(KEY, Some("tenant"), "m", b"c"));
    }

    #[test]
    fn a_malformed_explicit_name_means_no_session() {
        let long = "x".repeat(257);
        for name in ["", " ", &long] {
            assert_eq!(source(&[("x-sluice-session-id", name)], BODY), None);
        }
        let twice = [("x-sluice-session-id", "a"), ("x-sluice-session-id", "b")];
        assert_eq!(source(&twice, BODY), None);
        assert!(source(&[("x-sluice-session-id", &long[..256])], BODY).is_some());
    }

    #[test]
    fn a_name_that_is_empty_or_too_long_elsewhere_is_passed_over() {
        let long = "x".repeat(257);
        assert_eq!(source(&[("x-session-id", &long)], BODY).unwrap(), "body:session_id");
        let body = BODY.replace(r#""session_id":"s""#, &format!(r#""session_id":"{long}""#));
        assert_eq!(source(&[("x-session-id", "")], &body).unwrap(), "body:prompt_cache_key");
    }

    #[test]
    fn affinity_can_be_declined() {
        let headers = [("x-sluice-session-id", "a"), ("x-sluice-session-affinity", "Off")];
        assert_eq!(source(&headers, BODY), None);
        let headers = [("x-sluice-session-id", "a"), ("x-sluice-session-affinity", "on")];
        assert!(source(&headers, BODY).is_some());
    }

    #[test]
    fn a_correlation_id_counts_only_where_the_operator_says_so() {
        let body = r#"{"model":"m","messages":[]}"#;
        assert_eq!(source(&[("x-correlation-id", "a")], body), None);
        let sources = Sources::new(vec!["header:x-correlation-id".parse().unwrap()]);
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-correlation-id"),
            "a".parse().unwrap(),
        )]);
        let view = parse(Endpoint::ChatCompletions, body.as_bytes()).unwrap();
        assert!(sources.find(&headers, &view, KEY, None, None).is_some());
    }

    #[test]
    fn without_a_name_the_first_turn_is_the_session() {
        let turns = |more: &str| {
            format!(
                r#"{{"model":"m","messages":[{{"role":"system","content":"be brief"}},
                {{"role":"user","content":"hi"}}{more}]}}"#
            )
        };
        let first = found(&[], &turns("")).unwrap();
        assert_eq!(first.0, "first-turn");
        let second =
            turns(r#",{"role":"assistant","content":"yes?"},{"role":"user","content":"b"}"#);
        assert_eq!(found(&[], &second).unwrap(), first);
        let other = turns("").replace("hi", "ho");
        assert_ne!(found(&[], &other).unwrap().1, first.1);
    }

    #[test]
    fn every_default_source_is_understood_and_written_as_it_was_read() {
        let written: Vec<String> =
            Sources::default().others.iter().map(Source::to_string).collect();
        assert_eq!(written, SOURCES);
    }

    #[test]
    fn a_bad_source_says_what_to_write() {
        let message = |text: &str| text.parse::<Source>().unwrap_err().to_string();
        assert!(message("cookie:a").contains("`cookie:a` is no session key"));
        assert!(message("header:a b").contains("`header:a b` holds no header name"));
        assert!(message("body:prompt").contains("`body:prompt` is not read"));
    }
}
