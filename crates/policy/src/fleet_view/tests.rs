//! What the fleet is believed to be, and what replicas learn from each other.

use std::time::Duration;

use super::*;
use crate::estimate::{Asked, replica::Sharing};

/// The margins of ten replicas, of which two serve another model, after some time in which every answer of those
/// in `ill` was slower than promised, one second after the other, and those of the others were not.
fn margins(ill: std::ops::Range<u32>, rounds: u64) -> Vec<f64> {
    let mut fleet = FleetView::default();
    (0..10).for_each(|id| fleet.join(ReplicaId(id), Slot::default()));
    (8..10).for_each(|id| fleet.list_models(ReplicaId(id), Box::new([ModelId(7)])));
    let forecast = Forecast { tpot_s: 0.04, ..Forecast::default() };
    for round in 0..rounds {
        for id in 0..8 {
            let took_s = if ill.contains(&id) { 0.06 } else { 0.045 };
            let now = Timestamp::from_elapsed(Duration::from_millis(1_000 * round));
            fleet.learn_tpot(now, ReplicaId(id), &forecast, took_s, 0.05);
        }
    }
    fleet.replicas().iter().map(|it| it.estimate.margins().1.value()).collect()
}

#[test]
fn what_all_miss_is_learned_together_and_not_by_those_that_serve_something_else() {
    let (all, alone) = (margins(0..8, 20), margins(0..1, 20));
    assert!(all[..8].iter().all(|it| alone[0] + 0.2 < *it), "{all:?} {alone:?}");
    assert!(all[8..].iter().all(|it| (it - 1.0).abs() < 1e-9), "{all:?}");
}

#[test]
fn one_that_is_ill_moves_no_margin_but_its_own() {
    let margins = margins(3..4, 200);
    assert!(2.0 < margins[3], "{margins:?}");
    let others = margins.iter().enumerate().filter(|it| it.0 != 3);
    assert!(others.map(|it| it.1).all(|it| *it <= 1.0), "{margins:?}");
}

#[test]
fn what_others_placed_counts_until_the_report_is_old() {
    let mut fleet = FleetView::default();
    let id = ReplicaId(3);
    fleet.join(id, Slot::default());
    fleet.reserve(id, Tokens(10));
    let report = LoadReport { running: 4, waiting: 2, kv_usage: 0.5, ..LoadReport::default() };
    fleet.report(Timestamp::ZERO, id, report);
    let requests = |now| fleet.get(id).unwrap().requests(now);
    assert_eq!(requests(Timestamp::ZERO), 6);
    assert_eq!(requests(Timestamp::ZERO + Duration::from_secs(11)), 1);
}

#[test]
fn a_report_that_lags_behind_takes_nothing_away() {
    let mut fleet = FleetView::default();
    let id = ReplicaId(3);
    fleet.join(id, Slot::default());
    for _ in 0..5 {
        fleet.reserve(id, Tokens(10));
    }
    fleet.report(Timestamp::ZERO, id, LoadReport::default());
    assert_eq!(fleet.get(id).unwrap().requests(Timestamp::ZERO), 5);
}

/// Has replica `id` learn that decoding takes so many times what the form says.
fn learn(fleet: &mut FleetView, id: ReplicaId, times: f64) {
    for round in 0..200_u64 {
        // Gaps between tokens, while nobody computes a prompt.
        let now = Timestamp::from_elapsed(Duration::from_millis(100 * round));
        let waited = Duration::from_secs_f64(times * 0.008);
        let sharing = Sharing { own: 0, all: 0 };
        fleet.learn(id, |it| it.estimate.learn_gaps(now, 1, waited, sharing));
    }
}

fn step_s(fleet: &FleetView, id: ReplicaId) -> f64 {
    let now = Timestamp::from_elapsed(Duration::from_secs(60));
    let replica = fleet.get(id).unwrap();
    let asked = Asked { prompt: Tokens(10), output: 1.0, ..Asked::default() };
    replica.forecast(now, &asked, Tokens(0), replica.sharing(now)).step_s
}

#[test]
fn who_learned_before_the_others_believes_the_fleet_that_came_to_be_known() {
    let mut fleet = FleetView::default();
    let ids = [0, 1, 2, 3].map(ReplicaId);
    ids.iter().for_each(|id| fleet.join(*id, Slot::default()));
    for (id, times) in ids.into_iter().zip([0.85, 1.0, 1.0, 1.0]) {
        learn(&mut fleet, id, times);
    }
    let (first, last) = (step_s(&fleet, ids[0]), step_s(&fleet, ids[3]));
    assert!((first / last - 1.0).abs() < 0.08, "{first} {last}");
}

#[test]
fn one_of_many_that_are_alike_is_taken_to_be_like_them() {
    let mut fleet = FleetView::default();
    let ids = [0, 1, 2, 3].map(ReplicaId);
    ids.iter().for_each(|id| fleet.join(*id, Slot::default()));
    for (id, times) in ids.into_iter().zip([0.95, 1.05, 1.0]) {
        learn(&mut fleet, id, times);
    }
    let (first, second) = (step_s(&fleet, ids[0]), step_s(&fleet, ids[1]));
    assert!((first / second - 1.0).abs() < 0.05, "{first} {second}");
    learn(&mut fleet, ids[3], 3.0);
    let tpot_s = ids.map(|id| step_s(&fleet, id));
    assert!(tpot_s[0] * 2.2 < tpot_s[3], "{tpot_s:?}");
    assert!(fleet.leave(ids[3]).is_some());
    assert!(fleet.speed.decode.value().is_some_and(|it| it < 1.2));
}
