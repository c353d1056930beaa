//! From an engine's names of blocks to the router's.
//!
//! An engine's hashes are its own: seeded, signed, of another algorithm with each release. What they
//! have in common is that a hash covers all that comes before, and that the event which brings it says
//! the tokens. So the router's own name of each block is computed from those tokens, along the chain
//! of parents, and the engine's hash is only the handle by which it is found again.
//!
//! Two promises are kept, whatever the engine says. A block is told as held only while every block
//! before it is (an eviction in the middle takes back what follows, deepest first; should the middle
//! come back, so does the rest). And a block that is stored twice is held until it was removed twice.
//! Some engines name blocks by their content alone; such hashes say nothing of what comes before, and
//! are refused.

#[cfg(test)]
mod tests;

use rustc_hash::FxHashMap;
use types::block::{BlockHash, ChainSeed, HashKey, Scope, hash_block};
use wire::kv_events::{EngineHash, Event, Extra, Removed, Stored, is_device, is_full_attention};

/// Blocks of one engine that are kept, at most: 1M blocks of 16 tokens are 16M tokens. What an engine of smaller blocks
/// holds beyond that is not known, and so not believed to be there.
const NODES_MAX: usize = 1 << 20;

const NIL: u32 = u32::MAX;

/// What changed for somebody who looks a router's name up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A chain that follows `parent` is held.
    Stored { parent: Option<BlockHash>, blocks: Vec<BlockHash> },
    /// Blocks are held no more; those that follow others come first.
    Removed(Vec<BlockHash>),
}

/// Why an engine's events can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// The router's blocks are not whole blocks of the engine's.
    #[error(
        "the engine's blocks have {engine} tokens and policy.prefix.block {router}: make it a multiple"
    )]
    BlockSize {
        /// Tokens in a block of the engine.
        engine: u32,
        /// Tokens in a block of the router.
        router: u32,
    },
    /// A hash does not cover what comes before the block.
    #[error(
        "the engine names blocks by their content alone, as SGLang did up to 0.5.5: upgrade it"
    )]
    Unchained,
}

/// How the router names blocks.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    /// Keys every name.
    pub(super) key: HashKey,
    /// Tokens in a block.
    pub(super) block: u32,
    /// The model as clients write it.
    pub(super) model: String,
}

/// How often each name is held, over the ranks of one replica.
///
/// Ranks have a cache each, and the router can't choose between them: what any of them holds counts.
#[derive(Debug, Default)]
pub(super) struct Names {
    held: FxHashMap<BlockHash, u32>,
    changes: Vec<Change>,
}

impl Names {
    /// What has changed since the last call.
    pub(super) fn take(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn store(&mut self, parent: Option<BlockHash>, name: BlockHash) {
        let held = self.held.entry(name).or_default();
        *held = held.saturating_add(1);
        if *held > 1 {
            return;
        }
        if let Some(Change::Stored { blocks, .. }) = self.changes.last_mut()
            && parent.is_some()
            && blocks.last().copied() == parent
        {
            blocks.push(name);
            return;
        }
        self.changes.push(Change::Stored { parent, blocks: vec![name] });
    }

    fn remove(&mut self, name: BlockHash) {
        let Some(held) = self.held.get_mut(&name) else { return };
        *held = held.saturating_sub(1);
        if *held > 0 {
            return;
        }
        self.held.remove(&name);
        match self.changes.last_mut() {
            Some(Change::Removed(blocks)) => blocks.push(name),
            Some(Change::Stored { .. }) | None => self.changes.push(Change::Removed(vec![name])),
        }
    }
}

/// The blocks of one engine's cache, as a forest of chains.
#[derive(Debug)]
pub(super) struct Ledger {
    naming: Naming,
    nodes: Vec<Node>,
    by_hash: FxHashMap<EngineHash, u32>,
    free: Vec<u32>,
    /// Blocks that are kept, at most.
    nodes_max: usize,
    /// The cache of a hybrid model that is followed: the first one of full attention.
    group: Option<u32>,
    /// Tokens in a block of the engine.
    engine_block: Option<u32>,
    /// Blocks whose parent is not known, or for which there was no room.
    orphans: u64,
}

/// A block of the engine.
#[derive(Debug)]
struct Node {
    hash: EngineHash,
    parent: u32,
    first_child: u32,
    next: u32,
    previous: u32,
    /// Copies that the engine has; none of one that only its children remember.
    copies: u32,
    /// Blocks of the router up to this one's end.
    full: u32,
    /// The name of the last of these, or what their names begin from.
    name: BlockHash,
    /// The tokens after it; none where the blocks of engine and router are equal.
    partial: Option<Box<[u32]>>,
    /// Whether it and all before it are held.
    linked: bool,
}

/// Stands for a block that is not there.
static NOBODY: Node = Node {
    hash: EngineHash(0),
    parent: NIL,
    first_child: NIL,
    next: NIL,
    previous: NIL,
    copies: 0,
    full: 0,
    name: BlockHash(0),
    partial: None,
    linked: false,
};

impl Node {
    /// Whether a block of the router ends with this one.
    fn completes(&self) -> bool {
        self.partial.is_none()
    }
}

impl Ledger {
    pub(super) fn new(naming: Naming) -> Self {
        Self {
            naming,
            nodes: Vec::new(),
            by_hash: FxHashMap::default(),
            free: Vec::new(),
            nodes_max: NODES_MAX,
            group: None,
            engine_block: None,
            orphans: 0,
        }
    }

