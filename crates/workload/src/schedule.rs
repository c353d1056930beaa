//! When requests are sent: open-loop schedules, fixed before the first one leaves.

use std::time::Duration;

use rand::{RngExt, rngs::Xoshiro256PlusPlus};
use rand_distr::Exp1;
use types::time::Timestamp;

use crate::seed::{Purpose, generator};

/// Most requests that one run may schedule.
pub const REQUESTS_MAX: u32 = 10_000_000;

/// How a run is loaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// When requests are sent.
    pub schedule: Schedule,
    /// For how long; absent, a trace is sent to its end. Workloads that are generated need it.
    pub duration: Option<Duration>,
    /// What every random draw follows from.
    pub seed: u64,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        let mut problems = Vec::new();
        let (name, factor) = match self.schedule {
            Schedule::Poisson { rate_per_s } | Schedule::Constant { rate_per_s } => {
                ("rate", rate_per_s)
            }
            Schedule::Trace { speedup } => ("speedup", speedup),
        };
        if !(factor.is_finite() && factor > 0.0) {
            problems.push(format!("{name}: needs a number above 0, has {factor}"));
        }
        let seconds = self.duration.unwrap_or_default().as_secs_f64();
        if name == "rate" && factor * seconds > f64::from(REQUESTS_MAX) {
            problems.push(format!(
                "rate and duration: {factor} requests/s for {seconds} s are more than {REQUESTS_MAX} requests"
            ));
        }
        problems
    }
}

impl Schedule {
    /// The rate at which requests are offered, in requests per second, where the schedule sets it.
    #[must_use]
    pub const fn rate_per_s(&self) -> Option<f64> {
        match *self {
            Self::Poisson { rate_per_s } | Self::Constant { rate_per_s } => Some(rate_per_s),
            Self::Trace { .. } => None,
        }
    }

    /// The endless times of arrivals that the schedule sets; none where a trace does.
    pub(crate) fn times(&self, seed: u64) -> Option<Times> {
        let (rate_per_s, random) = match *self {
            Self::Poisson { rate_per_s } => (rate_per_s, true),
            Self::Constant { rate_per_s } => (rate_per_s, false),
            Self::Trace { .. } => return None,
        };
        let generator = random.then(|| generator(seed, Purpose::Arrivals));
        Some(Times { rate_per_s, generator, elapsed_s: 0.0 })
    }

    /// The schedule at `share` of its rate.
    pub(crate) fn scaled(&self, share: f64) -> Self {
        match *self {
            Self::Poisson { rate_per_s } => Self::Poisson { rate_per_s: rate_per_s * share },
            Self::Constant { rate_per_s } => Self::Constant { rate_per_s: rate_per_s * share },
            Self::Trace { speedup } => Self::Trace { speedup },
        }
    }
}

/// Times of arrivals, in order, without end.
#[derive(Debug)]
pub(crate) struct Times {
    rate_per_s: f64,
    /// Absent where the gaps are all equal.
    generator: Option<Xoshiro256PlusPlus>,
    elapsed_s: f64,
}

impl Iterator for Times {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        let gap: f64 = match &mut self.generator {
            Some(generator) => generator.sample(Exp1),
            None => 1.0,
        };
        self.elapsed_s += gap / self.rate_per_s;
        Some(timestamp_from_s(self.elapsed_s))
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

    fn count_in(schedule: Schedule, seconds: u64) -> usize {
        let end = Timestamp::from_elapsed(Duration::from_secs(seconds));
        schedule.times(3).unwrap().take_while(|at| *at < end).count()
    }

    #[test]
    fn a_poisson_schedule_keeps_its_rate_and_its_variance() {
        let schedule = Schedule::Poisson { rate_per_s: 50.0 };
        let count = count_in(schedule, 1_000);
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
    }
}
