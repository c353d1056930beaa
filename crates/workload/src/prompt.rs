//! What a prompt is made of.

use types::quantity::Tokens;

use crate::text;

/// A conversation as the model is to read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// First message first.
    pub messages: Vec<Message>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The message's text, piece by piece.
    pub segments: Vec<Segment>,
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
    /// A prompt of one message by the user.
    #[must_use]
    pub fn from_user(segments: Vec<Segment>) -> Self {
        Self { messages: vec![Message { role: Role::User, segments }] }
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
        Self { role, segments: vec![segment] }
    }

    /// Length of the message's text.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.segments.iter().map(|it| it.tokens).sum()
    }

    /// Appends the message's text to `out`: ASCII that needs no escape in JSON.
    pub fn write_text(&self, out: &mut Vec<u8>) {
        for segment in &self.segments {
            segment.write_text(out);
        }
    }
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
