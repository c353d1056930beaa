//! A hash table of fixed size from block hashes to nodes.
//!
//! Written here rather than taken from a library for two properties that the index promises: its
//! memory is exact and never grows, and no operation ever rehashes the whole (general-purpose
//! tables collect tombstones under constant eviction and then do, for milliseconds). Open
//! addressing with linear probing at half load, and deletion by shifting back.
//! The keys are keyed hashes already, so they are used as they are.
//!
//! Nodes lie elsewhere, and to ask one for its hash is to wait for memory. So each cell says how far
//! its entry is from where the search for it begins, in the bits that the number of a node leaves free: who looks
//! for a hash asks only nodes that begin where it does, and a deletion asks none.

use types::block::BlockHash;

/// Maps block hashes to node numbers; which hash a node has is told by the caller.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Node number plus one in the low bits; zero is empty, so that untouched pages stay unclaimed. Above
    /// it the steps from the entry's home, or as many as there is room for.
    cells: Vec<u32>,
    /// Bits of a cell that the node takes.
    node_bits: u32,
}

impl Table {
    /// Cells per entry: half load.
    const CELLS_PER_ENTRY: usize = 2;

    /// Memory for one entry, in bytes.
    pub(crate) const BYTES_PER_ENTRY: usize = Self::CELLS_PER_ENTRY * size_of::<u32>();

    /// A table for at most `capacity` entries, whose nodes have numbers below that.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let most = u32::try_from(capacity).unwrap_or(u32::MAX);
        Self::with_node_bits(capacity, u32::BITS.saturating_sub(most.leading_zeros()))
    }

    fn with_node_bits(capacity: usize, node_bits: u32) -> Self {
        Self { cells: vec![0; capacity * Self::CELLS_PER_ENTRY], node_bits }
    }

    /// Memory claimed, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<u32>()
    }

    /// The node of `hash`, among those that share its home the one that `is_it`.
    pub(crate) fn find(&self, hash: BlockHash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (mut at, mut steps) = (self.home(hash), 0);
        loop {
            let cell = *self.cells.get(at)?;
            let node = self.node_in(cell)?;
            if self.steps_in(cell) == steps && is_it(node) {
                return Some(node);
            }
            at = self.after(at);
            steps = self.steps_max().min(steps + 1);
        }
    }

    /// What is in the cell where the search for `hash` begins.
    pub(crate) fn first(&self, hash: BlockHash) -> u32 {
        self.cells.get(self.home(hash)).copied().unwrap_or_default()
    }

    /// Adds `node`, whose hash is not in the table yet.
    ///
    /// At most `capacity` entries may be present; half of the cells are then still empty.
    pub(crate) fn insert(&mut self, hash: BlockHash, node: u32) {
        let (mut at, mut steps) = (self.home(hash), 0);
        while let Some(cell) = self.cells.get(at) {
            if *cell == 0 {
                self.put(at, node, steps);
                return;
            }
            at = self.after(at);
            steps += 1;
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
        while let Some(other) = self.cells.get(hole).and_then(|it| self.node_in(*it)) {
            if other == node {
                break;
            }
            hole = self.after(hole);
        }
        let mut at = hole;
        loop {
            at = self.after(at);
            let cell = self.cells.get(at).copied().unwrap_or_default();
            let Some(other) = self.node_in(cell) else { break };
            // From its home, unless that is farther than a cell can say.
            let steps = match self.steps_in(cell) as usize {
                steps if steps < self.steps_max() as usize => steps,
                _ => self.distance(self.home(hash_of(other)), at),
            };
            // An entry may move to the hole unless its home lies behind the hole on the way to it.
            let nearer = self.distance(hole, at);
            if steps < nearer {
                continue;
            }
            self.put(hole, other, steps - nearer);
            hole = at;
        }
        if let Some(cell) = self.cells.get_mut(hole) {
            *cell = 0;
        }
    }

    fn put(&mut self, at: usize, node: u32, steps: usize) {
        let steps = u32::try_from(steps).unwrap_or(u32::MAX).min(self.steps_max());
        let steps = steps.checked_shl(self.node_bits).unwrap_or_default();
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = steps | (node + 1);
        }
    }

    /// Whose entry a cell has; nobody's where it is empty.
    fn node_in(&self, cell: u32) -> Option<u32> {
        let nodes = u32::MAX.checked_shr(u32::BITS - self.node_bits).unwrap_or_default();
        (cell & nodes).checked_sub(1)
    }

    /// How far the entry of a cell is from its home, in cells; [`Self::steps_max`] where it is that far or farther.
    fn steps_in(&self, cell: u32) -> u32 {
        cell.checked_shr(self.node_bits).unwrap_or_default()
    }

    /// The most that a cell can say of that.
    fn steps_max(&self) -> u32 {
        self.steps_in(u32::MAX)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    const CAPACITY: u32 = 15;

    /// Hashes with few homes among the cells of the table, so that entries lie far from theirs.
    fn hash_of(node: u32) -> BlockHash {
        let home = u64::from(node % 3) << 62 | u64::from(u8::from(node.is_multiple_of(5))) << 58;
        BlockHash(home | u64::from(node))
    }

    proptest! {
        /// Whatever comes and goes, the table has what a map has: with room for all steps, for few and for none.
        #[test]
        fn a_table_has_what_a_map_has(
            nodes in vec(0..CAPACITY, 0..200),
            node_bits in prop_oneof![Just(4), Just(30), Just(32)],
        ) {
            let mut table = Table::with_node_bits(CAPACITY as usize, node_bits);
            let mut map = BTreeMap::new();
            for node in nodes {
                let hash = hash_of(node);
                if map.remove(&hash.0).is_some() {
                    table.remove(hash, node, hash_of);
                } else {
                    map.insert(hash.0, node);
                    table.insert(hash, node);
                }
                for node in 0..CAPACITY {
                    let found = table.find(hash_of(node), |it| hash_of(it) == hash_of(node));
                    prop_assert_eq!(found, map.get(&hash_of(node).0).copied());
                }
            }
            let left = table.cells.iter().filter(|it| **it != 0).count();
            prop_assert_eq!(left, map.len());
        }
    }

    #[test]
    fn a_table_leaves_room_for_steps_whatever_its_size() {
        for (capacity, most) in [(1, 1 << 31), (700_000, 1 << 12), (1 << 20, 1 << 11)] {
            let bits = Table::with_capacity(capacity);
            assert_eq!(bits.steps_max(), most - 1, "{capacity}");
            assert_eq!(
                bits.node_in(u32::try_from(capacity).unwrap()).map(|it| it + 1),
                u32::try_from(capacity).ok()
            );
        }
        assert_eq!(Table::with_node_bits(1, 32).steps_max(), 0);
    }
}
