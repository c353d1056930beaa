//! Choosing the best by some measure, equals sharing by lot.

use rand::{Rng, RngExt as _};

use super::Candidate;

/// The candidate with the least `cost`; one that is no number is never chosen.
pub(super) fn least<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    cost: impl Fn(&Candidate) -> f64,
    rng: &mut impl Rng,
) -> Option<Candidate> {
    let mut best: Option<(f64, &Candidate)> = None;
    let mut equals = 0_u32;
    for candidate in candidates {
        let cost = cost(candidate);
        match best.map_or(Some(std::cmp::Ordering::Less), |it| cost.partial_cmp(&it.0)) {
            Some(std::cmp::Ordering::Less) if cost.is_finite() => equals = 1,
            Some(std::cmp::Ordering::Equal) => equals += 1,
            Some(_) | None => continue,
        }
        // Reservoir sampling: the n-th of n equals replaces the choice with chance 1/n.
        if equals == 1 || rng.random_range(0..equals) == 0 {
            best = Some((cost, candidate));
        }
    }
    best.map(|it| *it.1)
}
