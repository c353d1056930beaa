//! What may be sent again: by the router, whose replicas failed, and by clients that say that they were turned away.

use super::*;

/// One replica that has as many requests as its promises allow, and lets so many go in a second that whoever has half a
/// minute may hope to go; nothing is earned.
fn full() -> Dispatcher {
    let mut dispatcher =
        dispatcher(AdmissionConfig { retry_share: 0.0, ..AdmissionConfig::default() });
    for id in 1_000..1_100 {
        let brief = Request { prompt: Tokens(1), ..long(id) };
        told(&mut dispatcher, 0, Event::Arrived(brief));
        told(&mut dispatcher, 0, ended(id));
    }
    let first = Request { prompt: Tokens(100), ..paced(1, 9) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(first))[0].verdict.is_ok());
    dispatcher
}

/// Requests `ids` of which `tenant` says that they were turned away before, one after the other; returns how many wait.
fn claimed(dispatcher: &mut Dispatcher, ids: std::ops::Range<u64>, tenant: u64) -> usize {
    let before = waiting(dispatcher);
    for id in ids {
        let claim = Request { came_again: 1, tenant: TenantId(tenant), ..paced(id, 9) };
        told(dispatcher, 0, Event::Arrived(claim));
    }
    waiting(dispatcher) - before
}

#[test]
fn who_claims_retries_leaves_those_of_others_alone() {
    let mut dispatcher = full();
    assert_eq!(claimed(&mut dispatcher, 10..310, 1), 50, "of one tenant");
    assert_eq!(claimed(&mut dispatcher, 310..320, 2), 10, "which is none of another's");
    let failed = Event::AttemptFailed(RequestId(1));
    let reject = told(&mut dispatcher, 0, failed)[0].verdict.unwrap_err();
    assert_eq!(reject, Reject::AllTried, "what failed on its only replica was looked at");
}

#[test]
fn all_tenants_together_claim_no_more_than_all_may_send_again() {
    let mut dispatcher = full();
    let held: usize =
        (0..10).map(|it| claimed(&mut dispatcher, 10 + 50 * it..60 + 50 * it, it)).sum();
    assert_eq!(held, 200);
}

#[test]
fn what_is_not_sent_again_after_all_is_not_paid_for() {
    let config = AdmissionConfig {
        in_flight_max: 1_000,
        retry_share: 0.0,
        ..AdmissionConfig::of(AdmissionMode::Static)
    };
    let mut dispatcher = dispatcher(config);
    (0..300).for_each(|id| drop(told(&mut dispatcher, 0, Event::Arrived(long(id)))));
    for id in 0..300 {
        let failed = Event::AttemptFailed(RequestId(id));
        let verdict = told(&mut dispatcher, 0, failed)[0].verdict;
        assert_eq!(verdict, Err(Reject::AllTried), "{id}: there is no other replica");
    }
}

#[test]
fn who_finds_no_place_to_wait_has_claimed_nothing() {
    let mut dispatcher = full();
    dispatcher.admission.config.queue_max = 8;
    for id in 10..18 {
        let urgent = Request { priority: Priority::System, ..paced(id, 9) };
        assert!(told(&mut dispatcher, 0, Event::Arrived(urgent)).is_empty());
    }
    assert_eq!(claimed(&mut dispatcher, 100..400, 1), 0, "they are the least urgent");
    dispatcher.admission.config.queue_max = 1_000;
    assert_eq!(claimed(&mut dispatcher, 400..700, 1), 50);
}
