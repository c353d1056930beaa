//! How requests are let in, as an operator sets it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How requests are let in; may change while running.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionConfig {
    /// The rule.
    pub mode: AdmissionMode,
    /// Most requests in flight on a replica; under `static` alone.
    pub in_flight_max: u32,
    /// Most requests that wait for a replica; 0 turns waiting off.
    pub queue_max: u32,
    /// Share of the time to first token promised that a request may spend waiting, 0 to 1.
    pub wait_share: f64,
    /// Sent again, at most, for each request that comes, by the router after a failed attempt. As many may
    /// wait of those that clients say they send again: for each request of their tenant, and of all.
    pub retry_share: f64,
    /// How much earlier than others whoever is over its share, or less urgent than others who are
    /// there, is turned away: the factor by which its predictions are raised.
    pub reserve: f64,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            mode: AdmissionMode::Knee,
            in_flight_max: 64,
            queue_max: 1_024,
            wait_share: 0.5,
            retry_share: 0.2,
            reserve: 1.15,
        }
    }
}

impl AdmissionConfig {
    /// Everybody is let in.
    #[must_use]
    pub fn off() -> Self {
        Self::of(AdmissionMode::Off)
    }

    /// `mode` with its defaults.
    #[must_use]
    pub fn of(mode: AdmissionMode) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.in_flight_max == 0 {
            problems.push("in_flight_max: must be at least 1, or nobody is let in".to_owned());
        }
        if self.queue_max > 100_000 {
            problems.push(format!("queue_max: must be at most 100000, not {}", self.queue_max));
        }
        for (name, share) in [("wait_share", self.wait_share), ("retry_share", self.retry_share)] {
            if !(0.0..=1.0).contains(&share) {
                problems.push(format!("{name}: must be a share from 0 to 1, not {share}"));
            }
        }
        if !(1.0..=4.0).contains(&self.reserve) {
            problems.push(format!("reserve: must be a factor from 1 to 4, not {}", self.reserve));
        }
        problems
    }
}

/// The rules by which requests are let in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdmissionMode {
    /// Everybody is.
    Off,
    /// Who finds fewer requests on a replica than a number that the operator knows.
    Static,
    /// Who will be served as promised, and spoils no promise made to others.
    #[default]
    Knee,
    /// As `knee`, the time to first token alone.
    TtftOnly,
    /// As `knee`, the time per token being that of a step in which nobody's prompt is computed.
    InstantTpot,
    /// As `knee`, with predictions as they are.
    FixedMargins,
    /// As `knee`, whatever the request itself adds.
    SizeBlind,
    /// Netflix's gradient limiter, on each replica's time to first token.
    Gradient,
    /// TCP Vegas' limiter, on each replica's time to first token.
    Vegas,
    /// One more while promises are kept, a tenth fewer when one is broken, for each replica.
    Aimd,
}

impl AdmissionMode {
    /// Every mode: those for use first, then those to compare with.
    pub const ALL: [Self; 10] = [
        Self::Off,
        Self::Static,
        Self::Knee,
        Self::TtftOnly,
        Self::InstantTpot,
        Self::FixedMargins,
        Self::SizeBlind,
        Self::Gradient,
        Self::Vegas,
        Self::Aimd,
    ];

    /// The name as configuration, results and metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Static => "static",
            Self::Knee => "knee",
            Self::TtftOnly => "ttft-only",
            Self::InstantTpot => "instant-tpot",
            Self::FixedMargins => "fixed-margins",
            Self::SizeBlind => "size-blind",
            Self::Gradient => "gradient",
            Self::Vegas => "vegas",
            Self::Aimd => "aimd",
        }
    }

    /// Whether the rule predicts what a request would meet.
    #[must_use]
    pub const fn predicts(self) -> bool {
        match self {
            Self::Knee
            | Self::TtftOnly
            | Self::InstantTpot
            | Self::FixedMargins
            | Self::SizeBlind => true,
            Self::Off | Self::Static | Self::Gradient | Self::Vegas | Self::Aimd => false,
        }
    }

    /// Whether the rule counts requests against a limit that it learns for each replica.
    #[must_use]
    pub const fn learns_a_limit(self) -> bool {
        matches!(self, Self::Gradient | Self::Vegas | Self::Aimd)
    }
}

impl fmt::Display for AdmissionMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A mode was asked for by a name that none has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown admission mode `{0}`; choose one of {names}", names = mode_names())]
pub struct UnknownMode(String);

fn mode_names() -> String {
    AdmissionMode::ALL.map(AdmissionMode::as_str).join(", ")
}

impl FromStr for AdmissionMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == name);
        known.ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_an_unknown_one_is_told_them() {
        for name in AdmissionMode::ALL {
            assert_eq!(name.as_str().parse(), Ok(name));
        }
        let error = "knees".parse::<AdmissionMode>().unwrap_err().to_string();
        assert!(error.contains("`knees`") && error.contains("static"), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let config = AdmissionConfig { in_flight_max: 0, reserve: 0.5, ..AdmissionConfig::off() };
        let problems = config.problems().join("\n");
        assert!(problems.contains("in_flight_max") && problems.contains("reserve"), "{problems}");
        assert!(AdmissionConfig::default().problems().is_empty());
    }
}
