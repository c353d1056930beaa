//! How many times slower or faster a replica is than the form says.

/// Observations that count fully; later ones move the scale by a fixed small part.
const SETTLED: u32 = 30;

/// Share by which replicas of one kind seem to differ though they don't: by what happened to come while
/// each was quiet. A difference of this size is taken for half of itself, a smaller one for less.
const CHANCE: f64 = 0.2;

/// Observations with which chance is twice as large.
const FEW: f64 = 5.0;

/// The scale stays within this factor of the form, which is of a large GPU: a small model on a processor takes some
/// fifty times as long.
const SCALE_MAX: f64 = 100.0;

/// By so much of itself the scale grows at most with its first observation, and by a part of that with the next
/// ones: a single one may be of an engine that was still starting, while five reach a factor of fifty.
const SURPRISE_MAX: f64 = 3.0;

/// A factor that follows what is observed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    value: f64,
    observations: u32,
}

impl Default for Scale {
    fn default() -> Self {
        Self { value: 1.0, observations: 0 }
    }
}

impl Scale {
    /// A scale that others of the kind were found to have.
    #[must_use]
    pub fn starting_at(value: f64) -> Self {
        Self { value: value.clamp(1.0 / SCALE_MAX, SCALE_MAX), observations: 0 }
    }

    /// The factor.
    #[must_use]
    pub const fn value(&self) -> f64 {
        self.value
    }

    /// The factor as far as it differs from `fleet`, the mean of all replicas, by more than chance.
    ///
    /// Most fleets are of one kind, and a replica that seems a little slower than its like is left
    /// alone for nothing, while the others are crowded. A replica of which nothing was observed is what was guessed,
    /// as far as the others don't clearly differ from that: where the guess is far off, it would seem many times
    /// faster than all who are known.
    #[must_use]
    pub fn among(&self, fleet: f64) -> f64 {
        if !self.is_learned() {
            return nearer(self.value, fleet, FEW);
        }
        nearer(fleet, self.value, FEW / f64::from(self.observations))
    }

    /// Whether anything was observed.
    #[must_use]
    pub const fn is_learned(&self) -> bool {
        self.observations > 0
    }

    /// Whether so much was observed that one observation changes little.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.observations >= SETTLED
    }

    /// Learns that something took `ratio` times as long as predicted with the scale as it is. A single
    /// wild observation moves the scale no further than a mild one.
    pub fn observe(&mut self, ratio: f64) {
        if !ratio.is_finite() {
            return;
        }
        self.observations = self.observations.saturating_add(1);
        let weight = 1.0 / f64::from(self.observations.min(SETTLED));
        let surprise_max = if self.is_settled() { 0.5 } else { SURPRISE_MAX };
        let surprise = (ratio - 1.0).clamp(-surprise_max.min(0.9), surprise_max);
        let value = self.value * (1.0 + weight * surprise);
        self.value = value.clamp(1.0 / SCALE_MAX, SCALE_MAX);
    }
}

/// Between `usual` and `seen`: the nearer to what was seen, the more it differs by more than chance, `doubt` more
/// times as large as it is for what was seen often.
fn nearer(usual: f64, seen: f64, doubt: f64) -> f64 {
    let ratio = seen / usual;
    let apart = (ratio.max(1.0 / ratio) - 1.0).powi(2);
    let chance = CHANCE * (1.0 + doubt);
    usual * (1.0 + (ratio - 1.0) * apart / (apart + chance.powi(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_finds_a_machine_three_times_slower_in_a_few_observations() {
        let mut scale = Scale::default();
        for _ in 0..10 {
            scale.observe(3.0 / scale.value());
        }
        assert!((scale.value() - 3.0).abs() < 0.1, "{scale:?}");
    }

    #[test]
    fn a_replica_is_as_fast_as_its_fleet_unless_it_clearly_is_not() {
        let settled = |value: f64| {
            let mut scale = Scale::default();
            (0..400).for_each(|_| scale.observe(value / scale.value()));
            scale
        };
        let nearly = settled(1.1).among(1.0);
        assert!((1.0..1.03).contains(&nearly), "{nearly}");
        let slower = settled(3.0).among(2.0);
        assert!((2.7..3.0).contains(&slower), "{slower}");
        let faster = settled(1.0).among(2.0);
        assert!((1.0..1.15).contains(&faster), "{faster}");
        let mut new = Scale::default();
        new.observe(1.5);
        assert!(new.among(1.0) < 1.1, "one observation proves little: {}", new.among(1.0));
        let unknown = Scale::default().among(25.0);
        assert!(20.0 < unknown, "the guess was of another machine: {unknown}");
        let unknown = Scale::default().among(1.3);
        assert!(unknown < 1.05, "those who are known may be so by chance: {unknown}");
    }

    #[test]
    fn a_wild_observation_moves_a_settled_scale_little() {
        let mut scale = Scale::default();
        (0..100).for_each(|_| scale.observe(1.0));
        scale.observe(1_000.0);
        scale.observe(f64::NAN);
        assert!(scale.value() < 1.02, "{scale:?}");
    }
}
