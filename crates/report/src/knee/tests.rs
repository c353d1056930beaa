//! Curves whose knee is known.

use proptest::prelude::*;

use super::*;

/// A curve that rises as the rate does up to `knee`, then with `tail`.
fn broken(knee: f64, tail: f64, rates: &[f64]) -> Vec<(f64, f64)> {
    let value = |rate: f64| if rate <= knee { rate } else { (rate - knee).mul_add(tail, knee) };
    rates.iter().map(|rate| (*rate, value(*rate))).collect()
}

/// Goodput of an M/M/1 queue of 500/s within 200 ms, as published for windows of 20 seconds.
const TEXTBOOK: [(f64, f64); 9] = [
    (100.0, 100.0),
    (200.0, 200.0),
    (300.0, 300.0),
    (400.0, 400.0),
    (450.0, 449.9),
    (480.0, 472.5),
    (500.0, 366.0),
    (520.0, 130.0),
    (560.0, 48.0),
];

#[test]
fn the_textbook_queue_has_its_knee_before_its_collapse() {
    let knee = find(&running_maximum(&TEXTBOOK)).unwrap();
    assert!((465.0..=480.0).contains(&knee.rate_per_s), "{knee:?}");
    assert!((465.0..=480.0).contains(&knee.value), "{knee:?}");
}

#[test]
fn a_curve_without_a_knee_says_why() {
    let rates = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let curve = |of: fn(f64) -> f64| rates.map(|rate| (rate, of(rate)));
    assert_eq!(find(&curve(|rate| rate)[..4]), Err(NoKnee::TooFewPoints));
    assert_eq!(find(&curve(|rate| rate)), Err(NoKnee::StillRising));
    assert_eq!(find(&curve(|rate| -rate)), Err(NoKnee::NoRise));
    assert_eq!(find(&curve(|rate| rate.min(3.0) + rate * 0.5)), Err(NoKnee::StillRising));
    let wild = [(1.0, 1.0), (2.0, 9.0), (3.0, 1.0), (4.0, 9.0), (5.0, 1.0), (6.0, 9.0)];
    assert!(find(&wild).is_err());
}

#[test]
fn values_between_points_lie_on_lines() {
    let points = [(1.0, 10.0), (2.0, 20.0), (4.0, 0.0)];
    assert_eq!(value_at(&points, 3.0), Some(10.0));
    assert_eq!((value_at(&points, 1.0), value_at(&points, 4.0)), (Some(10.0), Some(0.0)));
    assert_eq!((value_at(&points, 0.5), value_at(&points, 4.1)), (None, None));
}

#[test]
fn a_curve_of_few_runs_has_no_interval() {
    let curve = Curve(TEXTBOOK.iter().map(|(rate, value)| (*rate, vec![*value; 2])).collect());
    let estimate = curve.estimate(|points| value_at(points, 300.0)).unwrap();
    assert_eq!(estimate, Estimate { value: 300.0, low: None, high: None });
}

proptest! {
    /// Whatever the knee, the tail and the rates, a curve made of two lines has its bend found.
    #[test]
    fn the_rule_recovers_a_known_knee(
        knee in 10.0..1_000.0_f64,
        tail in -2.0..0.2_f64,
        shares in prop::collection::btree_set(10..250_u32, 8..16),
    ) {
        let rates: Vec<f64> = shares.iter().map(|it| knee * f64::from(*it) / 100.0).collect();
        let below = rates.iter().filter(|it| **it < knee * 0.98).count();
        let above = rates.iter().filter(|it| **it > knee * 1.02).count();
        prop_assume!(below >= 3 && above >= 3);
        let points = broken(knee, tail, &rates);
        // What the rule refuses for the sake of its other terms is not looked at here.
        if let Some(fit) = best_fit(&points) {
            prop_assert!((fit.bend / knee - 1.0).abs() < 1e-3, "{} is not {knee}", fit.bend);
        }
        if tail <= 0.0 {
            let found = find(&running_maximum(&points)).unwrap().rate_per_s;
            // The highest point tried lies at the knee or before it.
            let highest = rates.iter().copied().filter(|it| *it <= knee).fold(0.0, f64::max);
            prop_assert!(found <= knee * 1.001 && found >= highest * 0.8, "{found} for {knee}");
        }
    }

    /// The interval holds the estimate where runs scatter evenly about it, and the same runs have the
    /// same interval.
    #[test]
    fn intervals_hold_what_they_are_of(spread in 0.1..20.0_f64, runs in 3..12_u32) {
        let middle = f64::from(runs - 1) / 2.0;
        let values = |value: f64| -> Vec<f64> {
            (0..runs).map(|run| (f64::from(run) - middle).mul_add(spread, value)).collect()
        };
        let curve = Curve(TEXTBOOK.iter().map(|(rate, value)| (*rate, values(*value))).collect());
        let figure = |points: &[(f64, f64)]| value_at(points, 400.0);
        let estimate = curve.estimate(figure).unwrap();
        let (low, high) = (estimate.low.unwrap(), estimate.high.unwrap());
        prop_assert!(low <= estimate.value && estimate.value <= high, "{estimate:?}");
        prop_assert_eq!(curve.estimate(figure).unwrap(), estimate);
    }
}
