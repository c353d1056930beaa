//! A server watched for a while.

use super::*;
use crate::summary::tests::{answered, ended};

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_secs(seconds))
}

fn key(model: &str) -> Key {
    Key { model: model.to_owned(), ..Key::default() }
}

/// A request scheduled in second `second`, good, that is called `id`.
fn good(id: &str, second: u64) -> RequestRecord {
    RequestRecord { request_id: id.to_owned(), ..answered(second * 1_000, 200, Some(50)) }
}

fn only(rolling: &Rolling, now: u64) -> KeyView {
    rolling.view(at(now)).keys.remove(0)
}

#[test]
fn windows_forget_and_totals_do_not() {
    let mut rolling = Rolling::default();
    rolling.count(at(5), key("m"), &good("a", 5));
    rolling.count(at(100), key("m"), &good("b", 100));
    rolling.count(at(100), key("m"), &ended(100_000, Ending::Rejected));
    let view = only(&rolling, 109);
    let [minute, ten] = view.windows[..] else { panic!("{view:?}") };
    assert_eq!((minute.figures.requests, minute.figures.good), (2, 1));
    assert_eq!((ten.figures.requests, ten.figures.rejected), (3, 1));
    // The window of the last minute covers from 50 to 109 seconds.
    assert!((minute.figures.request_goodput.unwrap() - 1.0 / 59.0).abs() < 1e-9);
    assert_eq!(only(&rolling, 2_000).windows[1].figures.requests, 0);
    assert_eq!(only(&rolling, 2_000).undisturbed.requests, 3);
}

#[test]
fn a_label_that_comes_late_changes_what_was_counted() {
    let mut rolling = Rolling::default();
    rolling.count(at(5), key("m"), &good("a", 5));
    assert!(rolling.label("a", false));
    let figures = only(&rolling, 6).windows[0].figures;
    assert_eq!((figures.good, figures.labelled), (0, 1));
    assert_eq!(figures.output_token_goodput, Some(0.0));
    // The grader thinks again.
    assert!(rolling.label("a", true) && rolling.label("a", true));
    assert_eq!(only(&rolling, 6).undisturbed.good, 1);
    assert_eq!(only(&rolling, 6).undisturbed.labelled, 1);
    assert!(!rolling.label("of nobody", true));
}

#[test]
fn an_acceptable_answer_that_came_late_is_still_not_good() {
    let mut rolling = Rolling::default();
    let late = RequestRecord { request_id: "a".to_owned(), ..answered(0, 900, None) };
    rolling.count(at(5), key("m"), &late);
    assert!(rolling.label("a", true));
    assert_eq!(only(&rolling, 6).windows[0].figures.good, 0);
}

#[test]
fn what_comes_in_a_disruption_is_counted_apart() {
    let mut rolling = Rolling::default();
    rolling.open(at(10), "deployment", Duration::from_secs(30));
    rolling.count(at(12), key("m"), &good("before", 9));
    rolling.count(at(20), key("m"), &good("within", 15));
    assert!(rolling.view(at(20)).is_disrupted);
    assert!(rolling.close(at(25), "deployment"));
    assert!(!rolling.close(at(26), "deployment"));
    rolling.count(at(30), key("m"), &good("after", 26));
    let view = only(&rolling, 31);
    assert_eq!((view.undisturbed.requests, view.disrupted.requests), (2, 1));
    assert!(!rolling.view(at(31)).is_disrupted);
}

#[test]
fn memory_has_a_bound_whatever_clients_send() {
    let mut rolling = Rolling::default();
    for number in 0..(RECENT_MAX as u64 + 500) {
        let id = number.to_string();
        rolling.count(at(number / 100), key(&id), &good(&id, 0));
        rolling.open(at(0), &id, Duration::ZERO);
    }
    assert!(rolling.keys.len() <= KEYS_MAX + 1, "{}", rolling.keys.len());
    assert_eq!((rolling.recent.len(), rolling.order.len()), (RECENT_MAX, RECENT_MAX));
    assert_eq!(rolling.disruptions.len(), DISRUPTIONS_MAX);
    assert!(!rolling.label("0", true) && rolling.label(&RECENT_MAX.to_string(), true));
    let all: u64 = rolling.view(at(9)).keys.iter().map(|it| it.undisturbed.requests).sum();
    assert_eq!(all, RECENT_MAX as u64 + 500);
}
