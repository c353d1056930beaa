//! Names of KV blocks, from the segments that a prompt is made of.
//!
//! Two prompts share content exactly as far as they share segments, so a block's name need not be
//! computed from text: its content is stated by the pieces of segments it holds, each as (segment,
//! offset, length). Router and engine cut the same content at their own block sizes.

use rustc_hash::FxHashMap;
use types::{
    block::{BlockHash, ChainSeed, hash_block},
    quantity::Tokens,
};
use workload::{Arrival, Segment};

/// Segments of fewer blocks are not worth remembering: hashing them anew is as quick.
const REMEMBERED_BLOCKS_MIN: u32 = 24;

/// Names that are remembered at most, 32 MiB of them; then all are forgotten.
const REMEMBERED_BLOCKS_MAX: usize = 1 << 22;

/// The names of the blocks that long segments fill, by all that comes before them, for chains of
/// one block size.
#[derive(Debug, Default)]
pub(crate) struct Memo {
    names: FxHashMap<u64, Box<[BlockHash]>>,
    remembered: usize,
}

impl Memo {
    fn remember(&mut self, key: u64, names: &[BlockHash]) {
        if self.remembered.saturating_add(names.len()) > REMEMBERED_BLOCKS_MAX {
            self.names.clear();
            self.remembered = 0;
        }
        self.remembered = self.remembered.saturating_add(names.len());
        self.names.insert(key, names.into());
    }
}

/// The names of the full blocks of `block` tokens that the prompt of `arrival` fills and, where the
/// answer is `quoted` by later prompts, of those that both fill together; and how many of them the
/// prompt fills alone.
pub(crate) fn names(
    arrival: &Arrival,
    seed: ChainSeed,
    block: Tokens,
    quoted: bool,
    memo: &mut Memo,
) -> (Vec<BlockHash>, usize) {
    let mut chain = BlockChain::new(seed, block);
    chain.reserve(arrival.prompt.tokens());
    let segments = arrival.prompt.messages.iter().flat_map(|it| &it.segments);
    segments.for_each(|it| chain.push_remembered(*it, memo));
    let in_prompt = chain.len();
    if let Some(id) = arrival.answer.filter(|_| quoted) {
        chain.push(Segment { id, tokens: arrival.output });
    }
    (chain.finish(), in_prompt)
}

/// Cuts content into blocks and names each with all before it.
#[derive(Debug)]
struct BlockChain {
    block: u32,
    parent: BlockHash,
    /// The pieces of the block under way.
    pieces: Vec<u8>,
    filled: u32,
    blocks: Vec<BlockHash>,
}

impl BlockChain {
    /// Starts a chain of blocks of `block` tokens each (at least 1).
    fn new(seed: ChainSeed, block: Tokens) -> Self {
        Self {
            block: block.0.max(1),
            parent: seed.as_parent(),
            pieces: Vec::new(),
            filled: 0,
            blocks: Vec::new(),
        }
    }

    /// Makes room for the blocks of `tokens` more.
    fn reserve(&mut self, tokens: Tokens) {
        self.blocks.reserve(tokens.full_blocks(Tokens(self.block)).0 as usize);
    }

    /// Appends the first tokens of a text, from memory where they were appended to the same content
    /// before.
    fn push_remembered(&mut self, segment: Segment, memo: &mut Memo) {
        if segment.tokens.0.checked_div(self.block).unwrap_or(0) < REMEMBERED_BLOCKS_MIN {
            self.push(segment);
            return;
        }
        let before = hash_block(self.parent, &self.pieces);
        let key = hash_block(before, &piece(segment.id, 0, segment.tokens.0)).0;
        if let Some(names) = memo.names.get(&key) {
            self.blocks.extend_from_slice(names);
            self.parent = names.last().copied().unwrap_or(self.parent);
            let total = u64::from(self.filled).saturating_add(segment.tokens.0.into());
            let rest = total.checked_rem(self.block.into()).unwrap_or(0);
            self.filled = u32::try_from(rest).unwrap_or(0);
            self.pieces.clear();
            if self.filled > 0 {
                let offset = segment.tokens.0.saturating_sub(self.filled);
                self.pieces.extend_from_slice(&piece(segment.id, offset, self.filled));
            }
            return;
        }
        let known = self.blocks.len();
        self.push(segment);
        memo.remember(key, self.blocks.get(known..).unwrap_or_default());
    }

