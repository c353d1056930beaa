//! What the dispatcher learns, and what it answers.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::{ModelId, Request, RequestId},
};

use crate::config::{Routing, StrategyName};

/// Something the dispatcher learns.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// A client sent a request.
    Arrived(Request),
    /// An attempt failed before its first byte and the request asks for another replica.
    AttemptFailed(RequestId),
    /// The first token of an answer came: its prefill is over.
    FirstToken(RequestId),
    /// Tokens came after the first ones, on all answers of a replica since it was last told: how many,
    /// and how long their streams waited for them, added up. The quotient is the mean gap.
    TokensCame { replica: ReplicaId, tokens: u32, waited: Duration },
    /// A request left, whichever way.
    Ended {
        /// Which request.
        request: RequestId,
        /// How it ended.
        outcome: Outcome,
        /// Tokens of its answer, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Tokens>,
    },
    /// A replica joined the fleet; it takes requests once it is [`Health::Ready`].
    ReplicaJoined(ReplicaId),
    /// A replica was seen to be well, ill or on its way out.
    HealthChanged { replica: ReplicaId, health: Health },
    /// A replica says which models it serves; an empty list means any.
    ModelsListed { replica: ReplicaId, models: Box<[ModelId]> },
    /// A replica lost its KV cache, as a restart does.
    CacheLost(ReplicaId),
    /// A replica says how many tokens its cache has room for.
    CacheSized { replica: ReplicaId, tokens: Tokens },
    /// From now on a replica's engine tells what it holds, beginning with nothing, or no longer does.
    CacheFollowed { replica: ReplicaId, follows: bool },
    /// A replica's engine stored a chain of blocks that follows `parent`.
    BlocksStored { replica: ReplicaId, parent: Option<BlockHash>, blocks: Box<[BlockHash]> },
    /// A replica's engine evicted blocks, those that follow others first.
    BlocksRemoved { replica: ReplicaId, blocks: Box<[BlockHash]> },
    /// A request's answer says how much of its prompt was found in the replica's cache.
    Found { request: RequestId, cached: Tokens },
    /// A replica left the fleet for good.
    ReplicaLeft(ReplicaId),
    /// A replica reported its load.
    LoadReported { replica: ReplicaId, report: LoadReport },
    /// The operator chose another strategy.
    RoutingChanged(Routing),
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The request decided on.
    pub request: RequestId,
    /// Where it goes, or why it is turned away.
    pub verdict: Result<Placement, Reject>,
}

/// Where a request goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// The replica that serves the request.
    pub replica: ReplicaId,
    /// The strategy in force.
    pub strategy: StrategyName,
    /// What decided.
    pub reason: Reason,
    /// Prompt tokens the replica is believed to hold in its KV cache.
    pub cached: Tokens,
    /// How often the request has been sent, this time included.
    pub attempt: u32,
}

/// What decided where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The replica that serves the request's conversation.
    Session,
    /// The replica that holds the longest prefix of the prompt.
    Prefix,
    /// Load, turn or chance: no affinity spoke.
    Load,
    /// The least cost in predicted seconds.
    Cost,
    /// The strategy's choice was saturated.
    Fallback,
    /// An earlier attempt failed before its first byte.
    Retry,
}

impl Reason {
    /// The reason as headers and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Prefix => "prefix",
            Self::Load => "load",
            Self::Cost => "cost",
            Self::Fallback => "fallback",
            Self::Retry => "retry",
        }
    }
}

/// Why a request is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Reject {
    /// No replica is ready.
    #[error("no replica is ready")]
    NoReplicas,
    /// Replicas are ready, and each says that it serves other models.
    #[error("no replica serves the model")]
    UnknownModel,
    /// Every ready replica has been tried for this request.
    #[error("every ready replica has failed the request")]
    AllTried,
}
