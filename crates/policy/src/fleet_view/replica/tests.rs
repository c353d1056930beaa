//! What one replica's reports and first tokens teach.

use super::*;
use crate::{fleet_view::FleetView, strategy::testing::candidate};

#[test]
fn a_seat_or_memory_that_is_lacking_is_waited_for() {
    let mut fleet = FleetView::default();
    let id = ReplicaId(3);
    fleet.join(id, Slot::default());
    let asked =
        |ttft_max_s| Asked { prompt: Tokens(100), output: 100.0, ttft_max_s, ..Asked::default() };
    let ttft_s = |fleet: &FleetView, now| {
        let replica = fleet.get(id).unwrap();
        replica.forecast(now, &asked(None), Tokens(0), replica.sharing(now)).ttft_s
    };
    (0..255).for_each(|_| fleet.reserve(id, Tokens(0)));
    let with_a_seat = ttft_s(&fleet, Timestamp::ZERO);
    (0..25).for_each(|_| fleet.reserve(id, Tokens(0)));
    assert!(1.5 * with_a_seat < ttft_s(&fleet, Timestamp::ZERO));
    (0..25).for_each(|_| fleet.release_request(id));
    let full = LoadReport { running: 200, waiting: 55, kv_usage: 0.99, ..LoadReport::default() };
    fleet.report(Timestamp::ZERO, id, full);
    let without_memory = ttft_s(&fleet, Timestamp::ZERO);
    assert!(1.5 * with_a_seat < without_memory, "{with_a_seat} {without_memory}");
    let replica = fleet.get(id).unwrap();
    let sharing = replica.sharing(Timestamp::ZERO);
    let late = |most| replica.forecast(Timestamp::ZERO, &asked(most), Tokens(0), sharing);
    assert!(late(Some(with_a_seat / 2.0)).is_late);
    assert!(!late(Some(with_a_seat * 2.5)).is_late && !late(None).is_late);
}

fn fleet_of_one() -> (FleetView, ReplicaId) {
    let (mut fleet, id) = (FleetView::default(), ReplicaId(3));
    fleet.join(id, Slot::default());
    (fleet, id)
}

#[test]
fn a_count_of_preemptions_that_rises_closes_the_gate_of_memory() {
    let (mut fleet, id) = fleet_of_one();
    let replica = fleet.get_mut(id).unwrap();
    replica.cache_sized(Tokens(10_000));
    let mut candidate = candidate(3, 4, 0);
    candidate.forecast.context = 8_000.0;
    let report = |preemptions| LoadReport {
        running: 4,
        preemptions: Some(preemptions),
        ..LoadReport::default()
    };
    let now = Timestamp::ZERO;
    replica.report(now, report(7));
    let before = replica.kv_usage_with(now, &candidate);
    assert!((before - 0.8).abs() < 1e-9, "{before}");
    replica.report(now, report(7));
    assert!((replica.kv_usage_with(now, &candidate) - before).abs() < 1e-9);
    replica.report(now, report(20));
    let after = replica.kv_usage_with(now, &candidate);
    assert!(0.95 < after, "{after}");
    assert!(!replica.lacks_memory(now), "nobody waits");
    replica.report(now, LoadReport { waiting: 1, ..report(21) });
    assert!(replica.lacks_memory(now));
    replica.report(now, LoadReport { waiting: 1, ..report(21) });
    assert!(!replica.lacks_memory(now), "who waits now may lack something else");
}

#[test]
fn a_count_of_preemptions_that_is_not_told_once_is_no_new_one() {
    let (mut fleet, id) = fleet_of_one();
    let replica = fleet.get_mut(id).unwrap();
    let report = |preemptions| LoadReport { waiting: 1, preemptions, ..LoadReport::default() };
    for told in [Some(700), None, Some(700)] {
        replica.report(Timestamp::ZERO, report(told));
        assert!(!replica.lacks_memory(Timestamp::ZERO), "{told:?}");
    }
    assert!((replica.overrun.factor() - 1.0).abs() < 1e-9, "{:?}", replica.overrun);
    replica.report(Timestamp::ZERO, report(None));
    replica.report(Timestamp::ZERO, report(Some(702)));
    assert!(replica.lacks_memory(Timestamp::ZERO) && 1.0 < replica.overrun.factor());
}

