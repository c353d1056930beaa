//! What engines say of their caches, and how far they are taken at their word.
//!
//! A replica is *followed* once its engine's events are known without a gap. What it is then
//! expected to hold of a prompt is what the events say and what is on its way to it. Each answer that
//! says how much it found puts that to the test: a replica whose answers keep finding something else
//! (its events are late, or speak of other tokens than the router's) is no longer believed, until they
//! agree again.

use rustc_hash::FxHashMap;
use types::{
    block::BlockHash,
    quantity::{Blocks, Tokens},
    replica::ReplicaId,
    request::Request,
};

use crate::{
    coming::Coming,
    config::PrefixConfig,
    held_index::{Depths, HeldIndex},
    prefix_index::Slot,
};

/// Weight of the newest answer in the share of answers that disagree.
const NEWEST: f32 = 1.0 / 16.0;
/// Share of disagreeing answers above which a replica is no longer believed.
const DISTRUST_ABOVE: f32 = 0.5;
/// Share below which it is believed again.
const TRUST_BELOW: f32 = 0.2;

/// The caches of the replicas that are followed.
#[derive(Debug)]
pub(super) struct Caches {
    block: Tokens,
    held: HeldIndex,
    depths: Depths,
    coming: Coming,
    followed: FxHashMap<ReplicaId, Followed>,
    /// Tokens that caches have room for.
    sizes: FxHashMap<ReplicaId, Tokens>,
}

/// A replica whose engine tells.
#[derive(Clone, Copy, Debug)]
struct Followed {
    slot: Slot,
    /// Share of its answers, the newest counting most, that found something else than expected.
    disagreement: f32,
    is_believed: bool,
}

/// What a request keeps with the replica it was placed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reserved {
    /// Tokens of its prompt that were to be found there, whether or not that was believed.
    expected: Tokens,
    /// The blocks that are noted as on their way: from the first number to the second.
    coming: (usize, usize),
}

/// How far a replica's word on its cache is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheMode {
    /// It says nothing, or what it says has gaps: what was sent to it is believed to be there.
    Approximate,
    /// Its events tell.
    Precise,
    /// Its events tell something else than its answers: as approximate.
    Disagreeing,
}

impl CacheMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Approximate, Self::Precise, Self::Disagreeing];

    /// The mode as metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Approximate => "approximate",
            Self::Precise => "precise",
            Self::Disagreeing => "disagreeing",
        }
    }
}

impl Caches {
    pub(super) fn new(config: &PrefixConfig) -> Self {
        Self {
            block: config.block,
            held: HeldIndex::new(config.held_bytes_max, config.replicas.get()),
            depths: Depths::default(),
            coming: Coming::default(),
            followed: FxHashMap::default(),
            sizes: FxHashMap::default(),
        }
    }

    /// Learns how many tokens a replica's cache has room for.
    pub(super) fn sized(&mut self, replica: ReplicaId, tokens: Tokens) {
        self.sizes.insert(replica, tokens);
    }

    /// How many tokens a replica's cache has room for, where that is known.
    pub(super) fn size(&self, replica: ReplicaId) -> Option<Tokens> {
        self.sizes.get(&replica).copied()
    }

    /// Forgets a replica that has left.
    pub(super) fn leave(&mut self, replica: ReplicaId) {
        self.unfollow(replica);
        self.sizes.remove(&replica);
    }

    /// Begins to follow a replica, of which nothing is known yet.
    pub(super) fn follow(&mut self, replica: ReplicaId) {
        self.unfollow(replica);
        if let Some(slot) = self.held.join() {
            let followed = Followed { slot, disagreement: 0.0, is_believed: true };
            self.followed.insert(replica, followed);
        }
    }

    /// Forgets what a replica's engine said.
    pub(super) fn unfollow(&mut self, replica: ReplicaId) {
        if let Some(followed) = self.followed.remove(&replica) {
            self.held.leave(followed.slot);
        }
    }

    /// A replica lost what it held, and is followed on.
    pub(super) fn lost(&mut self, replica: ReplicaId) {
        if self.followed.contains_key(&replica) {
            self.follow(replica);
        }
    }

