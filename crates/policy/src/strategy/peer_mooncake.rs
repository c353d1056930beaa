//! Mooncake's Conductor (arXiv 2407.00079, algorithm 1), as far as a fleet without transfers between
//! caches allows: the least predicted TTFT.
//!
//! `TTFT = T_queue + T_prefill(L, hit)`. The original also weighs fetching the prefix from the best
//! holder (`kvcache_balancing_threshold`), which these engines cannot; its early rejection is
//! admission, not placement. The predictions are this project's own.

use rand::Rng;

use super::{Candidate, pick};
use crate::event::Reason;

/// Chooses the least predicted TTFT.
pub(super) fn choose(candidates: &[Candidate], rng: &mut impl Rng) -> Option<(Candidate, Reason)> {
    Some((pick::least(candidates.iter(), |it| it.forecast.ttft_s, rng)?, Reason::Cost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        estimate::Forecast,
        strategy::testing::{candidate, chosen},
    };

    #[test]
    fn the_soonest_first_token_wins_whatever_it_costs_others() {
        let with = |id, requests, ttft_s| {
            let forecast = Forecast { ttft_s, work_s: ttft_s, ..Forecast::default() };
            Candidate { forecast, ..candidate(id, requests, 0) }
        };
        let all = [with(0, 90, 0.2), with(1, 0, 0.3)];
        assert_eq!(chosen(|rng| choose(&all, rng)).id.0, 0);
    }
}
