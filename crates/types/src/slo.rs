//! The latency promise made to a request.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Service-level objective: upper bounds on what one request may experience.
///
/// A bound that is absent always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Longest time to first token.
    pub ttft: Option<Duration>,
    /// Longest time per output token, averaged over the answer.
    pub tpot: Option<Duration>,
    /// Longest time from the scheduled send to the last token.
    pub e2e: Option<Duration>,
}
