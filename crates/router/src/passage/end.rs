//! How requests end, and what that means to each who asks.

use report::Ending;
use types::outcome::Outcome;

/// How a request came to its end, as the log and the metrics say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The answer was relayed to its last byte.
    Complete,
    /// The client hung up.
    ClientGone,
    /// The replica failed before or within its answer.
    ReplicaFailed,
    /// No answer began for as long as the client had said that it would wait.
    ClientTimeout,
    /// The router had to end.
    Cut,
    /// The request was turned away, by the router or by every replica that was asked.
    Refused,
    /// The request was wrong, as the router or a replica found: nobody's promise is broken by it.
    BadRequest,
}

impl End {
    pub(crate) const ALL: [Self; 7] = [
        Self::Complete,
        Self::ClientGone,
        Self::ReplicaFailed,
        Self::ClientTimeout,
        Self::Cut,
        Self::Refused,
        Self::BadRequest,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientGone => "client-gone",
            Self::ReplicaFailed => "replica-failed",
            Self::ClientTimeout => "client-timeout",
            Self::Cut => "cut",
            Self::Refused => "refused",
            Self::BadRequest => "bad-request",
        }
    }

    pub(super) const fn outcome(self) -> Outcome {
        match self {
            Self::Complete => Outcome::Finished,
            // Whoever kept a conversation waiting for nothing is not where its next turn goes.
            Self::ReplicaFailed | Self::ClientTimeout => Outcome::Failed,
            Self::ClientGone | Self::Cut | Self::Refused | Self::BadRequest => Outcome::Cancelled,
        }
    }
}

impl End {
    /// How the request ended for whoever asked; none where that is left out of the judgement.
    pub(super) const fn ending(self) -> Option<Ending> {
        match self {
            Self::Complete => Some(Ending::Completed),
            Self::Refused => Some(Ending::Rejected),
            Self::ClientGone | Self::ReplicaFailed | Self::ClientTimeout | Self::Cut => {
                Some(Ending::Failed)
            }
            Self::BadRequest => None,
        }
    }
}
