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

use std::cell::Cell;

use types::{
    block::{BlockHash, BlockHasher, ChainSeed, HashKey, Scope},
    quantity::{BYTES_PER_TOKEN, Tokens},
};
use xxhash_rust::xxh3::Xxh3;

use crate::{json, openai::View, walk};

#[cfg(test)]
mod tests;

/// Opens a turn.
const TURN: &[u8] = b"\x1e";
/// Stands between the parts of a turn.
const PART: &[u8] = b"\x1f";
/// Opens a turn whose role is not known: [`TURN`] and [`PART`].
const TURN_OF_NOBODY: &[u8] = b"\x1e\x1f";
/// Most bytes of short pieces that are gathered before they are hashed: a few of the usual blocks.
const GATHERED_BYTES: usize = 512;
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
    Conversation { tools: Option<&'a str>, system: Option<&'a str>, turns: Option<&'a str> },
    /// Text, token ids, or several of either; the first is what blocks are named for.
    Prompts(Option<&'a str>),
    /// A text to be held against others, each of which is prefilled after it.
    Pairs(Option<&'a str>, Option<&'a str>),
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
    /// Names a conversation by what all its requests share: the system's turns and the user's
    /// first. `None` where there is no such turn.
    pub first_turn: Option<u128>,
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
        let mut first_turn = None;
        match self.content {
            Content::None => {}
            Content::Conversation { tools, system, turns } => {
                first_turn = hash_conversation(&mut hasher, key, [tools, system, turns]);
            }
            Content::Prompts(prompts) => {
                let mut first = true;
                let mut count = |piece: &[u8]| {
                    bytes_beside = bytes_beside.saturating_add(piece.len());
                };
                let mut others = Layout::new(&mut count);
                for_each_prompt(prompts, |prompt| {
                    if std::mem::take(&mut first) {
                        Layout::new(&mut |piece| hasher.update(piece)).prompt(prompt);
                    } else {
                        others.prompt(prompt);
                    }
                });
            }
            Content::Pairs(text, others) => {
                for_each_prompt(text, |prompt| {
                    Layout::new(&mut |piece| hasher.update(piece)).prompt(prompt);
                });
                bytes_beside = others.map_or(0, str::len);
            }
        }
        let is_estimated = is_text && bytes_beside == 0;
        let prompt = token_bytes.tokens_in(hasher.bytes().saturating_add(bytes_beside));
        PromptHash { blocks: hasher.finish(), prompt, is_estimated, first_turn }
    }
}

/// Lays out tools, system and turns in one walk, and names the conversation on the way.
fn hash_conversation(
    hasher: &mut BlockHasher,
    key: HashKey,
    [tools, system, turns]: [Option<&str>; 3],
) -> Option<u128> {
    let is_opening = Cell::new(false);
    let mut opening = Xxh3::with_seed(key.0);
    let mut emit = |piece: &[u8]| {
        if is_opening.get() {
            opening.update(piece);
        }
        hasher.update(piece);
    };
    let mut layout = Layout::new(&mut emit);
    layout.tools(tools);
    layout.turn_to(&is_opening, true);
    layout.system(system);
    let has_user = turns.is_some_and(|turns| layout.turns(turns, &is_opening));
    drop(layout);
    has_user.then(|| opening.digest128())
}

/// A message of a chat, or an item of a Responses input: its entries that are part of the prompt.
#[derive(Default)]
struct Turn<'a> {
    role: &'a str,
    content: Option<&'a str>,
    /// In the order of [`Turn::OTHERS`].
    others: [Option<&'a str>; Turn::OTHERS.len()],
}

impl<'a> Turn<'a> {
    const OTHERS: [&'static str; 6] =
        ["name", "tool_calls", "tool_call_id", "arguments", "call_id", "output"];

    /// Learns an entry; of entries called alike the last counts, `null` is as good as absent.
    fn learn(&mut self, key: &str, value: &'a str) {
        let present = Some(value).filter(|it| *it != "null");
        if key == "role" {
            self.role = json::quoted(value).unwrap_or_default();
        } else if key == "content" {
            self.content = present;
        } else if let Some((_, slot)) =
            Self::OTHERS.iter().zip(&mut self.others).find(|(name, _)| **name == key)
        {
            *slot = present;
        }
    }
}

/// Where the pieces of a layout go. A body has room for millions of turns of nothing, and to hash each by itself would
/// cost many times what its bytes do; so short pieces are gathered.
struct Pieces<'e> {
    emit: &'e mut dyn FnMut(&[u8]),
    gathered: [u8; GATHERED_BYTES],
    /// Bytes of it that are there.
    len: usize,
}

