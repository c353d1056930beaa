//! LMetric (arXiv 2603.15202): the least product of new prefill tokens and batch size.
//!
//! `P·BS`: prefill tokens that the replica has to compute, the request's own uncached ones included,
//! times the requests in its batch, the request included; vLLM's router has the same product as the
//! cost of its `kv_aware` policy. The product has no weight to tune.

use rand::Rng;

use super::{Ask, Candidate, pick};
use crate::event::Reason;

/// Chooses the least product.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let chosen = pick::least(candidates.iter(), |it| product(ask, it), rng)?;
    Some((chosen, Reason::Cost))
}

/// The product that counts.
pub(super) fn product(ask: &Ask<'_>, it: &Candidate) -> f64 {
    let uncached = ask.prompt.saturating_sub(it.cached);
    f64::from((it.queued_prefill + uncached).0) * (f64::from(it.requests) + 1.0)
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;
    use crate::strategy::testing::{ask, candidate, chosen};

    #[test]
    fn a_hit_is_followed_until_its_crowd_outweighs_it() {
        let with = |requests| {
            let holder = Candidate { queued_prefill: Tokens(100), ..candidate(0, requests, 900) };
            let all = [holder, candidate(1, 0, 0)];
            chosen(|rng| choose(&ask(1_000, None), &all, rng)).id.0
        };
        // (100 + 100)·(n + 1) against 1,000·1.
        assert_eq!(with(3), 0);
        assert_eq!(with(5), 1);
    }
}
