//! The blocks of a scenario that describe the fleet and the policy.

use std::{num::NonZeroUsize, time::Duration};

use engine::{Profile, Spread};
use policy::{
    config::{
        CostWeights, DispatcherConfig, PrefixConfig, Routing, Saturation, SessionConfig,
        StrategyName,
    },
    estimate::EstimateConfig,
    slow_start::SlowStart,
};
use serde::{Deserialize, Serialize};
use types::{
    quantity::Tokens,
    units::{ByteSize, TokenCount},
};

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as friendly;

use super::REPLICAS_MAX;
use crate::setup::ServiceTime;

/// The replicas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// Replicas at the start.
    pub replicas: u32,
    /// The model and GPU: a built-in profile, or a file that holds one.
    #[serde(default = "profile_default")]
    pub profile: String,
    /// What differs from the profile.
    #[serde(default)]
    pub overrides: Overrides,
    /// A queueing station in place of a modelled engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station: Option<Station>,
}

fn profile_default() -> String {
    "llama-3-8b-h100".to_owned()
}

/// What differs from a profile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Tokens the KV cache holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_tokens: Option<u32>,
    /// Longest prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
    /// Most tokens computed in one step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// Most sequences in one step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    /// Time from a request's arrival until the engine has it, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_overhead_ms: Option<f64>,
    /// How steps scatter around their formula.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Share of the shorter of reading weights and computing that hides behind the longer, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
}

impl Overrides {
    /// `profile` with what differs.
    #[must_use]
    pub fn applied_to(&self, profile: Profile) -> Profile {
        let tokens = |with: Option<u32>, without| with.map_or(without, Tokens);
        let mut step = profile.step;
        step.overlap = self.overlap.unwrap_or(step.overlap);
        Profile {
            step,
            kv_tokens: tokens(self.kv_tokens, profile.kv_tokens),
            max_model_len: tokens(self.max_model_len, profile.max_model_len),
            max_num_batched_tokens: tokens(
                self.max_num_batched_tokens,
                profile.max_num_batched_tokens,
            ),
            max_num_seqs: self.max_num_seqs.unwrap_or(profile.max_num_seqs),
            api_overhead_ms: self.api_overhead_ms.unwrap_or(profile.api_overhead_ms),
            spread: self.spread.or(profile.spread),
            ..profile
        }
    }
}

/// A queueing station: servers of equal speed behind one queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Station {
    /// Servers at each replica.
    pub servers: u32,
    /// How long requests take.
    pub service: ServiceTime,
}

impl Fleet {
    /// Everything wrong with the values.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.replicas == 0 || self.replicas > REPLICAS_MAX {
            problems.push(format!("replicas: needs 1 to {REPLICAS_MAX}, has {}", self.replicas));
        }
        if let Some(overlap) = self.overrides.overlap.filter(|it| !(0.0..=1.0).contains(it)) {
            problems.push(format!("overrides.overlap: needs 0 to 1, has {overlap}"));
        }
        if let Some(station) = &self.station {
            if station.servers == 0 {
                problems.push("station.servers: needs at least 1".to_owned());
            }
            problems.extend(station.service.problem().map(|it| format!("station.service.{it}")));
        }
        problems
    }
}

/// How routers decide: the keys of the router's own `policy` block that have a meaning without HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// The rule.
    pub strategy: StrategyName,
    /// How prefixes are remembered.
    pub prefix: Prefix,
    /// How conversations are remembered.
    pub session: Session,
    /// When the rule's choice gives way. Absent: for strategies with affinity with the defaults, for
    /// the others never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<Saturation>,
    /// What `least-latency` weighs.
    pub cost: CostWeights,
    /// What predictions start from.
    pub estimate: EstimateConfig,
    /// How the share of a replica grows that has just come.
    pub slow_start: SlowStart,
}

/// How prefixes are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prefix {
    /// Tokens in one block of the index.
    pub block: TokenCount,
    /// Most memory for the index.
    pub index_bytes_max: ByteSize,
    /// Share of the prompt a replica must hold for `prefix-aware` to follow it, 0 to 1.
    pub match_min: f64,
}

/// How conversations are remembered.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Session {
    /// How long a conversation stays bound after it was last served.
    #[serde(with = "friendly")]
    pub ttl: Duration,
    /// Most conversations remembered.
    pub sessions_max: NonZeroUsize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            strategy: StrategyName::PrefixAware,
            prefix: Prefix::default(),
            session: Session::default(),
            saturation: None,
            cost: CostWeights::default(),
            estimate: EstimateConfig::default(),
            slow_start: SlowStart::default(),
        }
    }
}

impl Default for Prefix {
    fn default() -> Self {
        let PrefixConfig { block, index_bytes_max, .. } = PrefixConfig::default();
        Self {
            block: TokenCount(block),
            index_bytes_max: ByteSize(index_bytes_max),
            match_min: Routing::MATCH_MIN,
        }
    }
}

impl Default for Session {
    fn default() -> Self {
        let SessionConfig { ttl, sessions_max } = SessionConfig::default();
        Self { ttl, sessions_max }
    }
}

impl Policy {
    /// Everything wrong with the values.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self
            .saturation
            .iter()
            .flat_map(Saturation::problems)
            .map(|it| format!("saturation.{it}"))
            .collect();
        problems.extend(self.cost.problems().into_iter().map(|it| format!("cost.{it}")));
        let estimate = self.estimate.problems().into_iter();
        problems.extend(estimate.map(|it| format!("estimate.coefficients.{it}")));
        let slow_start = self.slow_start.problems().into_iter();
        problems.extend(slow_start.map(|it| format!("slow_start.{it}")));
        let Prefix { block: TokenCount(Tokens(block)), index_bytes_max: bytes, match_min } =
            self.prefix;
        if !(0.0..=1.0).contains(&match_min) {
            problems.push(format!("prefix.match_min: needs a share from 0 to 1, has {match_min}"));
        }
        if !(1..=4_096).contains(&block) {
            problems.push(format!("prefix.block: needs 1 to 4096 tokens, has {block}"));
        }
        if bytes.0 < 1 << 16 {
            problems.push(format!("prefix.index_bytes_max: {bytes} is less than 64KiB"));
        }
        problems
    }

    /// What a dispatcher under `strategy` is told.
    pub(super) fn dispatcher(&self, strategy: StrategyName) -> DispatcherConfig {
        let default = DispatcherConfig::new(strategy, 0);
        let Prefix { block, index_bytes_max, match_min } = self.prefix;
        // An override of saturation was written for the file's own strategy, or for all with affinity.
        let has_say = strategy == self.strategy || strategy.has_affinity();
        let saturation = self.saturation.filter(|_| has_say).or(default.routing.saturation);
        DispatcherConfig {
            routing: Routing {
                saturation,
                match_min,
                cost: self.cost,
                slow_start: self.slow_start,
                ..default.routing
            },
            prefix: PrefixConfig {
                block: block.0,
                index_bytes_max: index_bytes_max.0,
                ..default.prefix
            },
            session: SessionConfig {
                ttl: self.session.ttl,
                sessions_max: self.session.sessions_max,
            },
            estimate: self.estimate,
            ..default
        }
    }
}
