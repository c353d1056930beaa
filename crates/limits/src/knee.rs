//! The rate up to which a fleet can keep its promises, were work a fluid.
//!
//! ```text
//! λ* = N · (1 − o / S) / E[w]
//! ```
//!
//! `N` replicas; `w` the time of one replica that a request takes at least, whatever it shares its
//! steps with; `o` the overhead of a step and `S` the time per output token that is promised: steps
//! cannot be longer than `S`, so the share `o / S` of the time is lost to them. Requests that come in
//! bunches, caches that are not warm and load that is not even make the real knee lower.

use std::time::Duration;

/// Requests per second at the knee; none without work.
///
/// `tpot_max` is the promised time per output token; without one steps may be as long as they
/// like, and their overhead is lost in them.
#[must_use]
pub fn fluid_knee(
    replicas: u32,
    step_overhead: Duration,
    tpot_max: Option<Duration>,
    mean_work: Duration,
) -> Option<f64> {
    let lost =
        tpot_max.filter(|it| !it.is_zero()).map_or(0.0, |it| step_overhead.div_duration_f64(it));
    let useful = (1.0 - lost).max(0.0);
    (!mean_work.is_zero()).then(|| f64::from(replicas) * useful / mean_work.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn the_knee_is_capacity_less_what_steps_lose() {
        let knee = |tpot| fluid_knee(8, millis(2), tpot, millis(100));
        assert!((knee(None).unwrap() - 80.0).abs() < 1e-9);
        assert!((knee(Some(millis(50))).unwrap() - 76.8).abs() < 1e-9);
        assert_eq!(knee(Some(millis(1))), Some(0.0));
        assert_eq!(fluid_knee(8, millis(2), None, Duration::ZERO), None);
    }
}
