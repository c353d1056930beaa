//! A request, reduced to what a decision needs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{
    block::{BlockHash, HashKey},
    quantity::Tokens,
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
    /// The model called `name`.
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
        let mut hasher = Xxh3::with_seed(key.0);
        for field in [tenant.unwrap_or_default(), model] {
            hasher.update(&field.len().to_le_bytes());
            hasher.update(field.as_bytes());
        }
        hasher.update(name);
        Self(hasher.digest128())
    }
}

/// A request, reduced to what a decision needs.
///
/// It has no field for the true output length: a policy can't read what production can't know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Identifies the request.
    pub id: RequestId,
    /// Model asked for.
    pub model: ModelId,
    /// Length of the prompt; an estimate where no tokenizer is at hand.
    pub prompt: Tokens,
    /// Chained hashes of the prompt's full blocks, first block first.
    pub blocks: Arc<[BlockHash]>,
    /// Conversation the request belongs to.
    pub session: Option<SessionKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

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
