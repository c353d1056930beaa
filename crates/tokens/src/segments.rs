//! Text to token ids, paying only for what is new.
//!
//! A tokenizer cuts text at its special tokens before it does anything else, so what lies between two
//! of them is tokenised by itself. A conversation's next request repeats all its turns, each enclosed
//! in special tokens; so the ids of every segment are remembered, and only the new turn is computed.
//!
//! A segment is a special token and the text up to the next one. It is tokenised with its token before
//! it, because some tokenizers treat the very beginning of a text otherwise than the rest.

use std::{num::NonZeroUsize, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;
use serde::Deserialize;
use tokenizers::Tokenizer;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Segments remembered at most; the least recently used give way. Together with the ids' own bound,
/// this bounds what is remembered.
const SEGMENTS_MAX: usize = 65_536;

/// A model's `tokenizer.json` can't be used.
#[derive(Debug, thiserror::Error)]
#[error("not a tokenizer: {0}")]
pub struct BadTokenizer(String);

/// A tokenizer that remembers what it has done.
#[derive(Debug)]
pub struct Segments {
    tokenizer: Tokenizer,
    /// Special tokens at which text can be cut, longest first.
    separators: Vec<String>,
    may_begin: FirstBytes,
    memory: Mutex<Memory>,
    /// Keys what is remembered, so that nobody can craft two segments that are taken for one.
    seed: u64,
}

/// Ids of segments, by the segments' hashes.
#[derive(Debug)]
struct Memory {
    ids: LruCache<u128, Arc<[u32]>>,
    remembered: usize,
    ids_max: usize,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    #[serde(default)]
    normalized: bool,
}

impl Segments {
    /// A tokenizer from the text of its `tokenizer.json`, remembering at most `ids_max` ids.
    ///
    /// # Errors
    ///
    /// The text is no tokenizer.
    pub fn new(json: &[u8], seed: u64, ids_max: usize) -> Result<Self, BadTokenizer> {
        let bad = |error: &dyn std::fmt::Display| BadTokenizer(error.to_string());
        let tokenizer = Tokenizer::from_bytes(json).map_err(|it| bad(&it))?;
        let file: File = serde_json::from_slice(json).map_err(|it| bad(&it))?;
        let capacity = NonZeroUsize::MIN.saturating_add(SEGMENTS_MAX.saturating_sub(1));
        let memory = Memory { ids: LruCache::new(capacity), remembered: 0, ids_max };
        let separators = separators(&file.added_tokens);
        let may_begin = FirstBytes::of(&separators);
        Ok(Self { tokenizer, separators, may_begin, memory: Mutex::new(memory), seed })
    }

    /// The ids of `text`, special tokens in it being taken as such; `None` where the tokenizer fails.
    #[must_use]
    pub fn encode(&self, text: &str) -> Option<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 4);
        let mut rest = text;
        let mut is_first = true;
        while !rest.is_empty() || is_first {
            let (segment, after) = rest.split_at(self.end_of_segment(rest));
            // The beginning has no special token before it, unless it is one.
            let is_whole = !is_first || self.begins_with_separator(segment).is_some();
            ids.extend_from_slice(&self.segment(segment, is_whole)?);
            (rest, is_first) = (after, false);
        }
        Some(ids)
    }

    /// The ids of `text` from scratch.
    #[must_use]
    pub fn encode_anew(&self, text: &str) -> Option<Vec<u32>> {
        Some(self.tokenizer.encode_fast(text, false).ok()?.get_ids().to_vec())
    }

    /// The ids that the tokenizer puts before and after a text that is not a chat.
    #[must_use]
    pub fn frame(&self) -> Option<(Vec<u32>, Vec<u32>)> {
        let framed = self.tokenizer.encode_fast("a", true).ok()?.get_ids().to_vec();
        let bare = self.encode_anew("a")?;
        let at = framed.windows(bare.len().max(1)).position(|it| it == bare)?;
        let (before, rest) = framed.split_at(at);
        Some((before.to_vec(), rest.get(bare.len()..).unwrap_or_default().to_vec()))
    }

    fn segment(&self, segment: &str, is_whole: bool) -> Option<Arc<[u32]>> {
        let seed = self.seed ^ u64::from(is_whole);
        let key = xxh3_128_with_seed(segment.as_bytes(), seed);
        if let Some(ids) = self.memory.lock().ids.get(&key) {
            return Some(Arc::clone(ids));
        }
        let ids: Arc<[u32]> = self.encode_anew(segment)?.into();
        self.memory.lock().remember(key, &ids);
        Some(ids)
    }

    /// Where the segment that `text` begins with ends: before the next special token.
    fn end_of_segment(&self, text: &str) -> usize {
        let skipped = self.begins_with_separator(text).map_or(0, str::len);
        let rest = text.get(skipped..).unwrap_or_default();
        let mut from = 0;
        while let Some(at) = rest.get(from..).and_then(|it| self.may_begin.find(it.as_bytes())) {
            let at = from.saturating_add(at);
            // A byte that begins a special token is none within a longer character.
            if rest.get(at..).is_some_and(|it| self.begins_with_separator(it).is_some()) {
                return skipped.saturating_add(at);
            }
            from = at.saturating_add(1);
            while !rest.is_char_boundary(from) {
                from = from.saturating_add(1);
            }
        }
        text.len()
    }

    fn begins_with_separator(&self, text: &str) -> Option<&str> {
        self.separators.iter().map(String::as_str).find(|it| text.starts_with(it))
    }
}

