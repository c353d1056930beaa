//! Replicas as the router knows them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies a replica for as long as the router runs; never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplicaId(pub u32);

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "replica {}", self.0)
    }
}

/// Whether a replica may be sent requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not yet seen to answer.
    Starting,
    /// Takes requests.
    Ready,
    /// Failed its checks or too many requests in a row.
    Ejected,
    /// Finishes what it has and takes nothing new.
    Draining,
}

/// What an engine says of its own load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests in the running batch.
    pub running: u32,
    /// Requests waiting for a place in it.
    pub waiting: u32,
    /// Share of the KV cache in use, 0 to 1.
    pub kv_usage: f32,
    /// Times that a running request had to give up its memory and was computed anew, since the engine
    /// started; `None` where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptions: Option<u32>,
    /// The same of an engine that counts a request once it has ended, with all the times that it gave way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptions_of_ended: Option<u32>,
}
