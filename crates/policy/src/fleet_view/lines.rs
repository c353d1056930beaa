//! Numbers for those who ask the same replicas.

use std::hash::{Hash as _, Hasher as _};

use rustc_hash::{FxHashMap, FxHasher};
use types::{quantity::Tokens, request::ModelId};

use super::Replica;

/// Numbers that are remembered: where any model is served, clients may name as many as they like.
const KNOWN_MAX: usize = 1_024;

/// A number for each set of replicas that some request may be meant for, ready or not: one that is ill for a moment
/// does not make strangers of those who wait for the same.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The longest prompts that replicas are meant for, each once, the shortest first; none until somebody asks.
    bounds: Option<Vec<Tokens>>,
    /// By model, and how many of the bounds a prompt exceeds.
    known: FxHashMap<(ModelId, usize), u64>,
}

impl Lines {
    /// Forgets what replicas there are and what they serve.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// The number of those who ask `replicas` for `model` with a prompt of that length.
    pub(super) fn of(&mut self, replicas: &[Replica], model: ModelId, prompt: Tokens) -> u64 {
        let bounds = self.bounds.get_or_insert_with(|| {
            let mut bounds: Vec<Tokens> = replicas.iter().map(Replica::longest).collect();
            bounds.sort_unstable();
            bounds.dedup();
            bounds
        });
        let exceeded = bounds.partition_point(|it| *it < prompt);
        if KNOWN_MAX <= self.known.len() {
            self.known.clear();
        }
        *self.known.entry((model, exceeded)).or_insert_with(|| {
            let takes = |it: &&Replica| it.serves(model) && prompt <= it.longest();
            let pool = replicas.iter().filter(takes).map(Replica::longest).min();
            let mut hasher = FxHasher::default();
            let of_pool = |it: &&Replica| takes(it) && Some(it.longest()) == pool;
            replicas.iter().filter(of_pool).for_each(|it| it.id.hash(&mut hasher));
            hasher.finish()
        })
    }
}
