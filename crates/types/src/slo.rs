//! The latency promise made to a request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Service-level objective: upper bounds on what one request may experience.
///
/// A bound that is absent always holds. An interactive request is bounded by what somebody who waits
/// feels; work for later has a [`completion`](Self::completion) window instead, and then nothing else
/// counts: whether a row of a batch had a quick first token is nobody's concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Longest time to first token.
    pub ttft: Option<Duration>,
    /// Longest time per output token, averaged over the answer.
    pub tpot: Option<Duration>,
    /// The gap between two pieces of the answer that 95 % of its gaps may not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub itl_p95: Option<Duration>,
    /// Largest difference between the longest and the shortest gap of one answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// Longest time from the scheduled send to the last token.
    pub e2e: Option<Duration>,
    /// Window in which work for later is to be done, from the scheduled send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<Duration>,
}

impl Slo {
    /// Whether the promise is one for work that nobody waits for.
    #[must_use]
    pub const fn is_batch(&self) -> bool {
        self.completion.is_some()
    }
}
