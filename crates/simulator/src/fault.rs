//! What goes wrong with a fleet, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Something that befalls the fleet at a given time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// A replica dies with all it holds, and starts again with a cold cache.
    Crash {
        /// When.
        #[serde(with = "friendly")]
        at: Duration,
        /// Which replica, from zero.
        replica: u32,
        /// Until it listens again; never when absent.
        #[serde(default, with = "friendly_optional")]
        down_for: Option<Duration>,
    },
    /// A replica takes longer for everything.
    Slow {
        /// From when.
        #[serde(with = "friendly")]
        at: Duration,
        /// Which replica.
        replica: u32,
        /// For how long.
        #[serde(rename = "for", with = "friendly")]
        lasts: Duration,
        /// How many times longer, above 0.
        factor: f64,
    },
    /// A replica begins nothing for a while, be it a step of an engine or a service: what is under
    /// way ends, what comes waits, and no connection breaks.
    Stall {
        /// From when.
        #[serde(with = "friendly")]
        at: Duration,
        /// Which replica.
        replica: u32,
        /// For how long.
        #[serde(rename = "for", with = "friendly")]
        lasts: Duration,
    },
    /// Nothing passes between a router and a replica, both being well: connections break, both ends
    /// notice, and new ones do not come about.
    Partition {
        /// From when.
        #[serde(with = "friendly")]
        at: Duration,
        /// Which router; all of them when absent.
        #[serde(default)]
        router: Option<u32>,
        /// Which replica.
        replica: u32,
        /// For how long.
        #[serde(rename = "for", with = "friendly")]
        lasts: Duration,
    },
    /// No router reads any replica's load: what they were told last grows old.
    LostReports {
        /// From when.
        #[serde(with = "friendly")]
        at: Duration,
        /// For how long.
        #[serde(rename = "for", with = "friendly")]
        lasts: Duration,
    },
    /// New replicas join.
    ScaleOut {
        /// When they listen; routers see them ready `health_delay` later.
        #[serde(with = "friendly")]
        at: Duration,
        /// How many.
        replicas: u32,
    },
    /// A replica takes nothing new, finishes what it has, and leaves.
    ScaleIn {
        /// When.
        #[serde(with = "friendly")]
        at: Duration,
        /// Which replica.
        replica: u32,
    },
    /// Each replica in turn drains, restarts with a cold cache and is seen ready again.
    RollingDeployment {
        /// When the first one drains.
        #[serde(with = "friendly")]
        at: Duration,
        /// How long a replica takes to restart.
        #[serde(with = "friendly")]
        down_for: Duration,
    },
    /// Every prompt has another cache salt from now on, so that no block is found again.
    RotateSalt {
        /// When.
        #[serde(with = "friendly")]
        at: Duration,
    },
}

use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as friendly_optional, required as friendly,
};

impl Fault {
    /// When it begins.
    #[must_use]
    pub const fn at(&self) -> Duration {
        match *self {
            Self::Crash { at, .. }
            | Self::Slow { at, .. }
            | Self::Stall { at, .. }
            | Self::Partition { at, .. }
            | Self::LostReports { at, .. }
            | Self::ScaleOut { at, .. }
            | Self::ScaleIn { at, .. }
            | Self::RollingDeployment { at, .. }
            | Self::RotateSalt { at } => at,
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Crash { .. } => "crash",
            Self::Slow { .. } => "slow",
            Self::Stall { .. } => "stall",
            Self::Partition { .. } => "partition",
            Self::LostReports { .. } => "lost-reports",
            Self::ScaleOut { .. } => "scale-out",
            Self::ScaleIn { .. } => "scale-in",
            Self::RollingDeployment { .. } => "rolling-deployment",
            Self::RotateSalt { .. } => "rotate-salt",
        }
    }

    /// When it is over at the soonest, in a fleet of `replicas` that routers see back after
    /// `health_delay`; caches may be cold for longer.
    #[must_use]
    pub fn ends(&self, replicas: u32, health_delay: Duration) -> Duration {
        let lasts = match *self {
            Self::Crash { down_for, .. } => {
                down_for.unwrap_or_default().saturating_add(health_delay)
            }
            Self::Slow { lasts, .. }
            | Self::Stall { lasts, .. }
            | Self::Partition { lasts, .. }
            | Self::LostReports { lasts, .. } => lasts,
            Self::ScaleOut { .. } => health_delay,
            Self::RollingDeployment { down_for, .. } => {
                down_for.saturating_add(health_delay).saturating_mul(replicas)
            }
            Self::ScaleIn { .. } | Self::RotateSalt { .. } => Duration::ZERO,
        };
        self.at().saturating_add(lasts)
    }

    /// What is wrong with it in a fleet of `replicas` behind `routers`.
    #[must_use]
    pub fn problem(&self, replicas: u32, routers: u32) -> Option<String> {
        let (replica, router) = match *self {
            Self::Crash { replica, .. }
            | Self::Stall { replica, .. }
            | Self::ScaleIn { replica, .. } => (replica, None),
            Self::Slow { factor, .. } if !(factor > 0.0 && factor.is_finite()) => {
                return Some(format!("factor: needs a number above 0, has {factor}"));
            }
            Self::Slow { replica, .. } => (replica, None),
            Self::Partition { replica, router, .. } => (replica, router),
            Self::ScaleOut { replicas: 0, .. } => {
                return Some("replicas: needs at least 1".to_owned());
            }
            Self::LostReports { .. }
            | Self::ScaleOut { .. }
            | Self::RollingDeployment { .. }
            | Self::RotateSalt { .. } => return None,
        };
        if replica >= replicas {
            return Some(format!(
                "replica: {replica} is not there, the last is {}",
                replicas.saturating_sub(1)
            ));
        }
        let router = router.filter(|it| *it >= routers)?;
        Some(format!("router: {router} is not there, the last is {}", routers.saturating_sub(1)))
    }
}
