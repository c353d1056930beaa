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

use crate::{
    admission::{AdmissionConfig, Gate},
    config::{Routing, StrategyName},
};

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
    /// The last of an answer that ends now may have been there for so long: its client was slow to take it. Time that
    /// is none of the replica's.
    AnswerHeld { request: RequestId, held: Duration },
    /// A request left, whichever way.
    Ended {
        /// Which request.
        request: RequestId,
        /// How it ended.
        outcome: Outcome,
        /// Tokens of its answer, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Tokens>,
        /// Prompt tokens that the replica says it found in its cache, where it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cached: Option<Tokens>,
    },
    /// A replica joined the fleet; it takes requests once it is [`Health::Ready`].
    ReplicaJoined(ReplicaId),
    /// A replica was seen to be well, ill or on its way out.
    HealthChanged { replica: ReplicaId, health: Health },
    /// A replica says which models it serves; an empty list means any.
    ModelsListed { replica: ReplicaId, models: Box<[ModelId]> },
    /// The longest prompt that a replica is meant for.
    PromptsBounded { replica: ReplicaId, prompt_max: Tokens },
    /// A replica lists the adapters that it may serve.
    AdaptersListed { replica: ReplicaId, adapters: Box<[ModelId]> },
    /// A replica says which adapters are in use on it, and for how many it has room.
    AdaptersInUse { replica: ReplicaId, adapters: Box<[ModelId]>, most: u32 },
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
    /// A replica left the fleet for good.
    ReplicaLeft(ReplicaId),
    /// A replica reported its load.
    LoadReported { replica: ReplicaId, report: LoadReport },
    /// Another router of the fleet says what it placed, or what became of it.
    PeerTold { peer: PeerId, news: News },
    /// The operator chose another strategy.
    RoutingChanged(Routing),
    /// The operator chose how requests are let in.
    AdmissionChanged(AdmissionConfig),
    /// Time passed: what [`next_wakeup`](crate::dispatcher::Dispatcher::next_wakeup) announced is due.
    TimePassed,
}

impl Event {
    /// Whether those who wait may find room after it.
    #[must_use]
    pub const fn may_open_gates(&self) -> bool {
        match self {
            Self::AttemptFailed(_)
            | Self::FirstToken(_)
            | Self::Ended { .. }
            | Self::HealthChanged { .. }
            | Self::ModelsListed { .. }
            | Self::ReplicaLeft(_)
            | Self::LoadReported { .. }
            | Self::RoutingChanged(_)
            | Self::AdmissionChanged(_)
            | Self::PeerTold {
                news: News::FirstToken(_) | News::Ended { .. } | News::Lost, ..
            }
            | Self::TimePassed => true,
            Self::Arrived(_)
            | Self::PeerTold { news: News::Placed { .. }, .. }
            | Self::TokensCame { .. }
            | Self::AnswerHeld { .. }
            | Self::ReplicaJoined(_)
            | Self::PromptsBounded { .. }
            | Self::AdaptersListed { .. }
            | Self::AdaptersInUse { .. }
            | Self::CacheLost(_)
            | Self::CacheFollowed { .. }
            | Self::BlocksStored { .. }
            | Self::BlocksRemoved { .. }
            | Self::CacheSized { .. } => false,
        }
    }
}

/// Another router of the same fleet, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PeerId(pub u16);

/// What one router tells the others of its requests. Their numbers are that router's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// It placed a request, perhaps after an attempt elsewhere.
    Placed {
        /// The request, with its blocks named by the key that all routers have.
        request: Request,
        /// Where it went.
        replica: ReplicaId,
        /// Prompt tokens that the replica was believed to hold.
        cached: Tokens,
    },
    /// The first token of an answer came.
    FirstToken(RequestId),
    /// A request left, whichever way.
    Ended {
        /// Which request.
        request: RequestId,
        /// How it ended.
        outcome: Outcome,
        /// Tokens of its answer, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Tokens>,
        /// Prompt tokens that the replica says it found in its cache, where it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cached: Option<Tokens>,
    },
    /// Some of what it told was lost on the way: nobody knows any more what it has under way.
    Lost,
}

/// What becomes of one request. One that arrives and is not decided on in the same call waits for a
/// replica, and is decided on in a later one.
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
    /// Most prompt tokens that any replica it might have gone to is believed to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_cached: Option<Tokens>,
    /// The time to its first token that is predicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Duration>,
}

impl Placement {
    /// Prompt tokens that are computed though another replica holds them, told how many were `found` in
    /// the cache.
    #[must_use]
    pub fn recomputed(&self, found: Tokens) -> Tokens {
        self.most_cached.unwrap_or(self.cached).saturating_sub(found)
    }
}

/// What decided where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The replica that serves the request's conversation, or that the conversation hashes to.
    Session,
    /// The replica that holds the longest prefix of the prompt, or that its beginning hashes to.
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
    /// Its prompt is longer than any pool takes.
    #[error("no pool takes prompts of more than {prompt_max} tokens")]
    TooLong { prompt_max: Tokens },
    /// Every ready replica has been tried for this request.
    #[error("every ready replica has failed the request")]
    AllTried,
    /// More has been sent again of late than the retry budget allows.
    #[error("the retry budget is used up; come again in {retry_after:?}")]
    RetriesUsedUp { retry_after: Duration },
    /// No replica can take it now so that every promise is kept.
    #[error("the fleet is full: {gate}; come again in {retry_after:?}", gate = gate.as_str())]
    Saturated { gate: Gate, retry_after: Duration },
    /// What it was promised can't be kept, even by a replica that had nothing else to do.
    #[error("the promise can't be kept: {gate}; come again in {retry_after:?}", gate = gate.as_str())]
    Infeasible { gate: Gate, retry_after: Duration },
    /// The fleet is full, and the tenant has had more than its share.
    #[error("the fleet is full and the tenant over its share; come again in {retry_after:?}")]
    OverShare { gate: Gate, retry_after: Duration },
    /// It waited for a replica for as long as it could.
    #[error("no replica could take it in time: {gate}; come again in {retry_after:?}", gate = gate.as_str())]
    Expired { gate: Gate, retry_after: Duration },
    /// It waited, and gave way to one that was more urgent or had less time.
    #[error("it gave way to a request that goes before it; come again in {retry_after:?}")]
    Evicted { gate: Gate, retry_after: Duration },
}

impl Reject {
    /// When it is worth coming again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoReplicas | Self::UnknownModel | Self::TooLong { .. } | Self::AllTried => None,
            Self::RetriesUsedUp { retry_after }
            | Self::Saturated { retry_after, .. }
            | Self::Infeasible { retry_after, .. }
            | Self::OverShare { retry_after, .. }
            | Self::Expired { retry_after, .. }
            | Self::Evicted { retry_after, .. } => Some(*retry_after),
        }
    }

    /// What stood in its way on every replica, where the fleet was full.
    #[must_use]
    pub const fn gate(&self) -> Option<Gate> {
        match self {
            Self::NoReplicas
            | Self::UnknownModel
            | Self::TooLong { .. }
            | Self::AllTried
            | Self::RetriesUsedUp { .. } => None,
            Self::Saturated { gate, .. }
            | Self::Infeasible { gate, .. }
            | Self::OverShare { gate, .. }
            | Self::Expired { gate, .. }
            | Self::Evicted { gate, .. } => Some(*gate),
        }
    }
}
