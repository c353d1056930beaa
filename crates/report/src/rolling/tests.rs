//! A server watched for a while.

use super::*;
use crate::record::Ending;
use crate::summary::tests::{answered, ended};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_secs(seconds))
}

fn key(model: &str) -> KeyOf<'_> {
    KeyOf { model, ..KeyOf::default() }
}

/// A request scheduled in second `second`, good, that is called `id`.
fn good(id: &str, second: u64) -> RequestRecord {
    RequestRecord { request_id: id.to_owned(), ..answered(second * 1_000, 200, Some(50)) }
}

fn only(rolling: &Rolling, now: u64) -> KeyView {
    rolling.view(at(now), None).keys.remove(0)
}

#[test]
fn windows_forget_and_totals_do_not() {
    let mut rolling = Rolling::default();
    rolling.count(at(5), key("m"), &good("a", 5), None);
    rolling.count(at(100), key("m"), &good("b", 100), None);
    rolling.count(at(100), key("m"), &ended(100_000, Ending::Rejected), None);
    let view = only(&rolling, 109);
    let [minute, ten] = view.of.windows[..] else { panic!("{view:?}") };
    assert_eq!((minute.figures.requests, minute.figures.good), (2, 1));
    assert_eq!((ten.figures.requests, ten.figures.rejected), (3, 1));
    // The window of the last minute covers from 50 to 109 seconds.
    assert!((minute.figures.request_goodput.unwrap() - 1.0 / 59.0).abs() < 1e-9);
    assert_eq!(only(&rolling, 2_000).of.windows[1].figures.requests, 0);
    assert_eq!(only(&rolling, 2_000).of.undisturbed.requests, 3);
}

#[test]
fn a_label_that_comes_late_changes_what_was_counted() {
    let mut rolling = Rolling::default();
    rolling.count(at(5), key("m"), &good("a", 5), None);
    assert!(rolling.remembers("", "a") && !rolling.remembers("", "of nobody"));
    assert!(rolling.label("", "a", false));
    let figures = only(&rolling, 6).of.windows[0].figures;
    assert_eq!((figures.good, figures.labelled), (0, 1));
    assert_eq!(figures.output_token_goodput, Some(0.0));
    // The grader thinks again.
    assert!(rolling.label("", "a", true) && rolling.label("", "a", true));
    assert_eq!(only(&rolling, 6).of.undisturbed.good, 1);
    assert_eq!(only(&rolling, 6).of.undisturbed.labelled, 1);
    assert!(!rolling.label("", "of nobody", true));
}

#[test]
fn a_label_is_for_the_tenants_own_request() {
    let mut rolling = Rolling::default();
    let of = |tenant: &'static str| KeyOf { tenant, ..key("m") };
    rolling.count(at(5), of("a"), &good("same", 5), None);
    assert!(!rolling.label("b", "same", false) && !rolling.remembers("", "same"));
    rolling.count(at(5), of("b"), &good("same", 5), None);
    assert!(rolling.label("b", "same", false) && rolling.remembers("a", "same"));
    let view = rolling.view(at(6), None);
    let good = |tenant: &str| {
        view.keys.iter().find(|it| it.key.tenant == tenant).unwrap().of.undisturbed.good
    };
    assert_eq!((good("a"), good("b")), (1, 0));
}

#[test]
fn an_acceptable_answer_that_came_late_is_still_not_good() {
    let mut rolling = Rolling::default();
    let late = RequestRecord { request_id: "a".to_owned(), ..answered(0, 900, None) };
    rolling.count(at(5), key("m"), &late, None);
    assert!(rolling.label("", "a", true));
    assert_eq!(only(&rolling, 6).of.windows[0].figures.good, 0);
}

#[test]
fn what_comes_in_a_disruption_is_counted_apart() {
    let mut rolling = Rolling::default();
    rolling.open(at(10), "deployment", Duration::from_secs(30));
    rolling.count(at(8), key("m"), &good("before", 5), None);
    rolling.count(at(20), key("m"), &good("within", 15), None);
    assert!(rolling.view(at(20), None).is_disrupted);
    assert!(rolling.close(at(25), "deployment"));
    assert!(!rolling.close(at(26), "deployment"));
    rolling.count(at(30), key("m"), &good("after", 26), None);
    let view = only(&rolling, 31);
    assert_eq!((view.of.undisturbed.requests, view.of.disrupted.requests), (2, 1));
    assert!(!rolling.view(at(31), None).is_disrupted);
}

#[test]
fn memory_has_a_bound_whatever_clients_send() {
    let mut rolling = Rolling::default();
    for number in 0..(RECENT_MAX as u64 + 500) {
        let id = number.to_string();
        rolling.count(at(number / 100), key(&id), &good(&id, 0), None);
        rolling.open(at(0), &id, Duration::ZERO);
    }
    assert!(rolling.keys.len() <= KEYS_MAX + 1, "{}", rolling.keys.len());
    assert_eq!((rolling.recent.names.len(), rolling.recent.left.len()), (RECENT_MAX, RECENT_MAX));
    assert_eq!(rolling.disruptions.len(), DISRUPTIONS_MAX);
    assert!(!rolling.label("", "0", true) && rolling.label("", &RECENT_MAX.to_string(), true));
    let all: u64 = rolling.view(at(9), None).keys.iter().map(|it| it.of.undisturbed.requests).sum();
    assert_eq!(all, RECENT_MAX as u64 + 500);
}

