//! Who waited for too long.

use types::block::BlockHash;

use super::*;

#[test]
fn who_waited_too_long_is_turned_away_when_time_has_passed() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    told(&mut dispatcher, 0, Event::Arrived(long(2)));
    let mut decisions = Vec::new();
    while decisions.is_empty() {
        let due = dispatcher.next_wakeup().unwrap();
        dispatcher.handle(due, Event::TimePassed, &mut decisions);
    }
    let reject = decisions[0].verdict.unwrap_err();
    assert!(matches!(reject, Reject::Expired { .. }), "{reject:?}");
    assert!(reject.retry_after().unwrap() > Duration::ZERO);
}

#[test]
fn who_has_a_choice_is_not_sent_once_its_client_has_gone() {
    let is_sent = |patience_ms| {
        let mut dispatcher = dispatcher(AdmissionConfig::default());
        let patience_ms = std::num::NonZeroU32::new(patience_ms);
        let request = Request { prompt: Tokens(100), patience_ms, ..long(1) };
        let waiting = Waiting { has_choice: true, ..waits(request) };
        dispatcher.admission.queue.push(waiting, 8);
        told(&mut dispatcher, 400, Event::TimePassed)[0].verdict.is_ok()
    };
    assert!(!is_sent(300) && is_sent(600));
    // It is looked at, and chooses, before that is too late.
    let patience_ms = std::num::NonZeroU32::new(300);
    let latest = Admission::latest_choice;
    assert_eq!(latest(&Request { patience_ms, ..long(1) }, at(0), 0.1), at(180));
    assert!(at(3_600_000) < latest(&long(1), at(0), 0.1));
}

#[test]
fn nobody_waits_for_hours_for_an_answer_that_somebody_waits_for() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    told(&mut dispatcher, 0, Event::Arrived(Request { prompt: Tokens(100), ..paced(1, 9) }));
    told(&mut dispatcher, 0, Event::Arrived(paced(2, 9)));
    assert_eq!(waiting(&dispatcher), 1);
    assert!(told(&mut dispatcher, 29_000, Event::TimePassed).is_empty());
    let decisions = told(&mut dispatcher, 31_000, Event::TimePassed);
    assert!(matches!(decisions[0].verdict, Err(Reject::Expired { .. })), "{decisions:?}");
}

#[test]
fn nothing_waits_for_longer_than_its_client() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    let slo = Slo { ttft: Some(Duration::from_secs(60)), ..Slo::default() };
    let brief = Request { prompt: Tokens(100), slo, ..long(2) };
    let brief = Request { patience_ms: std::num::NonZeroU32::new(200), ..brief };
    let tight = Slo { tpot: Some(Duration::from_millis(9)), ..slo };
    told(&mut dispatcher, 0, Event::Arrived(Request { slo: tight, ..brief }));
    assert_eq!(waiting(&dispatcher), 1);
    let mut decisions = Vec::new();
    let mut due = at(0);
    while decisions.is_empty() {
        due = dispatcher.next_wakeup().unwrap();
        dispatcher.handle(due, Event::TimePassed, &mut decisions);
    }
    assert!(matches!(decisions[0].verdict, Err(Reject::Expired { .. })), "{decisions:?}");
    assert!(due < at(200), "{due:?}: there must be time left for its answer to begin");
}

#[test]
fn of_very_many_who_are_too_late_at_once_one_event_deals_with_a_part_and_none_is_sent() {
    const MANY: u64 = 1_000;
    let config = AdmissionConfig { queue_max: 100_000, ..AdmissionConfig::default() };
    let mut dispatcher = dispatcher(config);
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    for id in 0..MANY {
        let brief = Request { prompt: Tokens(1), ..long(10 + id) };
        assert!(dispatcher.admission.queue.push(waits(brief), 100_000).is_none());
    }
    // One who may still go.
    let last = Waiting { latest: at(5_000), ..waits(Request { prompt: Tokens(1), ..long(9) }) };
    dispatcher.admission.queue.push(last, 100_000);
    let mut events = 1;
    // There is room from now on, for those who are too late as well.
    let mut decisions = told(&mut dispatcher, 200, ended(1));
    while decisions.len() < 1_001 {
        let before = decisions.len();
        let due = dispatcher.next_wakeup().unwrap();
        assert!(at(200) < due && due < at(300), "{due:?} after {events} events");
        dispatcher.handle(due, Event::TimePassed, &mut decisions);
        assert!(decisions.len() <= before + 257);
        events += 1;
    }
    assert_eq!(events, 4);
    let sent: Vec<_> = decisions.iter().filter(|it| it.verdict.is_ok()).collect();
    assert_eq!(sent.iter().map(|it| it.request).collect::<Vec<_>>(), [RequestId(9)]);
    assert_eq!((waiting(&dispatcher), dispatcher.next_wakeup()), (0, None));
}

#[test]
fn who_has_a_choice_goes_where_it_may_once_its_time_to_choose_is_over_however_it_would_choose_now()
{
    let ready =
        |replica| Event::HealthChanged { replica: ReplicaId(replica), health: Health::Ready };
    let mut config = DispatcherConfig::new(StrategyName::LeastLatency, 7);
    config.admission = AdmissionConfig::default();
    config.prefix.index_bytes_max = 1 << 20;
    let mut dispatcher = Dispatcher::new(config);
    for replica in [ReplicaId(0), ReplicaId(1)] {
        told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        dispatcher.know_speed(replica, 1.0, 1.0);
    }
    told(&mut dispatcher, 0, ready(0));
    let blocks: Vec<_> =
        (1..=1_200).map(|it: u64| BlockHash(it.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let same = |id| {
        let prompt = Tokens(1_200 * 64 + 10);
        Request { prompt, blocks: blocks.clone().into(), ..paced(id, 50) }
    };
    assert!(told(&mut dispatcher, 0, Event::Arrived(same(1)))[0].verdict.is_ok());
    told(&mut dispatcher, 2_000, Event::FirstToken(RequestId(1)));
    // A little slower than was promised, where its prompt is held.
    for step in 1..100 {
        let (replica, waited) = (ReplicaId(0), Duration::from_millis(500));
        let came = Event::TokensCame { replica, tokens: 10, waited };
        told(&mut dispatcher, 2_000 + step * 80, came);
    }
    told(&mut dispatcher, 9_990, ready(1));
    let patience_ms = std::num::NonZeroU32::new(60_000);
    let next = Request { patience_ms, ..same(2) };
    assert!(told(&mut dispatcher, 10_000, Event::Arrived(next)).is_empty());
    let line = dispatcher.fleet.line_of(ModelId(1), Tokens(1));
    let place = dispatcher.admission.queue.next_in(line, None).unwrap();
    let waiting = dispatcher.admission.queue.take(place).unwrap();
    assert!(waiting.has_choice && at(10_005) < waiting.latest);
    // When it came, its first token was to take longer where it might go.
    dispatcher.admission.queue.push(Waiting { latest: at(10_005), ..waiting }, 8);
    let decisions = told(&mut dispatcher, 10_010, Event::TimePassed);
    assert_eq!(decisions[0].verdict.unwrap().replica, ReplicaId(1), "{decisions:?}");
}
