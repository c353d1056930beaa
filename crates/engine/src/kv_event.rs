//! What an engine tells of its cache: which blocks can be found, and what vLLM publishes of it.
//!
//! Both come from one record. [`KvEvent`]s tell what changes for somebody who looks a name up;
//! [`KvMessage`]s are the events of vLLM's publisher one for one, in which a name that two blocks
//! have is stored twice and removed twice.

use types::block::BlockHash;

/// A change of what can be found in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvEvent {
    /// A block can be found from now on.
    Stored(BlockHash),
    /// A block was evicted and no copy of it is left.
    Removed(BlockHash),
    /// Every block was forgotten.
    Cleared,
}

/// One event as vLLM publishes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KvMessage {
    /// Blocks of one job became full in one step (`BlockStored`).
    Stored {
        /// The block before the first of them; none at the start of a prompt.
        parent: Option<BlockHash>,
        /// Their names, in the order of the tokens.
        blocks: Vec<BlockHash>,
    },
    /// A block was evicted (`BlockRemoved`); a copy of it may be left.
    Removed(BlockHash),
    /// Every block was forgotten (`AllBlocksCleared`).
    Cleared,
}

/// What happened since the record was last handed over.
#[derive(Debug, Default)]
pub(crate) struct Record {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    /// What is stored next belongs to one message.
    Open {
        parent: Option<BlockHash>,
    },
    Stored {
        name: BlockHash,
        first: bool,
    },
    Removed {
        name: BlockHash,
        last: bool,
    },
    Cleared,
}

impl Record {
    /// Begins the storing of blocks that follow `parent`.
    pub(crate) fn open(&mut self, parent: Option<BlockHash>) {
        self.entries.push(Entry::Open { parent });
    }

    /// Notes a block; `first` when no other block has its name.
    pub(crate) fn stored(&mut self, name: BlockHash, first: bool) {
        self.entries.push(Entry::Stored { name, first });
    }

    /// Notes an eviction; `last` when no other block has the name.
    pub(crate) fn removed(&mut self, name: BlockHash, last: bool) {
        self.entries.push(Entry::Removed { name, last });
    }

    pub(crate) fn cleared(&mut self) {
        self.entries.push(Entry::Cleared);
    }

    pub(crate) fn drain_events(&mut self) -> impl Iterator<Item = KvEvent> + '_ {
        self.entries.drain(..).filter_map(|entry| match entry {
            Entry::Stored { name, first: true } => Some(KvEvent::Stored(name)),
            Entry::Removed { name, last: true } => Some(KvEvent::Removed(name)),
            Entry::Cleared => Some(KvEvent::Cleared),
            Entry::Open { .. } | Entry::Stored { .. } | Entry::Removed { .. } => None,
        })
    }

    pub(crate) fn drain_messages(&mut self) -> Vec<KvMessage> {
        let mut messages = Vec::new();
        for entry in self.entries.drain(..) {
            match entry {
                Entry::Open { parent } => {
                    messages.push(KvMessage::Stored { parent, blocks: Vec::new() });
                }
                Entry::Stored { name, .. } => {
                    if let Some(KvMessage::Stored { blocks, .. }) = messages.last_mut() {
                        blocks.push(name);
                    }
                }
                Entry::Removed { name, .. } => messages.push(KvMessage::Removed(name)),
                Entry::Cleared => messages.push(KvMessage::Cleared),
            }
        }
        messages
    }
}