    /// Blocks of the engine that are known.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Blocks that could not be named, because the one before them is not known or there was no room.
    pub(super) const fn orphans(&self) -> u64 {
        self.orphans
    }

    /// Applies an event and tells `names` what changes.
    pub(super) fn apply(&mut self, event: &Event, names: &mut Names) -> Result<(), Unusable> {
        match event {
            Event::Stored(stored) if self.follows(stored) => self.store(stored, names),
            Event::Removed(removed) if self.is_followed(removed) => {
                removed.hashes.iter().for_each(|it| self.remove(*it, names));
                Ok(())
            }
            Event::Cleared => {
                self.clear(names);
                Ok(())
            }
            Event::Stored(_) | Event::Removed(_) | Event::Unknown => Ok(()),
        }
    }

    /// Forgets every block.
    pub(super) fn clear(&mut self, names: &mut Names) {
        let roots = self.by_hash.values().copied().filter(|it| self.get(*it).parent == NIL);
        let mut roots: Vec<u32> = roots.collect();
        roots.sort_unstable();
        roots.into_iter().for_each(|it| self.unlink(it, names));
        self.nodes.clear();
        self.by_hash.clear();
        self.free.clear();
    }

    /// Whether blocks of that cache make hits; decides which of a hybrid model's is followed.
    fn follows(&mut self, stored: &Stored) -> bool {
        if !is_device(stored.medium.as_deref()) || !is_full_attention(stored.attention.as_deref()) {
            return false;
        }
        if self.group.is_none() {
            self.group = stored.group;
        }
        stored.group == self.group
    }

    fn is_followed(&self, removed: &Removed) -> bool {
        is_device(removed.medium.as_deref())
            && (removed.group == self.group || removed.group.is_none())
    }

    fn store(&mut self, stored: &Stored, names: &mut Names) -> Result<(), Unusable> {
        let (engine, router) = (stored.block, self.naming.block);
        let is_multiple = router.checked_rem(engine) == Some(0);
        if !is_multiple || self.engine_block.is_some_and(|it| it != engine) {
            return Err(Unusable::BlockSize { engine, router });
        }
        self.engine_block = Some(engine);
        let mut parent = match stored.parent {
            None => NIL,
            Some(hash) => match self.by_hash.get(&hash) {
                Some(parent) => *parent,
                None => {
                    self.orphans = self.orphans.saturating_add(stored.hashes.len() as u64);
                    return Ok(());
                }
            },
        };
        let tokens = stored.tokens.chunks_exact(engine as usize);
        for (at, (hash, tokens)) in stored.hashes.iter().zip(tokens).enumerate() {
            let extra = stored.extra.get(at).map(Vec::as_slice).unwrap_or_default();
            parent = match self.by_hash.get(hash).copied() {
                Some(node) if self.get(node).parent != parent => return Err(Unusable::Unchained),
                Some(node) => node,
                None if self.nodes_max <= self.by_hash.len() => {
                    let left_out = stored.hashes.len().saturating_sub(at) as u64;
                    self.orphans = self.orphans.saturating_add(left_out);
                    return Ok(());
                }
                None => self.add(*hash, parent, tokens, stored, extra),
            };
            if let Some(node) = self.get_mut(parent) {
                node.copies = node.copies.saturating_add(1);
            }
            self.link(parent, names);
        }
        Ok(())
    }

    /// Names a block and adds it after its parent, without a copy.
    fn add(
        &mut self,
        hash: EngineHash,
        parent: u32,
        tokens: &[u32],
        stored: &Stored,
        extra: &[Extra],
    ) -> u32 {
        // An adapter's blocks say its name before anything else; the event has said it already.
        let named = stored.adapter.as_deref();
        let extra = match extra {
            [Extra::Text(first), rest @ ..] if Some(first.as_str()) == named => rest,
            all => all,
        };
        let (mut name, mut full, mut partial) = if parent == NIL {
            (self.seed(stored, extra).as_parent(), 0, Vec::new())
        } else {
            let before = self.get(parent);
            (before.name, before.full, before.partial.as_deref().unwrap_or_default().to_vec())
        };
        partial.extend_from_slice(tokens);
        // What a later block covers beside its tokens is no text: nothing that is asked for has it.
        if parent != NIL && !extra.is_empty() {
            name = BlockHash(!name.0);
        }
        if partial.len() >= self.naming.block as usize {
            let bytes: Vec<u8> = partial.iter().flat_map(|it| it.to_le_bytes()).collect();
            name = hash_block(name, &bytes);
            full = full.saturating_add(1);
            partial.clear();
        }
        let partial = (!partial.is_empty()).then(|| partial.into());
        let next = if parent == NIL { NIL } else { self.get(parent).first_child };
        let node = Node {
            hash,
            parent,
            first_child: NIL,
            next,
            previous: NIL,
            copies: 0,
            full,
            name,
            partial,
            linked: false,
        };
        let id = self.put(node);
        self.by_hash.insert(hash, id);
        if let Some(it) = self.get_mut(next) {
            it.previous = id;
        }
        if let Some(it) = self.get_mut(parent) {
            it.first_child = id;
        }
        id
    }

