//! How a request left.

use serde::{Deserialize, Serialize};

/// How a request left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The answer reached its end.
    Finished,
    /// The replica failed it: refused, broke off, answered garbage or fell silent.
    Failed,
    /// The client gave up.
    Cancelled,
}
