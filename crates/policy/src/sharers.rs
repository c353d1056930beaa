//! Requests on their way whose prompts begin alike.
//!
//! Who computes a beginning on a replica that lacks it does so for all who share it and come there
//! next. As long as the work counted as the first one's alone, a quiet fleet would never copy a popular
//! beginning, and all of its requests would crowd where it is. How many share one is told by those on
//! their way now, at some depths: 1, 2, 3, 4, 6, 8, 12, 16, … blocks, so that a prompt takes few
//! entries however long it is.

mod tally;

use smallvec::SmallVec;
use types::{
    block::BlockHash,
    quantity::{Blocks, Tokens},
    request::Request,
};

use self::tally::Tally;
use crate::strategy::Candidate;

/// Uses of a copy that may be chance: a beginning that a few share now may be shared by nobody tomorrow,
/// and its copy has pushed out what others come back for.
const FEW: f64 = 2.0;

/// Counts requests on their way by what their prompts begin with.
#[derive(Debug, Default)]
pub(crate) struct Sharers {
    counts: Tally,
}

/// A depth in a prompt.
#[derive(Clone, Copy, Debug)]
struct Level {
    depth: Tokens,
    /// Requests on their way that share the prompt so far.
    sharers: f64,
    /// Replicas that hold it so far.
    copies: u32,
}

type Levels = SmallVec<[Level; 16]>;

/// By what the shares of one request are told.
#[derive(Debug)]
pub(crate) struct Shares {
    levels: Levels,
    prompt: Tokens,
    /// The last that was asked for, and its share.
    last: (Tokens, f64),
}

impl Shares {
    /// The share of its prefill that is the request's own on a replica that holds `cached` of its prompt.
    pub(crate) fn own(&mut self, cached: Tokens) -> f64 {
        if cached != self.last.0 {
            self.last = (cached, own(&self.levels, cached, self.prompt));
        }
        self.last.1
    }
}

impl Sharers {
    /// Counts a request that was placed.
    pub(crate) fn come(&mut self, blocks: &[BlockHash]) {
        counted(blocks).for_each(|(_, block)| self.counts.add(block));
    }

    /// Takes back what was counted of a request that leaves.
    pub(crate) fn leave(&mut self, blocks: &[BlockHash]) {
        counted(blocks).for_each(|(_, block)| self.counts.take(block));
    }

    /// Whether anybody on its way shares the beginning of `request`'s prompt.
    pub(crate) fn shares(&self, request: &Request) -> bool {
        request.blocks.first().is_some_and(|it| self.counts.get(*it) > 0)
    }

    /// Says of each candidate which share of the prefill that `request` would do there is its own.
    pub(crate) fn weigh(&self, request: &Request, block: Tokens, candidates: &mut [Candidate]) {
        let cached = candidates.iter().map(|it| it.cached);
        let Some(mut shares) = self.among(request, block, cached) else { return };
        for candidate in candidates {
            candidate.own = shares.own(candidate.cached);
        }
    }

    /// What shares are told by where candidates hold so much of the prompt as `cached` says of each; nothing where
    /// all prefill is the request's own.
    ///
    /// Of `k` requests that share a beginning which `c` replicas hold, each replica of `c + 1` would
    /// serve `k/(c + 1)`: so many more use a copy that is made, but for a few who may be there by chance.
    pub(crate) fn among(
        &self,
        request: &Request,
        block: Tokens,
        cached: impl Iterator<Item = Tokens> + Clone,
    ) -> Option<Shares> {
        let most = cached.clone().max().unwrap_or_default();
        if cached.clone().all(|it| it == most) {
            return None;
        }
        let mut levels = self.levels(&request.blocks, block, most);
        if levels.is_empty() {
            return None;
        }
        for cached in cached {
            let held = levels.partition_point(|it| it.depth <= cached);
            if let Some(deepest) = held.checked_sub(1).and_then(|at| levels.get_mut(at)) {
                deepest.copies = deepest.copies.saturating_add(1);
            }
        }
        // Who holds more holds less as well.
        let mut deeper = 0_u32;
        for level in levels.iter_mut().rev() {
            deeper = deeper.saturating_add(level.copies);
            level.copies = deeper;
        }
        Some(Shares { levels, prompt: request.prompt, last: (most, 1.0) })
    }

