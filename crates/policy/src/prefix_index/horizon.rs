//! How far back each replica's cache reaches.
//!
//! An engine evicts what was used longest ago once newer blocks need the room. So of a replica whose
//! cache has room for so many blocks, what was last used before its newest so many came is gone, and
//! need not be looked for: its *horizon* is the moment before which nothing is left. Moments are
//! stamps, counted up with every chain that is filed. A horizon moves when the blocks that came since
//! exceed the cache, or when an answer says that something from before was not found.

use std::collections::VecDeque;

use super::Slot;

/// Pieces in which a cache's turnover is counted.
const PIECES: u32 = 64;

/// Horizons of all slots, laid out to be asked for 64 at once.
#[derive(Debug)]
pub(super) struct Horizons {
    slots: Vec<Turnover>,
    /// For each word of a set, by rising stamps: from that stamp on these slots hold what they held.
    masks: Vec<Vec<(u32, u64)>>,
}

/// What came to one replica since its horizon.
#[derive(Clone, Debug, Default)]
struct Turnover {
    horizon: u32,
    /// Blocks that its cache has room for; unknown when absent.
    capacity: Option<u32>,
    /// Blocks that came, by the stamp of the first of each piece.
    pieces: VecDeque<(u32, u32)>,
    blocks: u64,
}

impl Horizons {
    /// Horizons of `words × 64` slots, none of which anything is behind of.
    pub(super) fn new(words: usize) -> Self {
        let slots = vec![Turnover::default(); words.saturating_mul(64)];
        Self { slots, masks: vec![vec![(0, u64::MAX)]; words] }
    }

    /// Begins anew with `words × 64` slots, when nothing is filed any more. What caches have room for stays
    /// known.
    pub(super) fn begin_anew(&mut self, words: usize) {
        for it in &mut self.slots {
            *it = Turnover { capacity: it.capacity, ..Turnover::default() };
        }
        self.slots.resize(words.saturating_mul(64), Turnover::default());
        self.masks = vec![vec![(0, u64::MAX)]; words];
    }

    /// The slots of a word that still hold what was last used at `stamp`.
    pub(super) fn reaching(&self, word: usize, stamp: u32) -> u64 {
        let masks = self.masks.get(word).map(Vec::as_slice).unwrap_or_default();
        // Nearly always nobody's horizon has moved.
        if let [(_, all)] = masks {
            return *all;
        }
        let after = masks.partition_point(|it| it.0 <= stamp);
        after.checked_sub(1).and_then(|at| masks.get(at)).map_or(0, |it| it.1)
    }

    /// Learns how many blocks a replica's cache has room for.
    pub(super) fn bound(&mut self, slot: Slot, blocks: u32) {
        if let Some(it) = self.slots.get_mut(slot.index()) {
            it.capacity = Some(blocks);
        }
        self.settle(slot);
    }

    /// Learns that `blocks` came to a replica at `stamp` that it did not hold.
    pub(super) fn came(&mut self, slot: Slot, stamp: u32, blocks: u32) {
        let Some(it) = self.slots.get_mut(slot.index()) else { return };
        let Some(capacity) = it.capacity.filter(|_| blocks > 0) else { return };
        it.blocks = it.blocks.saturating_add(blocks.into());
        match it.pieces.back_mut() {
            Some((_, piece)) if *piece < (capacity / PIECES).max(1) => {
                *piece = piece.saturating_add(blocks);
            }
            Some(_) | None => it.pieces.push_back((stamp, blocks)),
        }
        self.settle(slot);
    }

    /// Learns that what a replica last used at `stamp` is gone.
    pub(super) fn gone(&mut self, slot: Slot, stamp: u32) {
        self.advance(slot, stamp.saturating_add(1));
    }

    /// Begins anew for the next replica of a slot.
    pub(super) fn reset(&mut self, slot: Slot) {
        if let Some(it) = self.slots.get_mut(slot.index()) {
            *it = Turnover::default();
        }
        self.lay_out(slot.word());
    }

    /// Moves a horizon on while more came than there is room for.
    fn settle(&mut self, slot: Slot) {
        let Some(it) = self.slots.get(slot.index()) else { return };
        let (Some(capacity), mut blocks) = (it.capacity, it.blocks) else { return };
        let mut pieces = it.pieces.iter();
        let mut dropped = 0_usize;
        while blocks > u64::from(capacity) && dropped.saturating_add(1) < it.pieces.len() {
            blocks = blocks.saturating_sub(pieces.next().map_or(0, |it| it.1.into()));
            dropped = dropped.saturating_add(1);
        }
        if let Some((stamp, _)) = it.pieces.get(dropped).copied().filter(|_| dropped > 0) {
            self.advance(slot, stamp);
        }
    }

    fn advance(&mut self, slot: Slot, horizon: u32) {
        let Some(it) = self.slots.get_mut(slot.index()).filter(|it| it.horizon < horizon) else {
            return;
        };
        it.horizon = horizon;
        while it.pieces.len() > 1 && it.pieces.get(1).is_some_and(|it| it.0 <= horizon) {
            let came = it.pieces.pop_front().map_or(0, |it| it.1);
            it.blocks = it.blocks.saturating_sub(came.into());
        }
        self.lay_out(slot.word());
    }

    fn lay_out(&mut self, word: usize) {
        let first = word.saturating_mul(64);
        let slots = self.slots.get(first..).unwrap_or_default();
        let mut horizons: Vec<(u32, u64)> =
            slots.iter().take(64).zip(0..).map(|(it, bit)| (it.horizon, 1 << bit)).collect();
        horizons.sort_unstable();
        let Some(masks) = self.masks.get_mut(word) else { return };
        masks.clear();
        let mut reaching = 0;
        for (horizon, bit) in horizons {
            reaching |= bit;
            match masks.last_mut() {
                Some(last) if last.0 == horizon => last.1 = reaching,
                Some(_) | None => masks.push((horizon, reaching)),
            }
        }
    }
}
