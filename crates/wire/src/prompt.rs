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
const MEDIA: Tokens = Tokens(1024);
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

/// A prompt as the dispatcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptHash {
    /// Chained hashes of the full blocks, first block first.
    pub blocks: Vec<BlockHash>,
    /// Length of the prompt, of all prompts in a batch: exact for token ids, else estimated.
    pub prompt: Tokens,
}

impl View<'_> {
    /// Names the prompt's blocks of `block` tokens each, within the request's scope.
    #[must_use]
    pub fn hash_prompt(&self, key: HashKey, tenant: Option<&str>, block: Tokens) -> PromptHash {
        let scope = Scope {
            model: &self.model,
            adapter: self.adapter.as_deref(),
            tenant,
            cache_salt: self.cache_salt.as_deref(),
        };
        let block_bytes = usize::try_from(block.0).unwrap_or(usize::MAX);
        let block_bytes = block_bytes.saturating_mul(BYTES_PER_TOKEN);
        let mut hasher = BlockHasher::new(ChainSeed::new(key, &scope), block_bytes);
        let mut bytes_beside = 0_usize;
        match self.content {
            Content::None => {}
            Content::Conversation { tools, system, turns } => {
                let mut emit = |piece: &[u8]| hasher.update(piece);
                lay_tools(tools, &mut emit);
                lay_system(system, &mut emit);
                lay_turns(turns, &mut emit);
            }
            Content::Prompts(prompts) => {
                let mut first = true;
                for_each_prompt(prompts, |prompt| {
                    if std::mem::take(&mut first) {
                        lay_prompt(prompt, &mut |piece| hasher.update(piece));
                    } else {
                        lay_prompt(prompt, &mut |piece| {
                            bytes_beside = bytes_beside.saturating_add(piece.len());
                        });
                    }
                });
            }
            Content::Pairs(text, others) => {
                for_each_prompt(text, |prompt| lay_prompt(prompt, &mut |it| hasher.update(it)));
                bytes_beside = others.map_or(0, |raw| raw.get().len());
            }
        }
        let prompt = Tokens::estimated_from_bytes(hasher.bytes().saturating_add(bytes_beside));
        PromptHash { blocks: hasher.finish(), prompt }
    }

    /// Names a conversation by what all its requests share: the system's turns and the user's
    /// first. `None` where there is no such turn.
    #[must_use]
    pub fn first_turn_hash(&self, key: HashKey) -> Option<u128> {
        let Content::Conversation { system, turns, .. } = self.content else {
            return None;
        };
        let mut hasher = Xxh3::with_seed(key.0);
        lay_system(system, &mut |piece| hasher.update(piece));
        let mut found = false;
        let turns = turns?;
        if json::quoted(turns).is_some() {
            lay_turns(Some(turns), &mut |piece| hasher.update(piece));
            found = true;
        }
        json::for_each_item(turns, |turn: Turn<'_>| {
            let role = turn.role.and_then(json::quoted);
            if matches!(role, Some("system" | "developer" | "user")) {
                turn.lay(&mut |piece| hasher.update(piece));
                found = role == Some("user");
            }
            if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found.then(|| hasher.digest128())
    }
}

type Emit<'e> = &'e mut dyn FnMut(&[u8]);

fn lay_tools(tools: Option<&RawValue>, emit: Emit<'_>) {
    if let Some(tools) = tools {
        emit(TURN);
        emit(b"tools");
        emit(PART);
        json::compact(tools, emit);
    }
}

fn lay_system(system: Option<&RawValue>, emit: Emit<'_>) {
    if let Some(system) = system {
        emit(TURN);
        emit(b"system");
        emit(PART);
        lay_content(system, emit, DEPTH_MAX);
    }
}

/// Lays out an array of turns, or a text that stands for one turn of the user's.
fn lay_turns(turns: Option<&RawValue>, emit: Emit<'_>) {
    let Some(turns) = turns else { return };
    if let Some(text) = json::quoted(turns) {
        emit(TURN);
        emit(b"user");
        emit(PART);
        emit(text.as_bytes());
        return;
    }
    let regular = json::for_each_item(turns, |turn: Turn<'_>| {
        turn.lay(emit);
        ControlFlow::Continue(())
    });
    if !regular {
        json::compact(turns, emit);
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

impl Turn<'_> {
    fn lay(&self, emit: Emit<'_>) {
        emit(TURN);
        emit(self.role.and_then(json::quoted).unwrap_or_default().as_bytes());
        emit(PART);
        if let Some(content) = self.content {
            lay_content(content, emit, DEPTH_MAX);
        }
        let rest = [
            ("name", self.name),
            ("tool_calls", self.tool_calls),
            ("tool_call_id", self.tool_call_id),
            ("arguments", self.arguments),
            ("call_id", self.call_id),
            ("output", self.output),
        ];
        for (name, value) in rest {
            if let Some(value) = value {
                emit(PART);
                emit(name.as_bytes());
                emit(PART);
                lay_content(value, emit, DEPTH_MAX);
            }
        }
    }
}

/// Lays out a text or an array of parts; anything else as it stands.
fn lay_content(content: &RawValue, emit: Emit<'_>, depth: u32) {
    if let Some(text) = json::quoted(content) {
        emit(text.as_bytes());
        return;
    }
    let mut first = true;
    let regular = depth > 0
        && json::for_each_item(content, |part: Entries<'_>| {
            if !std::mem::take(&mut first) {
                emit(PART);
            }
            lay_part(&part, emit, depth.saturating_sub(1));
            ControlFlow::Continue(())
        });
    if !regular {
        json::compact(content, emit);
    }
}

fn lay_part(part: &Entries<'_>, emit: Emit<'_>, depth: u32) {
    let text = part.get("text").and_then(json::quoted);
    let kind = part.get("type").and_then(json::quoted).unwrap_or_default();
    if let Some(text) = text {
        emit(text.as_bytes());
    } else if ["image", "audio", "video"].iter().any(|it| kind.contains(it)) {
        let mut hasher = Xxh3::new();
        lay_entries(part, &mut |piece| hasher.update(piece), depth);
        let digest = hasher.digest128().to_le_bytes();
        let bytes = usize::try_from(MEDIA.0).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_TOKEN);
        for _ in 0..bytes.div_ceil(digest.len()) {
            emit(&digest);
        }
    } else {
        lay_entries(part, emit, depth);
    }
}

/// Lays out an object's entries as they stand, but for the marks that clients move about.
fn lay_entries(part: &Entries<'_>, emit: Emit<'_>, depth: u32) {
    for (key, value) in part.iter().filter(|(key, _)| *key != "cache_control") {
        emit(PART);
        emit(key.as_bytes());
        emit(PART);
        if key == "content" {
            lay_content(value, emit, depth);
        } else {
            json::compact(value, emit);
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

/// Lays out a text, or token ids as four little-endian bytes each; anything else as it stands.
fn lay_prompt(prompt: &RawValue, emit: Emit<'_>) {
    if let Some(text) = json::quoted(prompt) {
        emit(text.as_bytes());
        return;
    }
    let regular = json::for_each_item(prompt, |id: u32| {
        emit(&id.to_le_bytes());
        ControlFlow::Continue(())
    });
    if !regular {
        json::compact(prompt, emit);
    }
}
