//! What shapes decisions: the strategy and its limits, as an operator sets them.

use std::{fmt, num::NonZeroUsize, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};
use types::quantity::Tokens;

use crate::{
    admission::AdmissionConfig, estimate::EstimateConfig, explanation::ExplainConfig,
    slow_start::SlowStart,
};

/// Everything that shapes decisions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DispatcherConfig {
    /// Seeds the generator that breaks ties.
    pub seed: u64,
    /// How replicas are chosen; may change while running.
    pub routing: Routing,
    /// How prefixes are remembered; fixed for the run.
    pub prefix: PrefixConfig,
    /// How conversations are remembered; fixed for the run.
    pub session: SessionConfig,
    /// What predictions start from; fixed for the run.
    #[serde(default)]
    pub estimate: EstimateConfig,
    /// How requests are let in; may change while running.
    #[serde(default = "AdmissionConfig::off")]
    pub admission: AdmissionConfig,
    /// How decisions are explained; fixed for the run.
    #[serde(default = "ExplainConfig::off")]
    pub explain: ExplainConfig,
}

impl DispatcherConfig {
    /// The defaults of every limit, with `strategy` and `seed`; everybody is let in and nothing is
    /// explained.
    #[must_use]
    pub fn new(strategy: StrategyName, seed: u64) -> Self {
        Self {
            seed,
            routing: Routing::new(strategy),
            prefix: PrefixConfig::default(),
            session: SessionConfig::default(),
            estimate: EstimateConfig::default(),
            admission: AdmissionConfig::off(),
            explain: ExplainConfig::off(),
        }
    }
}

/// How replicas are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Routing {
    /// The rule.
    pub strategy: StrategyName,
    /// When the rule's choice is overridden; `None` never.
    pub saturation: Option<Saturation>,
    /// Share of the prompt that a replica must hold before `prefix-aware` follows the prefix, 0 to
    /// 1. Below it the prompt counts as cold and goes where load is least.
    pub match_min: f64,
    /// What `least-latency` weighs, and by how much.
    #[serde(default)]
    pub cost: CostWeights,
    /// How the share of a replica grows that has just come; none has to wait where a recording does not
    /// say.
    #[serde(default = "SlowStart::off")]
    pub slow_start: SlowStart,
}

/// What `least-latency` weighs. A weight of zero leaves its term out.
///
/// ```text
/// cost = wait·T + harm·(n·w + young·m·p) + price·ρ/(1−ρ)·w
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostWeights {
    /// Of `T`, the request's own predicted time to first token.
    pub wait: f64,
    /// Of `n·w`, the delay that its work `w` inflicts on the `n` requests there, and of what its prefill `p`
    /// does to the `m` youngest of them.
    pub harm: f64,
    /// Of `ρ/(1−ρ)·w`, what its work costs those who come later, the replica's utilisation being `ρ`.
    pub price: f64,
    /// Replicas whose cost exceeds the least by no more than this share count as equal, and lots are
    /// drawn: routers that see the same fleet must not all choose the same one.
    pub tie: f64,
    /// Whether work counts for more while caches are too small: what it pushes out must then be
    /// computed anew, which pushes out more.
    pub memory: bool,
    /// How far the utilisation `ρ` is what follows from the requests on a replica, instead of what was
    /// measured of late: 0 to 1.
    pub foresight: f64,
    /// Whether replicas on which the first token would come later than promised are left out as long
    /// as there are others.
    pub promise: bool,
    /// How many times more its prefill counts to answers that are so young that the pause breaks their
    /// promise if they turn out short.
    pub young: f64,
    /// Whether computing a beginning of prompts on a replica that lacks it counts as the work of all on
    /// their way who share it.
    pub copies: bool,
}

impl Default for CostWeights {
    fn default() -> Self {
        Self {
            wait: 1.0,
            harm: 1.0,
            price: 6.0,
            tie: 0.02,
            memory: true,
            foresight: 0.5,
            promise: true,
            young: 2.0,
            copies: true,
        }
    }
}

impl CostWeights {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let weights = [
            ("wait", self.wait),
            ("harm", self.harm),
            ("price", self.price),
            ("young", self.young),
        ];
        let wrong = weights.iter().filter(|it| !(0.0..=1e6).contains(&it.1));
        let mut problems: Vec<String> =
            wrong.map(|(name, value)| format!("{name}: must be 0 to 1e6, not {value}")).collect();
        for (name, share) in [("tie", self.tie), ("foresight", self.foresight)] {
            if !(0.0..=1.0).contains(&share) {
                problems.push(format!("{name}: must be a share from 0 to 1, not {share}"));
            }
        }
        problems
    }
}