#[test]
fn a_label_is_for_the_last_request_of_its_name() {
    let mut rolling = Rolling::default();
    for id in ["a", "b", "a", "c"] {
        rolling.count(at(1), key("m"), &good(id, 0), None);
    }
    assert_eq!(rolling.recent.find(hashed("", "a")), Some(2));
    assert_eq!(rolling.recent.find(hashed("", "b")), Some(1));
    // Once around, the row lies in two pieces.
    let mut recent = Recent::default();
    let left = |slot| Left { slot, ..rolling.recent.left[0].clone() };
    let names = 0..(RECENT_MAX as u64 + 10);
    names.clone().for_each(|it| recent.add(it, left(it)));
    for name in names.skip(10).step_by(4_099) {
        let found = recent.find(name).and_then(|it| recent.left.get(it)).map(|it| it.slot);
        assert_eq!(found, Some(name));
    }
    assert_eq!(recent.find(9), None);
}

#[test]
fn a_good_answer_costs_what_the_fleet_costs_over_the_good_ones() {
    // A cent a second for each replica, and a tenth of one for everything else.
    let prices = Prices { replica_hour: 36.0, other_hour: 3.6, rework: 1.0, ..Prices::default() };
    let mut rolling = Rolling::default();
    let batch = KeyOf { slo_class: "batch", ..key("m") };
    (0..=5).for_each(|it| rolling.paid(at(it * 10), 2));
    rolling.count(at(5), key("m"), &good("a", 5), Some(&prices));
    rolling.count(at(6), key("m"), &good("b", 5), Some(&prices));
    rolling.count(at(7), batch, &good("c", 5), Some(&prices));
    rolling.count(at(7), batch, &good("d", 5), Some(&prices));
    let near = |actual: Option<f64>, expected: f64| {
        assert!(actual.is_some_and(|it| (it - expected).abs() < 1e-9), "{actual:?}, {expected}");
    };
    let view = rolling.view(at(50), Some(&prices));
    let figures = view.all.windows[0].figures;
    near(figures.cost, 1.05);
    near(figures.cost_per_accepted, 1.05 / 4.0);
    near(view.all.undisturbed.cost, 1.05);
    // All had as many tokens computed, so each key paid for half of the fleet.
    near(view.keys[0].of.windows[0].figures.cost, 0.525);
    let classes = rolling.classes(at(50), Some(&prices));
    let names: Vec<&str> = classes.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(names, ["", "batch"]);
    near(classes[1].1.cost_per_accepted, 0.525 / 2.0);
    // What nobody accepts has to be done again.
    rolling.label("", "c", false);
    near(rolling.classes(at(50), Some(&prices))[1].1.cost_per_accepted, 1.525);
    rolling.label("", "c", true);
    near(rolling.classes(at(50), Some(&prices))[1].1.cost, 0.525);
    assert_eq!(rolling.view(at(50), None).all.windows[0].figures.cost, None);
}

#[test]
fn time_in_a_disruption_is_paid_apart() {
    let prices = Prices { replica_hour: 36.0, ..Prices::default() };
    let mut rolling = Rolling::default();
    rolling.paid(at(0), 1);
    rolling.paid(at(10), 1);
    rolling.open(at(10), "deployment", Duration::from_secs(30));
    rolling.paid(at(30), 3);
    rolling.count(at(9), key("m"), &good("before", 5), Some(&prices));
    rolling.count(at(20), key("m"), &good("within", 15), Some(&prices));
    let of = only_with(&rolling, 30, &prices).of;
    assert!((of.undisturbed.cost.unwrap() - 0.1).abs() < 1e-9, "{of:?}");
    assert!((of.disrupted.cost.unwrap() - 0.2).abs() < 1e-9, "{of:?}");
}

#[test]
fn a_batch_has_rows_and_no_first_token() {
    let mut rolling = Rolling::default();
    let slo = crate::record::Verdicts { completion: Some(true), good: true, ..Default::default() };
    rolling.count(at(5), key("m"), &RequestRecord { slo, ..good("a", 5) }, None);
    let figures = only(&rolling, 6).of.windows[0].figures;
    assert_eq!((figures.accepted_row_rate, figures.ttft_ms_mean), (Some(1.0), None));
    rolling.count(at(5), key("m"), &good("b", 5), None);
    assert_eq!(only(&rolling, 6).of.windows[0].figures.accepted_row_rate, None);
}

fn only_with(rolling: &Rolling, now: u64, prices: &Prices) -> KeyView {
    rolling.view(at(now), Some(prices)).keys.remove(0)
}
