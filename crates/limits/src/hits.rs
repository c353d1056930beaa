//! What the requests of a run find in a cache, and what an endless cache would let them find.

use types::quantity::{Blocks, Tokens};

use crate::visits::Visits;

/// What each request found in a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hits {
    /// Leading blocks that each request found, in the order of the requests.
    pub blocks: Vec<Blocks>,
    pub(crate) block: Tokens,
    pub(crate) counted_from: usize,
    pub(crate) prompt_tokens: u64,
}

impl Hits {
    /// Prompt tokens that all requests that count have found.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let counted = self.blocks.iter().skip(self.counted_from);
        let blocks: u64 = counted.map(|blocks| u64::from(blocks.0)).sum();
        blocks.saturating_mul(u64::from(self.block.0))
    }

    /// Prompt tokens that each request found, in the order of the requests.
    pub fn cached(&self) -> impl Iterator<Item = Tokens> + '_ {
        self.blocks.iter().map(|blocks| blocks.tokens(self.block))
    }

    /// Share of the prompt tokens of requests that count which was found; 0 without any tokens.
    #[must_use]
    pub fn rate(&self) -> f64 {
        share(self.tokens(), self.prompt_tokens)
    }
}

/// `part / whole`, 0 of nothing.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl Visits {
    /// The hits in a cache without end: each distinct block is computed once, by whoever comes
    /// first. No cache, eviction or routing of these requests finds more.
    #[must_use]
    pub fn infinite_cache(&self) -> Hits {
        let mut seen = vec![false; self.runs()];
        let mut all = Vec::with_capacity(self.len());
        for path in self.paths() {
            let is_seen = |run: &&u32| seen.get(**run as usize).copied().unwrap_or(false);
            let found = path.findable.iter().take_while(is_seen);
            all.push(Blocks(found.map(|run| self.length(*run)).fold(0, u32::saturating_add)));
            for run in path.findable.iter().chain(path.rest) {
                if let Some(seen) = seen.get_mut(*run as usize) {
                    *seen = true;
                }
            }
        }
        self.hits(all)
    }
}

#[cfg(test)]
mod tests {
    use types::block::BlockHash;

    use super::*;
    use crate::visits::Visit;

    fn visit(names: &[u64], prompt: u32) -> Visit {
        Visit { blocks: names.iter().copied().map(BlockHash).collect(), prompt: Tokens(prompt) }
    }

    #[test]
    fn each_block_is_computed_once_and_last_tokens_always() {
        let visits = [
            visit(&[1, 2], 8),
            visit(&[1, 2], 8),
            visit(&[1, 2, 3], 14),
            visit(&[7], 3),
            visit(&[1, 2, 3, 4], 18),
        ];
        let hits = Visits::new(Tokens(4), &visits).infinite_cache();
        assert_eq!(hits.blocks, [0, 1, 2, 0, 3].map(Blocks));
        assert_eq!(hits.tokens(), 24);
        assert_eq!(hits.cached().nth(2), Some(Tokens(8)));
        assert!((hits.rate() - 24.0 / 51.0).abs() < 1e-12);
    }

    #[test]
    fn what_an_answer_fills_is_found_by_the_next_turn() {
        let visits = [visit(&[1, 2], 5), visit(&[1, 2, 3], 13)];
        assert_eq!(Visits::new(Tokens(4), &visits).infinite_cache().blocks, [0, 2].map(Blocks));
    }

    #[test]
    fn a_warm_up_fills_the_cache_and_does_not_count() {
        let visits = [visit(&[1, 2], 9), visit(&[3], 9), visit(&[1, 2], 9), visit(&[3], 9)];
        let visits = Visits::new(Tokens(4), &visits).counted_from(2);
        for hits in [visits.infinite_cache(), visits.belady(Blocks(3))] {
            assert_eq!((hits.tokens(), hits.cached().count()), (12, 4));
            assert!((hits.rate() - 12.0 / 18.0).abs() < 1e-12);
        }
        // Whoever counts the warm-up keeps the block that it uses again.
        let [one, two] = [visit(&[1], 9), visit(&[2], 9)];
        let visits = [one.clone(), two.clone(), one, two];
        let best = |first| Visits::new(Tokens(4), &visits).counted_from(first).belady(Blocks(1));
        assert_eq!((best(0).tokens(), best(3).tokens()), (4, 4));
    }

    #[test]
    fn the_curve_leaves_a_warm_up_out() {
        let visits = [visit(&[1, 2], 9), visit(&[3], 9), visit(&[1, 2], 9), visit(&[3], 9)];
        let curve = Visits::new(Tokens(4), &visits).counted_from(2).lru_curve();
        assert_eq!((curve.hit_blocks(Blocks(3)), curve.hit_blocks(Blocks(0))), (3, 0));
        assert!((curve.hit_rate(Blocks(3)) - 12.0 / 18.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_has_no_hits() {
        assert!(Visits::new(Tokens(4), &[]).infinite_cache().rate().abs() < 1e-12);
    }
}
