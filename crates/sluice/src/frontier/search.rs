//! Which rates to measure: around the knee, wherever that is.
//!
//! A rate is *sustained* when nearly as large a share of its requests is good as of those of a fleet
//! with time to spare. The search doubles or halves the rate until it has one that is sustained and one
//! that is not, and closes in between them. That is a guess from single runs, good enough to say
//! where to look; the knee itself is fitted to what is measured there.

/// Share of the best good fraction that a sustained rate keeps.
const SUSTAINED: f64 = 0.9;

/// Share of good requests with which a fleet has time to spare, whatever half the rate gives.
const AT_EASE: f64 = 0.95;

/// Best good fraction with which a promise is one that the fleet does not keep at any rate.
const HOPELESS: f64 = 0.05;

/// How near the two ends must come.
const CLOSE: f64 = 1.05;

/// Most rates that are tried.
const TRIES_MAX: usize = 40;

/// Rates to measure, as multiples of the guess. The last one lies 1.5 times past the highest rate that
/// the guess may have missed the knee by.
pub(super) const LOADS: [f64; 12] =
    [0.25, 0.5, 0.65, 0.8, 0.88, 0.94, 0.97, 1.0, 1.03, 1.1, 1.25, 1.65];

/// The same where each takes its time: five bands, and both sides of the knee.
pub(super) const FEW_LOADS: [f64; 8] = [0.3, 0.6, 0.8, 0.92, 1.0, 1.1, 1.3, 1.65];

/// A search under way.
#[derive(Clone, Debug)]
pub(super) struct Search {
    start: f64,
    /// Rates tried and the good fraction of each, by rate.
    tried: Vec<(f64, f64)>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// Measure this rate.
    Try(f64),
    /// The knee is near this rate.
    Found(f64),
    /// No rate keeps the promise.
    Hopeless,
    /// Every rate that was tried keeps it.
    Endless,
}

impl Search {
    /// Starts at `start` requests per second.
    pub(super) const fn new(start: f64) -> Self {
        Self { start, tried: Vec::new() }
    }

    /// Learns what share of the requests at `rate` was good.
    pub(super) fn learn(&mut self, rate: f64, good: f64) {
        self.tried.push((rate, good));
        self.tried.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    }

    /// What to do next.
    pub(super) fn next(&self) -> Next {
        let Some((lowest, at_lowest)) = self.tried.first().copied() else {
            return Next::Try(self.start);
        };
        let is_over = self.tried.len() >= TRIES_MAX;
        let best = self.tried.iter().map(|it| it.1).fold(0.0, f64::max);
        let eased = self.tried.get(1).is_some_and(|above| at_lowest < above.1 * 1.02 + 0.01);
        let is_at_ease = at_lowest >= AT_EASE || (eased && best >= HOPELESS);
        if !is_at_ease {
            return if is_over || lowest < self.start / 1e6 {
                Next::Hopeless
            } else {
                Next::Try(lowest / 2.0)
            };
        }
        let is_sustained = |good: f64| good >= SUSTAINED * best;
        let last = self.tried.iter().take_while(|it| is_sustained(it.1)).last();
        let Some((low, _)) = last.copied() else { return Next::Found(lowest) };
        let Some((high, _)) = self.tried.iter().find(|it| it.0 > low).copied() else {
            return if is_over { Next::Endless } else { Next::Try(low * 2.0) };
        };
        if is_over || high <= low * CLOSE {
            return Next::Found((low * high).sqrt());
        }
        Next::Try((low * high).sqrt())
    }
}

/// The rate with three digits that count.
pub(super) fn rounded(rate: f64) -> f64 {
    let scale = 10.0_f64.powf(2.0 - rate.abs().max(1e-9).log10().floor());
    (rate * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(start: f64, good: impl Fn(f64) -> f64) -> (Next, usize) {
        let mut search = Search::new(start);
        for tries in 0..100 {
            match search.next() {
                Next::Try(rate) => search.learn(rate, good(rate)),
                end @ (Next::Found(_) | Next::Hopeless | Next::Endless) => return (end, tries),
            }
        }
        panic!("the search does not end");
    }

    #[test]
    fn the_knee_is_found_from_far_below_and_far_above() {
        for start in [0.01, 1.0, 470.0, 9_000.0] {
            // A fleet that keeps its promise up to 480/s, in all but the hopeless hundredth.
            let (found, tries) =
                search(start, |rate| if rate <= 480.0 { 0.99 } else { (480.0 / rate).powi(9) });
            let Next::Found(rate) = found else { panic!("{found:?} from {start}") };
            assert!((460.0..=510.0).contains(&rate), "{rate} from {start}");
            assert!(tries < 35, "{tries} tries from {start}");
        }
    }

    #[test]
    fn a_promise_that_some_requests_never_keep_has_a_knee_all_the_same() {
        let (found, _) = search(50.0, |rate| if rate <= 30.0 { 0.6 } else { 0.1 });
        let Next::Found(rate) = found else { panic!("{found:?}") };
        assert!((29.0..=32.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_cannot_be_kept_or_broken_ends() {
        assert_eq!(search(10.0, |_| 0.0).0, Next::Hopeless);
        assert_eq!(search(10.0, |_| 1.0).0, Next::Endless);
    }

    #[test]
    fn rates_are_told_in_three_digits() {
        let near = |actual: f64, expected: f64| assert!((actual - expected).abs() < 1e-9);
        near(rounded(1_234.5), 1_230.0);
        near(rounded(0.012_345), 0.012_3);
        near(rounded(99.96), 100.0);
    }
}
