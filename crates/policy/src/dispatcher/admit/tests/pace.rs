//! The time per token that answers were promised: who keeps whom back for it, and who could be given it by nobody.

use super::*;
use crate::estimate::Forecast;

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

#[test]
fn nobody_is_slowed_below_its_promise_for_one_who_has_none() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    let tight = Slo { tpot: Some(Duration::from_millis(9)), ..Slo::default() };
    let first = Request { slo: tight, prompt: Tokens(100), ..long(1) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(first))[0].verdict.is_ok());
    let without = Request { slo: Slo::default(), came_again: 1, ..long(2) };
    let decisions = told(&mut dispatcher, 0, Event::Arrived(without));
    assert!(decisions.first().is_none_or(|it| it.verdict.is_err()), "{decisions:?}");
}

#[test]
fn a_pace_that_nobody_can_keep_holds_nobody_back() {
    let lets_in_beside = |tpot_ms| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        let slo = Slo { tpot: Some(Duration::from_millis(tpot_ms)), ..Slo::default() };
        let first = Request { slo, prompt: Tokens(100), ..long(1) };
        assert!(told(&mut dispatcher, 0, Event::Arrived(first))[0].verdict.is_ok());
        let second = Request { prompt: Tokens(12_000), ..long(2) };
        let lets_in = !told(&mut dispatcher, 0, Event::Arrived(second)).is_empty();
        told(&mut dispatcher, 1, ended(2));
        told(&mut dispatcher, 1, ended(1));
        assert_eq!(dispatcher.fleet.get(ReplicaId(0)).unwrap().promises.tightest(), None);
        lets_in
    };
    assert!(lets_in_beside(1), "it will run slower than that whoever else is there");
    assert!(!lets_in_beside(9));
}

#[test]
fn a_pace_that_no_replica_can_keep_is_not_waited_for() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    assert!(told(&mut dispatcher, 0, Event::Arrived(long(1)))[0].verdict.is_ok());
    let reject = told(&mut dispatcher, 0, Event::Arrived(paced(2, 1)))[0].verdict.unwrap_err();
    assert!(matches!(reject, Reject::Infeasible { gate: Gate::Tpot, .. }), "{reject:?}");
    assert!(told(&mut dispatcher, 0, Event::Arrived(paced(3, 9))).is_empty(), "this one can be");
}

#[test]
fn no_replica_is_kept_for_who_could_go_nowhere_in_an_idle_fleet_either() {
    let is_kept_for = |tpot_ms| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        told(&mut dispatcher, 0, Event::Arrived(Request { prompt: Tokens(100), ..paced(1, 9) }));
        for _ in 0..100 {
            dispatcher.admission.sizes.decided(at(0), 0.1, true);
            dispatcher.admission.sizes.decided(at(0), 1.0, false);
        }
        // It came when such a pace was kept there.
        let waiting = Waiting { latest: at(1_000), ..waits(paced(2, tpot_ms)) };
        dispatcher.admission.queue.push(waiting, 8);
        told(&mut dispatcher, 1, Event::TimePassed);
        assert!(dispatcher.admission.queue.contains(RequestId(2)));
        dispatcher.admission.kept.is_some()
    };
    assert!(is_kept_for(9) && !is_kept_for(1));
}

/// Has replica 0 learn that answers run slower than predicted, by four tenths and no more.
fn learn_pace(dispatcher: &mut Dispatcher) {
    let replica = dispatcher.fleet.get_mut(ReplicaId(0)).unwrap();
    let forecast = Forecast { tpot_s: 0.02, ..Forecast::default() };
    (0..13).for_each(|_| replica.estimate.learn_tpot(&forecast, 0.03, 0.02));
    let margin = replica.estimate.margins().1.value();
    assert!((1.35..1.45).contains(&margin), "{margin}");
}

#[test]
fn a_pace_that_no_replica_keeps_by_its_margin_is_not_waited_for_and_not_called_impossible() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    assert!(told(&mut dispatcher, 0, Event::Arrived(long(1)))[0].verdict.is_ok());
    learn_pace(&mut dispatcher);
    let reject = told(&mut dispatcher, 0, Event::Arrived(paced(2, 9)))[0].verdict.unwrap_err();
    assert!(matches!(reject, Reject::Saturated { gate: Gate::Tpot, .. }), "{reject:?}");
    assert!(
        (dispatcher.admission.ease.times(at(0)) - 1.05).abs() < 1e-9,
        "nor says it that the fleet is full"
    );
    let reject = told(&mut dispatcher, 0, Event::Arrived(paced(4, 1)))[0].verdict.unwrap_err();
    assert!(matches!(reject, Reject::Infeasible { gate: Gate::Tpot, .. }), "{reject:?}");
    assert!(told(&mut dispatcher, 0, Event::Arrived(paced(3, 13))).is_empty(), "this one is");
}

