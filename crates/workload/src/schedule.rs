//! When requests are sent: open-loop schedules, fixed before the first one leaves.

use std::time::Duration;

use types::time::Timestamp;

use crate::{
    pacing::{Pacing, Times},
    rates::Rates,
};

/// Most requests that one run may schedule.
pub const REQUESTS_MAX: u32 = 10_000_000;

/// How a run is loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// When requests are sent.
    pub schedule: Schedule,
    /// For how long; absent, a trace is sent to its end. Workloads that are generated need it.
    pub duration: Option<Duration>,
    /// What every random draw follows from.
    pub seed: u64,
}

/// When requests are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// At random, independently of each other, as many users do.
    Poisson {
        /// Mean rate, in requests per second.
        rate_per_s: f64,
    },
    /// At equal distances.
    Constant {
        /// Rate, in requests per second.
        rate_per_s: f64,
    },
    /// In bursts, or steadier than at random.
    Gamma {
        /// Mean rate, in requests per second.
        rate_per_s: f64,
        /// As [`Pacing::Gamma`] has it: below 1 in bursts, above 1 steady.
        burstiness: f64,
    },
    /// At a rate that changes.
    Varying {
        /// How requests are spaced around the rate.
        pacing: Pacing,
        /// The rate.
        rates: Rates,
    },
    /// When the trace says.
    Trace {
        /// How many times faster than recorded.
        speedup: f64,
    },
}

impl Load {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let (pacing, rates) = match self.schedule.paced() {
            Some(paced) => paced,
            None => return self.schedule.speedup_problem().into_iter().collect(),
        };
        let mut problems: Vec<String> = pacing.problem().into_iter().collect();
        match self.schedule.rate_per_s() {
            Some(rate) if !(rate.is_finite() && rate > 0.0) => {
                problems.push(format!("rate: needs a number above 0, has {rate}"));
            }
            Some(_) => {}
            None => problems.extend(rates.problems()),
        }
        let seconds = self.duration.unwrap_or_default().as_secs_f64();
        let total = rates.total(seconds);
        if problems.is_empty() && total > f64::from(REQUESTS_MAX) {
            problems.push(format!(
                "rate and duration: {total:.0} requests in {seconds} s are more than {REQUESTS_MAX}"
            ));
        }
        problems
    }
}

impl Schedule {
    /// The rate at which requests are offered, in requests per second, where it is one number.
    #[must_use]
    pub const fn rate_per_s(&self) -> Option<f64> {
        match *self {
            Self::Poisson { rate_per_s }
            | Self::Constant { rate_per_s }
            | Self::Gamma { rate_per_s, .. } => Some(rate_per_s),
            Self::Varying { .. } | Self::Trace { .. } => None,
        }
    }

    /// Whether the times are those that a trace has recorded.
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        matches!(self, Self::Trace { .. })
    }

    /// How requests are spaced around which rate; none where a trace says when they come.
    fn paced(&self) -> Option<(Pacing, Rates)> {
        match self {
            Self::Poisson { rate_per_s } => Some((Pacing::Poisson, Rates::constant(*rate_per_s))),
            Self::Constant { rate_per_s } => Some((Pacing::Constant, Rates::constant(*rate_per_s))),
            Self::Gamma { rate_per_s, burstiness } => {
                let pacing = Pacing::Gamma { burstiness: *burstiness };
                Some((pacing, Rates::constant(*rate_per_s)))
            }
            Self::Varying { pacing, rates } => Some((*pacing, rates.clone())),
            Self::Trace { .. } => None,
        }
    }

    fn speedup_problem(&self) -> Option<String> {
        match *self {
            Self::Trace { speedup } if !(speedup.is_finite() && speedup > 0.0) => {
                Some(format!("speedup: needs a number above 0, has {speedup}"))
            }
            Self::Trace { .. }
            | Self::Poisson { .. }
            | Self::Constant { .. }
            | Self::Gamma { .. }
            | Self::Varying { .. } => None,
        }
    }

    /// The times of arrivals that the schedule sets; none where a trace does.
    pub(crate) fn times(&self, seed: u64) -> Option<Times> {
        self.paced().map(|(pacing, rates)| Times::new(pacing, &rates, seed))
    }

    /// The schedule at `share` of its rate.
    pub(crate) fn scaled(&self, share: f64) -> Self {
        match self {
            Self::Poisson { rate_per_s } => Self::Poisson { rate_per_s: rate_per_s * share },
            Self::Constant { rate_per_s } => Self::Constant { rate_per_s: rate_per_s * share },
            Self::Gamma { rate_per_s, burstiness } => {
                Self::Gamma { rate_per_s: rate_per_s * share, burstiness: *burstiness }
            }
            Self::Varying { pacing, rates } => {
                Self::Varying { pacing: *pacing, rates: rates.scaled(share) }
            }
            Self::Trace { speedup } => Self::Trace { speedup: *speedup },
        }
    }

    /// The schedule with its changes of rate `delay` later.
    pub(crate) fn delayed(&self, delay: Duration) -> Self {
        match self {
            Self::Varying { pacing, rates } => {
                Self::Varying { pacing: *pacing, rates: rates.delayed(delay) }
            }
            Self::Poisson { .. }
            | Self::Constant { .. }
            | Self::Gamma { .. }
            | Self::Trace { .. } => self.clone(),
        }
    }
}

