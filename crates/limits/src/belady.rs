//! The hits of the best possible eviction: what is used again last goes first.
//!
//! The rule is Belady's (IBM Systems Journal 5, 1966), here free to keep nothing of what a request
//! leaves behind. Between two visits to a block that could find it, keeping it earns one hit and
//! takes one place for that whole time; a sequence of visits is a set of such intervals, and dropping
//! the one that ends last whenever too many overlap keeps the most of them. A parent is used again
//! no later than its children, and of equals the deeper block goes first: so whatever is found is a
//! leading run of its prompt, although the rule does not ask for it.
//!
//! The `N` replicas of a fleet hold at most `N·C` different blocks at any time, so with that capacity
//! no routing and no eviction finds more, as long as requests meet the caches in this order.

use std::collections::BinaryHeap;

use types::quantity::Blocks;

use crate::{
    hits::Hits,
    visits::{RunId, Visits},
};

/// When a run is found next: the request's number, then the run's depth.
type NextUse = (u32, u32);

/// What the cache holds of a run.
#[derive(Clone, Copy, Debug, Default)]
struct Kept {
    /// Leading blocks of it.
    blocks: u32,
    next: NextUse,
}

/// The cache, and in which order it gives blocks up.
#[derive(Debug, Default)]
struct Cache {
    kept: Vec<Kept>,
    held: u64,
    /// Everything held, latest next use on top; entries of what was used since lie beneath.
    by_next_use: BinaryHeap<(NextUse, RunId)>,
}

impl Visits {
    /// The hits under the best possible eviction from a cache of `capacity` blocks; O(n log n) in
    /// the runs of all requests.
    #[must_use]
    pub fn belady(&self, capacity: Blocks) -> Hits {
        let mut next_uses = self.next_uses().into_iter();
        let mut cache = Cache { kept: vec![Kept::default(); self.runs()], ..Cache::default() };
        let mut all = Vec::with_capacity(self.len());
        for path in self.paths() {
            let mut found = 0_u32;
            let runs = path.findable.iter().chain(path.rest);
            for ((depth, run), next) in (0_u32..).zip(runs).zip(&mut next_uses) {
                let blocks = cache.take(*run);
                debug_assert!(blocks == 0 || (depth as usize) < path.findable.len());
                found = found.saturating_add(blocks);
                if let Some(next) = next {
                    cache.keep(*run, Kept { blocks: self.length(*run), next: (next, depth) });
                    cache.shrink_to(u64::from(capacity.0));
                }
            }
            cache.forget_what_was_used();
            all.push(Blocks(found));
        }
        self.hits(all)
    }

    /// For each run of each request, the request that could find it next; none where the next one
    /// to visit it computes it in any case, and so leaves it behind anew. One that does not count is
    /// taken to compute it: what it finds is worth nothing.
    fn next_uses(&self) -> Vec<Option<u32>> {
        let mut next_of = vec![None; self.runs()];
        let mut all = Vec::new();
        for (at, path) in self.paths().enumerate().rev() {
            let finds = u32::try_from(at).ok().filter(|_| self.counts(at));
            let rest = path.rest.iter().rev().map(|run| (run, None));
            let findable = path.findable.iter().rev().map(|run| (run, finds));
            for (run, this) in rest.chain(findable) {
                if let Some(next) = next_of.get_mut(*run as usize) {
                    all.push(std::mem::replace(next, this));
                }
            }
        }
        all.reverse();
        all
    }
}

impl Cache {
    /// Takes out what is held of `run`, and says how many blocks that is.
    fn take(&mut self, run: RunId) -> u32 {
        let blocks = self.kept.get_mut(run as usize).map_or(0, |kept| std::mem::take(kept).blocks);
        self.held = self.held.saturating_sub(u64::from(blocks));
        blocks
    }

    fn keep(&mut self, run: RunId, new: Kept) {
        if let Some(kept) = self.kept.get_mut(run as usize) {
            *kept = new;
            self.held = self.held.saturating_add(u64::from(new.blocks));
            self.by_next_use.push((new.next, run));
        }
    }

    /// Gives up blocks until `capacity` are left, the last of a run first.
    fn shrink_to(&mut self, capacity: u64) {
        while self.held > capacity {
            let Some((next, run)) = self.by_next_use.pop() else { return };
            let Some(kept) = self.kept.get_mut(run as usize) else { continue };
            if kept.blocks == 0 || kept.next != next {
                continue;
            }
            let excess = self.held.saturating_sub(capacity);
            let cut = kept.blocks.min(u32::try_from(excess).unwrap_or(u32::MAX));
            kept.blocks = kept.blocks.saturating_sub(cut);
            self.held = self.held.saturating_sub(u64::from(cut));
            if kept.blocks > 0 {
                self.by_next_use.push((next, run));
            }
        }
    }

    /// Drops entries of what was used since, as soon as they are the larger part.
    fn forget_what_was_used(&mut self) {
        if self.by_next_use.len() > self.kept.len().saturating_mul(2) {
            let kept = &self.kept;
            self.by_next_use.retain(|(next, run)| {
                kept.get(*run as usize).is_some_and(|it| it.blocks > 0 && it.next == *next)
            });
        }
    }
}