#[test]
fn what_is_told_of_requests_that_are_over_says_nothing_of_those_who_wait() {
    let (mut fleet, id) = fleet_of_one();
    let replica = fleet.get_mut(id).unwrap();
    for preemptions in [Some(3), Some(9)] {
        let preemptions_of_ended = preemptions;
        let report = LoadReport { waiting: 1, preemptions_of_ended, ..LoadReport::default() };
        replica.report(Timestamp::ZERO, report);
    }
    assert!(!replica.lacks_memory(Timestamp::ZERO));
    assert!(1.0 < replica.overrun.factor(), "but it says how much fits");
}

/// A replica with six requests that have their first tokens, and what was predicted for others.
fn six_running() -> (FleetView, ReplicaId, Forecast) {
    let (mut fleet, id) = fleet_of_one();
    (0..6).for_each(|_| fleet.reserve(id, Tokens(0)));
    (fleet, id, Forecast { ttft_s: 0.1, ..Forecast::default() })
}

fn at(ms: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(ms))
}

#[test]
fn first_tokens_that_nothing_explains_tell_how_many_run_at_once() {
    let (mut fleet, id, forecast) = six_running();
    let replica = fleet.get_mut(id).unwrap();
    // Each is placed when the last one has its first token.
    let serve = |replica: &mut Replica, from_ms: u64, each_ms: u64, times: u64| {
        for step in 0..times {
            let placed = from_ms + step * each_ms;
            replica.learn_seats(at(placed + each_ms), at(placed), &forecast);
        }
    };
    serve(replica, 0, 150, 20);
    assert_eq!(replica.seats.count(), 256, "nobody waited");
    // An engine that reports is believed instead.
    let running = LoadReport { running: 6, ..LoadReport::default() };
    replica.report(at(100_000), running);
    serve(replica, 100_000, 300, 20);
    assert_eq!(replica.seats.count(), 256);
    serve(replica, 120_000, 3_000, 5);
    assert_eq!(replica.seats.count(), 6);
    // It went, and came back as another one.
    for health in [Health::Ready, Health::Ejected, Health::Ready] {
        fleet.health_changed(at(200_000), id, health);
    }
    assert_eq!(fleet.get(id).unwrap().seats.count(), 256);
}

#[test]
fn one_pause_of_an_engine_says_nothing_of_its_seats() {
    let (mut fleet, id, forecast) = six_running();
    let replica = fleet.get_mut(id).unwrap();
    (0..20).for_each(|it| replica.learn_seats(at(5_000 + it), at(100 * it), &forecast));
    assert_eq!(replica.seats.count(), 256);
    // Nor where it reports meanwhile.
    let stands = LoadReport { running: 6, waiting: 3, ..LoadReport::default() };
    (0..20).for_each(|it| replica.report(at(6_000 + 100 * it), stands));
    assert_eq!(replica.seats.count(), 256);
    for it in 0..5 {
        replica.estimate.begins(at(9_000 + 100 * it));
        replica.report(at(9_000 + 100 * it), stands);
    }
    assert_eq!(replica.seats.count(), 6);
}

#[test]
fn where_predictions_are_too_short_as_a_rule_a_longer_wait_is_needed_to_tell() {
    let (mut fleet, id, forecast) = six_running();
    let replica = fleet.get_mut(id).unwrap();
    // Half as long again as predicted, and more: the margin grows with them.
    for step in 0..60 {
        let placed = at(1_000 * step);
        replica.estimate.learn_ttft(placed + Duration::from_millis(180), placed, &forecast);
    }
    assert!(1.5 < replica.estimate.margins().0.value());
    for step in 100..120 {
        replica.learn_seats(at(1_000 * step + 300), at(1_000 * step), &forecast);
    }
    assert_eq!(replica.seats.count(), 256);
}

#[test]
fn a_count_that_goes_back_is_that_of_another_engine() {
    let (mut fleet, id) = fleet_of_one();
    let replica = fleet.get_mut(id).unwrap();
    let report = |waiting, preemptions| LoadReport {
        running: 6,
        waiting,
        preemptions: Some(preemptions),
        ..LoadReport::default()
    };
    for it in 0..5 {
        replica.estimate.begins(at(100 * it));
        replica.report(at(100 * it), report(2, 7));
    }
    assert_eq!(replica.seats.count(), 6);
    replica.report(at(600), report(0, 1));
    assert_eq!(replica.seats.count(), 256);
}
