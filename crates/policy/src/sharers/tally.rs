//! How many of something there are, by hash.
//!
//! A dozen counts move with every request, by keys that are keyed hashes already: so cells are found by the key
//! itself, looked through in a row, and closed up when a count ends, which is a few instructions each.

use types::block::BlockHash;

/// Cells at first.
const CELLS_LEAST: usize = 64;

/// Counts by hash; what is counted no more takes no room.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// A key and its count; nothing where that is zero. As many as a power of two, half of them empty.
    cells: Vec<(BlockHash, u32)>,
    used: usize,
}

impl Tally {
    /// How many there are of `key`.
    pub(super) fn get(&self, key: BlockHash) -> u32 {
        self.cells.get(self.find(key)).map_or(0, |it| it.1)
    }

    /// Counts one more of `key`.
    pub(super) fn add(&mut self, key: BlockHash) {
        if self.cells.len() <= 2 * self.used {
            self.grow();
        }
        let at = self.find(key);
        if let Some(cell) = self.cells.get_mut(at) {
            if cell.1 == 0 {
                self.used += 1;
            }
            *cell = (key, cell.1.saturating_add(1));
        }
    }

    /// Counts one of `key` less, if there is any.
    pub(super) fn take(&mut self, key: BlockHash) {
        let at = self.find(key);
        let Some(cell) = self.cells.get_mut(at).filter(|it| it.1 > 0) else { return };
        cell.1 -= 1;
        if cell.1 == 0 {
            self.used = self.used.saturating_sub(1);
            self.close(at);
        }
    }

    #[cfg(test)]
    pub(super) const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The cell of `key`, or the empty one where it would be.
    fn find(&self, key: BlockHash) -> usize {
        let mut at = self.home(key);
        while self.cells.get(at).is_some_and(|it| it.1 > 0 && it.0 != key) {
            at = self.after(at);
        }
        at
    }

    /// Moves up what follows an empty cell, so that each key is still found from its home.
    fn close(&mut self, mut hole: usize) {
        let mut at = hole;
        loop {
            at = self.after(at);
            let Some(cell) = self.cells.get(at).copied().filter(|it| it.1 > 0) else { return };
            let (home, mask) = (self.home(cell.0), self.mask());
            // One whose home lies behind the hole stays.
            if (at.wrapping_sub(home) & mask) < (at.wrapping_sub(hole) & mask) {
                continue;
            }
            self.put(hole, cell);
            self.put(at, (BlockHash(0), 0));
            hole = at;
        }
    }

    fn put(&mut self, at: usize, value: (BlockHash, u32)) {
        if let Some(cell) = self.cells.get_mut(at) {
            *cell = value;
        }
    }

    fn grow(&mut self) {
        let more = (2 * self.cells.len()).max(CELLS_LEAST);
        let before = std::mem::replace(&mut self.cells, vec![(BlockHash(0), 0); more]);
        for cell in before.into_iter().filter(|it| it.1 > 0) {
            let at = self.find(cell.0);
            self.put(at, cell);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half of a hash is a hash")]
    const fn home(&self, key: BlockHash) -> usize {
        key.0 as usize & self.mask()
    }

    const fn after(&self, at: usize) -> usize {
        (at + 1) & self.mask()
    }

    const fn mask(&self) -> usize {
        self.cells.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Keys that crowd each other, at the end of the table too, are counted as a map counts them.
        #[test]
        fn counts_are_those_of_a_map(steps in prop::collection::vec((0_u64..90, any::<bool>()), 0..400)) {
            let (mut tally, mut map) = (Tally::default(), BTreeMap::new());
            for (key, comes) in steps {
                let key = (key % 9) * 64 + 60 + key / 9;
                let count: &mut u32 = map.entry(key).or_default();
                if comes {
                    *count += 1;
                    tally.add(BlockHash(key));
                } else {
                    *count = count.saturating_sub(1);
                    tally.take(BlockHash(key));
                }
                for (key, count) in &map {
                    prop_assert_eq!(tally.get(BlockHash(*key)), *count);
                }
            }
            prop_assert_eq!(tally.is_empty(), map.values().all(|it| *it == 0));
        }
    }
}