/// The bytes that special tokens begin with: nearly always one, and then the search is quick.
#[derive(Clone, Debug)]
struct FirstBytes(Vec<u8>);

impl FirstBytes {
    fn of(separators: &[String]) -> Self {
        let mut bytes: Vec<u8> = separators.iter().filter_map(|it| it.bytes().next()).collect();
        bytes.sort_unstable();
        bytes.dedup();
        Self(bytes)
    }

    /// Where the first of them is.
    fn find(&self, text: &[u8]) -> Option<usize> {
        match self.0[..] {
            [] => None,
            [byte] => memchr::memchr(byte, text),
            [one, other] => memchr::memchr2(one, other, text),
            [..] => text.iter().position(|it| self.0.contains(it)),
        }
    }
}

impl Memory {
    fn remember(&mut self, key: u128, ids: &Arc<[u32]>) {
        if ids.len() > self.ids_max {
            return;
        }
        self.remembered = self.remembered.saturating_add(ids.len());
        if let Some((_, old)) = self.ids.push(key, Arc::clone(ids)) {
            self.remembered = self.remembered.saturating_sub(old.len());
        }
        while self.remembered > self.ids_max {
            let Some((_, old)) = self.ids.pop_lru() else { return };
            self.remembered = self.remembered.saturating_sub(old.len());
        }
    }
}

/// The special tokens at which any text that has them is cut, whatever is around them: they take no
/// neighbouring space along, are looked for before text is normalised, and overlap with no other.
fn separators(added: &[Added]) -> Vec<String> {
    let overlap = |a: &str, b: &str| {
        a.contains(b)
            || b.contains(a)
            || a.char_indices()
                .skip(1)
                .any(|(at, _)| a.get(at..).is_some_and(|tail| b.starts_with(tail)))
            || b.char_indices()
                .skip(1)
                .any(|(at, _)| b.get(at..).is_some_and(|tail| a.starts_with(tail)))
    };
    let is_plain =
        |it: &Added| it.special && !it.single_word && !it.lstrip && !it.rstrip && !it.normalized;
    let stands_alone = |it: &Added| {
        let others = added.iter().filter(|other| other.content != it.content);
        !it.content.is_empty() && others.clone().all(|other| !overlap(&it.content, &other.content))
    };
    let mut separators: Vec<String> = added
        .iter()
        .filter(|it| is_plain(it) && stands_alone(it))
        .map(|it| it.content.clone())
        .collect();
    separators.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    separators
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::testing;

    /// Of both kinds, trained once.
    static MADE: LazyLock<[String; 2]> =
        LazyLock::new(|| [testing::tokenizer(), testing::metaspace()]);

    fn segments(json: &str) -> Segments {
        Segments::new(json.as_bytes(), 7, 1 << 16).unwrap()
    }

    #[test]
    fn only_tokens_that_cut_any_text_separate() {
        let token = |content: &str, lstrip, normalized| Added {
            content: content.to_owned(),
            special: true,
            single_word: false,
            lstrip,
            rstrip: false,
            normalized,
        };
        let added = [
            token("<|a|>", false, false),
            token("<|b|>", true, false),
            token("<|c|>", false, true),
            token("<|d|>x", false, false),
            token("<|d|>", false, false),
            token("|>>", false, false),
        ];
        assert_eq!(separators(&added[..5]), ["<|a|>"]);
        assert!(separators(&added).is_empty(), "a text may hold <|a|>> and mean the longer one");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let json = testing::tokenizer();
        let segments = Segments::new(json.as_bytes(), 7, 100).unwrap();
        for number in 0..200 {
            segments.encode(&format!("<|im_start|>text number {number}<|im_end|>")).unwrap();
            let memory = segments.memory.lock();
            let remembered: usize = memory.ids.iter().map(|it| it.1.len()).sum();
            assert_eq!(remembered, memory.remembered);
            assert!(remembered <= 100);
        }
    }

    #[test]
    fn what_stands_around_a_text_is_known() {
        assert_eq!(segments(&testing::tokenizer()).frame(), Some((vec![], vec![])));
    }

    fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            2 => prop::sample::select(vec!["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool>"])
                .prop_map(str::to_owned),
            2 => "[ a-z,.]{0,40}",
            1 => prop::sample::select(vec!["<", "<|", "<|im_", "|>", "\n", "  ", "é", "日本", "🦀"])
                .prop_map(str::to_owned),
        ]
    }

    proptest! {
        /// Remembered or not, the ids are those of the whole text.
        #[test]
        fn ids_are_those_of_plain_tokenisation(
            texts in prop::collection::vec(prop::collection::vec(piece(), 0..12), 1..6),
        ) {
            for json in &*MADE {
                let segments = segments(json);
                for text in &texts {
                    let text = text.concat();
                    prop_assert_eq!(segments.encode(&text), segments.encode_anew(&text), "{}", text);
                }
                let again = texts.concat().concat();
                prop_assert_eq!(segments.encode(&again), segments.encode_anew(&again));
            }
        }
    }
}