impl Routing {
    /// Share of the prompt worth following, SGLang's `cache_threshold`.
    pub const MATCH_MIN: f64 = 0.3;

    /// `strategy` with its default limits: strategies that follow a cache or a session give way
    /// when their favourite is saturated, the others are left as their users know them.
    #[must_use]
    pub fn new(strategy: StrategyName) -> Self {
        let saturation = strategy.has_affinity().then(Saturation::default);
        Self {
            strategy,
            saturation,
            match_min: Self::MATCH_MIN,
            cost: CostWeights::default(),
            slow_start: SlowStart::default(),
        }
    }
}

/// The rules by which a replica is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrategyName {
    /// Each ready replica in turn.
    RoundRobin,
    /// Any ready replica, all equally likely.
    Random,
    /// The replica with the fewest requests in flight.
    LeastRequest,
    /// The one with fewer requests in flight of two drawn at random.
    PowerOfTwo,
    /// The replica that served the conversation before; least-request for a new conversation.
    Sticky,
    /// The replica that holds the longest prefix of the prompt; least-request for a cold prompt.
    PrefixAware,
    /// The replica with the least to compute before the answer, by what engines say they hold.
    KvAware,
    /// The replica where the request costs least in predicted seconds: its own wait, the delay it
    /// inflicts, and the price of its work.
    LeastLatency,
    /// The replica that the conversation, or the beginning of the prompt, hashes to; the next in its
    /// order while that one's load is above 1.25 times the mean.
    ConsistentHash,
    /// For comparison: `cache_aware` of the SGLang gateway.
    PeerSglang,
    /// For comparison: llm-d's blend of prefix, queue and memory.
    PeerLlmdBlend,
    /// For comparison: llm-d's "sticky until saturated".
    PeerLlmdTokenLoad,
    /// For comparison: the KV router of NVIDIA Dynamo.
    PeerDynamo,
    /// For comparison: Mooncake's least predicted TTFT.
    PeerMooncake,
    /// For comparison: LMetric's product of prefill tokens and batch size.
    PeerLmetric,
    /// For comparison: Preble's exploit or explore.
    PeerPreble,
}

impl StrategyName {
    /// Every strategy, in the order in which they are listed to people.
    pub const ALL: [Self; 16] = [
        Self::RoundRobin,
        Self::Random,
        Self::LeastRequest,
        Self::PowerOfTwo,
        Self::Sticky,
        Self::PrefixAware,
        Self::KvAware,
        Self::LeastLatency,
        Self::ConsistentHash,
        Self::PeerSglang,
        Self::PeerLlmdBlend,
        Self::PeerLlmdTokenLoad,
        Self::PeerDynamo,
        Self::PeerMooncake,
        Self::PeerLmetric,
        Self::PeerPreble,
    ];

    /// The name as configuration, headers and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::LeastRequest => "least-request",
            Self::PowerOfTwo => "power-of-two",
            Self::Sticky => "sticky",
            Self::PrefixAware => "prefix-aware",
            Self::KvAware => "kv-aware",
            Self::LeastLatency => "least-latency",
            Self::ConsistentHash => "consistent-hash",
            Self::PeerSglang => "peer-sglang",
            Self::PeerLlmdBlend => "peer-llmd-blend",
            Self::PeerLlmdTokenLoad => "peer-llmd-token-load",
            Self::PeerDynamo => "peer-dynamo",
            Self::PeerMooncake => "peer-mooncake",
            Self::PeerLmetric => "peer-lmetric",
            Self::PeerPreble => "peer-preble",
        }
    }

    /// The unit of what the strategy puts replicas at; none where it does not rank by one number.
    #[must_use]
    pub const fn ranks_in(self) -> Option<&'static str> {
        match self {
            Self::LeastRequest | Self::PowerOfTwo => Some("requests"),
            Self::KvAware | Self::PeerLlmdTokenLoad => Some("tokens"),
            // Preble's holders of most of a prompt go before those who rank by it.
            Self::LeastLatency | Self::PeerMooncake | Self::PeerPreble => Some("s"),
            Self::PeerLlmdBlend => Some("points lacking"),
            Self::PeerDynamo => Some("blocks"),
            Self::PeerLmetric => Some("tokens × requests"),
            Self::RoundRobin
            | Self::Random
            | Self::Sticky
            | Self::PrefixAware
            | Self::ConsistentHash
            | Self::PeerSglang => None,
        }
    }

    /// Whether the strategy prefers certain replicas for what they hold rather than for their load.
    #[must_use]
    pub const fn has_affinity(self) -> bool {
        match self {
            Self::Sticky | Self::PrefixAware | Self::KvAware => true,
            Self::RoundRobin
            | Self::Random
            | Self::LeastRequest
            | Self::PowerOfTwo
            | Self::LeastLatency
            | Self::ConsistentHash
            | Self::PeerSglang
            | Self::PeerLlmdBlend
            | Self::PeerLlmdTokenLoad
            | Self::PeerDynamo
            | Self::PeerMooncake
            | Self::PeerLmetric
            | Self::PeerPreble => false,
        }
    }
}