#[test]
fn a_margin_that_was_learned_in_another_mode_is_forgotten() {
    let mut dispatcher = dispatcher(AdmissionConfig::off());
    learn_pace(&mut dispatcher);
    let margin = |it: &Dispatcher| it.fleet.get(ReplicaId(0)).unwrap().estimate.margins().1.value();
    told(&mut dispatcher, 0, Event::AdmissionChanged(AdmissionConfig::default()));
    assert!((margin(&dispatcher) - 1.0).abs() < 1e-9);
    learn_pace(&mut dispatcher);
    let slower = AdmissionConfig { queue_max: 7, ..AdmissionConfig::default() };
    told(&mut dispatcher, 0, Event::AdmissionChanged(slower));
    assert!(1.3 < margin(&dispatcher), "the mode is the same");
}

#[test]
fn a_client_that_is_slow_to_take_the_end_of_its_answer_moves_no_margin() {
    let learned = |held_s| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        let slo = Slo { tpot: Some(Duration::from_millis(50)), ..Slo::default() };
        for id in 1..20 {
            let began = id * 10_000;
            let request = Request { slo, prompt: Tokens(100), ..long(id) };
            told(&mut dispatcher, began, Event::Arrived(request));
            told(&mut dispatcher, began + 20, Event::FirstToken(RequestId(id)));
            let (request, held) = (RequestId(id), Duration::from_secs(held_s));
            told(&mut dispatcher, began + 6_020, Event::AnswerHeld { request, held });
            let (outcome, output) = (Outcome::Finished, Some(Tokens(101)));
            let ended = Event::Ended { request, outcome, output, cached: None };
            told(&mut dispatcher, began + 6_020, ended);
        }
        let replica = dispatcher.fleet.get(ReplicaId(0)).unwrap();
        let limit = replica.limit.value();
        (replica.estimate.margins().1.value(), limit, replica.accuracy.tpot)
    };
    let (margin, limit, _) = learned(0);
    assert!(1.1 < margin && limit < 8.0, "sixty milliseconds a token");
    // Those that came last came some time in between.
    assert_eq!(learned(2), (1.0, 8.0, (0.0, 0.0)));
}

/// A dispatcher whose only replica serves somebody at a pace of 51 ms where 50 were promised, until `s` seconds.
fn at_51_ms(s: u64) -> Dispatcher {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    // Or predictions would say the same.
    dispatcher.know_speed(ReplicaId(0), 1.0, 1.0);
    for id in [1, 3] {
        told(&mut dispatcher, 0, Event::Arrived(Request { prompt: Tokens(100), ..paced(id, 50) }));
        told(&mut dispatcher, 20, Event::FirstToken(RequestId(id)));
    }
    runs_at_51_ms(&mut dispatcher, 0, s);
    dispatcher
}

fn runs_at_51_ms(dispatcher: &mut Dispatcher, from_s: u64, to_s: u64) {
    for step in from_s * 10 + 1..to_s * 10 {
        let (replica, waited) = (ReplicaId(0), Duration::from_millis(510));
        let came = Event::TokensCame { replica, tokens: 10, waited };
        told(dispatcher, 20 + step * 100, came);
    }
}

fn lets_in_at(dispatcher: &mut Dispatcher, ms: u64) -> bool {
    let next = Request { prompt: Tokens(100), ..paced(2, 50) };
    dispatcher.outlook(at(ms), &next).is_open
}

/// Whether one more is let in at 10 s, `meanwhile` having happened.
fn lets_in_at_51_ms(meanwhile: impl Fn(&mut Dispatcher)) -> bool {
    let mut dispatcher = at_51_ms(10);
    meanwhile(&mut dispatcher);
    lets_in_at(&mut dispatcher, 10_000)
}

#[test]
fn a_pace_just_beyond_the_promise_closes_the_gate_once_something_went_wrong() {
    assert!(lets_in_at_51_ms(|_| ()));
    let turned_away = |it: &mut Dispatcher, tpot_ms, came_again| {
        let short = Request { prompt: Tokens(100), came_again, ..paced(4, tpot_ms) };
        let slo = Slo { ttft: Some(Duration::from_millis(50)), ..short.slo };
        let mut decisions = told(it, 9_900, Event::Arrived(Request { slo, ..short }));
        decisions.extend(told(it, 9_990, Event::TimePassed));
        decisions[0].verdict.unwrap_err()
    };
    assert!(!lets_in_at_51_ms(|it| {
        let reject = turned_away(it, 40, 0);
        assert!(matches!(reject, Reject::Expired { gate: Gate::Tpot, .. }), "{reject:?}");
    }));
    // Which tells nothing of the fleet.
    assert!(lets_in_at_51_ms(|it| {
        let reject = turned_away(it, 1, 0);
        assert!(matches!(reject, Reject::Infeasible { .. }), "{reject:?}");
    }));
    assert!(lets_in_at_51_ms(|it| _ = turned_away(it, 40, 1)), "so it says");
    assert!(lets_in_at_51_ms(|it| {
        let full =
            Full { alone_s: 0.0, alone_tpot_s: 0.0, raised_tpot_s: 0.0, ..Full::nowhere(true) };
        assert!(matches!(it.refusal(at(9_990), &long(4), &full), Reject::OverShare { .. }));
    }));
    let ends = |it: &mut Dispatcher, tokens| {
        let (request, outcome, output) = (RequestId(3), Outcome::Finished, Some(Tokens(tokens)));
        told(it, 9_990, Event::Ended { request, outcome, output, cached: None });
    };
    assert!(!lets_in_at_51_ms(|it| ends(it, 100)), "some 100 ms a token");
    assert!(lets_in_at_51_ms(|it| ends(it, 500)), "some 20 ms a token");
}

