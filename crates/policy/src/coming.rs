//! Blocks that replicas are about to hold: those of requests placed there whose prompt has yet to be
//! computed, or whose engine has yet to say that it was.
//!
//! An engine that is told of two equal prompts at once computes the first and finds its blocks for
//! the second. So blocks on their way count as hits for whoever comes next, until the request that
//! brings them has left; by then the engine's own word is there, or the blocks never came.

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use types::{block::BlockHash, replica::ReplicaId};

/// Blocks noted at most, so that no burst of long prompts takes memory without end; beyond it hits
/// are underestimated.
const BLOCKS_MAX: usize = 1 << 20;

/// Where each block is on its way to, and for how many requests.
#[derive(Debug, Default)]
pub(crate) struct Coming {
    blocks: FxHashMap<BlockHash, SmallVec<[(ReplicaId, u32); 2]>>,
}

impl Coming {
    /// Notes that `blocks` are on their way to `replica`; returns how many of them were noted, to be
    /// given back with [`Self::forget`].
    pub(crate) fn note(&mut self, replica: ReplicaId, blocks: &[BlockHash]) -> usize {
        let room = BLOCKS_MAX.saturating_sub(self.blocks.len());
        let noted = blocks.get(..room).unwrap_or(blocks);
        for block in noted {
            let places = self.blocks.entry(*block).or_default();
            match places.iter_mut().find(|it| it.0 == replica) {
                Some((_, requests)) => *requests = requests.saturating_add(1),
                None => places.push((replica, 1)),
            }
        }
        noted.len()
    }

    /// Takes back what was noted for one request.
    pub(crate) fn forget(&mut self, replica: ReplicaId, blocks: &[BlockHash]) {
        for block in blocks {
            let Some(places) = self.blocks.get_mut(block) else { continue };
            if let Some((_, requests)) = places.iter_mut().find(|it| it.0 == replica) {
                *requests = requests.saturating_sub(1);
            }
            places.retain(|it| it.1 > 0);
            if places.is_empty() {
                self.blocks.remove(block);
            }
        }
    }

    /// How many leading blocks `replica` holds or will, if it holds the first `depth`.
    pub(crate) fn extend(&self, replica: ReplicaId, blocks: &[BlockHash], depth: u32) -> u32 {
        let beyond = blocks.get(depth as usize..).unwrap_or_default();
        let comes = |it: &&BlockHash| {
            self.blocks.get(*it).is_some_and(|it| it.iter().any(|it| it.0 == replica))
        };
        let more = beyond.iter().take_while(comes).count();
        depth.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
    }

    /// Whether nothing is on its way.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_requests_bring_stays_until_both_have_left() {
        let mut coming = Coming::default();
        let blocks = [1, 2, 3].map(BlockHash);
        let (here, there) = (ReplicaId(1), ReplicaId(2));
        coming.note(here, &blocks);
        coming.note(here, &blocks[..2]);
        assert_eq!(coming.extend(here, &blocks, 0), 3);
        assert_eq!(coming.extend(there, &blocks, 0), 0);
        coming.forget(here, &blocks);
        assert_eq!(coming.extend(here, &blocks, 0), 2);
        assert_eq!(coming.extend(here, &blocks, 1), 2);
        coming.forget(here, &blocks[..2]);
        assert!(coming.is_empty());
    }
}
