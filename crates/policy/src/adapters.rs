//! The adapters (LoRA) that a replica has loaded beside its model.
//!
//! An engine lists every adapter that it may serve and holds a few of them ready on the GPU; loading
//! another one takes as long as a prefill and pushes one out. What is ready is known from what was
//! placed, and from what the engine's metrics say runs.

use types::request::ModelId;

/// Adapters that are remembered as loaded where an engine does not say how many it has room for.
const LOADED_MAX: usize = 64;

/// The adapters of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapters {
    /// Those that it may serve.
    listed: Box<[ModelId]>,
    /// Those that are ready, the one used last first.
    loaded: Vec<ModelId>,
    /// How many it has room for, where it says.
    most: Option<usize>,
}

impl Adapters {
    /// Learns which adapters the replica may serve.
    pub fn list(&mut self, adapters: Box<[ModelId]>) {
        self.listed = adapters;
    }

    /// Learns which adapters are in use on it, and for how many it has room.
    pub fn in_use(&mut self, adapters: &[ModelId], most: u32) {
        self.most = Some(usize::try_from(most).unwrap_or(usize::MAX).max(1));
        adapters.iter().rev().for_each(|it| self.used(*it));
        self.loaded.truncate(self.most());
    }

    /// Learns that a request for `adapter` goes there, which has it loaded.
    pub fn used(&mut self, adapter: ModelId) {
        self.loaded.retain(|it| *it != adapter);
        self.loaded.insert(0, adapter);
        self.loaded.truncate(self.most());
    }

    /// Whether `model` is an adapter that it may serve.
    #[must_use]
    pub fn lists(&self, model: ModelId) -> bool {
        self.listed.contains(&model)
    }

    /// Whether `adapter` is ready.
    #[must_use]
    pub fn has_loaded(&self, adapter: ModelId) -> bool {
        self.loaded.contains(&adapter)
    }

    /// Whether one more can be loaded without another one making room.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.loaded.len() < self.most()
    }

    /// Learns that the engine has restarted.
    pub fn lost(&mut self) {
        self.loaded.clear();
    }

    fn most(&self) -> usize {
        self.most.unwrap_or(LOADED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapters_used_last_are_taken_to_be_loaded() {
        let mut it = Adapters::default();
        it.in_use(&[ModelId(1), ModelId(2)], 3);
        assert!(it.has_loaded(ModelId(1)) && it.has_loaded(ModelId(2)) && it.has_room());
        it.used(ModelId(3));
        assert!(!it.has_room());
        it.in_use(&[ModelId(4)], 3);
        let loaded = [1, 2, 3, 4].map(|model| it.has_loaded(ModelId(model)));
        assert_eq!(loaded, [true, false, true, true], "the one used longest ago made room");
        it.lost();
        assert!(!it.has_loaded(ModelId(4)));
    }

    #[test]
    fn what_is_loaded_stays_bounded_where_nobody_says_how_much_fits() {
        let mut it = Adapters::default();
        (0..1_000).for_each(|model| it.used(ModelId(model)));
        assert_eq!(it.loaded.len(), LOADED_MAX);
    }
}
