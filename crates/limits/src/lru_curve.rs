//! The hits of a least-recently-used cache of every size, in one pass.
//!
//! Mattson, Gecsei, Slutz and Traiger (IBM Systems Journal 9, 1970): an LRU cache of `K` blocks holds
//! the `K` blocks on top of one stack that is the same for every `K`, so a block at depth `d` is found
//! by all caches of at least `d` blocks and by no other.
//!
//! Engines give a sequence's blocks back last one first, so each block lies below its parent, and
//! what is found is a leading run of the prompt at every size. A prompt of more blocks than the cache
//! has keeps its leading ones (an engine would refuse such a prompt). Blocks that are in use cannot be
//! evicted; visits one after another do not show that.

use types::quantity::Blocks;

use crate::{
    fenwick::Fenwick,
    hits::share,
    visits::{RunId, Visits},
};

/// Hits of a least-recently-used cache as a function of its size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LruCurve {
    /// Where the slope changes, sizes ascending; between two of them the hits grow linearly.
    points: Vec<Point>,
    block_tokens: u64,
    prompt_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Point {
    /// Size of the cache, in blocks.
    size: u64,
    /// Blocks that all requests find in a cache of that size.
    hits: u64,
    /// Hits that each further block adds, up to the next point.
    slope: u64,
}

impl LruCurve {
    /// Blocks that all requests that count find in a cache of `size`.
    #[must_use]
    pub fn hit_blocks(&self, size: Blocks) -> u64 {
        let size = u64::from(size.0);
        let after = self.points.partition_point(|point| point.size <= size);
        let point = after.checked_sub(1).and_then(|at| self.points.get(at));
        point.map_or(0, |it| {
            it.hits.saturating_add(it.slope.saturating_mul(size.saturating_sub(it.size)))
        })
    }

    /// Share of the prompt tokens of requests that count which is found in a cache of `size`; 0 without any tokens.
    #[must_use]
    pub fn hit_rate(&self, size: Blocks) -> f64 {
        share(self.hit_blocks(size).saturating_mul(self.block_tokens), self.prompt_tokens)
    }

    /// The size from which on a larger cache finds nothing more.
    #[must_use]
    pub fn enough(&self) -> Blocks {
        let size = self.points.last().map_or(0, |point| point.size);
        Blocks(u32::try_from(size).unwrap_or(u32::MAX))
    }
}

impl Visits {
    /// The hits of a least-recently-used cache of every size; O(n log n) in the runs of all
    /// requests.
    #[must_use]
    pub fn lru_curve(&self) -> LruCurve {
        let mut stack = Stack::new(self);
        // At depth `d + 1` one more block is found, and `length` blocks further no more are.
        let mut bends: Vec<(u64, i64)> = Vec::new();
        for (at, path) in self.paths().enumerate() {
            for run in path.findable.iter().filter(|_| self.counts(at)) {
                let Some(above) = stack.above(*run) else { break };
                bends.push((above, 1));
                bends.push((above.saturating_add(u64::from(self.length(*run))), -1));
            }
            // The last goes first, so that each lies below its parent.
            for run in path.rest.iter().rev().chain(path.findable.iter().rev()) {
                stack.touch(*run);
            }
            if bends.len() >= stack.bends_max {
                bends = merged(bends);
                stack.bends_max = bends.len().saturating_mul(2).max(BENDS_MIN);
            }
        }
        let block_tokens = u64::from(self.block.0);
        LruCurve {
            points: points(&merged(bends)),
            block_tokens,
            prompt_tokens: self.prompt_tokens(),
        }
    }
}

/// Changes of the slope that are kept before those at one size are merged.
const BENDS_MIN: usize = 1 << 20;

/// Sorts by size and adds up what changes at one size.
fn merged(mut bends: Vec<(u64, i64)>) -> Vec<(u64, i64)> {
    bends.sort_unstable();
    bends.dedup_by(|next, kept| {
        let is_same = next.0 == kept.0;
        if is_same {
            kept.1 = kept.1.saturating_add(next.1);
        }
        is_same
    });
    bends.retain(|bend| bend.1 != 0);
    bends
}

fn points(bends: &[(u64, i64)]) -> Vec<Point> {
    let mut last = Point::default();
    let mut points = Vec::with_capacity(bends.len());
    for (size, change) in bends {
        let grown = last.slope.saturating_mul(size.saturating_sub(last.size));
        let hits = last.hits.saturating_add(grown);
        last = Point { size: *size, hits, slope: last.slope.saturating_add_signed(*change) };
        points.push(last);
    }
    points
}

/// The stack of all blocks seen, most recently used on top, as runs.
#[derive(Debug)]
struct Stack<'a> {
    visits: &'a Visits,
    /// Blocks by the time of their last use; later places are nearer to the top.
    blocks: Fenwick,
    /// Which run was used last at each place, where it still lies there.
    runs: Vec<Option<RunId>>,
    /// Where each run lies.
    places: Vec<Option<usize>>,
    depth: u64,
    bends_max: usize,
}

impl<'a> Stack<'a> {
    fn new(visits: &'a Visits) -> Self {
        let room = visits.runs().saturating_mul(2).saturating_add(64);
        Self {
            visits,
            blocks: Fenwick::new(room),
            runs: Vec::with_capacity(room),
            places: vec![None; visits.runs()],
            depth: 0,
            bends_max: BENDS_MIN,
        }
    }

    fn place(&self, run: RunId) -> Option<usize> {
        self.places.get(run as usize).copied().flatten()
    }

    /// How many blocks lie above `run`; none where it was never used.
    fn above(&self, run: RunId) -> Option<u64> {
        let after = self.place(run)?.saturating_add(1);
        Some(self.depth.saturating_sub(self.blocks.sum_before(after)))
    }

    /// Puts `run` on top.
    fn touch(&mut self, run: RunId) {
        let length = u64::from(self.visits.length(run));
        if let Some(place) = self.place(run) {
            self.blocks.subtract(place, length);
            self.depth = self.depth.saturating_sub(length);
            if let Some(slot) = self.runs.get_mut(place) {
                *slot = None;
            }
        }
        if self.runs.len() >= self.blocks.len() {
            self.close_gaps();
        }
        self.put(run, length);
    }

    fn put(&mut self, run: RunId, length: u64) {
        let place = self.runs.len();
        self.blocks.add(place, length);
        self.depth = self.depth.saturating_add(length);
        self.runs.push(Some(run));
        if let Some(slot) = self.places.get_mut(run as usize) {
            *slot = Some(place);
        }
    }

    /// Numbers the places anew, without those that nothing lies at any more.
    fn close_gaps(&mut self) {
        let runs = std::mem::take(&mut self.runs);
        self.blocks = Fenwick::new(self.blocks.len());
        self.depth = 0;
        for run in runs.into_iter().flatten() {
            self.put(run, u64::from(self.visits.length(run)));
        }
    }
}