    /// The depths of a prompt up to `most` that others on their way share.
    fn levels(&self, blocks: &[BlockHash], block: Tokens, most: Tokens) -> Levels {
        let level = |(depth, hash): (u32, BlockHash)| {
            let depth = Blocks(depth).tokens(block);
            let sharers = self.counts.get(hash);
            let is_one = depth <= most && sharers > 0;
            is_one.then(|| Level { depth, sharers: f64::from(sharers), copies: 0 })
        };
        counted(blocks).map_while(level).collect()
    }
}

/// The share of what lacks beyond `cached` of a prompt that is a request's own.
fn own(levels: &Levels, cached: Tokens, prompt: Tokens) -> f64 {
    let lacking = f64::from(prompt.saturating_sub(cached).0);
    if lacking <= 0.0 {
        return 1.0;
    }
    let (mut at, mut shared) = (cached, 0.0);
    for level in levels.iter().filter(|it| cached < it.depth) {
        let uses = level.sharers / f64::from(level.copies.saturating_add(1)) - FEW;
        let uses = uses.max(0.0);
        shared += f64::from(level.depth.saturating_sub(at).0) * uses / (1.0 + uses);
        at = level.depth;
    }
    1.0 - shared / lacking
}

/// The blocks by which requests are counted, with their depths.
fn counted(blocks: &[BlockHash]) -> impl Iterator<Item = (u32, BlockHash)> {
    let next = |depth: &u32| {
        let step = if depth.is_power_of_two() { depth / 2 } else { depth / 3 };
        depth.checked_add(step.max(1))
    };
    let depths = std::iter::successors(Some(1_u32), next);
    depths.map_while(|depth| {
        let at = usize::try_from(depth.checked_sub(1)?).ok()?;
        blocks.get(at).map(|it| (depth, *it))
    })
}

#[cfg(test)]
mod tests {
    use types::request::{ModelId, RequestId};

    use super::*;
    use crate::strategy::testing::candidate;

    fn blocks(of: u64) -> Vec<BlockHash> {
        // Eight that all share, eight of their own.
        (0..16).map(|it| BlockHash(if it < 8 { it } else { 100 * of + it })).collect()
    }

    fn shares(sharers: &Sharers, cached: [u32; 3]) -> [f64; 3] {
        let prompt = Tokens(16 * 64 + 10);
        let request = Request::new(RequestId(9), ModelId(1), prompt, blocks(9).into());
        let mut all = [0, 1, 2].map(|it| candidate(it, 0, cached[it as usize]));
        sharers.weigh(&request, Tokens(64), &mut all);
        all.map(|it| it.own)
    }

    fn all_is_own(shares: [f64; 3]) -> bool {
        shares.iter().all(|it| (it - 1.0).abs() < 1e-9)
    }

    #[test]
    fn a_beginning_that_many_share_is_work_for_all_of_them() {
        let mut sharers = Sharers::default();
        assert!(all_is_own(shares(&sharers, [512, 0, 0])));
        (1..=8).for_each(|it| sharers.come(&blocks(it)));
        let [holder, one, other] = shares(&sharers, [512, 0, 0]);
        assert!((holder - 1.0).abs() < 1e-9);
        // Half of the prompt is shared by eight, whom two copies would serve: four uses each, of which two are chance.
        let expected = 1.0 - 512.0 * (2.0 / 3.0) / 1_034.0;
        assert!((one - expected).abs() < 1e-9 && (one - other).abs() < 1e-9, "{one} {expected}");
        let [.., third] = shares(&sharers, [512, 512, 0]);
        assert!(one < third && third < 1.0, "{third}");
        (1..=6).for_each(|it| sharers.leave(&blocks(it)));
        assert!(all_is_own(shares(&sharers, [512, 0, 0])), "two may be chance");
        (1..=6).for_each(|it| sharers.come(&blocks(it)));
        (1..=8).for_each(|it| sharers.leave(&blocks(it)));
        assert!(all_is_own(shares(&sharers, [512, 0, 0])));
        assert!(sharers.counts.is_empty());
    }

    #[test]
    fn what_nobody_or_everybody_holds_is_nothing_to_weigh() {
        let mut sharers = Sharers::default();
        (1..=8).for_each(|it| sharers.come(&blocks(it)));
        assert!(all_is_own(shares(&sharers, [0, 0, 0])));
        assert!(all_is_own(shares(&sharers, [512, 512, 512])));
    }

    #[test]
    fn a_prompt_is_counted_at_few_depths() {
        let depths: Vec<u32> = counted(&blocks(1)).map(|it| it.0).collect();
        assert_eq!(depths, [1, 2, 3, 4, 6, 8, 12, 16]);
    }
}
