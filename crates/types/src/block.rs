//! KV blocks by name: a prompt becomes a chain of hashes, each naming a block and all before it.
//!
//! Two prompts share a leading run of hashes exactly as far as they share whole blocks of content
//! *within one scope*. The scope (model, LoRA adapter, tenant, cache salt) seeds the chain together
//! with a secret key, so that prompts of different scopes never meet, and nobody who lacks the key
//! can craft prompts that collide. Hashes only steer requests: a collision costs a cache miss and
//! can never mix content.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Names a KV block and every block before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BlockHash(pub u64);

/// Secret that keys every hash of a router; routers that share a fleet share it.
#[derive(Clone, Copy)]
pub struct HashKey(pub u64);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// Within what a cached prefix may be reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope<'a> {
    /// Model name as the client wrote it.
    pub model: &'a str,
    /// LoRA adapter, where it is not the model name itself.
    pub adapter: Option<&'a str>,
    /// Tenant the request belongs to.
    pub tenant: Option<&'a str>,
    /// The client's own separator (`cache_salt`).
    pub cache_salt: Option<&'a str>,
}

/// A few short texts side by side, to be hashed at once. To hash them one after the other comes to the same, but a hasher
/// that may be given more at any time first derives a secret, which takes longer than all the rest.
pub(crate) type SideBySide = SmallVec<[u8; 128]>;

/// First link of a hash chain: the parent of a prompt's first block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainSeed(u64);

impl ChainSeed {
    /// Derives the seed of every chain within `scope`.
    ///
    /// Fields are length-prefixed, so that `("a", "bc")` and `("ab", "c")` differ, and an absent
    /// field differs from an empty one.
    #[must_use]
    pub fn new(key: HashKey, scope: &Scope<'_>) -> Self {
        let mut fields = SideBySide::new();
        for field in [Some(scope.model), scope.adapter, scope.tenant, scope.cache_salt] {
            match field {
                None => fields.push(0),
                Some(text) => {
                    fields.push(1);
                    fields.extend_from_slice(&text.len().to_le_bytes());
                    fields.extend_from_slice(text.as_bytes());
                }
            }
        }
        Self(xxh3_64_with_seed(&fields, key.0))
    }

    /// The seed as a parent for a chain kept elsewhere.
    #[must_use]
    pub const fn as_parent(self) -> BlockHash {
        BlockHash(self.0)
    }
}

/// Most bytes that xxh3 hashes without deriving a secret from the seed first, which would cost more than
/// hashing a block of the usual 256 bytes does.
const PIECE_BYTES: usize = 128;

/// Hashes one block of content whose parent is `parent`.
#[must_use]
pub fn hash_block(parent: BlockHash, content: &[u8]) -> BlockHash {
    let (first, rest) = content.split_at(content.len().min(PIECE_BYTES));
    let chained = |seed: u64, piece: &[u8]| xxh3_64_with_seed(piece, seed);
    BlockHash(rest.chunks(PIECE_BYTES).fold(chained(parent.0, first), chained))
}

/// Cuts a stream of bytes into blocks and hashes each with all before it.
///
/// Bytes arrive in any number of pieces; the trailing partial block is not hashed, as engines cache
/// full blocks only.
#[derive(Debug)]
pub struct BlockHasher {
    parent: BlockHash,
    block_bytes: usize,
    partial: Vec<u8>,
    bytes: usize,
    blocks: Vec<BlockHash>,
}

impl BlockHasher {
    /// Starts a chain of blocks of `block_bytes` each (at least 1).
    #[must_use]
    pub fn new(seed: ChainSeed, block_bytes: usize) -> Self {
        Self {
            parent: seed.as_parent(),
            block_bytes: block_bytes.max(1),
            partial: Vec::new(),
            bytes: 0,
            blocks: Vec::new(),
        }
    }

    /// Appends `piece` to the content.
    pub fn update(&mut self, mut piece: &[u8]) {
        self.bytes = self.bytes.saturating_add(piece.len());
        if !self.partial.is_empty() {
            let missing = self.block_bytes.saturating_sub(self.partial.len());
            let (head, rest) = piece.split_at(missing.min(piece.len()));
            self.partial.extend_from_slice(head);
            piece = rest;
            if self.partial.len() < self.block_bytes {
                return;
            }
            let full = std::mem::take(&mut self.partial);
            self.push(&full);
            self.partial = full;
            self.partial.clear();
        }
        let blocks = piece.chunks_exact(self.block_bytes);
        let rest = blocks.remainder();
        self.blocks.reserve(blocks.len());
        for block in blocks {
            self.push(block);
        }
        self.partial.extend_from_slice(rest);
    }

