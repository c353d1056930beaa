//! Where blocks are kept: short *runs* of consecutive blocks, found by the first of them.
//!
//! Prompts share beginnings and differ in what follows, so that blocks come, are used and go in rows.
//! What is known of blocks (who holds them, when they were used, what to evict next) is known of a
//! run; only its hashes are kept for each block. A run continues in whichever runs begin with what
//! may follow, at its end or in its middle: no run names another.
//!
//! All memory is claimed at once, and nothing here grows.

use types::block::BlockHash;

use super::table::Table;

/// Blocks of a run at most: as many as fill a cache line.
pub(super) const RUN: usize = 8;

/// Parts, among which tenants are spread by their hashes.
const PARTS: usize = 256;

/// Runs that are looked for at once, at most.
const AHEAD: usize = 8;

const NIL: u32 = u32::MAX;

/// Every run, by number.
#[derive(Debug, Default)]
pub(super) struct Runs {
    capacity: usize,
    blocks: usize,
    hashes: Vec<Hashes>,
    metas: Vec<Meta>,
    /// `words` words of holders for each run.
    holders: Vec<u64>,
    words: usize,
    table: Table,
    parts: Vec<Part>,
    /// The part that gives room.
    fullest: u8,
}

/// The blocks of a run, in one cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Hashes([BlockHash; RUN]);

/// What is known of a run besides its blocks and their holders.
#[derive(Clone, Copy, Debug)]
struct Meta {
    newer: u32,
    older: u32,
    /// When it was last used, in chains filed before.
    stamp: u32,
    len: u8,
    part: u8,
}

/// The runs of some tenants, in the order of use.
#[derive(Clone, Copy, Debug)]
struct Part {
    newest: u32,
    oldest: u32,
    runs: usize,
}

/// A chain that is being filed: what its new runs have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filing {
    pub(super) stamp: u32,
    pub(super) part: u8,
    /// Runs of the chain, which are the newest of their part and must not give room to each other.
    pub(super) own: usize,
}

impl Runs {
    /// Room for as many runs as `bytes_max` allows where sets of holders have `words` words.
    pub(super) fn new(bytes_max: usize, words: usize) -> Self {
        let capacity = (bytes_max / Self::run_bytes(words)).min(NIL as usize - 1);
        Self {
            capacity,
            blocks: 0,
            hashes: Vec::with_capacity(capacity),
            metas: Vec::with_capacity(capacity),
            holders: Vec::with_capacity(capacity.saturating_mul(words)),
            words,
            table: Table::with_capacity(capacity),
            parts: vec![Part { newest: NIL, oldest: NIL, runs: 0 }; PARTS],
            fullest: 0,
        }
    }

    /// Memory of one run, in bytes.
    pub(super) const fn run_bytes(words: usize) -> usize {
        size_of::<Hashes>() + size_of::<Meta>() + words * size_of::<u64>() + Table::BYTES_PER_ENTRY
    }

