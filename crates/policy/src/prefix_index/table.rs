//! A hash table of fixed size from block hashes to nodes.
//!
//! Written here rather than taken from a library for two properties that the index promises: its
//! memory is exact and never grows, and no operation ever rehashes the whole (general-purpose
//! tables collect tombstones under constant eviction and then do, for milliseconds). Open
//! addressing with linear probing at half load, and deletion by shifting back.
//! The keys are keyed hashes already, so they are used as they are.

use types::block::BlockHash;

/// Maps block hashes to node numbers; which hash a node has is told by the caller.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Node number plus one; zero is empty, so that untouched pages stay unclaimed.
    cells: Vec<u32>,
}

impl Table {
    /// Cells per entry: half load.
    const CELLS_PER_ENTRY: usize = 2;

    /// Memory for one entry, in bytes.
    pub(crate) const BYTES_PER_ENTRY: usize = Self::CELLS_PER_ENTRY * size_of::<u32>();

    /// A table for at most `capacity` entries.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { cells: vec![0; capacity * Self::CELLS_PER_ENTRY] }
    }

    /// Memory claimed, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<u32>()
    }

    /// The node of `hash`, among those that share its cells the one that `is_it`.
    pub(crate) fn find(&self, hash: BlockHash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.home(hash);
        loop {
            let node = self.cells.get(at)?.checked_sub(1)?;
            if is_it(node) {
                return Some(node);
            }
            at = self.after(at);
        }
    }

    /// Adds `node`, whose hash is not in the table yet.
    ///
    /// At most `capacity` entries may be present; half of the cells are then still empty.
    pub(crate) fn insert(&mut self, hash: BlockHash, node: u32) {
        let mut at = self.home(hash);
        while let Some(cell) = self.cells.get_mut(at) {
            if *cell == 0 {
                *cell = node + 1;
                return;
            }
            at = self.after(at);
        }
    }

    /// Removes `node`, whose hash is `hash`, and moves later entries up so that each is still found
    /// from its home.
    pub(crate) fn remove(
        &mut self,
        hash: BlockHash,
        node: u32,
        hash_of: impl Fn(u32) -> BlockHash,
    ) {
        let mut hole = self.home(hash);
        while self.cells.get(hole).is_some_and(|it| *it != 0 && *it != node + 1) {
            hole = self.after(hole);
        }
        let mut at = hole;
        loop {
            at = self.after(at);
            let Some(other) = self.cells.get(at).and_then(|it| it.checked_sub(1)) else { break };
            // An entry may move to the hole unless its home lies behind the hole on the way to it.
            if self.distance(self.home(hash_of(other)), at) < self.distance(hole, at) {
                continue;
            }
            self.put(hole, other + 1);
            hole = at;
        }
        self.put(hole, 0);
    }

    fn put(&mut self, at: usize, value: u32) {
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = value;
        }
    }

    /// The cell where the search for `hash` begins: the hash scaled to the table's size.
    #[allow(clippy::cast_possible_truncation, reason = "the high half of the product is < len")]
    fn home(&self, hash: BlockHash) -> usize {
        ((u128::from(hash.0) * self.cells.len() as u128) >> 64) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 < self.cells.len() { at + 1 } else { 0 }
    }

    /// Steps from cell `from` forward to cell `to`.
    fn distance(&self, from: usize, to: usize) -> usize {
        if from <= to { to - from } else { to + self.cells.len() - from }
    }
}