impl Pieces<'_> {
    #[inline]
    fn put(&mut self, piece: &[u8]) {
        let end = self.len.saturating_add(piece.len());
        if let ([byte], Some(room)) = (piece, self.gathered.get_mut(self.len)) {
            // Without a call, which a copy of any length is.
            *room = *byte;
            self.len = end;
        } else if let Some(room) = self.gathered.get_mut(self.len..end) {
            room.copy_from_slice(piece);
            self.len = end;
        } else {
            self.put_long(piece);
        }
    }

    #[cold]
    fn put_long(&mut self, piece: &[u8]) {
        self.flush();
        match self.gathered.get_mut(..piece.len()) {
            Some(room) => {
                room.copy_from_slice(piece);
                self.len = piece.len();
            }
            None => (self.emit)(piece),
        }
    }

    /// Passes on what has been gathered.
    fn flush(&mut self) {
        if let Some(gathered @ [_, ..]) = self.gathered.get(..self.len) {
            (self.emit)(gathered);
        }
        self.len = 0;
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Lays a prompt out as a stream of bytes, all of which have gone out once it is dropped.
struct Layout<'e> {
    out: Pieces<'e>,
    media_parts: usize,
}

impl<'e> Layout<'e> {
    fn new(emit: &'e mut dyn FnMut(&[u8])) -> Self {
        Self { out: Pieces { emit, gathered: [0; GATHERED_BYTES], len: 0 }, media_parts: 0 }
    }

    fn open(&mut self, role: &str) {
        if role.is_empty() {
            return self.out.put(TURN_OF_NOBODY);
        }
        self.out.put(TURN);
        self.out.put(role.as_bytes());
        self.out.put(PART);
    }

    fn name(&mut self, name: &str) {
        self.out.put(PART);
        self.out.put(name.as_bytes());
        self.out.put(PART);
    }

    /// Lays out a value as it stands, but for its white space, which only what holds other values can have.
    fn compact(&mut self, value: &str) {
        if json::starts_with(value, b'[') || json::starts_with(value, b'{') {
            json::compact(value, &mut |piece| self.out.put(piece));
        } else {
            self.out.put(value.as_bytes());
        }
    }

    fn tools(&mut self, tools: Option<&str>) {
        if let Some(tools) = tools {
            self.open("tools");
            self.compact(tools);
        }
    }

    fn system(&mut self, system: Option<&str>) {
        if let Some(system) = system {
            self.open("system");
            self.content(system, DEPTH_MAX);
        }
    }

    /// Says whether what comes now opens the conversation.
    fn turn_to(&mut self, is_opening: &Cell<bool>, opens: bool) {
        if is_opening.get() != opens {
            self.out.flush();
            is_opening.set(opens);
        }
    }

    /// Lays out an array of turns, or a text that stands for one turn of the user's. Sets
    /// `is_opening` while a turn is laid out that opens the conversation: all of the system's and
    /// the user's up to the user's first. Returns whether the user has a turn.
    fn turns(&mut self, turns: &str, is_opening: &Cell<bool>) -> bool {
        if let Some(text) = json::quoted(turns) {
            self.open("user");
            self.out.put(text.as_bytes());
            return true;
        }
        let Some(mut items) = walk::items(turns) else {
            self.compact(turns);
            return false;
        };
        let mut has_user = false;
        loop {
            if items.is_at_object() {
                let mut turn = Turn::default();
                items.next_entries(|key, value| turn.learn(key, value));
                let opens = matches!(turn.role, "system" | "developer" | "user");
                self.turn_to(is_opening, !has_user && opens);
                self.turn(&turn);
                has_user |= turn.role == "user";
            } else if let Some(item) = items.next() {
                self.turn_to(is_opening, false);
                self.open("");
                self.compact(item);
            } else {
                break;
            }
        }
        has_user
    }

