//! The small numbers under which replicas are filed in sets of holders.
//!
//! A slot that its replica has left is *dead* until every block has been cleared of it; only then
//! may another replica have it, or it would inherit blocks that it does not hold.

/// A replica's place in the sets of holders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(u16);

impl Slot {
    /// The slot as an index.
    pub(crate) const fn index(self) -> usize {
        self.0 as usize
    }

    /// The word of a set that has this slot.
    pub(crate) const fn word(self) -> usize {
        self.index() / 64
    }

    /// The slot's bit in its word.
    pub(crate) const fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }
}

/// Which slots are taken.
#[derive(Debug)]
pub(crate) struct Slots {
    live: Vec<u64>,
    dead: Vec<u64>,
}

impl Slots {
    /// `words × 64` free slots.
    pub(crate) fn new(words: usize) -> Self {
        Self { live: vec![0; words], dead: vec![0; words] }
    }

    /// The slots in use, as words of a set.
    pub(crate) fn live(&self) -> &[u64] {
        &self.live
    }

    /// Takes the lowest free slot.
    pub(crate) fn take(&mut self) -> Option<Slot> {
        for (word, (live, dead)) in self.live.iter_mut().zip(&self.dead).enumerate() {
            let bit = (*live | dead).trailing_ones();
            if bit < 64 {
                let slot = u16::try_from(word * 64).ok()?.checked_add(u16::try_from(bit).ok()?)?;
                *live |= 1 << bit;
                return Some(Slot(slot));
            }
        }
        None
    }

    /// Declares `slot` dead.
    pub(crate) fn retire(&mut self, slot: Slot) {
        if let (Some(live), Some(dead)) =
            (self.live.get_mut(slot.word()), self.dead.get_mut(slot.word()))
        {
            *dead |= *live & slot.bit();
            *live &= !slot.bit();
        }
    }

    /// Whether a slot waits to be free again.
    pub(crate) fn any_dead(&self) -> bool {
        self.dead.iter().any(|word| *word != 0)
    }

    /// Frees every dead slot: no block names one any more.
    pub(crate) fn swept(&mut self) {
        self.dead.fill(0);
    }

    /// Makes room for `words × 64` slots, those taken staying as they are.
    pub(crate) fn widen(&mut self, words: usize) {
        self.live.resize(words, 0);
        self.dead.resize(words, 0);
    }
}
