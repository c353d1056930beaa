//! Names the KV blocks of a prompt.
//!
//! What the engine caches are the tokens of the rendered prompt; what a router has is the body. So
//! the prompt is laid out as one stream of bytes in the order in which chat templates render it
//! (tools, system, then turn after turn), and the stream is cut into blocks of as many bytes as a
//! block's tokens are taken to be. The layout makes three promises:
//!
//! * A conversation with turns appended has the old stream as its prefix: no length and no count
//!   comes first, and nothing closes the last turn.
//! * White space between JSON tokens and the order of keys do not matter. (Inside tools, tool calls
//!   and parts that are not text the order of keys does: templates render them as they stand.)
//! * Anthropic's `cache_control` marks do not matter: clients move them to the newest turn.
//!
//! Text enters as received between its quotes, escapes and all: a client escapes alike every time,
//! and unescaping would cost more than the hash. Separators are control characters, which JSON
//! text cannot hold unescaped, so that no content can pose as another turn.

use std::ops::ControlFlow;

use serde::Deserialize;
use serde_json::value::RawValue;
use types::{
    block::{BlockHash, BlockHasher, ChainSeed, HashKey, Scope},
    quantity::{BYTES_PER_TOKEN, Tokens},
};
use xxhash_rust::xxh3::Xxh3;

use crate::{
    json::{self, Entries},
    openai::View,
};

#[cfg(test)]
mod tests;

/// Opens a turn.
const TURN: &[u8] = b"\x1e";
/// Stands between the parts of a turn.
const PART: &[u8] = b"\x1f";
/// Tokens that an image, a sound or a video counts as, whatever the length of its encoding.
///
/// LLaVA-1.5 spends 576 on an image, Qwen2-VL one on each 28 × 28 pixels: 1,337 for a megapixel.
const MEDIA_TOKENS: usize = 1024;
/// Images, sounds and videos that are counted; more of them would make a small body a huge prompt.
const MEDIA_PARTS_MAX: usize = 512;
/// Content within content (a tool's result holds parts) is read to this depth, then taken as it is.
const DEPTH_MAX: u32 = 4;

/// The prompt within a body, as received.
#[derive(Clone, Copy)]
pub(crate) enum Content<'a> {
    /// Nothing that an engine would prefill.
    None,
    /// A chat.
    Conversation {
        tools: Option<&'a RawValue>,
        system: Option<&'a RawValue>,
        turns: Option<&'a RawValue>,
    },
    /// Text, token ids, or several of either; the first is what blocks are named for.
    Prompts(Option<&'a RawValue>),
    /// A text to be held against others, each of which is prefilled after it.
    Pairs(Option<&'a RawValue>, Option<&'a RawValue>),
}

impl Content<'_> {
    /// Whether it is text, and not token ids.
    fn is_text(&self) -> bool {
        match self {
            Content::None => false,
            Content::Conversation { .. } | Content::Pairs(..) => true,
            Content::Prompts(prompts) => {
                let mut is_text = true;
                for_each_prompt(*prompts, |prompt| is_text &= json::quoted(prompt).is_some());
                is_text
            }
        }
    }
}

/// Hundredths of a byte to a token.
#[derive(Clone, Copy)]
struct TokenBytes(u32);

impl TokenBytes {
    /// Of token ids, each laid out as four bytes.
    const EXACT: Self = Self(400);

    fn of(self, tokens: Tokens) -> usize {
        let bytes = u64::from(tokens.0).saturating_mul(self.0.into()) / 100;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    fn tokens_in(self, bytes: usize) -> Tokens {
        let tokens = (bytes as u64).saturating_mul(100).div_ceil(u64::from(self.0.max(1)));
        Tokens(u32::try_from(tokens).unwrap_or(u32::MAX))
    }
}

/// A prompt as the dispatcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptHash {
    /// Chained hashes of the full blocks, first block first.
    pub blocks: Vec<BlockHash>,
    /// Length of the prompt, of all prompts in a batch: exact for token ids, else estimated.
    pub prompt: Tokens,
    /// Whether it is one text whose length is estimated.
    pub is_estimated: bool,
}