impl fmt::Display for StrategyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A strategy was asked for by a name that none has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown strategy `{0}`; choose one of {names}", names = strategy_names())]
pub struct UnknownStrategy(String);

fn strategy_names() -> String {
    StrategyName::ALL.map(StrategyName::as_str).join(", ")
}

impl FromStr for StrategyName {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == name);
        known.ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

/// When a chosen replica counts as saturated, and who chooses then.
///
/// A replica is saturated when one more request would take it above
/// `threshold × mean + slack` requests in flight, the mean being that of the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Saturation {
    /// Multiple of the candidates' mean requests in flight, at least 1. With the slack on top, nobody has
    /// more than 1.5 times the mean from a mean of 40 on.
    pub threshold: f64,
    /// Requests in flight allowed on top, so that an idle fleet still honours affinity.
    pub slack: u32,
    /// Who chooses among the replicas that are not saturated.
    pub fallback: Fallback,
}

impl Default for Saturation {
    fn default() -> Self {
        Self { threshold: 1.4, slack: 4, fallback: Fallback::LeastRequest }
    }
}

impl Saturation {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        if 1.0 <= self.threshold && self.threshold.is_finite() {
            return Vec::new();
        }
        vec![format!(
            "threshold: must be a finite multiple of the mean, at least 1, not {}",
            self.threshold
        )]
    }
}

/// The strategies that may stand in for a saturated choice: those that look at load alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fallback {
    /// Each in turn.
    RoundRobin,
    /// Any.
    Random,
    /// The fewest requests in flight.
    LeastRequest,
    /// The better of two.
    PowerOfTwo,
}

/// How prefixes are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixConfig {
    /// Tokens in one block of the index.
    pub block: Tokens,
    /// Most memory the index takes, in bytes, whatever the number of replicas.
    pub index_bytes_max: usize,
    /// Most memory that what engines say of their caches takes, in bytes; none is claimed before one
    /// says anything.
    #[serde(default = "PrefixConfig::held_bytes_max")]
    pub held_bytes_max: usize,
    /// Replicas the index has room for at first; beyond it the index starts anew with twice the
    /// room.
    pub replicas: NonZeroUsize,
}

impl Default for PrefixConfig {
    fn default() -> Self {
        let replicas = NonZeroUsize::MIN.saturating_add(63);
        Self {
            block: Tokens(64),
            index_bytes_max: 64 << 20,
            held_bytes_max: Self::held_bytes_max(),
            replicas,
        }
    }
}

impl PrefixConfig {
    const fn held_bytes_max() -> usize {
        64 << 20
    }
}

/// How conversations are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionConfig {
    /// How long a conversation stays bound after it was last served.
    pub ttl: Duration,
    /// Most conversations remembered; the least recently used give way.
    pub sessions_max: NonZeroUsize,
}

impl Default for SessionConfig {
    fn default() -> Self {
        let sessions_max = NonZeroUsize::MIN.saturating_add(99_999);
        Self { ttl: Duration::from_secs(3_600), sessions_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for name in StrategyName::ALL {
            assert_eq!(name.as_str().parse(), Ok(name));
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_known_ones() {
        let error = "robin".parse::<StrategyName>().unwrap_err().to_string();
        assert!(error.contains("`robin`") && error.contains("prefix-aware"), "{error}");
    }

    #[test]
    fn a_threshold_below_the_mean_is_a_problem() {
        for threshold in [0.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Saturation { threshold, ..Saturation::default() }.problems().len(), 1);
        }
        assert!(Saturation::default().problems().is_empty());
    }
}
