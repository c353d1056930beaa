//! Limits that others learn, to compare with: each counts the requests of one replica and watches
//! how long first tokens take, as its users know it.

use super::config::AdmissionMode;

const FIRST: f64 = 20.0;
const MOST: f64 = 10_000.0;

/// Limiters count in windows of so many first tokens.
const WINDOW: u32 = 20;

/// Weight of the newest window in Gradient2's long mean: a mean over 600.
const LONG_WEIGHT: f64 = 2.0 / 601.0;

/// A limit that a peer's rule learns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerLimit {
    value: f64,
    /// Gradient2's long mean of the times, seconds.
    long_s: f64,
    /// Vegas' least time, seconds.
    least_s: f64,
    sum_s: f64,
    broken: u32,
    most_beside: u32,
    seen: u32,
}

impl Default for PeerLimit {
    fn default() -> Self {
        Self {
            value: FIRST,
            long_s: 0.0,
            least_s: f64::INFINITY,
            sum_s: 0.0,
            broken: 0,
            most_beside: 0,
            seen: 0,
        }
    }
}

impl PeerLimit {
    /// The limit.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// Learns that a request with `beside` others took `took_s`, and whether that broke its promise.
    pub fn observe(&mut self, mode: AdmissionMode, beside: u32, took_s: f64, was_broken: bool) {
        self.sum_s += took_s;
        self.least_s = self.least_s.min(took_s.max(1e-4));
        self.broken = self.broken.saturating_add(u32::from(was_broken));
        self.most_beside = self.most_beside.max(beside.saturating_add(1));
        self.seen = self.seen.saturating_add(1);
        if self.seen < WINDOW {
            return;
        }
        let mean_s = (self.sum_s / f64::from(WINDOW)).max(1e-4);
        let next = if mode == AdmissionMode::Gradient {
            self.gradient(mean_s)
        } else if mode == AdmissionMode::Vegas {
            self.vegas(mean_s)
        } else {
            self.aimd()
        };
        self.value = next.clamp(1.0, MOST);
        (self.sum_s, self.broken, self.most_beside, self.seen) = (0.0, 0, 0, 0);
    }

    /// Whether less than half of the limit was in use, which says nothing of it.
    fn is_idle(&self) -> bool {
        f64::from(self.most_beside) < self.value / 2.0
    }

    /// Netflix concurrency-limits, `Gradient2Limit`, with its defaults.
    fn gradient(&mut self, short_s: f64) -> f64 {
        if self.long_s <= 0.0 {
            self.long_s = short_s;
        }
        self.long_s += LONG_WEIGHT * (short_s - self.long_s);
        if self.long_s / short_s > 2.0 {
            self.long_s *= 0.95;
        }
        if self.is_idle() {
            return self.value;
        }
        let gradient = (1.5 * self.long_s / short_s).clamp(0.5, 1.0);
        let next = self.value * gradient + 4.0;
        (0.8 * self.value + 0.2 * next).max(20.0)
    }

    /// Netflix concurrency-limits, `VegasLimit`, with its defaults.
    fn vegas(&self, mean_s: f64) -> f64 {
        if self.is_idle() {
            return self.value;
        }
        let step = digits(self.value);
        let queue = self.value * (1.0 - self.least_s / mean_s);
        if queue <= step {
            self.value + 6.0 * step
        } else if queue < 3.0 * step {
            self.value + step
        } else if queue > 6.0 * step {
            self.value - step
        } else {
            self.value
        }
    }

    fn aimd(&self) -> f64 {
        // One in twenty late is as promised.
        if self.broken * 20 > WINDOW {
            self.value * 0.9
        } else if self.is_idle() {
            self.value
        } else {
            self.value + 1.0
        }
    }
}

/// The decimal logarithm, rounded to the next whole number and at least 1.
fn digits(value: f64) -> f64 {
    let mut digits = 1.0;
    let mut bound = 10.0;
    while bound < value && digits < 6.0 {
        digits += 1.0;
        bound *= 10.0;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aimd_backs_off_when_promises_break_and_gradient_when_times_grow() {
        let mut limit = PeerLimit::default();
        (0..40).for_each(|_| limit.observe(AdmissionMode::Aimd, 19, 0.1, false));
        assert!((limit.value() - 22.0).abs() < 1e-9, "{limit:?}");
        (0..20).for_each(|_| limit.observe(AdmissionMode::Aimd, 21, 3.0, true));
        assert!((limit.value() - 19.8).abs() < 1e-9, "{limit:?}");
        let mut limit = PeerLimit::default();
        (0..2_000).for_each(|_| limit.observe(AdmissionMode::Gradient, 1_000, 0.1, false));
        let grown = limit.value();
        (0..200).for_each(|_| limit.observe(AdmissionMode::Gradient, 1_000, 1.0, false));
        assert!(limit.value() < grown * 0.7, "{grown} then {limit:?}");
    }
}
