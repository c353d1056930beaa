//! The default of llm-d's endpoint picker: a blend of scores
//! (`pkg/epp/config/loader/defaults.go`: queue 2, KV utilisation 2, prefix 3).
//!
//! * `prefix-cache-scorer`: blocks matched over all blocks of the prompt.
//! * `queue-scorer`: `(max − q)/(max − min)` of the requests that engines report to wait; all equal, 1.
//! * `kv-cache-utilization-scorer`: one less the share in use that engines report.
//!
//! The highest sum wins, equals by lot (`max-score-picker`). Queues and utilisation are as engines
//! last reported them, which is what makes a burst herd: nothing is corrected between two reports.

use rand::Rng;

use super::{Ask, Candidate, pick};
use crate::event::Reason;

const PREFIX: f64 = 3.0;
const QUEUE: f64 = 2.0;
const KV: f64 = 2.0;

/// How many wait at most and at least.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blend {
    most: u32,
    least: u32,
}

impl Blend {
    /// Of all that might be chosen.
    pub(super) fn of(candidates: &[Candidate]) -> Self {
        let waiting = || candidates.iter().map(|it| it.reported.waiting);
        Self {
            most: waiting().max().unwrap_or_default(),
            least: waiting().min().unwrap_or_default(),
        }
    }

    fn score(self, ask: &Ask<'_>, it: &Candidate) -> f64 {
        let prefix = f64::from(it.cached.0) / f64::from(ask.prompt.0.max(1));
        let queue = if self.most == self.least {
            1.0
        } else {
            f64::from(self.most.saturating_sub(it.reported.waiting))
                / f64::from(self.most.saturating_sub(self.least))
        };
        PREFIX * prefix + QUEUE * queue + KV * (1.0 - f64::from(it.reported.kv_usage))
    }

    /// What a replica lacks of the highest score that there is.
    pub(super) fn lacks(self, ask: &Ask<'_>, it: &Candidate) -> f64 {
        PREFIX + QUEUE + KV - self.score(ask, it)
    }
}

/// Chooses the highest blend.
pub(super) fn choose(
    ask: &Ask<'_>,
    candidates: &[Candidate],
    rng: &mut impl Rng,
) -> Option<(Candidate, Reason)> {
    let blend = Blend::of(candidates);
    let chosen = pick::least(candidates.iter(), |it| blend.lacks(ask, it), rng)?;
    let reason = if chosen.cached.0 == 0 { Reason::Load } else { Reason::Prefix };
    Some((chosen, reason))
}

#[cfg(test)]
mod tests {
    use types::replica::LoadReport;

    use super::*;
    use crate::strategy::testing::{ask, candidate, chosen};

    fn with(id: u32, cached: u32, waiting: u32, kv_usage: f32) -> Candidate {
        let reported = LoadReport { waiting, kv_usage, ..LoadReport::default() };
        Candidate { reported, ..candidate(id, 0, cached) }
    }

    fn best(candidates: &[Candidate]) -> u32 {
        chosen(|rng| choose(&ask(1_000, None), candidates, rng)).id.0
    }

    #[test]
    fn three_for_the_prefix_are_beaten_by_two_for_the_queue_and_two_for_memory() {
        // 3·0.9 + 0 + 2·0.3 = 3.3 against 0 + 2 + 2·0.9 = 3.8.
        assert_eq!(best(&[with(0, 900, 9, 0.7), with(1, 0, 0, 0.1)]), 1);
        // 3·0.9 + 0 + 2·0.6 = 3.9.
        assert_eq!(best(&[with(0, 900, 9, 0.4), with(1, 0, 0, 0.1)]), 0);
    }

    #[test]
    fn what_is_shown_is_what_decides() {
        let all = [with(0, 900, 9, 0.7), with(1, 0, 0, 0.1)];
        let lacks = all.map(|it| Blend::of(&all).lacks(&ask(1_000, None), &it));
        assert!((lacks[0] - 3.7).abs() < 1e-6 && (lacks[1] - 3.2).abs() < 1e-6, "{lacks:?}");
    }

    #[test]
    fn where_nobody_waits_the_queue_says_nothing() {
        assert_eq!(best(&[with(0, 100, 0, 0.2), with(1, 0, 0, 0.2)]), 0);
    }
}