impl View<'_> {
    /// Names the prompt's blocks of `block` tokens each, within the request's scope.
    #[must_use]
    pub fn hash_prompt(&self, key: HashKey, tenant: Option<&str>, block: Tokens) -> PromptHash {
        let centibytes = u32::try_from(BYTES_PER_TOKEN.saturating_mul(100)).unwrap_or(u32::MAX);
        self.hash_prompt_of(key, tenant, block, centibytes)
    }

    /// As [`Self::hash_prompt`], where a token of text is taken to be `centibytes` hundredths of a byte
    /// long instead of four bytes.
    #[must_use]
    pub fn hash_prompt_of(
        &self,
        key: HashKey,
        tenant: Option<&str>,
        block: Tokens,
        centibytes: u32,
    ) -> PromptHash {
        let scope = Scope {
            model: &self.model,
            adapter: self.adapter.as_deref(),
            tenant,
            cache_salt: self.cache_salt.as_deref(),
        };
        let is_text = self.content.is_text();
        let token_bytes = if is_text { TokenBytes(centibytes.max(1)) } else { TokenBytes::EXACT };
        let block_bytes = token_bytes.of(block);
        let mut hasher = BlockHasher::new(ChainSeed::new(key, &scope), block_bytes);
        let mut bytes_beside = 0_usize;
        match self.content {
            Content::None => {}
            Content::Conversation { tools, system, turns } => {
                let mut emit = |piece: &[u8]| hasher.update(piece);
                let mut layout = Layout::new(&mut emit);
                layout.tools(tools);
                layout.system(system);
                layout.turns(turns);
            }
            Content::Prompts(prompts) => {
                let mut first = true;
                for_each_prompt(prompts, |prompt| {
                    if std::mem::take(&mut first) {
                        Layout::new(&mut |piece| hasher.update(piece)).prompt(prompt);
                    } else {
                        let mut count = |piece: &[u8]| {
                            bytes_beside = bytes_beside.saturating_add(piece.len());
                        };
                        Layout::new(&mut count).prompt(prompt);
                    }
                });
            }
            Content::Pairs(text, others) => {
                for_each_prompt(text, |prompt| {
                    Layout::new(&mut |piece| hasher.update(piece)).prompt(prompt);
                });
                bytes_beside = others.map_or(0, |raw| raw.get().len());
            }
        }
        let is_estimated = is_text && bytes_beside == 0;
        let prompt = token_bytes.tokens_in(hasher.bytes().saturating_add(bytes_beside));
        PromptHash { blocks: hasher.finish(), prompt, is_estimated }
    }

    /// Names a conversation by what all its requests share: the system's turns and the user's
    /// first. `None` where there is no such turn.
    #[must_use]
    pub fn first_turn_hash(&self, key: HashKey) -> Option<u128> {
        let Content::Conversation { system, turns, .. } = self.content else {
            return None;
        };
        let turns = turns?;
        let mut hasher = Xxh3::with_seed(key.0);
        let mut emit = |piece: &[u8]| hasher.update(piece);
        let mut layout = Layout::new(&mut emit);
        layout.system(system);
        let mut found = json::quoted(turns).is_some();
        if found {
            layout.turns(Some(turns));
        }
        json::for_each_item(turns, |turn: Turn<'_>| {
            let role = turn.role.and_then(json::quoted);
            if matches!(role, Some("system" | "developer" | "user")) {
                layout.turn(&turn);
                found = role == Some("user");
            }
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.then(|| hasher.digest128())
    }
}

/// A message of a chat, or an item of a Responses input.
#[derive(Deserialize)]
struct Turn<'a> {
    #[serde(borrow)]
    role: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_call_id: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    call_id: Option<&'a RawValue>,
    #[serde(borrow)]
    output: Option<&'a RawValue>,
}

/// Lays a prompt out as a stream of bytes.
struct Layout<'e> {
    emit: &'e mut dyn FnMut(&[u8]),
    media_parts: usize,
}

impl<'e> Layout<'e> {
    fn new(emit: &'e mut dyn FnMut(&[u8])) -> Self {
        Self { emit, media_parts: 0 }
    }

    fn open(&mut self, role: &str) {
        (self.emit)(TURN);
        (self.emit)(role.as_bytes());
        (self.emit)(PART);
    }

    fn name(&mut self, name: &str) {
        (self.emit)(PART);
        (self.emit)(name.as_bytes());
        (self.emit)(PART);
    }

    fn tools(&mut self, tools: Option<&RawValue>) {
        if let Some(tools) = tools {
            self.open("tools");
            json::compact(tools, self.emit);
        }
    }

    fn system(&mut self, system: Option<&RawValue>) {
        if let Some(system) = system {
            self.open("system");
            self.content(system, DEPTH_MAX);
        }
    }

