//! Sums that forget.

use std::time::Duration;

use types::time::Timestamp;

/// A sum whose parts fade with their age.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decayed {
    sum: f64,
    at: Timestamp,
    time_constant_s: f64,
}

impl Decayed {
    pub(crate) const fn new(time_constant: Duration) -> Self {
        let time_constant_s = time_constant.as_millis() as f64 * 1e-3;
        Self { sum: 0.0, at: Timestamp::ZERO, time_constant_s }
    }

    pub(crate) fn add(&mut self, now: Timestamp, amount: f64) {
        self.sum = self.sum(now) + amount;
        self.at = now;
    }

    /// What has not faded at `now`.
    pub(crate) fn sum(&self, now: Timestamp) -> f64 {
        self.sum * fading(now.since(self.at).as_secs_f64() / self.time_constant_s)
    }

    /// A part of it, faded as far.
    pub(crate) const fn part(self, share: f64) -> Self {
        Self { sum: self.sum * share, ..self }
    }

    /// When something was last added.
    pub(crate) const fn at(&self) -> Timestamp {
        self.at
    }

    /// The amount added in a second, of late.
    pub(crate) fn rate(&self, now: Timestamp) -> f64 {
        self.sum(now) / self.time_constant_s
    }
}

/// `exp(−x)` for `x ≥ 0` but for a few per cent, by arithmetic alone: the same on every platform,
/// so that a recording is decided alike wherever it is replayed.
fn fading(x: f64) -> f64 {
    1.0 / (1.0 + x * (1.0 + x * (0.5 + x * (1.0 / 6.0 + x / 24.0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_read_as_its_rate_and_fades_when_it_ends() {
        let mut flow = Decayed::new(Duration::from_secs(4));
        let at = |ms| Timestamp::from_elapsed(Duration::from_millis(ms));
        for step in 0..400 {
            flow.add(at(step * 100), 0.05);
        }
        assert!((flow.rate(at(40_000)) - 0.5).abs() < 0.02, "{}", flow.rate(at(40_000)));
        assert!((flow.rate(at(44_000)) - 0.5 * (-1.0_f64).exp()).abs() < 0.02);
        assert!(flow.rate(at(100_000)) < 0.001);
    }
}
