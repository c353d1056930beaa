//! Reads and writes what engines publish of their KV caches: the event batches of vLLM and SGLang.
//!
//! A batch is one msgpack array `[time, events, data-parallel rank]`. Its events are arrays whose
//! tail grew from release to release (vLLM up to 0.23, SGLang up to 0.5.18) or, later, maps with a
//! `type`. Both are read here; fields, trailing positions and kinds of event that are not known are
//! passed over, so that a newer engine costs nothing but what it newly says.
//!
//! An engine's hash names a block and everything before it, in the engine's own way (an integer of
//! either sign, or 32 bytes of which the last eight are kept). It is a handle and nothing more: what
//! a block holds is said by its token ids.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use self::write::encode;

/// What an engine calls a block and everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EngineHash(pub u64);

/// What an engine published at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// When, in seconds since 1970 by the engine's clock.
    pub at_s: f64,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// Data-parallel rank whose cache it is.
    pub rank: Option<u32>,
}

/// A change of an engine's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Blocks became full.
    Stored(Stored),
    /// Blocks were evicted.
    Removed(Removed),
    /// Every block was forgotten.
    Cleared,
    /// Something that this reader does not know.
    Unknown,
}

/// Blocks that became full, each following the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Their hashes.
    pub hashes: Vec<EngineHash>,
    /// The block before the first of them; none at the start of a prompt.
    pub parent: Option<EngineHash>,
    /// The tokens of all of them.
    pub tokens: Vec<u32>,
    /// Tokens in a block.
    pub block: u32,
    /// Number of the LoRA adapter within the engine.
    pub adapter_id: Option<u64>,
    /// Name of the LoRA adapter.
    pub adapter: Option<String>,
    /// Where the blocks lie: `GPU`, `CPU` …; an engine that does not say has one tier.
    pub medium: Option<String>,
    /// What the hash of each block covers beside its tokens; empty where it covers nothing else.
    pub extra: Vec<Vec<Extra>>,
    /// The client's own separator (`cache_salt`), where the engine gives it a field of its own.
    pub salt: Option<String>,
    /// Which of a hybrid model's caches it is.
    pub group: Option<u32>,
    /// What kind of attention that cache serves.
    pub attention: Option<String>,
    /// Length of its sliding window.
    pub window: Option<u32>,
}

/// Blocks that were evicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Their hashes.
    pub hashes: Vec<EngineHash>,
    /// Where they lay.
    pub medium: Option<String>,
    /// Which of a hybrid model's caches it was.
    pub group: Option<u32>,
}

/// Something that a block's hash covers beside its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extra {
    /// A text: a cache salt, an adapter's name, the digest of a medium.
    Text(String),
    /// Anything else, such as a medium's digest with its place in the block.
    Other,
}

/// A message is no batch of events.
#[derive(Debug, thiserror::Error)]
#[error("not a batch of KV-cache events: {0}")]
pub struct BadBatch(#[from] rmp_serde::decode::Error);

/// Reads a batch.
///
/// # Errors
///
/// It is not one, or lacks what every release says.
pub fn decode(payload: &[u8]) -> Result<Batch, BadBatch> {
    Ok(rmp_serde::from_slice(payload)?)
}

/// Whether blocks of a cache of this kind make a prefix hit by themselves: those of full attention
/// do, while a sliding window or a recurrent state needs more than that a block is there.
#[must_use]
pub fn is_full_attention(kind: Option<&str>) -> bool {
    kind.is_none_or(|it| matches!(it, "full_attention" | "mla_attention" | "sink_full_attention"))
}

/// Whether blocks that lie there are found without being fetched first.
#[must_use]
pub fn is_device(medium: Option<&str>) -> bool {
    medium.is_none_or(|it| it.eq_ignore_ascii_case("gpu"))
}