    /// Appends the first tokens of a text.
    fn push(&mut self, segment: Segment) {
        let mut offset = 0;
        while offset < segment.tokens.0 {
            let missing = self.block.saturating_sub(self.filled);
            let taken = missing.min(segment.tokens.0.saturating_sub(offset));
            let piece = piece(segment.id, offset, taken);
            offset = offset.saturating_add(taken);
            if taken == self.block {
                self.name(&piece);
                continue;
            }
            self.pieces.extend_from_slice(&piece);
            self.filled = self.filled.saturating_add(taken);
            if self.filled == self.block {
                let pieces = std::mem::take(&mut self.pieces);
                self.name(&pieces);
                self.pieces = pieces;
                self.pieces.clear();
                self.filled = 0;
            }
        }
    }

    fn name(&mut self, pieces: &[u8]) {
        self.parent = hash_block(self.parent, pieces);
        self.blocks.push(self.parent);
    }

    /// Blocks that are full so far.
    const fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The names of the full blocks, first block first.
    fn finish(self) -> Vec<BlockHash> {
        self.blocks
    }
}

/// A part of a segment, as content: equal bytes mean equal text.
fn piece(id: u64, offset: u32, tokens: u32) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h] = id.to_le_bytes();
    let [i, j, k, l] = offset.to_le_bytes();
    let [m, n, o, p] = tokens.to_le_bytes();
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use types::block::{BlockHasher, HashKey, Scope};
    use workload::{Message, Role};

    use super::*;

    fn seed() -> ChainSeed {
        ChainSeed::new(HashKey(3), &Scope::default())
    }

    fn by_segment(segments: &[Segment], block: u32) -> Vec<BlockHash> {
        let mut chain = BlockChain::new(seed(), Tokens(block));
        segments.iter().for_each(|it| chain.push(*it));
        chain.finish()
    }

    /// What a live router names, from the text itself, at four bytes a token.
    fn by_text(segments: &[Segment], block: u32) -> Vec<BlockHash> {
        let mut text = Vec::new();
        Message { role: Role::User, segments: segments.to_vec(), text: None }.write_text(&mut text);
        let mut hasher = BlockHasher::new(seed(), block as usize * 4);
        hasher.update(&text);
        hasher.finish()
    }

    fn segments() -> impl Strategy<Value = Vec<Segment>> {
        let segment = (0..4_u64, 8..90_u32);
        let segment = segment.prop_map(|(id, tokens)| Segment { id, tokens: Tokens(tokens) });
        prop::collection::vec(segment, 0..6)
    }

    fn shared(a: &[BlockHash], b: &[BlockHash]) -> usize {
        a.iter().zip(b).take_while(|(a, b)| a == b).count()
    }

    /// The content, token by token.
    fn tokens(segments: &[Segment]) -> Vec<(u64, u32)> {
        let each =
            |it: &Segment| (0..it.tokens.0).map(|offset| (it.id, offset)).collect::<Vec<_>>();
        segments.iter().flat_map(each).collect()
    }

    proptest! {
        /// Memory changes nothing.
        #[test]
        fn remembered_names_are_the_same(
            prompts in prop::collection::vec(segments(), 1..6),
            block in 1..4_u32,
        ) {
            let mut memo = Memo::default();
            for prompt in &prompts {
                let mut chain = BlockChain::new(seed(), Tokens(block));
                prompt.iter().for_each(|it| chain.push_remembered(*it, &mut memo));
                prop_assert_eq!(chain.finish(), by_segment(prompt, block));
            }
        }

        /// Prompts share as many names as they share whole blocks of tokens, and never more than
        /// their texts do.
        #[test]
        fn blocks_are_shared_as_content_is(a in segments(), b in segments(), block in 1..40_u32) {
            let common = tokens(&a).iter().zip(&tokens(&b)).take_while(|(a, b)| a == b).count();
            let (chain_a, chain_b) = (by_segment(&a, block), by_segment(&b, block));
            prop_assert_eq!(shared(&chain_a, &chain_b), common / block as usize);
            let (text_a, text_b) = (by_text(&a, block), by_text(&b, block));
            prop_assert_eq!((chain_a.len(), chain_b.len()), (text_a.len(), text_b.len()));
            prop_assert!(shared(&chain_a, &chain_b) <= shared(&text_a, &text_b));
        }
    }
}
