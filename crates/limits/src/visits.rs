//! Requests in the order in which they meet the cache, reduced to what decides about hits.
//!
//! Names are chained, so a name stands for its whole prefix, and the prompts of a trace form a tree.
//! Where no prompt branches off or ends, neighbouring blocks are always visited together; such a
//! *run* is kept as one unit with a length. Prompts are hundreds of blocks and a handful of runs,
//! which is why the limits of a million requests take seconds.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use types::{
    block::BlockHash,
    quantity::{Blocks, Tokens},
};

/// What one request looks up in the cache, and leaves there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Chained hashes of all full blocks that the cache has afterwards: the prompt's, first block
    /// first, and behind them those that the answer fills, where they are known.
    pub blocks: Arc<[BlockHash]>,
    /// Length of the prompt.
    pub prompt: Tokens,
}

impl Visit {
    /// The most blocks that can be found: ⌊(L − 1) / block⌋ of a prompt of `L` tokens, because
    /// engines compute the last token in any case.
    #[must_use]
    pub fn findable(&self, block: Tokens) -> usize {
        let findable = self.prompt.saturating_sub(Tokens(1)).full_blocks(block);
        self.blocks.len().min(findable.0 as usize)
    }
}

/// Number of a run.
pub(crate) type RunId = u32;

/// The visits of a whole run of a fleet, in order.
///
/// The order is the limit's premise: visits follow one another, and each finds what all before it
/// left. A scheduler that reorders requests has other limits.
#[derive(Debug)]
pub struct Visits {
    pub(crate) block: Tokens,
    /// Blocks in each run.
    lengths: Vec<u32>,
    /// The runs of all requests, one request after another.
    paths: Vec<RunId>,
    requests: Vec<Request>,
    /// The first request that counts.
    counted_from: usize,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    /// Where its runs end in `paths`.
    end: usize,
    /// Leading runs that can be found.
    findable: usize,
    prompt: Tokens,
}

/// One visit, as runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    /// Runs that can be found, first one first.
    pub(crate) findable: &'a [RunId],
    /// Runs that are computed in any case.
    pub(crate) rest: &'a [RunId],
}

/// How often a block is visited, and how often it could be found. Along a prompt both only fall,
/// and neighbours of equal counts are visited by the same requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    visited: u32,
    findable: u32,
}

impl Visits {
    /// Reads `visits`, whose blocks hold `block` tokens each. Takes time in proportion to their
    /// blocks and memory to their distinct blocks.
    #[must_use]
    pub fn new(block: Tokens, visits: &[Visit]) -> Self {
        let mut counts: FxHashMap<BlockHash, Counts> = FxHashMap::default();
        for visit in visits {
            let findable = visit.findable(block);
            for (depth, name) in visit.blocks.iter().enumerate() {
                let count = counts.entry(*name).or_default();
                count.visited = count.visited.saturating_add(1);
                count.findable = count.findable.saturating_add(u32::from(depth < findable));
            }
        }
        let mut runs: FxHashMap<BlockHash, RunId> = FxHashMap::default();
        let (lengths, paths) = (Vec::new(), Vec::new());
        let requests = Vec::with_capacity(visits.len());
        let mut all = Self { block, lengths, paths, requests, counted_from: 0 };
        for visit in visits {
            all.push(visit, &counts, &mut runs);
        }
        all
    }

    fn push(
        &mut self,
        visit: &Visit,
        counts: &FxHashMap<BlockHash, Counts>,
        runs: &mut FxHashMap<BlockHash, RunId>,
    ) {
        let findable_blocks = visit.findable(self.block);
        let (mut depth, mut findable) = (0_usize, 0_usize);
        while let Some(names) = visit.blocks.get(depth..).filter(|names| !names.is_empty()) {
            let Some(head) = names.first() else { break };
            let next = u32::try_from(self.lengths.len()).unwrap_or(u32::MAX);
            let run = *runs.entry(*head).or_insert(next);
            if run == next {
                let of_head = counts.get(head);
                let alike = names.iter().take_while(|name| counts.get(name) == of_head).count();
                self.lengths.push(u32::try_from(alike).unwrap_or(u32::MAX));
            }
            self.paths.push(run);
            findable = findable.saturating_add(usize::from(depth < findable_blocks));
            depth = depth.saturating_add(self.length(run).max(1) as usize);
        }
        self.requests.push(Request { end: self.paths.len(), findable, prompt: visit.prompt });
    }

