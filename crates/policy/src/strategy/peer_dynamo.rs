//! The KV router of NVIDIA Dynamo 1.6.1 (`router-plugins`, built-in default scorer), in blocks:
//!
//! ```text
//! cost = max(0, (prefill tokens in flight + prompt)/B − blocks held) + decode blocks
//! ```
//!
//! with its defaults: overlap credit 1 without decay, prefill scale 1, no weight on the number of
//! requests, temperature 0, which is the least cost with equals by lot. Decode blocks are those of all
//! prompts in flight on the replica and of this one, a block that several share counted once.

use rand::Rng;
use rustc_hash::FxHashMap;
use types::{block::BlockHash, quantity::Tokens, replica::ReplicaId};

use super::{Ask, Candidate, pick};
use crate::event::Reason;

/// The blocks of prompts in flight, by replica, with how many requests use each.
#[derive(Clone, Debug, Default)]
pub struct ActiveBlocks {
    users: FxHashMap<(ReplicaId, BlockHash), u32>,
    distinct: FxHashMap<ReplicaId, u32>,
}

impl ActiveBlocks {
    /// Chooses the least cost.
    pub(super) fn choose(
        &self,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        rng: &mut impl Rng,
    ) -> Option<(Candidate, Reason)> {
        let cost = |it: &Candidate| self.cost(ask, it);
        Some((pick::least(candidates.iter(), cost, rng)?, Reason::Cost))
    }

    /// The cost of the request on a replica, in blocks.
    pub(super) fn cost(&self, ask: &Ask<'_>, it: &Candidate) -> f64 {
        let of = |tokens: Tokens| f64::from(tokens.0) / f64::from(ask.block.0.max(1));
        let prefill = (of(it.queued_prefill + ask.prompt) - of(it.cached)).max(0.0);
        prefill + self.potential(it.id, ask.blocks)
    }

    /// Blocks in use on `replica` with `blocks` added.
    fn potential(&self, replica: ReplicaId, blocks: &[BlockHash]) -> f64 {
        let active = self.distinct.get(&replica).copied().unwrap_or_default();
        // Chains are prefix-closed: whoever uses a block uses all before it.
        let shared = blocks.partition_point(|it| self.users.contains_key(&(replica, *it)));
        f64::from(active) + blocks.len().saturating_sub(shared) as f64
    }

    /// Learns that a prompt of `blocks` was placed on `replica`.
    pub(super) fn placed(&mut self, replica: ReplicaId, blocks: &[BlockHash]) {
        for block in blocks {
            let users = self.users.entry((replica, *block)).or_default();
            *users += 1;
            if *users == 1 {
                *self.distinct.entry(replica).or_default() += 1;
            }
        }
    }

    /// Learns that it left.
    pub(super) fn left(&mut self, replica: ReplicaId, blocks: &[BlockHash]) {
        for block in blocks {
            let Some(users) = self.users.get_mut(&(replica, *block)) else { continue };
            *users = users.saturating_sub(1);
            if *users == 0 {
                self.users.remove(&(replica, *block));
                let distinct = self.distinct.entry(replica).or_default();
                *distinct = distinct.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::{ask, candidate, chosen};

    fn chain(family: u64, blocks: u64) -> Vec<BlockHash> {
        (0..blocks).map(|at| BlockHash(family << 32 | at)).collect()
    }

    fn best(active: &ActiveBlocks, blocks: &[BlockHash], candidates: &[Candidate]) -> u32 {
        let ask = Ask { blocks, ..ask(u32::try_from(blocks.len()).unwrap() * 64, None) };
        chosen(|rng| active.choose(&ask, candidates, rng)).id.0
    }

    #[test]
    fn a_block_held_is_worth_a_block_in_decode() {
        let mut active = ActiveBlocks::default();
        active.placed(ReplicaId(0), &chain(1, 9));
        let prompt = chain(2, 10);
        // 10 − 8 + 9 + 10 against 10 + 10, and with all ten held 9 + 10.
        assert_eq!(best(&active, &prompt, &[candidate(0, 1, 8 * 64), candidate(1, 0, 0)]), 1);
        assert_eq!(best(&active, &prompt, &[candidate(0, 1, 10 * 64), candidate(1, 0, 0)]), 0);
    }

    #[test]
    fn blocks_that_requests_share_count_once_and_until_the_last_leaves() {
        let mut active = ActiveBlocks::default();
        let prompt = chain(1, 10);
        active.placed(ReplicaId(0), &prompt);
        active.placed(ReplicaId(0), &prompt);
        assert!((active.potential(ReplicaId(0), &prompt) - 10.0).abs() < 1e-9);
        active.left(ReplicaId(0), &prompt);
        assert!((active.potential(ReplicaId(0), &chain(2, 5)) - 15.0).abs() < 1e-9);
        active.left(ReplicaId(0), &prompt);
        assert!((active.potential(ReplicaId(0), &chain(2, 5)) - 5.0).abs() < 1e-9);
        assert!(active.users.is_empty());
    }
}
