//! A request, reduced to what a decision needs.

use std::{num::NonZeroU32, sync::Arc};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128_with_seed};

use crate::{
    block::{BlockHash, HashKey, SideBySide},
    quantity::Tokens,
    slo::Slo,
};

/// Identifies a request within one run of a router or simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// A model by the hash of its name, so that comparing one costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ModelId(pub u64);

impl ModelId {
    /// Whatever model a replica serves, for requests that name none: what the empty name is hashed to.
    pub const ANY: Self = Self(0x2d06_8005_38d3_94c2);

    /// The model called `name`; [`Self::ANY`] where that is empty.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        Self(xxh3_64(name.as_bytes()))
    }
}

/// A conversation, by the keyed hash of what the client calls it.
///
/// 128 bits, so that ten million sessions still have no two alike; keyed, so that nobody can craft
/// one that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(pub u128);

impl SessionKey {
    /// The key of the session that a client calls `name`, bound to its tenant and model, so that
    /// the same name under another tenant is another session.
    #[must_use]
    pub fn new(key: HashKey, tenant: Option<&str>, model: &str, name: &[u8]) -> Self {
        let mut text = SideBySide::new();
        for field in [tenant.unwrap_or_default(), model] {
            text.extend_from_slice(&field.len().to_le_bytes());
            text.extend_from_slice(field.as_bytes());
        }
        text.extend_from_slice(name);
        Self(xxh3_128_with_seed(&text, key.0))
    }
}

/// Whoever shares caches, rates and fairness, by the keyed hash of its name; [`TenantId::NONE`] where
/// clients are not told apart.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct TenantId(pub u64);

impl TenantId {
    /// The one tenant of those who are not told apart.
    pub const NONE: Self = Self(0);

    /// The tenant called `name`.
    #[must_use]
    pub fn new(key: HashKey, name: &str) -> Self {
        let hash = xxh3_64_with_seed(name.as_bytes(), key.0);
        // Nobody with a name is nobody.
        Self(hash.max(1))
    }
}

/// How urgent a request is; what is less urgent is turned away first. The least urgent comes first
/// in the order.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// Fills what the others leave, to be done within hours.
    Batch,
    /// Whatever nobody has ranked.
    #[default]
    Default,
    /// Somebody waits for it.
    Interactive,
    /// The operator's own.
    System,
}

impl Priority {
    /// Every priority, the least urgent first.
    pub const ALL: [Self; 4] = [Self::Batch, Self::Default, Self::Interactive, Self::System];

    /// The name as headers, configuration and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Default => "default",
            Self::Interactive => "interactive",
            Self::System => "system",
        }
    }

    /// The priority of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}

/// A request, reduced to what a decision needs.
///
/// It has no field for the true output length: a policy can't read what production can't know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Identifies the request.
    pub id: RequestId,
    /// Model asked for.
    pub model: ModelId,
    /// Length of the prompt; an estimate where no tokenizer is at hand.
    pub prompt: Tokens,
    /// Chained hashes of the prompt's full blocks, first block first; sixteen hexadecimal digits
    /// each when written.
    #[serde(with = "hex")]
    pub blocks: Arc<[BlockHash]>,
    /// Conversation the request belongs to.
    pub session: Option<SessionKey>,
    /// Who asks.
    #[serde(default)]
    pub tenant: TenantId,
    /// How urgent it is.
    #[serde(default)]
    pub priority: Priority,
    /// What it was promised.
    #[serde(default)]
    pub slo: Slo,
    /// Longest answer the client accepts, where it says so.
    #[serde(default)]
    pub output_max: Option<Tokens>,
    /// How often its client was turned away before, as far as it says so.
    #[serde(default)]
    pub came_again: u32,
    /// How long its client waits for the first byte of an answer, from when it came, in milliseconds; where it
    /// says so.
    #[serde(default)]
    pub patience_ms: Option<NonZeroU32>,
    /// Whether the answer comes token by token, so that its first token can be seen to come.
    #[serde(default = "yes")]
    pub streamed: bool,
}

