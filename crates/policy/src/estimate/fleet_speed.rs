//! How fast the replicas of a fleet are, all together.

/// What was observed of one replica.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Observed {
    /// Times that prefill takes what the form says.
    pub(crate) prefill: Option<f64>,
    /// Times that decoding does.
    pub(crate) decode: Option<f64>,
    /// Overhead of a request, seconds.
    pub(crate) request_s: Option<f64>,
}

/// Means over those replicas of which something was observed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FleetSpeed {
    pub(crate) prefill: Mean,
    pub(crate) decode: Mean,
    pub(crate) request_s: Mean,
}

/// A mean whose parts may change.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: f64,
    count: u32,
}

/// Share by which a mean may move before it counts as another one: less is nothing beside what replicas
/// of one kind seem to differ by, and each time all replicas are looked at anew.
const NEAR: f64 = 0.01;

impl FleetSpeed {
    /// Whether the means are nearly what they were in `other`.
    pub(crate) fn is_near(&self, other: &Self) -> bool {
        self.prefill.is_near(other.prefill)
            && self.decode.is_near(other.decode)
            && self.request_s.is_near(other.request_s)
    }

    /// Learns that what was observed of a replica changed.
    pub(crate) fn changed(&mut self, before: Observed, after: Observed) {
        self.prefill.changed(before.prefill, after.prefill);
        self.decode.changed(before.decode, after.decode);
        self.request_s.changed(before.request_s, after.request_s);
    }
}

impl Mean {
    fn changed(&mut self, before: Option<f64>, after: Option<f64>) {
        if let Some(before) = before {
            self.sum -= before;
            self.count = self.count.saturating_sub(1);
        }
        if let Some(after) = after {
            self.sum += after;
            self.count = self.count.saturating_add(1);
        }
        if self.count == 0 {
            // Rounding must not add up.
            self.sum = 0.0;
        }
    }

    fn is_near(self, other: Self) -> bool {
        match (self.value(), other.value()) {
            (Some(own), Some(other)) => (own - other).abs() <= NEAR * other.abs(),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// The mean; none of nothing.
    pub(crate) fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}