/// The point `seconds` after the run's start: the start for a negative number, the end of time for
/// one too large.
pub(crate) fn timestamp_from_s(seconds: f64) -> Timestamp {
    Timestamp::from_elapsed(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_in(schedule: &Schedule, seconds: u64) -> usize {
        let end = Timestamp::from_elapsed(Duration::from_secs(seconds));
        schedule.times(3).unwrap().take_while(|at| *at < end).count()
    }

    #[test]
    fn a_poisson_schedule_keeps_its_rate_and_its_variance() {
        let schedule = Schedule::Poisson { rate_per_s: 50.0 };
        let count = count_in(&schedule, 1_000);
        assert!((49_300..50_700).contains(&count), "{count} is 3 standard deviations off");
        let times: Vec<f64> =
            schedule.times(3).unwrap().take(50_000).map(|at| at.elapsed().as_secs_f64()).collect();
        let short = times.windows(2).filter(|it| it[1] - it[0] < 0.02).count();
        let share = short as f64 / 49_999.0;
        assert!((share - (1.0 - (-1.0_f64).exp())).abs() < 0.01, "{share}");
    }

    #[test]
    fn a_constant_schedule_is_even() {
        let schedule = Schedule::Constant { rate_per_s: 4.0 };
        let times: Vec<Duration> =
            schedule.times(1).unwrap().take(3).map(Timestamp::elapsed).collect();
        assert_eq!(times, [250, 500, 750].map(Duration::from_millis));
    }

    #[test]
    fn a_seed_is_a_schedule() {
        let times = |seed| -> Vec<Timestamp> {
            Schedule::Poisson { rate_per_s: 1.0 }.times(seed).unwrap().take(9).collect()
        };
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    #[test]
    fn impossible_loads_are_named() {
        let load = |schedule, seconds| Load {
            schedule,
            duration: Some(Duration::from_secs(seconds)),
            seed: 1,
        };
        for rate_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(!load(Schedule::Poisson { rate_per_s }, 1).problems().is_empty());
        }
        assert!(!load(Schedule::Trace { speedup: 0.0 }, 1).problems().is_empty());
        assert!(!load(Schedule::Constant { rate_per_s: 1e6 }, 100).problems().is_empty());
        assert!(load(Schedule::Constant { rate_per_s: 1e6 }, 10).problems().is_empty());
        let bursts = Schedule::Gamma { rate_per_s: 1.0, burstiness: -1.0 };
        assert!(load(bursts, 1).problems()[0].contains("burstiness"));
        let varying = |rates| Schedule::Varying { pacing: Pacing::Poisson, rates };
        assert!(!load(varying(Rates(Vec::new())), 1).problems().is_empty());
        let steep = varying(Rates::ramp(0.0, 1e6, Duration::from_secs(100)));
        assert!(load(steep.clone(), 1).problems().is_empty());
        assert!(load(steep, 100).problems()[0].contains("more than"));
    }
}