    /// Lays out an array of turns, or a text that stands for one turn of the user's.
    fn turns(&mut self, turns: Option<&RawValue>) {
        let Some(turns) = turns else { return };
        if let Some(text) = json::quoted(turns) {
            self.open("user");
            (self.emit)(text.as_bytes());
            return;
        }
        let regular = json::for_each_item(turns, |turn: Turn<'_>| {
            self.turn(&turn);
            ControlFlow::Continue(())
        });
        if !regular {
            json::compact(turns, self.emit);
        }
    }

    fn turn(&mut self, turn: &Turn<'_>) {
        self.open(turn.role.and_then(json::quoted).unwrap_or_default());
        if let Some(content) = turn.content {
            self.content(content, DEPTH_MAX);
        }
        let rest = [
            ("name", turn.name),
            ("tool_calls", turn.tool_calls),
            ("tool_call_id", turn.tool_call_id),
            ("arguments", turn.arguments),
            ("call_id", turn.call_id),
            ("output", turn.output),
        ];
        for (name, value) in rest {
            if let Some(value) = value {
                self.name(name);
                self.content(value, DEPTH_MAX);
            }
        }
    }

    /// Lays out a text or an array of parts; anything else as it stands.
    fn content(&mut self, content: &RawValue, depth: u32) {
        if let Some(text) = json::quoted(content) {
            (self.emit)(text.as_bytes());
            return;
        }
        let mut first = true;
        let regular = depth > 0
            && json::for_each_item(content, |part: Entries<'_>| {
                if !std::mem::take(&mut first) {
                    (self.emit)(PART);
                }
                self.part(&part, depth.saturating_sub(1));
                ControlFlow::Continue(())
            });
        if !regular {
            json::compact(content, self.emit);
        }
    }

    fn part(&mut self, part: &Entries<'_>, depth: u32) {
        let text = part.get("text").and_then(json::quoted);
        let kind = part.get("type").and_then(json::quoted).unwrap_or_default();
        if let Some(text) = text {
            (self.emit)(text.as_bytes());
        } else if ["image", "audio", "video"].iter().any(|it| kind.contains(it)) {
            self.media(part, depth);
        } else {
            self.entries(part, depth);
        }
    }

    /// Lays out a digest, repeated to the length that the engine's own tokens would have.
    fn media(&mut self, part: &Entries<'_>, depth: u32) {
        let mut hasher = Xxh3::new();
        let mut emit = |piece: &[u8]| hasher.update(piece);
        // What lies within a medium is part of its digest and has no length of its own.
        Layout { emit: &mut emit, media_parts: MEDIA_PARTS_MAX }.entries(part, depth);
        let digest = hasher.digest128().to_le_bytes();
        let counts = self.media_parts < MEDIA_PARTS_MAX;
        self.media_parts = self.media_parts.saturating_add(1);
        let tokens = if counts { MEDIA_TOKENS } else { 1 };
        for _ in 0..tokens.saturating_mul(BYTES_PER_TOKEN).div_ceil(digest.len()) {
            (self.emit)(&digest);
        }
    }

    /// Lays out an object's entries as they stand, but for the marks that clients move about.
    fn entries(&mut self, part: &Entries<'_>, depth: u32) {
        for (key, value) in part.iter().filter(|(key, _)| *key != "cache_control") {
            self.name(key);
            if key == "content" {
                self.content(value, depth);
            } else {
                json::compact(value, self.emit);
            }
        }
    }

    /// Lays out a text, or token ids as four little-endian bytes each; anything else as it stands.
    fn prompt(&mut self, prompt: &RawValue) {
        if let Some(text) = json::quoted(prompt) {
            (self.emit)(text.as_bytes());
            return;
        }
        let regular = json::for_each_item(prompt, |id: u32| {
            (self.emit)(&id.to_le_bytes());
            ControlFlow::Continue(())
        });
        if !regular {
            json::compact(prompt, self.emit);
        }
    }
}

/// Calls `visit` with each prompt of a batch, or with the one that stands alone.
fn for_each_prompt<'a>(prompts: Option<&'a RawValue>, mut visit: impl FnMut(&'a RawValue)) {
    let Some(prompts) = prompts else { return };
    let first = prompts.get().as_bytes().get(1..).map(<[u8]>::trim_ascii_start);
    let is_batch = json::starts_with(prompts, b'[')
        && matches!(first.and_then(<[u8]>::first), Some(b'[' | b'"' | b'{'));
    if is_batch {
        json::for_each_item(prompts, |prompt| {
            visit(prompt);
            ControlFlow::Continue(())
        });
    } else {
        visit(prompts);
    }
}
