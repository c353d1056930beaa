//! Whether the generator kept up with its own schedule.
//!
//! Every request's lag is measured: from when it was due to when the task that sends it ran. That
//! task waits in the same queue as those that read answers, so a generator that is too busy to read
//! in time shows it here too. A run whose generator fell behind measured itself, not its target.

use std::{fmt, time::Duration};

use report::RequestRecord;
use types::time::Timestamp;

/// The p99 of the lag beyond which a run is not to be trusted, unless told otherwise: a tenth of a
/// tight TTFT.
pub const LAG_MAX: Duration = Duration::from_millis(10);

/// How late a run's requests left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Median.
    pub p50: Duration,
    /// What 99 % do not exceed.
    pub p99: Duration,
    /// The worst.
    pub max: Duration,
    /// Requests that did not leave because the generator could open no more.
    pub unsent: u64,
}

impl Lag {
    /// The lag of `records` scheduled from `warm` on, `unsent` requests apart.
    #[must_use]
    pub fn of(records: &[RequestRecord], warm: Timestamp, unsent: u64) -> Self {
        let counted = records.iter().filter(|it| it.scheduled >= warm);
        let mut lags: Vec<Duration> = counted.filter_map(RequestRecord::lag).collect();
        lags.sort_unstable();
        let at = |share: usize| {
            let rank = lags.len().saturating_mul(share).div_ceil(100).saturating_sub(1);
            lags.get(rank).copied().unwrap_or_default()
        };
        Self { p50: at(50), p99: at(99), max: at(100), unsent }
    }

    /// Why the run is not to be trusted, without a cure, if the p99 of its lag exceeds `lag_max` or something was not
    /// sent at all.
    #[must_use]
    pub fn verdict(self, lag_max: Duration) -> Option<Behind> {
        (self.p99 > lag_max || self.unsent > 0).then_some(Behind { lag: self, lag_max })
    }
}

/// A generator that fell behind its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    lag: Lag,
    lag_max: Duration,
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lag { p50, p99, max, unsent } = self.lag;
        write!(f, "THE LOAD GENERATOR FELL BEHIND: ")?;
        if p99 > self.lag_max {
            write!(
                f,
                "requests left {p50:.1?} (p50), {p99:.1?} (p99) and {max:.1?} (max) late, more than \
                 {:?} at p99",
                self.lag_max
            )?;
        }
        if p99 > self.lag_max && unsent > 0 {
            write!(f, "; ")?;
        }
        if unsent > 0 {
            write!(f, "{unsent} requests were not sent because too many were open")?;
        }
        write!(f, ". The figures say as much of this machine as of the target")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(lags_ms: impl Iterator<Item = u64>) -> Vec<RequestRecord> {
        let sent = |it| Some(Timestamp::from_elapsed(Duration::from_millis(it)));
        lags_ms.map(|it| RequestRecord { sent: sent(it), ..RequestRecord::default() }).collect()
    }

    #[test]
    fn one_late_request_in_two_hundred_is_no_falling_behind() {
        let of = |late| {
            Lag::of(
                &records((0..200).map(|it| if it < late { 500 } else { 0 })),
                Timestamp::ZERO,
                0,
            )
        };
        assert_eq!((of(1).p99, of(1).max), (Duration::ZERO, Duration::from_millis(500)));
        assert_eq!(of(2).verdict(LAG_MAX), None);
        let told = of(3).verdict(LAG_MAX).unwrap().to_string();
        assert!(told.contains("500.0ms (p99)") && told.contains("this machine"), "{told}");
    }

    #[test]
    fn requests_that_never_left_are_a_falling_behind() {
        let lag = Lag::of(&records([0, 0].into_iter()), Timestamp::ZERO, 3);
        let told = lag.verdict(LAG_MAX).unwrap().to_string();
        assert!(told.contains("3 requests were not sent"), "{told}");
        assert_eq!(Lag::of(&[], Timestamp::ZERO, 0).verdict(LAG_MAX), None);
    }

    #[test]
    fn the_warm_up_does_not_count() {
        let warm = Timestamp::from_elapsed(Duration::from_secs(1));
        assert_eq!(Lag::of(&records([900].into_iter()), warm, 0), Lag::default());
    }
}
