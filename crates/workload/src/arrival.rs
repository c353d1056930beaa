//! One request of a workload.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use types::{
    block::{ChainSeed, HashKey, Scope, hash_block},
    quantity::Tokens,
    time::Timestamp,
    work::WorkloadClass,
};

use crate::prompt::Prompt;

/// One request of a workload: when it is sent, what it asks and how long its answer is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Scheduled send, from the run's start. Latencies count from here, however late the sender is.
    pub at: Timestamp,
    /// Conversation the request belongs to.
    pub session: Option<u64>,
    /// Place within the conversation, from zero.
    pub turn: u32,
    /// Turns of the conversation, also those that the run does not come to; absent where nobody knows.
    pub turns: Option<u32>,
    /// Tenant the request belongs to.
    pub tenant: Option<u32>,
    /// The promise it is under, by name, where the workload says.
    pub slo_class: Option<Arc<str>>,
    /// The kind of work it is, where the workload says.
    pub workload_class: Option<WorkloadClass>,
    /// What is asked.
    pub prompt: Prompt,
    /// Length of the answer.
    pub output: Tokens,
    /// Names the answer's text, where later turns quote it.
    pub answer: Option<u64>,
    /// How long the user thinks between the answer before this turn and this turn; `at` contains it
    /// and an allowance for the answer.
    pub think: Duration,
}

/// The share of prompt tokens that an earlier request of the same run already had as its prefix: what
/// an infinite cache would reuse, and so the most that any routing can save. 0 without any tokens.
#[must_use]
pub fn reuse(arrivals: &[Arrival]) -> f64 {
    let mut seen = BTreeSet::new();
    let (mut reused, mut all) = (0_u64, 0_u64);
    for arrival in arrivals {
        let mut prefix = ChainSeed::new(HashKey(0), &Scope::default()).as_parent();
        let mut is_shared = true;
        for segment in arrival.prompt.messages.iter().flat_map(|it| &it.segments) {
            prefix = hash_block(prefix, &segment.id.to_le_bytes());
            is_shared &= !seen.insert(prefix);
            let tokens = u64::from(segment.tokens.0);
            all = all.saturating_add(tokens);
            reused = reused.saturating_add(if is_shared { tokens } else { 0 });
        }
    }
    if all == 0 { 0.0 } else { reused as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::Segment;

    fn arrival(ids: &[u64]) -> Arrival {
        let segment = |id: &u64| Segment { id: *id, tokens: Tokens(10) };
        Arrival {
            at: Timestamp::ZERO,
            session: None,
            turn: 0,
            turns: None,
            tenant: None,
            slo_class: None,
            workload_class: None,
            prompt: Prompt::from_user(ids.iter().map(segment).collect()),
            output: Tokens(1),
            answer: None,
            think: Duration::ZERO,
        }
    }

    #[test]
    fn only_leading_segments_are_reused() {
        assert_eq!(reuse(&[]).to_string(), "0");
        let arrivals = [arrival(&[1, 2]), arrival(&[1, 3]), arrival(&[4, 2]), arrival(&[1, 3, 5])];
        assert!((reuse(&arrivals) - 3.0 / 9.0).abs() < 1e-9);
    }
}
