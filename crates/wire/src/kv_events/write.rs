//! Writes batches as vLLM does since 0.24: events as maps, fields that have their default left out.

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::{Batch, EngineHash, Event, Extra, Removed, Stored};

/// Writes a batch; an event of unknown kind is left out.
#[must_use]
pub fn encode(batch: &Batch) -> Vec<u8> {
    let known = batch.events.iter().filter(|it| **it != Event::Unknown);
    let events: Vec<&Event> = known.collect();
    // Writing to memory does not fail, nor has a batch anything that msgpack lacks.
    rmp_serde::to_vec(&(batch.at_s, events, batch.rank)).unwrap_or_default()
}

impl Serialize for EngineHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl Serialize for Extra {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Other => serializer.serialize_unit(),
        }
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Stored(stored) => stored.serialize(serializer),
            Self::Removed(removed) => removed.serialize(serializer),
            Self::Cleared | Self::Unknown => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("type", "AllBlocksCleared")?;
                map.end()
            }
        }
    }
}

impl Serialize for Stored {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let extra = (!self.extra.is_empty()).then(|| {
            let some = |keys: &Vec<Extra>| (!keys.is_empty()).then(|| keys.clone());
            self.extra.iter().map(some).collect::<Vec<_>>()
        });
        let optional = [self.group.is_some(), self.attention.is_some(), self.window.is_some()];
        let present = optional.iter().filter(|it| **it).count();
        let mut map = serializer.serialize_map(Some(present.saturating_add(9)))?;
        map.serialize_entry("type", "BlockStored")?;
        map.serialize_entry("block_hashes", &self.hashes)?;
        map.serialize_entry("parent_block_hash", &self.parent)?;
        map.serialize_entry("token_ids", &self.tokens)?;
        map.serialize_entry("block_size", &self.block)?;
        map.serialize_entry("lora_id", &self.adapter_id)?;
        map.serialize_entry("medium", &self.medium)?;
        map.serialize_entry("lora_name", &self.adapter)?;
        map.serialize_entry("extra_keys", &extra)?;
        if let Some(group) = self.group {
            map.serialize_entry("group_idx", &group)?;
        }
        if let Some(attention) = &self.attention {
            map.serialize_entry("kv_cache_spec_kind", attention)?;
        }
        if let Some(window) = self.window {
            map.serialize_entry("kv_cache_spec_sliding_window", &window)?;
        }
        map.end()
    }
}

impl Serialize for Removed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = if self.group.is_some() { 4 } else { 3 };
        let mut map = serializer.serialize_map(Some(entries))?;
        map.serialize_entry("type", "BlockRemoved")?;
        map.serialize_entry("block_hashes", &self.hashes)?;
        map.serialize_entry("medium", &self.medium)?;
        if let Some(group) = self.group {
            map.serialize_entry("group_idx", &group)?;
        }
        map.end()
    }
}
