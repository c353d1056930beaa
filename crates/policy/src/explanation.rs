//! Why a request went where it went: what each replica was put at, and what came of it.
//!
//! Explanations are for people who ask. They are kept in a ring of a fixed length, and no more of them
//! are made in a second than configured, so that they cost next to nothing however much is asked. One
//! that was not kept can be had from a recording: replayed, the same decision comes about for the same
//! reasons.

mod book;

use serde::{Deserialize, Serialize};
use types::{
    outcome::Outcome,
    quantity::Tokens,
    replica::{LoadReport, ReplicaId},
    request::{ModelId, RequestId},
    time::Timestamp,
};

pub use self::book::Book;
use crate::{
    admission::Gate,
    config::StrategyName,
    event::{Placement, Reject},
};

/// How many decisions are explained, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExplainConfig {
    /// Explanations that are kept, the newest; 0 explains nothing.
    pub keep: u32,
    /// Most that are made in a second; a burst of `keep` may come at once.
    pub per_second: u32,
    /// Replicas named in each, the chosen one and those that came next.
    pub candidates: u32,
    /// The one request that is explained, in full and whatever the limits; for simulations.
    #[serde(skip)]
    pub only: Option<RequestId>,
}

impl Default for ExplainConfig {
    fn default() -> Self {
        Self { keep: 256, per_second: 200, candidates: 4, only: None }
    }
}

impl ExplainConfig {
    /// Explains nothing.
    #[must_use]
    pub const fn off() -> Self {
        Self { keep: 0, per_second: 0, candidates: 0, only: None }
    }

    /// Explains `request` alone, with every replica, each time that it is decided on.
    #[must_use]
    pub const fn only(request: RequestId) -> Self {
        Self { keep: 64, per_second: 0, candidates: u32::MAX, only: Some(request) }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.keep > 65_536 {
            problems.push(format!("keep: must be 0 to 65536, not {}", self.keep));
        }
        if self.keep > 0 && !(1..=64).contains(&self.candidates) && self.only.is_none() {
            problems.push(format!("candidates: must be 1 to 64, not {}", self.candidates));
        }
        problems
    }
}

/// A decision with what it was weighed on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// When it was made.
    pub at: Timestamp,
    /// The request decided on.
    pub request: RequestId,
    /// The model it asks for.
    pub model: ModelId,
    /// Length of its prompt.
    pub prompt: Tokens,
    /// The strategy in force.
    pub strategy: StrategyName,
    /// Where it goes, or why it is turned away.
    pub verdict: Result<Placement, Reject>,
    /// What the strategy had chosen, where its fallback overruled it.
    pub instead_of: Option<ReplicaId>,
    /// The replicas it was weighed on, the best first; the chosen one is among them. None where it was
    /// turned away without a look at them.
    pub candidates: Vec<Considered>,
    /// How many more there were.
    pub others: u32,
    /// What came of it, as far as is known by now.
    pub observed: Observed,
}

/// A replica that a request might have gone to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Considered {
    /// Which replica.
    pub replica: ReplicaId,
    /// Why the strategy was not asked about it; none where it was.
    pub passed_over: Option<PassedOver>,
    /// The gate of admission that is closed there; none where none is.
    #[serde(default)]
    pub gate: Option<Gate>,
    /// Whether one more finds a seat in its batch, and memory.
    pub has_room: bool,
    /// Requests on it.
    pub requests: u32,
    /// Prompt tokens it has yet to compute.
    pub queued_prefill: Tokens,
    /// Tokens of the prompt it is believed to hold.
    pub cached: Tokens,
    /// What its engine last said of its load; nothing of everything where it never did.
    #[serde(default)]
    pub reported: LoadReport,
    /// What the strategy puts it at, in [the strategy's own unit](StrategyName::ranks_in); the least
    /// is best. None where it does not rank by a number.
    pub score: Option<f64>,
    /// What the request was expected to meet there; none where nobody asked.
    pub predicted: Option<Predicted>,
    /// The terms of the cost; none where the strategy is another one.
    pub cost: Option<CostTerms>,
}

/// Why a strategy is not asked about a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PassedOver {
    /// It has just come, and has had its share of the requests.
    SlowStart,
    /// Another one has the adapter loaded that the request asks for.
    Adapter,
    /// A gate of admission is closed there.
    Admission,
}

impl PassedOver {
    /// The reason as it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlowStart => "slow-start",
            Self::Adapter => "adapter",
            Self::Admission => "admission",
        }
    }
}

/// What a request was expected to meet on a replica, and to do there.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Predicted {
    /// Time to its first token, seconds.
    pub ttft_s: f64,
    /// Time to each later token, seconds.
    pub tpot_s: f64,
    /// Work that it adds, seconds.
    pub work_s: f64,
    /// How full the replica was: at 1 one more request breaks promises.
    pub utilisation: f64,
}

/// The terms of a cost, weighed, in seconds; they add up to the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CostTerms {
    /// The request's own wait for its first token.
    pub wait_s: f64,
    /// The delay that it inflicts on those who are there.
    pub harm_s: f64,
    /// What its work costs those who come later.
    pub price_s: f64,
}

/// What came of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// Time from the decision to the first token, seconds.
    pub ttft_s: Option<f64>,
    /// Prompt tokens that the replica says it found in its cache.
    pub cached: Option<Tokens>,
    /// Tokens of the answer.
    pub output: Option<Tokens>,
    /// How it ended; none while it is under way.
    pub outcome: Option<Outcome>,
}

impl Considered {
    /// Orders candidates, the best first: by score, and where there is none by what they hold and by
    /// load.
    fn is_before(&self, other: &Self) -> bool {
        let by_score = match (self.score, other.score) {
            (Some(own), Some(others)) => own.total_cmp(&others),
            (Some(_) | None, _) => std::cmp::Ordering::Equal,
        };
        let by_hit = || other.cached.cmp(&self.cached);
        let by_load = || self.requests.cmp(&other.requests);
        by_score.then_with(by_hit).then_with(by_load).is_lt()
    }
}