impl Request {
    /// A streamed request of nobody in particular, without a promise.
    #[must_use]
    pub fn new(id: RequestId, model: ModelId, prompt: Tokens, blocks: Arc<[BlockHash]>) -> Self {
        Self {
            id,
            model,
            prompt,
            blocks,
            session: None,
            tenant: TenantId::NONE,
            priority: Priority::Default,
            slo: Slo::default(),
            output_max: None,
            came_again: 0,
            patience_ms: None,
            streamed: true,
        }
    }
}

const fn yes() -> bool {
    true
}

/// Writes hashes as one text, a third shorter than a list of numbers.
mod hex {
    use std::fmt::Write as _;

    use serde::{Deserializer, Serializer, de::Error as _};

    use super::{Arc, BlockHash, Deserialize};

    const DIGITS: usize = 16;

    pub(super) fn serialize<S: Serializer>(
        blocks: &Arc<[BlockHash]>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut text = String::with_capacity(blocks.len().saturating_mul(DIGITS));
        for block in blocks.iter() {
            // Writing to a text does not fail.
            let _ = write!(text, "{:016x}", block.0);
        }
        serializer.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Arc<[BlockHash]>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let blocks: Option<_> = text.as_bytes().chunks(DIGITS).map(block).collect();
        blocks
            .ok_or_else(|| D::Error::custom("blocks are hashes of sixteen hexadecimal digits each"))
    }

    fn block(digits: &[u8]) -> Option<BlockHash> {
        // A sign would be read as part of a number.
        let is_hash = digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(digits).ok().filter(|_| is_hash)?;
        u64::from_str_radix(text, 16).ok().map(BlockHash)
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::Xxh3;

    use super::*;

    #[test]
    fn a_model_without_a_name_is_any() {
        assert_eq!(ModelId::from_name(""), ModelId::ANY);
    }

    #[test]
    fn a_request_reads_back_as_it_was_written() {
        let blocks = Arc::new([BlockHash(0), BlockHash(u64::MAX), BlockHash(0x1234)]);
        let request = Request {
            session: Some(SessionKey(u128::MAX)),
            tenant: TenantId::new(HashKey(1), "a"),
            priority: Priority::Interactive,
            output_max: Some(Tokens(16)),
            ..Request::new(RequestId(7), ModelId::from_name("m"), Tokens(200), blocks)
        };
        let text = serde_json::to_string(&request).unwrap();
        assert!(text.contains("0000000000000000ffffffffffffffff0000000000001234"), "{text}");
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request);
        for wrong in ["00001234", "000000000000123g", "+000000000001234"] {
            let text = text.replace("0000000000001234", wrong);
            let error = serde_json::from_str::<Request>(&text).unwrap_err().to_string();
            assert!(error.contains("sixteen hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn a_session_has_the_hash_of_its_parts_one_after_the_other() {
        for length in [0, 1, 200, 222, 223, 3_000] {
            let model = "m".repeat(length);
            let mut hasher = Xxh3::with_seed(7);
            for part in [&1_usize.to_le_bytes(), &b"t"[..], &length.to_le_bytes()] {
                hasher.update(part);
            }
            hasher.update(model.as_bytes());
            hasher.update(b"s");
            let session = SessionKey::new(HashKey(7), Some("t"), &model, b"s");
            assert_eq!(session.0, hasher.digest128(), "{length}");
        }
    }

    #[test]
    fn a_session_belongs_to_its_tenant_and_model() {
        let key = HashKey(1);
        let session = SessionKey::new(key, Some("a"), "m", b"s");
        assert_ne!(session, SessionKey::new(key, Some("b"), "m", b"s"));
        assert_ne!(session, SessionKey::new(key, Some("a"), "n", b"s"));
        assert_ne!(session, SessionKey::new(HashKey(2), Some("a"), "m", b"s"));
        assert_eq!(session, SessionKey::new(key, Some("a"), "m", b"s"));
    }
}
