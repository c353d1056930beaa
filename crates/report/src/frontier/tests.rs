//! Frontiers whose knees are known.

use super::*;
use crate::summary::tests::{records, run};

/// Runs of a fleet that serves 500 requests a second and keeps its promise up to 480.
pub(crate) fn runs_at(rate: f64) -> Vec<Run> {
    let goodput = match rate {
        it if it <= 480.0 => it,
        it => (480.0 - 6.0 * (it - 480.0)).max(20.0),
    };
    let in_window = |rate: f64| -> u64 { format!("{:.0}", rate * 20.0).parse().unwrap() };
    let run = |seed: u64| {
        let scatter = 1.0 + (seed as f64 - 2.0) / 200.0;
        Run {
            seed,
            window_s: 20.0,
            served_rps: rate.min(500.0),
            requests: in_window(rate),
            completed: in_window(rate),
            good: in_window(goodput),
            offered_rps: rate,
            e2e_ms: None,
            request_throughput: rate,
            request_goodput: goodput * scatter,
            ..run(&records())
        }
    };
    (0..5).map(run).collect()
}

pub(crate) fn measured() -> Measured {
    let rates = [120.0, 240.0, 360.0, 430.0, 460.0, 480.0, 500.0, 530.0, 600.0, 720.0];
    Measured::of(&rates.map(|rate| (rate, runs_at(rate))))
}

pub(crate) fn frontier() -> Frontier {
    let Measured { points, knee_by_goodput, knee_by_throughput, collapse_ratio } = measured();
    Frontier {
        workload: "textbook-queue".to_owned(),
        policy: "least-request".to_owned(),
        clock: "virtual".to_owned(),
        warmth: Warmth::WarmModelColdCache,
        warmth_produced: "a fresh fleet for every run".to_owned(),
        replicas: Some(1),
        slo: Slo::default(),
        currency: Some("USD".to_owned()),
        points,
        knee_by_goodput,
        knee_by_throughput,
        collapse_ratio,
        states: Vec::new(),
        disruption: None,
        blend: None,
        doubts: Vec::new(),
    }
}

#[test]
fn both_knees_are_found_where_they_are() {
    let measured = measured();
    let by_goodput = measured.knee_by_goodput.rate_per_s.unwrap();
    assert!((470.0..=482.0).contains(&by_goodput.value), "{by_goodput:?}");
    assert!(by_goodput.low.unwrap() <= by_goodput.value, "{by_goodput:?}");
    let by_throughput = measured.knee_by_throughput.rate_per_s.unwrap();
    assert!((495.0..=505.0).contains(&by_throughput.value), "{by_throughput:?}");
    let collapse = measured.collapse_ratio.unwrap().value;
    assert!((0.03..0.06).contains(&collapse), "{collapse}");
}

#[test]
fn bands_follow_the_knee() {
    let bands: Vec<Band> = measured().points.iter().map(|it| it.band).collect();
    assert_eq!(bands.first(), Some(&Band::Comfortable));
    assert_eq!(bands.last(), Some(&Band::Overloaded));
    assert!(bands.is_sorted(), "{bands:?}");
    for band in [Band::Comfortable, Band::Busy, Band::Stressed, Band::Overloaded] {
        assert!(bands.contains(&band), "{band:?} is missing: {bands:?}");
    }
    assert_eq!(Band::of(0.7), Band::Moderate);
}

#[test]
fn a_frontier_survives_its_file() {
    let all = Frontiers::new(vec![frontier()]);
    let text = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Frontiers>(&text).unwrap(), all);
}

#[test]
fn the_knee_has_one_point() {
    let mut frontier = frontier();
    let rate = frontier.at_knee().unwrap().rate_per_s;
    assert!((460.0..=480.0).contains(&rate), "{rate}");
    assert!(rate <= frontier.knee_by_goodput.rate_per_s.unwrap().value * 1.001);
    assert_eq!(frontier.points.iter().filter(|it| it.is_at_knee).count(), 1);
    // Without a knee no rate stands for it, however good it is.
    let Measured { points, knee_by_goodput, .. } = Measured::of(&[(120.0, runs_at(120.0))]);
    assert_eq!(knee_by_goodput.none, Some(NoKnee::TooFewPoints));
    (frontier.points, frontier.knee_by_goodput) = (points, knee_by_goodput);
    assert_eq!(frontier.at_knee(), None);
    assert_eq!(frontier.knee_or_best(), Some(120.0));
}
