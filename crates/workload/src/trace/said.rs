//! Messages as chat APIs and conversation files write them.

use serde::Deserialize;
use serde_json::value::RawValue;
use types::quantity::{BYTES_PER_TOKEN, Tokens};

use crate::{
    prompt::{Message, Role},
    trace::lines::Problem,
};

/// Length of an answer that nothing tells.
pub(super) const OUTPUT_ASSUMED: Tokens = Tokens(128);

/// One message: `role` and `content` in OpenAI's words, `from` and `value` in ShareGPT's.
#[derive(Deserialize)]
pub(super) struct Said<'a> {
    #[serde(alias = "from")]
    pub(super) role: String,
    #[serde(borrow, alias = "value")]
    pub(super) content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part {
    text: Option<String>,
}

impl Said<'_> {
    /// The message's text: the string, or the texts among its parts; nothing where there is none.
    pub(super) fn text(&self) -> Result<String, Problem> {
        self.content.map_or_else(|| Ok(String::new()), text_of)
    }

    /// Who speaks, in either vocabulary; none for a word that neither has.
    pub(super) fn role(&self) -> Option<Role> {
        match self.role.as_str() {
            "system" | "developer" => Some(Role::System),
            "user" | "human" | "tool" | "function" => Some(Role::User),
            "assistant" | "gpt" | "chatgpt" | "model" | "bing" | "bard" => Some(Role::Assistant),
            _ => None,
        }
    }

    /// The message, its text included.
    pub(super) fn message(&self) -> Result<Message, Problem> {
        let role = self.role().ok_or_else(|| {
            let role = &self.role;
            Problem::unreadable(format!("`{role}` is no role; use system, user or assistant"))
        })?;
        Ok(Message::from_text(role, &self.text()?))
    }
}

/// The text in a `content`: a string, a list of parts, or null.
pub(super) fn text_of(content: &RawValue) -> Result<String, Problem> {
    let json = content.get();
    match json.as_bytes().first() {
        Some(b'"') => Ok(serde_json::from_str(json)?),
        Some(b'[') => {
            let parts: Vec<Part> = serde_json::from_str(json)?;
            Ok(parts.into_iter().filter_map(|it| it.text).collect())
        }
        _ => Ok(String::new()),
    }
}

/// Length of a text, estimated.
pub(super) fn tokens_of(text: &str) -> Tokens {
    Tokens(u32::try_from(text.len().div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX))
}