    fn turn(&mut self, turn: &Turn<'_>) {
        self.open(turn.role);
        if let Some(content) = turn.content {
            self.content(content, DEPTH_MAX);
        }
        for (name, value) in Turn::OTHERS.iter().zip(turn.others) {
            if let Some(value) = value {
                self.name(name);
                self.content(value, DEPTH_MAX);
            }
        }
    }

    /// Lays out a text or an array of parts; anything else as it stands.
    fn content(&mut self, content: &str, depth: u32) {
        if let Some(text) = json::quoted(content) {
            self.out.put(text.as_bytes());
            return;
        }
        let parts = if depth == 0 { None } else { walk::items(content) };
        let Some(parts) = parts else {
            self.compact(content);
            return;
        };
        for (at, part) in parts.enumerate() {
            if at > 0 {
                self.out.put(PART);
            }
            match walk::entries(part) {
                Some(entries) => self.part(entries, depth.saturating_sub(1)),
                None => self.compact(part),
            }
        }
    }

    fn part(&mut self, part: walk::Entries<'_>, depth: u32) {
        let (mut text, mut kind) = (None, "");
        for (key, value) in part.clone() {
            match key {
                "text" => text = json::quoted(value),
                "type" => kind = json::quoted(value).unwrap_or_default(),
                _ => {}
            }
        }
        if let Some(text) = text {
            self.out.put(text.as_bytes());
        } else if ["image", "audio", "video"].iter().any(|it| kind.contains(it)) {
            self.media(part, depth);
        } else {
            self.entries(part, depth);
        }
    }

    /// Lays out a digest, repeated to the length that the engine's own tokens would have.
    fn media(&mut self, part: walk::Entries<'_>, depth: u32) {
        let mut hasher = Xxh3::new();
        let mut emit = |piece: &[u8]| hasher.update(piece);
        // What lies within a medium is part of its digest and has no length of its own.
        let mut within = Layout { media_parts: MEDIA_PARTS_MAX, ..Layout::new(&mut emit) };
        within.entries(part, depth);
        drop(within);
        let digest = hasher.digest128().to_le_bytes();
        let counts = self.media_parts < MEDIA_PARTS_MAX;
        self.media_parts = self.media_parts.saturating_add(1);
        let tokens = if counts { MEDIA_TOKENS } else { 1 };
        for _ in 0..tokens.saturating_mul(BYTES_PER_TOKEN).div_ceil(digest.len()) {
            self.out.put(&digest);
        }
    }

    /// Lays out an object's entries as they stand, but for the marks that clients move about.
    fn entries(&mut self, part: walk::Entries<'_>, depth: u32) {
        for (key, value) in part.filter(|(key, _)| *key != "cache_control") {
            self.name(key);
            if key == "content" {
                self.content(value, depth);
            } else {
                self.compact(value);
            }
        }
    }

    /// Lays out a text, or token ids as four little-endian bytes each; anything else as it stands.
    fn prompt(&mut self, prompt: &str) {
        if let Some(text) = json::quoted(prompt) {
            self.out.put(text.as_bytes());
            return;
        }
        let mut ids = walk::items(prompt).into_iter().flatten();
        let is_regular = json::starts_with(prompt, b'[')
            && ids.all(|it| it.parse().map(|id: u32| self.out.put(&id.to_le_bytes())).is_ok());
        if !is_regular {
            self.compact(prompt);
        }
    }
}

/// Calls `visit` with each prompt of a batch, or with the one that stands alone.
fn for_each_prompt<'a>(prompts: Option<&'a str>, mut visit: impl FnMut(&'a str)) {
    let Some(prompts) = prompts else { return };
    let first = prompts.as_bytes().get(1..).map(<[u8]>::trim_ascii_start);
    let is_batch = matches!(first.and_then(<[u8]>::first), Some(b'[' | b'"' | b'{'));
    match walk::items(prompts) {
        Some(batch) if is_batch => batch.for_each(visit),
        Some(_) | None => visit(prompts),
    }
}