/// Has requests of one client be served one after the other, at some 40 ms a token, each of which was promised `slo`.
fn serve(dispatcher: &mut Dispatcher, requests: u64, slo: Slo) {
    for id in 1..=requests {
        let (began, request) = (id * 10_000, RequestId(id));
        let came = Request { slo, prompt: Tokens(1_000), ..long(id) };
        assert!(told(dispatcher, began, Event::Arrived(came))[0].verdict.is_ok());
        told(dispatcher, began + 100, Event::FirstToken(request));
        let (outcome, output) = (Outcome::Finished, Some(Tokens(101)));
        told(dispatcher, began + 4_100, Event::Ended { request, outcome, output, cached: None });
    }
}

#[test]
fn who_asks_for_the_impossible_has_nobody_believe_that_a_replica_is_slow() {
    let learned = |slo| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        serve(&mut dispatcher, 60, slo);
        let replica = dispatcher.fleet.get(ReplicaId(0)).unwrap();
        let limit = replica.limit.value();
        (replica.estimate.margins().1.value(), limit, replica.accuracy.tpot)
    };
    let of = |ttft, tpot| {
        let ms = |it: Option<u64>| it.map(Duration::from_millis);
        learned(Slo { ttft: ms(ttft), tpot: ms(tpot), ..Slo::default() })
    };
    let before = learned(Slo::default());
    assert!((before.0 - 1.0).abs() < 1e-9 && 8.0 <= before.1, "{before:?}");
    assert_eq!(of(None, Some(1)), before);
    assert_eq!(of(Some(1), None), before);
    let broken = of(None, Some(30));
    assert!(1.5 < broken.0 && broken.1 < before.1, "this one can be kept: {broken:?}");
}

#[test]
fn a_pace_that_was_kept_though_the_margin_said_otherwise_narrows_the_margin() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    learn_pace(&mut dispatcher);
    let margin = |it: &Dispatcher| it.fleet.get(ReplicaId(0)).unwrap().estimate.margins().1.value();
    let before = margin(&dispatcher);
    // Some 6 ms a token by the form.
    let slo = Slo { tpot: Some(Duration::from_millis(9)), ..Slo::default() };
    told(&mut dispatcher, 0, Event::Arrived(Request { slo, prompt: Tokens(100), ..long(1) }));
    assert_eq!(dispatcher.fleet.get(ReplicaId(0)).unwrap().promises.tightest(), None);
    let request = RequestId(1);
    told(&mut dispatcher, 20, Event::FirstToken(request));
    let (outcome, output) = (Outcome::Finished, Some(Tokens(101)));
    told(&mut dispatcher, 820, Event::Ended { request, outcome, output, cached: None });
    assert!(margin(&dispatcher) < before);
}

#[test]
fn a_pace_just_beyond_the_promise_opens_the_gate_again_once_all_went_well_for_a_while() {
    let mut dispatcher = at_51_ms(10);
    dispatcher.admission.ease.turned_away(at(10_000));
    runs_at_51_ms(&mut dispatcher, 10, 25);
    assert!(!lets_in_at(&mut dispatcher, 25_000));
    assert!(lets_in_at(&mut dispatcher, 25_500));
}

#[test]
fn the_time_of_a_whole_answer_is_never_exceeded_on_purpose() {
    let mut dispatcher = at_51_ms(10);
    // Or the pace that was promised others would decide.
    let replica = dispatcher.fleet.get_mut(ReplicaId(0)).unwrap();
    replica.promises = crate::admission::Promises::default();
    let least = |dispatcher: &mut Dispatcher| {
        let lets_in = |ms: &u64| {
            let slo = Slo { e2e: Some(Duration::from_millis(*ms)), ..Slo::default() };
            let whole = Request { slo, prompt: Tokens(100), ..long(2) };
            dispatcher.outlook(at(10_000), &whole).is_open
        };
        (1_000..60_000).step_by(50).find(lets_in).unwrap()
    };
    let before = least(&mut dispatcher);
    assert!(2_000 < before, "{before}");
    dispatcher.admission.ease.turned_away(at(10_000));
    assert_eq!(before, least(&mut dispatcher));
}
