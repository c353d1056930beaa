//! The pace that is measured, and how far it may go.

use super::*;

#[test]
fn answers_that_run_slower_than_predicted_close_the_gate() {
    // A short prompt and a pace of 50 ms, of which predictions say that a lot more would be kept.
    let short = |id| {
        let slo = Slo { tpot: Some(Duration::from_millis(50)), ..Slo::default() };
        Request { slo, ..Request::new(RequestId(id), ModelId(1), Tokens(100), Vec::new().into()) }
    };
    let lets_in = |gap_ms: u64| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        told(&mut dispatcher, 0, Event::Arrived(short(1)));
        told(&mut dispatcher, 20, Event::FirstToken(RequestId(1)));
        for step in 1..100 {
            let waited = Duration::from_millis(10 * gap_ms);
            let replica = ReplicaId(0);
            told(
                &mut dispatcher,
                20 + step * 100,
                Event::TokensCame { replica, tokens: 10, waited },
            );
        }
        told(&mut dispatcher, 10_000, Event::Arrived(short(2))).iter().any(|it| it.verdict.is_ok())
    };
    assert!(lets_in(40) && !lets_in(60));
}

/// A dispatcher whose only replica serves somebody at a pace of 51 ms where 50 were promised, at 10 s; `meanwhile`
/// happens before.
fn lets_in_at_51_ms(meanwhile: impl Fn(&mut Dispatcher)) -> bool {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    // Or predictions would say the same.
    dispatcher.know_speed(ReplicaId(0), 1.0, 1.0);
    for id in [1, 3] {
        told(&mut dispatcher, 0, Event::Arrived(Request { prompt: Tokens(100), ..paced(id, 50) }));
        told(&mut dispatcher, 20, Event::FirstToken(RequestId(id)));
    }
    for step in 1..100 {
        let (replica, waited) = (ReplicaId(0), Duration::from_millis(510));
        let came = Event::TokensCame { replica, tokens: 10, waited };
        told(&mut dispatcher, 20 + step * 100, came);
    }
    meanwhile(&mut dispatcher);
    let next = Request { prompt: Tokens(100), ..paced(2, 50) };
    told(&mut dispatcher, 10_000, Event::Arrived(next)).iter().any(|it| it.verdict.is_ok())
}

#[test]
fn a_pace_just_beyond_the_promise_closes_the_gate_once_something_went_wrong() {
    assert!(lets_in_at_51_ms(|_| ()));
    // A pace that no replica can keep.
    let turned_away = |it: &mut Dispatcher| {
        assert!(told(it, 9_990, Event::Arrived(paced(4, 1)))[0].verdict.is_err());
    };
    assert!(!lets_in_at_51_ms(turned_away));
    let ends = |it: &mut Dispatcher, tokens| {
        let (request, outcome, output) = (RequestId(3), Outcome::Finished, Some(Tokens(tokens)));
        told(it, 9_990, Event::Ended { request, outcome, output, cached: None });
    };
    assert!(!lets_in_at_51_ms(|it| ends(it, 100)), "some 100 ms a token");
    assert!(lets_in_at_51_ms(|it| ends(it, 500)), "some 20 ms a token");
}
