//! Preble's E2 (Srivatsa et al., ICLR 2025): exploit a prefix that is most of the prompt, explore
//! otherwise.
//!
//! * More tokens cached than not, on the best holder: *exploit*, the least loaded of those with the
//!   longest match, unless its load is more than twice the least of all, when the request is sent on.
//! * Else *explore*: the least `L + M + P`, where `L` is the work assigned in the last three minutes,
//!   prefill and decode, and `P` the prefill of what is missing.
//!
//! `M`, what it would cost to compute anew what the request evicts, is left out: a router does not see
//! what an engine would evict. Seconds are this project's predictions; the original fits a line to one
//! GPU.

use std::{collections::VecDeque, time::Duration};

use rand::Rng;
use rustc_hash::FxHashMap;
use types::{replica::ReplicaId, time::Timestamp};

use super::{Ask, Candidate, pick};
use crate::event::Reason;

/// How long assigned work counts.
const WINDOW: Duration = Duration::from_secs(180);

/// Multiple of the least load from which a holder is passed over.
const IMBALANCE_MAX: f64 = 2.0;

/// Assignments that are remembered, at most: beyond, the oldest count no more.
const ASSIGNED_MAX: usize = 1 << 20;

/// Work assigned of late.
#[derive(Clone, Debug, Default)]
pub struct Window {
    assigned: VecDeque<(Timestamp, ReplicaId, f64)>,
    loads: FxHashMap<ReplicaId, f64>,
}

impl Window {
    /// Chooses by exploiting or exploring.
    pub(super) fn choose(
        &self,
        ask: &Ask<'_>,
        candidates: &[Candidate],
        rng: &mut impl Rng,
    ) -> Option<(Candidate, Reason)> {
        let load = |it: &Candidate| self.load(it);
        let longest = candidates.iter().map(|it| it.cached).max()?;
        if longest > ask.prompt.saturating_sub(longest) {
            let holders = candidates.iter().filter(|it| it.cached == longest);
            let chosen = pick::least(holders, load, rng)?;
            let least = candidates.iter().map(load).fold(f64::INFINITY, f64::min);
            if load(&chosen) <= IMBALANCE_MAX * least || candidates.len() == 1 || least <= 0.0 {
                return Some((chosen, Reason::Prefix));
            }
        }
        Some((pick::least(candidates.iter(), |it| self.cost(it), rng)?, Reason::Load))
    }

    /// Seconds of work assigned of late.
    fn load(&self, it: &Candidate) -> f64 {
        self.loads.get(&it.id).copied().unwrap_or_default()
    }

    /// What exploring ranks by, `L + P`, seconds.
    pub(super) fn cost(&self, it: &Candidate) -> f64 {
        self.load(it) + it.forecast.own_prefill_s
    }

    /// Learns that a request of `work_s` was assigned.
    pub(super) fn placed(&mut self, now: Timestamp, replica: ReplicaId, work_s: f64) {
        self.assigned.push_back((now, replica, work_s));
        *self.loads.entry(replica).or_default() += work_s;
        while let Some(&(at, old, work_s)) = self.assigned.front() {
            if now.since(at) <= WINDOW && self.assigned.len() <= ASSIGNED_MAX {
                break;
            }
            self.assigned.pop_front();
            if let Some(load) = self.loads.get_mut(&old) {
                *load = (*load - work_s).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        estimate::Forecast,
        strategy::testing::{ask, candidate, chosen},
    };

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_secs(secs))
    }

    fn with(id: u32, cached: u32, own_prefill_s: f64) -> Candidate {
        Candidate {
            forecast: Forecast { own_prefill_s, ..Forecast::default() },
            ..candidate(id, 0, cached)
        }
    }

    fn best(window: &Window, candidates: &[Candidate]) -> u32 {
        chosen(|rng| window.choose(&ask(1_000, None), candidates, rng)).id.0
    }

    #[test]
    fn a_prefix_of_more_than_half_is_exploited_unless_its_holder_has_twice_the_load() {
        let mut window = Window::default();
        window.placed(at(0), ReplicaId(0), 1.9);
        window.placed(at(0), ReplicaId(1), 1.0);
        let most = [with(0, 501, 0.5), with(1, 0, 1.0)];
        assert_eq!(best(&window, &most), 0);
        window.placed(at(1), ReplicaId(0), 0.9);
        assert_eq!(best(&window, &most), 1);
    }

    #[test]
    fn half_a_prefix_is_explored_by_load_and_missing_prefill() {
        let mut window = Window::default();
        window.placed(at(0), ReplicaId(0), 0.4);
        assert_eq!(best(&window, &[with(0, 500, 0.5), with(1, 0, 1.0)]), 0);
        window.placed(at(0), ReplicaId(0), 0.2);
        assert_eq!(best(&window, &[with(0, 500, 0.5), with(1, 0, 1.0)]), 1);
    }

    #[test]
    fn work_counts_for_three_minutes() {
        let mut window = Window::default();
        window.placed(at(0), ReplicaId(0), 5.0);
        window.placed(at(181), ReplicaId(1), 1.0);
        assert_eq!(best(&window, &[with(0, 0, 1.0), with(1, 0, 1.0)]), 0);
        assert_eq!(window.assigned.len(), 1);
    }
}
