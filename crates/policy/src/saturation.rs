//! When a replica has too much to be anyone's favourite.

use crate::{config::Saturation, strategy::Candidate};

/// The bound that holds among one request's candidates.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    requests_max: f64,
}

impl Bound {
    /// Derives the bound from the candidates' mean load: `threshold × mean + slack`.
    #[must_use]
    pub fn new(saturation: &Saturation, candidates: &[Candidate]) -> Self {
        let requests: f64 = candidates.iter().map(|it| f64::from(it.requests)).sum();
        let mean = requests / candidates.len().max(1) as f64;
        Self { requests_max: saturation.threshold * mean + f64::from(saturation.slack) }
    }

    /// Whether one more request would take `candidate` above the bound.
    #[must_use]
    pub fn is_exceeded_by(&self, candidate: &Candidate) -> bool {
        self.requests_max < f64::from(candidate.requests) + 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::candidate;

    #[test]
    fn an_idle_fleet_honours_affinity_up_to_the_slack() {
        let saturation = Saturation { slack: 4, ..Saturation::default() };
        let candidates: Vec<_> = (0..100).map(|id| candidate(id, 0, 0)).collect();
        let bound = Bound::new(&saturation, &candidates);
        assert!(!bound.is_exceeded_by(&candidate(0, 3, 0)));
        assert!(bound.is_exceeded_by(&candidate(0, 4, 0)));
    }

    #[test]
    fn a_busy_fleet_allows_a_multiple_of_its_mean() {
        let saturation = Saturation { threshold: 1.5, slack: 0, ..Saturation::default() };
        let candidates = [candidate(0, 20, 0), candidate(1, 0, 0)];
        let bound = Bound::new(&saturation, &candidates);
        assert!(!bound.is_exceeded_by(&candidate(0, 14, 0)));
        assert!(bound.is_exceeded_by(&candidate(0, 15, 0)));
    }
}