    /// Leaves the requests before the one at `first` out of all figures: they fill the cache, and
    /// what they find themselves is a warm-up.
    #[must_use]
    pub const fn counted_from(mut self, first: usize) -> Self {
        self.counted_from = first;
        self
    }

    /// Whether the request at `at` counts.
    pub(crate) const fn counts(&self, at: usize) -> bool {
        at >= self.counted_from
    }

    /// How many requests there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is no request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// How many different blocks the requests leave behind.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.lengths.iter().map(|length| u64::from(*length)).sum()
    }

    pub(crate) const fn runs(&self) -> usize {
        self.lengths.len()
    }

    pub(crate) fn length(&self, run: RunId) -> u32 {
        self.lengths.get(run as usize).copied().unwrap_or(0)
    }

    /// The visits as runs, in order.
    pub(crate) fn paths(&self) -> impl DoubleEndedIterator<Item = Path<'_>> + ExactSizeIterator {
        (0..self.requests.len()).map(|at| self.path(at))
    }

    fn path(&self, at: usize) -> Path<'_> {
        let end_of = |at: usize| self.requests.get(at).map_or(0, |request| request.end);
        let start = at.checked_sub(1).map_or(0, end_of);
        let runs = self.paths.get(start..end_of(at)).unwrap_or_default();
        let findable = self.requests.get(at).map_or(0, |request| request.findable);
        let (findable, rest) = runs.split_at(findable.min(runs.len()));
        Path { findable, rest }
    }

    /// Prompt tokens of all requests that count.
    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.requests
            .iter()
            .skip(self.counted_from)
            .map(|request| u64::from(request.prompt.0))
            .sum()
    }

    /// Makes the hits of all requests from the blocks that each found.
    pub(crate) fn hits(&self, blocks: Vec<Blocks>) -> crate::hits::Hits {
        let (block, counted_from) = (self.block, self.counted_from);
        crate::hits::Hits { blocks, block, counted_from, prompt_tokens: self.prompt_tokens() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Tokens = Tokens(4);

    fn visit(names: &[u64], prompt: u32) -> Visit {
        Visit { blocks: names.iter().copied().map(BlockHash).collect(), prompt: Tokens(prompt) }
    }

    fn lengths(visits: &Visits, at: usize) -> (Vec<u32>, Vec<u32>) {
        let path = visits.path(at);
        let of = |runs: &[RunId]| runs.iter().map(|run| visits.length(*run)).collect();
        (of(path.findable), of(path.rest))
    }

    #[test]
    fn the_last_token_is_never_found() {
        assert_eq!(visit(&[1, 2], 8).findable(BLOCK), 1);
        assert_eq!(visit(&[1, 2], 9).findable(BLOCK), 2);
        assert_eq!(visit(&[1, 2, 3], 9).findable(BLOCK), 2);
        assert_eq!(visit(&[1], 100).findable(BLOCK), 1);
        assert_eq!(visit(&[], 0).findable(BLOCK), 0);
        assert_eq!(visit(&[1], 9).findable(Tokens(0)), 0);
    }

    #[test]
    fn what_is_always_visited_together_is_one_run() {
        let visits = [visit(&[1, 2, 3, 4], 17), visit(&[1, 2, 5], 13), visit(&[1, 2, 3, 4], 17)];
        let visits = Visits::new(BLOCK, &visits);
        assert_eq!((visits.runs(), visits.distinct(), visits.len()), (3, 5, 3));
        assert_eq!(lengths(&visits, 0), (vec![2, 2], vec![]));
        assert_eq!(lengths(&visits, 1), (vec![2, 1], vec![]));
    }

    #[test]
    fn a_run_ends_where_some_request_can_find_no_further() {
        let visits = Visits::new(BLOCK, &[visit(&[1, 2, 3], 13), visit(&[1, 2, 3], 12)]);
        assert_eq!(lengths(&visits, 0), (vec![2, 1], vec![]));
        assert_eq!(lengths(&visits, 1), (vec![2], vec![1]));
    }

    #[test]
    fn names_that_are_not_chained_end_in_nonsense_and_not_in_a_panic() {
        let visits = [visit(&[1, 2, 1, 3], 17), visit(&[2, 1], 9), visit(&[3, 3, 3], 13)];
        assert_eq!(Visits::new(BLOCK, &visits).len(), 3);
    }
}