    fn push(&mut self, block: &[u8]) {
        self.parent = hash_block(self.parent, block);
        self.blocks.push(self.parent);
    }

    /// Bytes received so far, the partial block included.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The hashes of the full blocks, first block first.
    #[must_use]
    pub fn finish(self) -> Vec<BlockHash> {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use xxhash_rust::xxh3::Xxh3;

    use super::*;

    const KEY: HashKey = HashKey(7);

    fn chain(scope: &Scope<'_>, pieces: &[&[u8]], block_bytes: usize) -> Vec<BlockHash> {
        let mut hasher = BlockHasher::new(ChainSeed::new(KEY, scope), block_bytes);
        for piece in pieces {
            hasher.update(piece);
        }
        hasher.finish()
    }

    #[test]
    fn every_field_of_the_scope_separates_worlds() {
        let base = Scope { model: "m", ..Scope::default() };
        let scopes = [
            base,
            Scope { model: "n", ..base },
            Scope { adapter: Some("a"), ..base },
            Scope { tenant: Some("a"), ..base },
            Scope { cache_salt: Some("a"), ..base },
            Scope { cache_salt: Some(""), ..base },
            Scope { model: "ma", ..base },
        ];
        let mut seeds: Vec<u64> = scopes.iter().map(|it| ChainSeed::new(KEY, it).0).collect();
        seeds.sort_unstable();
        seeds.dedup();
        assert_eq!(seeds.len(), scopes.len());
    }

    #[test]
    fn a_scope_has_the_hash_of_its_fields_one_after_the_other() {
        for length in [0, 1, 100, 240, 241, 3_000] {
            let model = "m".repeat(length);
            let scope = Scope { model: &model, tenant: Some("t"), ..Scope::default() };
            let mut hasher = Xxh3::with_seed(KEY.0);
            hasher.update(&[1]);
            hasher.update(&length.to_le_bytes());
            hasher.update(model.as_bytes());
            hasher.update(&[0, 1]);
            hasher.update(&1_usize.to_le_bytes());
            hasher.update(b"t\0");
            assert_eq!(ChainSeed::new(KEY, &scope).0, hasher.digest(), "{length}");
        }
    }

    #[test]
    fn another_key_gives_other_hashes() {
        let scope = Scope { model: "m", ..Scope::default() };
        assert_ne!(ChainSeed::new(HashKey(1), &scope), ChainSeed::new(HashKey(2), &scope));
    }

    #[test]
    fn the_key_does_not_reach_a_log() {
        assert_eq!(format!("{:?}", HashKey(0xdead_beef)), "HashKey(secret)");
    }

    proptest! {
        /// Two prompts share hashes exactly as far as they share whole blocks.
        #[test]
        fn chains_diverge_with_the_content(
            shared in prop::collection::vec(any::<u8>(), 0..64),
            a in prop::collection::vec(any::<u8>(), 1..64),
            b in prop::collection::vec(any::<u8>(), 1..64),
        ) {
            prop_assume!(a[0] != b[0]);
            let scope = Scope::default();
            let left = chain(&scope, &[&shared, &a], 4);
            let right = chain(&scope, &[&shared, &b], 4);
            let common = left.iter().zip(&right).take_while(|(l, r)| l == r).count();
            prop_assert_eq!(common, shared.len() / 4);
        }

        /// How the bytes arrive does not matter.
        #[test]
        fn pieces_hash_as_the_whole(
            content in prop::collection::vec(any::<u8>(), 0..200),
            cuts in prop::collection::vec(0..200_usize, 0..6),
            block_bytes in 1..40_usize,
        ) {
            let scope = Scope::default();
            let whole = chain(&scope, &[&content], block_bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|it| it.min(content.len())).collect();
            cuts.extend([0, content.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|it| &content[it[0]..it[1]]).collect();
            prop_assert_eq!(&chain(&scope, &pieces, block_bytes), &whole);
            prop_assert_eq!(whole.len(), content.len() / block_bytes);
        }
    }
}