    /// Memory claimed, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.hashes.capacity() * size_of::<Hashes>()
            + self.metas.capacity() * size_of::<Meta>()
            + self.holders.capacity() * size_of::<u64>()
            + self.table.bytes()
    }

    /// Runs kept.
    pub(super) fn len(&self) -> usize {
        self.metas.len()
    }

    /// Blocks kept.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks
    }

    /// Runs there is room for.
    pub(super) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Names the runs along a chain, each with how many of its blocks are the chain's.
    ///
    /// A look-up waits for memory twice, and look-ups that don't depend on each other wait together. Where
    /// runs are full it is known where the next ones begin, so they are looked for at once: the more of
    /// them, the more were full before.
    pub(super) fn along(&self, chain: &[BlockHash], mut each: impl FnMut(u32, usize)) {
        let (mut rest, mut ahead) = (chain, AHEAD / 2);
        while !rest.is_empty() {
            let mut runs = [None; AHEAD];
            for (run, piece) in runs.iter_mut().zip(rest.chunks(RUN)).take(ahead) {
                *run = piece.first().and_then(|it| self.find(*it));
            }
            let mut is_full = true;
            for run in runs.into_iter().take(ahead) {
                let Some(run) = run else { return };
                let shared = shared(self.blocks_of(run), rest);
                each(run, shared);
                rest = rest.get(shared..).unwrap_or_default();
                is_full = shared == RUN;
                if !is_full {
                    break;
                }
            }
            ahead = if is_full { AHEAD } else { 1 };
        }
    }

    fn find(&self, hash: BlockHash) -> Option<u32> {
        self.table.find(hash, |it| first_of(&self.hashes, it) == hash)
    }

    pub(super) fn blocks_of(&self, run: u32) -> &[BlockHash] {
        let blocks = self.hashes.get(run as usize).zip(self.metas.get(run as usize));
        blocks.and_then(|(hashes, meta)| hashes.0.get(..meta.len.into())).unwrap_or_default()
    }

    /// Who is marked as a holder, as words of a set.
    pub(super) fn holders(&self, run: u32) -> &[u64] {
        let at = run as usize * self.words;
        self.holders.get(at..at + self.words).unwrap_or_default()
    }

    pub(super) fn holders_mut(&mut self, run: u32) -> &mut [u64] {
        let at = run as usize * self.words;
        self.holders.get_mut(at..at + self.words).unwrap_or_default()
    }

    /// The holders of the runs from number `from` up to `to`, one run's after the other's.
    pub(super) fn holders_of(&mut self, from: usize, to: usize) -> &mut [u64] {
        self.holders.get_mut(from * self.words..to * self.words).unwrap_or_default()
    }

    pub(super) fn stamp(&self, run: u32) -> u32 {
        self.metas.get(run as usize).map_or(0, |it| it.stamp)
    }

    pub(super) fn part(&self, run: u32) -> Option<u8> {
        self.metas.get(run as usize).map(|it| it.part)
    }

    /// Looks anew which part has the most runs.
    pub(super) fn find_fullest(&mut self) {
        let fullest = self.parts.iter().zip(0..=u8::MAX).max_by_key(|it| it.0.runs);
        self.fullest = fullest.map_or(0, |it| it.1);
    }

    /// Makes a run the newest of its part; returns when it was last used before.
    pub(super) fn touch(&mut self, run: u32, stamp: u32) -> u32 {
        let Some(meta) = self.metas.get_mut(run as usize) else { return 0 };
        let (newer, older) = (meta.newer, meta.older);
        let used = std::mem::replace(&mut meta.stamp, stamp);
        let part = self.parts.get_mut(usize::from(meta.part)).filter(|_| newer != NIL);
        let Some(part) = part else { return used };
        let newest = std::mem::replace(&mut part.newest, run);
        if older == NIL {
            part.oldest = newer;
        }
        (meta.newer, meta.older) = (NIL, newest);
        if let Some(meta) = self.metas.get_mut(newer as usize) {
            meta.older = older;
        }
        if let Some(meta) = self.metas.get_mut(older as usize) {
            meta.newer = newer;
        }
        if let Some(meta) = self.metas.get_mut(newest as usize) {
            meta.newer = run;
        }
        used
    }

    /// Adds blocks to the end of a run as far as it has room; returns how many.
    pub(super) fn append(&mut self, run: u32, blocks: &[BlockHash]) -> usize {
        let it = self.hashes.get_mut(run as usize).zip(self.metas.get_mut(run as usize));
        let Some((hashes, meta)) = it else { return 0 };
        let room = hashes.0.get_mut(meta.len.into()..).unwrap_or_default();
        let added = room.len().min(blocks.len());
        room.iter_mut().zip(blocks).for_each(|(place, block)| *place = *block);
        meta.len = meta.len.saturating_add(u8::try_from(added).unwrap_or(u8::MAX));
        self.blocks = self.blocks.saturating_add(added);
        added
    }

    /// Looks at the memory that adding the runs of `blocks` will need, of those that give room as well.
    ///
    /// One run after the other would wait for it each time; what is looked at here depends on nothing, so that all of it
    /// comes at once.
    pub(super) fn foresee(&self, blocks: &[BlockHash]) {
        let fullest = self.parts.get(usize::from(self.fullest));
        let mut stalest = fullest.filter(|_| self.capacity <= self.metas.len()).map(|it| it.oldest);
        let mut seen = 0;
        for first in blocks.chunks(RUN).filter_map(<[_]>::first) {
            seen ^= self.table.first(*first);
            if let Some(run) = stalest {
                seen ^= self.table.first(first_of(&self.hashes, run));
                stalest = self.metas.get(run as usize).map(|it| it.newer);
            }
        }
        // Nobody wants to know, and it must not be left out for that.
        std::hint::black_box(seen);
    }

    /// Adds a run of at most [`RUN`] blocks that nobody holds, older than `newer` and newer than all
    /// others; none where the rest of the chain fills the index.
    pub(super) fn add(
        &mut self,
        filing: &mut Filing,
        newer: Option<u32>,
        blocks: &[BlockHash],
    ) -> Option<u32> {
        let &hash = blocks.first()?;
        let run = if self.metas.len() < self.capacity {
            let run = u32::try_from(self.metas.len()).ok()?;
            self.hashes.push(Hashes([BlockHash(0); RUN]));
            self.holders.extend(std::iter::repeat_n(0, self.words));
            self.metas.push(Meta { newer: NIL, older: NIL, stamp: 0, len: 0, part: 0 });
            run
        } else {
            let run = self.victim(filing)?;
            self.evict(run);
            run
        };
        let meta = self.metas.get_mut(run as usize)?;
        (meta.stamp, meta.len, meta.part) = (filing.stamp, 0, filing.part);
        self.append(run, blocks);
        self.table.insert(hash, run);
        self.link(run, newer.unwrap_or(NIL));
        filing.own = filing.own.saturating_add(1);
        Some(run)
    }

    /// Cuts a run of the chain so that it ends after `len` blocks; its rest becomes another run with
    /// the same holders, last used when `filing` says. Returns whether it ends there now.
    pub(super) fn cut(&mut self, filing: &mut Filing, run: u32, len: usize) -> bool {
        let Some(hashes) = self.hashes.get(run as usize).copied() else { return false };
        let whole = self.blocks_of(run).len();
        let Some(rest) = hashes.0.get(len..whole) else { return false };
        if rest.is_empty() {
            return true;
        }
        let Some(cut) = self.add(filing, Some(run), rest) else { return false };
        for word in 0..self.words {
            let holders = self.holders(run).get(word).copied().unwrap_or_default();
            if let Some(word) = self.holders_mut(cut).get_mut(word) {
                *word = holders;
            }
        }
        if let Some(meta) = self.metas.get_mut(run as usize) {
            meta.len = u8::try_from(len).unwrap_or(u8::MAX);
        }
        self.blocks = self.blocks.saturating_sub(rest.len());
        true
    }

    /// The stalest run of the fullest part, or of any other where that part has only the chain's.
    fn victim(&self, filing: &Filing) -> Option<u32> {
        let stalest = |part: u8| {
            let own = if part == filing.part { filing.own } else { 0 };
            self.parts.get(usize::from(part)).filter(|it| own < it.runs).map(|it| it.oldest)
        };
        stalest(self.fullest).or_else(|| (0..=u8::MAX).find_map(stalest))
    }

    fn evict(&mut self, run: u32) {
        self.unlink(run);
        self.blocks = self.blocks.saturating_sub(self.blocks_of(run).len());
        let hashes = &self.hashes;
        self.table.remove(first_of(hashes, run), run, |it| first_of(hashes, it));
        self.holders_mut(run).fill(0);
    }

    fn part_mut(&mut self, run: u32) -> Option<&mut Part> {
        let part = self.metas.get(run as usize)?.part;
        self.parts.get_mut(usize::from(part))
    }

    /// Puts a run in its part's order of use: next to `newer`, or first where that is nobody.
    fn link(&mut self, run: u32, newer: u32) {
        let next = self.metas.get(newer as usize).map(|it| it.older);
        let Some(part) = self.part_mut(run) else { return };
        part.runs = part.runs.saturating_add(1);
        let older = next.unwrap_or(part.newest);
        if next.is_none() {
            part.newest = run;
        }
        if older == NIL {
            part.oldest = run;
        }
        if let Some(meta) = self.metas.get_mut(run as usize) {
            (meta.newer, meta.older) = (newer, older);
        }
        if let Some(meta) = self.metas.get_mut(newer as usize) {
            meta.older = run;
        }
        if let Some(meta) = self.metas.get_mut(older as usize) {
            meta.newer = run;
        }
    }

    fn unlink(&mut self, run: u32) {
        let Some(&Meta { newer, older, .. }) = self.metas.get(run as usize) else { return };
        if let Some(part) = self.part_mut(run) {
            part.runs = part.runs.saturating_sub(1);
            if newer == NIL {
                part.newest = older;
            }
            if older == NIL {
                part.oldest = newer;
            }
        }
        if let Some(meta) = self.metas.get_mut(newer as usize) {
            meta.older = older;
        }
        if let Some(meta) = self.metas.get_mut(older as usize) {
            meta.newer = newer;
        }
    }
}

/// How many leading blocks of a run are those of a chain. A block's hash names all blocks before it,
/// so that where one agrees the earlier ones do.
fn shared(run: &[BlockHash], chain: &[BlockHash]) -> usize {
    let most = run.len().min(chain.len());
    let last = most.saturating_sub(1);
    if run.get(last) == chain.get(last) {
        return most;
    }
    run.iter().zip(chain).take_while(|(run, chain)| run == chain).count()
}

fn first_of(hashes: &[Hashes], run: u32) -> BlockHash {
    hashes.get(run as usize).map_or(BlockHash(0), |it| it.0[0])
}
