//! What a prompt is made of.

use std::sync::Arc;

use types::{
    block::{BlockHash, hash_block},
    quantity::{BYTES_PER_TOKEN, Tokens},
};

use crate::text;

/// Bytes of given text that one segment stands for.
const PIECE_BYTES: usize = 512;

/// A conversation as the model is to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// First message first.
    pub messages: Vec<Message>,
    /// The request body that is sent in its place, where a file held one; the messages then only
    /// say what it is about to those who model it.
    pub given: Option<Arc<Given>>,
}

/// A request body, to be sent as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// Which of the APIs it is for, where the file tells.
    pub api: Option<Api>,
    /// The JSON object.
    pub body: String,
}

/// The APIs that a body may be for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// OpenAI's `/v1/chat/completions`.
    Chat,
    /// OpenAI's `/v1/completions`.
    Completions,
    /// Anthropic's `/v1/messages`.
    Messages,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The message's text, piece by piece.
    pub segments: Vec<Segment>,
    /// The text itself, where a file held it; the segments then only name its pieces.
    pub text: Option<Arc<str>>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The operator: instructions and tools.
    System,
    /// The user.
    User,
    /// The model, in an earlier turn.
    Assistant,
}

/// A piece of text by its name.
///
/// Equal names render to equal text as far as both reach; different names render to different text
/// from the start. So two prompts share a prefix exactly as far as they share segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Names the text.
    pub id: u64,
    /// Length of the text.
    pub tokens: Tokens,
}

impl Prompt {
    /// A prompt of these messages.
    #[must_use]
    pub const fn new(messages: Vec<Message>) -> Self {
        Self { messages, given: None }
    }

    /// A prompt of one message by the user.
    #[must_use]
    pub fn from_user(segments: Vec<Segment>) -> Self {
        Self::new(vec![Message { role: Role::User, segments, text: None }])
    }

    /// Length of the prompt's text, without what a chat template adds.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.messages.iter().map(Message::tokens).sum()
    }
}

impl Message {
    /// A message of one segment.
    #[must_use]
    pub fn new(role: Role, segment: Segment) -> Self {
        Self { role, segments: vec![segment], text: None }
    }

    /// A message whose text is given. Its segments are named by what they say and by all before
    /// them in the message, so that equal beginnings have equal names.
    #[must_use]
    pub fn from_text(role: Role, text: &str) -> Self {
        Self { role, segments: segments_of(text.as_bytes()), text: Some(text.into()) }
    }

    /// Length of the message's text.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.segments.iter().map(|it| it.tokens).sum()
    }

    /// Appends the message's text to `out` as it stands within a JSON string: generated text is
    /// ASCII that needs no escape, given text is escaped.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        match &self.text {
            Some(text) => {
                let quoted = serde_json::Value::from(&**text).to_string();
                let inner = quoted.get(1..quoted.len().saturating_sub(1));
                out.extend_from_slice(inner.unwrap_or_default().as_bytes());
            }
            None => self.segments.iter().for_each(|segment| segment.write_text(out)),
        }
    }
}

/// Segments that stand for `text`, of [`BYTES_PER_TOKEN`] bytes a token.
pub(crate) fn segments_of(text: &[u8]) -> Vec<Segment> {
    let mut name = BlockHash(0);
    let pieces = text.chunks(PIECE_BYTES).map(|piece| {
        name = hash_block(name, piece);
        let tokens = u32::try_from(piece.len().div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX);
        Segment { id: name.0, tokens: Tokens(tokens) }
    });
    pieces.collect()
}

impl Role {
    /// The role as the OpenAI API spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

impl Segment {
    /// Appends the segment's text to `out`: [`types::quantity::BYTES_PER_TOKEN`] bytes a token,
    /// ASCII that needs no escape in JSON.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        text::write(self.id, self.tokens, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_text_shares_names_as_far_as_it_is_equal() {
        let (one, other) = ("a".repeat(1_200), format!("{}b", "a".repeat(1_199)));
        let [one, other] = [one, other].map(|it| Message::from_text(Role::User, &it));
        assert_eq!(one.tokens(), Tokens(300));
        assert_eq!(one.segments[..2], other.segments[..2]);
        assert_ne!(one.segments[2].id, other.segments[2].id);
    }

    #[test]
    fn given_text_is_escaped() {
        let mut out = Vec::new();
        Message::from_text(Role::User, "say \"hé\"\n").write_text(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), r#"say \"hé\"\n"#);
    }
}
