//! One request of a workload.

use types::{quantity::Tokens, time::Timestamp};

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
    /// Tenant the request belongs to.
    pub tenant: Option<u32>,
    /// What is asked.
    pub prompt: Prompt,
    /// Length of the answer.
    pub output: Tokens,
}