    /// What the names of a prompt's blocks begin from.
    fn seed(&self, stored: &Stored, extra: &[Extra]) -> ChainSeed {
        let id = stored.adapter_id.map(|it| format!("\0adapter {it}"));
        // An adapter is asked for by its name, in place of the model's; one of which only a number is
        // known is a world of its own.
        let model = stored.adapter.as_deref().or(id.as_deref()).unwrap_or(&self.naming.model);
        let salt = match (stored.salt.as_deref(), extra) {
            (Some(salt), _) => Some(salt),
            (None, []) => None,
            (None, [Extra::Text(salt)]) => Some(salt.as_str()),
            // Media: no text that is asked for has them.
            (None, _) => Some("\0media"),
        };
        ChainSeed::new(self.naming.key, &Scope { model, cache_salt: salt, ..Scope::default() })
    }

    fn put(&mut self, node: Node) -> u32 {
        match self.free.pop() {
            Some(id) => {
                if let Some(place) = self.nodes.get_mut(id as usize) {
                    *place = node;
                }
                id
            }
            None => {
                self.nodes.push(node);
                u32::try_from(self.nodes.len().saturating_sub(1)).unwrap_or(NIL)
            }
        }
    }

    fn remove(&mut self, hash: EngineHash, names: &mut Names) {
        let Some(id) = self.by_hash.get(&hash).copied() else { return };
        let Some(node) = self.get_mut(id) else { return };
        node.copies = node.copies.saturating_sub(1);
        if node.copies == 0 {
            self.unlink(id, names);
            self.prune(id);
        }
    }

    /// Tells a block as held, and what follows it, once all before it is.
    fn link(&mut self, id: u32, names: &mut Names) {
        let mut to_link = vec![id];
        while let Some(id) = to_link.pop() {
            let node = self.get(id);
            let parent = (node.parent != NIL).then(|| self.get(node.parent));
            if node.linked || node.copies == 0 || parent.is_some_and(|it| !it.linked) {
                continue;
            }
            if node.completes() {
                let before = parent.filter(|it| it.full > 0).map(|it| it.name);
                names.store(before, node.name);
            }
            self.each_child(id, |child| to_link.push(child));
            if let Some(node) = self.get_mut(id) {
                node.linked = true;
            }
        }
    }

    /// Takes a block and what follows it back, the deepest first.
    fn unlink(&mut self, id: u32, names: &mut Names) {
        let (mut all, mut at) = (vec![id], 0);
        while let Some(id) = all.get(at).copied() {
            at = at.saturating_add(1);
            self.each_child(id, |child| all.push(child));
        }
        for id in all.into_iter().rev() {
            let Some(node) = self.get_mut(id).filter(|it| it.linked) else { continue };
            node.linked = false;
            if node.completes() {
                let name = node.name;
                names.remove(name);
            }
        }
    }

    /// Drops a block that the engine has no copy of and nothing follows, and then those before it
    /// that nothing else keeps.
    fn prune(&mut self, mut id: u32) {
        while id != NIL {
            let Some(node) = self.nodes.get(id as usize) else { return };
            if node.copies > 0 || node.first_child != NIL {
                return;
            }
            let (hash, parent, next, previous) = (node.hash, node.parent, node.next, node.previous);
            if let Some(it) = self.get_mut(next) {
                it.previous = previous;
            }
            if previous != NIL {
                if let Some(it) = self.get_mut(previous) {
                    it.next = next;
                }
            } else if let Some(it) = self.get_mut(parent) {
                it.first_child = next;
            }
            self.by_hash.remove(&hash);
            self.free.push(id);
            id = parent;
        }
    }

    fn each_child(&self, id: u32, mut visit: impl FnMut(u32)) {
        let mut child = self.get(id).first_child;
        while child != NIL {
            visit(child);
            child = self.get(child).next;
        }
    }

    fn get(&self, id: u32) -> &Node {
        self.nodes.get(id as usize).unwrap_or(&NOBODY)
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Node> {
        self.nodes.get_mut(id as usize)
    }
}