    pub(super) fn stored(
        &mut self,
        replica: ReplicaId,
        parent: Option<BlockHash>,
        blocks: &[BlockHash],
    ) {
        if let Some(followed) = self.followed.get(&replica) {
            self.held.store(followed.slot, parent, blocks);
        }
    }

    pub(super) fn removed(&mut self, replica: ReplicaId, blocks: &[BlockHash]) {
        if let Some(followed) = self.followed.get(&replica) {
            blocks.iter().for_each(|it| self.held.remove(followed.slot, *it));
        }
    }

    /// Whether any replica is followed.
    pub(super) fn follows_any(&self) -> bool {
        !self.followed.is_empty()
    }

    /// Looks a prompt up, for [`Self::told`].
    pub(super) fn look_up(&mut self, blocks: &[BlockHash]) {
        if self.follows_any() {
            self.held.hits(blocks, &mut self.depths);
        }
    }

    /// What of the prompt that was looked up a replica will find, by its own word and what is on its
    /// way; `None` where it says nothing that is believed.
    pub(super) fn told(&self, replica: ReplicaId, request: &Request) -> Option<Tokens> {
        let followed = self.followed.get(&replica).filter(|it| it.is_believed)?;
        Some(self.findable(self.depth(replica, *followed, request), request))
    }

    /// Leading blocks of the prompt that a replica holds or that are on their way to it.
    fn depth(&self, replica: ReplicaId, followed: Followed, request: &Request) -> u32 {
        self.coming.extend(replica, &request.blocks, self.depths.of(followed.slot))
    }

    /// The tokens that an engine which holds `depth` blocks finds: it computes at least the last token,
    /// and so the block that it is in.
    fn findable(&self, depth: u32, request: &Request) -> Tokens {
        let most = request.prompt.saturating_sub(Tokens(1)).full_blocks(self.block);
        Blocks(depth).min(most).tokens(self.block)
    }

    /// Notes what the request that was looked up brings to the replica it is placed on.
    pub(super) fn placed(&mut self, replica: ReplicaId, request: &Request) -> Option<Reserved> {
        let depth = self.depth(replica, *self.followed.get(&replica)?, request);
        let expected = self.findable(depth, request);
        let from = (depth as usize).min(request.blocks.len());
        let noted = self.coming.note(replica, request.blocks.get(from..).unwrap_or_default());
        Some(Reserved { expected, coming: (from, from.saturating_add(noted)) })
    }

    /// Takes back what a request had noted.
    pub(super) fn gone(
        &mut self,
        replica: ReplicaId,
        request: &Request,
        reserved: Option<Reserved>,
    ) {
        let Some(Reserved { coming: (from, to), .. }) = reserved else { return };
        self.coming.forget(replica, request.blocks.get(from..to).unwrap_or_default());
    }

    /// Learns what an answer found in the cache.
    pub(super) fn found(&mut self, replica: ReplicaId, reserved: Option<Reserved>, found: Tokens) {
        let Some((followed, reserved)) = self.followed.get_mut(&replica).zip(reserved) else {
            return;
        };
        let disagrees = found.0.abs_diff(reserved.expected.0) > self.block.0;
        let newest = if disagrees { NEWEST } else { 0.0 };
        followed.disagreement = followed.disagreement.mul_add(1.0 - NEWEST, newest);
        if followed.disagreement > DISTRUST_ABOVE {
            followed.is_believed = false;
        } else if followed.disagreement < TRUST_BELOW {
            followed.is_believed = true;
        }
    }

    pub(super) fn mode(&self, replica: ReplicaId) -> CacheMode {
        match self.followed.get(&replica) {
            None => CacheMode::Approximate,
            Some(it) if it.is_believed => CacheMode::Precise,
            Some(_) => CacheMode::Disagreeing,
        }
    }

    /// Whether nothing is on its way to any replica.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.coming.is_empty()
    }

    pub(super) const fn held(&self) -> &HeldIndex {
        &self.held
    }
}
