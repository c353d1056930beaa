//! Who is let in, who waits and who is turned away, on cases made by hand.

mod lines;
mod pace;
mod retries;
mod too_late;

use proptest::{collection::vec, prelude::*, sample::select};
use types::{
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::{ModelId, Priority, SessionKey, TenantId},
    slo::Slo,
};

use super::*;
use crate::{
    admission::{AdmissionConfig, AdmissionMode},
    config::{DispatcherConfig, StrategyName},
    estimate::EstimateConfig,
    event::Event,
    fleet_view::FleetView,
};

fn at(ms: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(ms))
}

fn dispatcher(admission: AdmissionConfig) -> Dispatcher {
    let mut config = DispatcherConfig::new(StrategyName::LeastRequest, 7);
    config.admission = admission;
    config.prefix.index_bytes_max = 1 << 16;
    let mut dispatcher = Dispatcher::new(config);
    let replica = ReplicaId(0);
    told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
    told(&mut dispatcher, 0, Event::HealthChanged { replica, health: Health::Ready });
    dispatcher
}

fn told(dispatcher: &mut Dispatcher, ms: u64, event: Event) -> Vec<Decision> {
    let mut decisions = Vec::new();
    dispatcher.handle(at(ms), event, &mut decisions);
    decisions
}

/// A prompt that takes some 0.7 s by the form, of which two do not fit into its promise of a second.
fn long(id: u64) -> Request {
    let slo = Slo { ttft: Some(Duration::from_secs(1)), ..Slo::default() };
    Request { slo, ..Request::new(RequestId(id), ModelId(1), Tokens(16_000), Vec::new().into()) }
}

fn ended(id: u64) -> Event {
    Event::Ended { request: RequestId(id), outcome: Outcome::Cancelled, output: None, cached: None }
}

fn waiting(dispatcher: &Dispatcher) -> usize {
    dispatcher.waiting().iter().sum()
}

#[test]
fn who_finds_no_room_waits_until_there_is_some() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    assert!(told(&mut dispatcher, 0, Event::Arrived(long(1)))[0].verdict.is_ok());
    assert!(told(&mut dispatcher, 0, Event::Arrived(long(2))).is_empty());
    assert_eq!(waiting(&dispatcher), 1);
    let decisions = told(&mut dispatcher, 20, ended(1));
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].request, RequestId(2));
    assert!(decisions[0].verdict.is_ok(), "{decisions:?}");
    assert_eq!((waiting(&dispatcher), dispatcher.next_wakeup()), (0, None));
}

/// C10: of those who were turned away at once, no twentieth of the time in which they come again has more than three
/// times its share.
#[test]
fn who_was_turned_away_together_does_not_come_again_together() {
    let mut dispatcher =
        dispatcher(AdmissionConfig { wait_share: 0.0, ..AdmissionConfig::default() });
    told(&mut dispatcher, 0, Event::Arrived(long(0)));
    let mut after_s = Vec::new();
    for id in 1..=2_000 {
        let decisions = told(&mut dispatcher, 1, Event::Arrived(long(id)));
        let reject = decisions[0].verdict.unwrap_err();
        after_s.push(reject.retry_after().unwrap().as_secs_f64());
    }
    let least = after_s.iter().copied().fold(f64::INFINITY, f64::min);
    let most = after_s.iter().copied().fold(0.0, f64::max);
    assert!(1.5 * least < most, "{least} to {most}");
    for part in 0..20 {
        let begin = least + (most - least) * f64::from(part) / 20.0;
        let end = begin + (most - least) / 20.0;
        let some = after_s.iter().filter(|it| (begin..=end).contains(it)).count();
        assert!(some <= 3 * after_s.len() / 20, "{some} come between {begin} and {end}");
    }
}

#[test]
fn who_leaves_while_waiting_is_forgotten() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    told(&mut dispatcher, 0, Event::Arrived(long(2)));
    assert!(told(&mut dispatcher, 1, ended(2)).is_empty());
    assert_eq!(waiting(&dispatcher), 0);
    assert!(told(&mut dispatcher, 2, ended(1)).is_empty());
}

#[test]
fn an_idle_replica_takes_what_no_replica_can_do_in_time() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    let endless = Request { prompt: Tokens(200_000), ..long(1) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(endless.clone()))[0].verdict.is_ok());
    let next = Request { id: RequestId(2), ..endless };
    let reject = told(&mut dispatcher, 0, Event::Arrived(next))[0].verdict.unwrap_err();
    assert!(matches!(reject, Reject::Infeasible { gate: Gate::Ttft, .. }), "{reject:?}");
}

#[test]
fn only_who_would_be_let_in_if_its_tenant_had_asked_for_less_is_told_of_its_share() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    let told = |dispatcher: &mut Dispatcher, alone_s| {
        let full = Full { alone_s, alone_tpot_s: 0.0, raised_tpot_s: 0.0, ..Full::nowhere(true) };
        dispatcher.refusal(at(0), &long(1), &full)
    };
    assert!(matches!(told(&mut dispatcher, 0.5), Reject::OverShare { .. }));
    assert!(
        matches!(told(&mut dispatcher, 2.0), Reject::Infeasible { .. }),
        "of a second promised"
    );
}

#[test]
fn room_is_looked_for_once_at_a_time_and_the_more_rarely_the_more_replicas_there_are() {
    /// Looks in a millisecond at six who are due.
    fn looks(replicas: usize) -> usize {
        let mut admission = Admission::new(AdmissionConfig::default());
        for (id, work_s) in (0..).zip([0.005, 0.02, 0.1, 0.5, 2.0, 20.0]) {
            admission.room_of(1, &long(id)).turned_away(at(0), &long(id), work_s, 1.0);
        }
        let times = (50_000..51_000).map(|us| Timestamp::from_elapsed(Duration::from_micros(us)));
        times.filter(|now| admission.watched(*now, replicas).is_some()).count()
    }
    assert_eq!(looks(25), 6, "each of them once");
    assert_eq!(looks(64), 4, "a quarter of a millisecond apart");
    assert_eq!(looks(1_024), 1);
}

/// A prompt that was promised a pace, and time enough for its first token.
fn paced(id: u64, tpot_ms: u64) -> Request {
    let tpot = Some(Duration::from_millis(tpot_ms));
    let slo = Slo { ttft: Some(Duration::from_secs(3_600)), tpot, ..Slo::default() };
    Request { slo, prompt: Tokens(12_000), ..long(id) }
}

/// One who waits, whatever for, until a tenth of a second has passed.
fn waits(request: Request) -> Waiting {
    Waiting {
        request,
        arrived: at(0),
        latest: at(100),
        work_s: 1.0,
        gate: Gate::Tpot,
        after_s: 1.0,
        has_choice: false,
        is_over_share: false,
        line: 0,
    }
}

#[test]
fn work_for_later_goes_only_where_no_prompt_of_the_urgent_waits() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    let slo = Slo { completion: Some(Duration::from_secs(3_600)), ..Slo::default() };
    let later = Request { slo, priority: Priority::Batch, prompt: Tokens(500), ..long(2) };
    let urgent = Request { priority: Priority::Interactive, prompt: Tokens(500), ..long(1) };
    assert!(told(&mut dispatcher, 0, Event::Arrived(urgent))[0].verdict.is_ok());
    assert!(told(&mut dispatcher, 1, Event::Arrived(later)).is_empty());
    let decisions = told(&mut dispatcher, 40, Event::FirstToken(RequestId(1)));
    assert_eq!(decisions.len(), 1, "{decisions:?}");
    assert!(decisions[0].verdict.is_ok());
}

#[test]
fn asking_what_a_request_would_meet_changes_nothing() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    assert!(dispatcher.outlook(at(0), &long(1)).is_open);
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    let outlook = dispatcher.outlook(at(0), &long(2));
    assert!(!outlook.is_open && outlook.work_s > 0.4, "{outlook:?}");
    assert_eq!((dispatcher.in_flight(), waiting(&dispatcher)), (1, 0));
    let work_s = dispatcher.work_s(RequestId(1)).unwrap();
    assert!((work_s - outlook.work_s).abs() < 0.2, "{work_s}, {outlook:?}");
}

#[test]
fn a_full_queue_gives_up_the_least_urgent() {
    let config = AdmissionConfig { queue_max: 1, ..AdmissionConfig::default() };
    let mut dispatcher = dispatcher(config);
    told(&mut dispatcher, 0, Event::Arrived(long(1)));
    told(&mut dispatcher, 0, Event::Arrived(long(2)));
    let urgent = Request { priority: Priority::System, ..long(3) };
    let decisions = told(&mut dispatcher, 0, Event::Arrived(urgent));
    assert_eq!(decisions[0].request, RequestId(2));
    let reject = decisions[0].verdict.unwrap_err();
    assert!(
        matches!(reject, Reject::Evicted { .. }) && reject.gate() == Some(Gate::Ttft),
        "{reject:?}"
    );
    assert_eq!(dispatcher.waiting(), [0, 0, 0, 1]);
}

#[test]
fn switching_admission_off_lets_everybody_in_who_waits() {
    let mut dispatcher = dispatcher(AdmissionConfig::default());
    (1..4).for_each(|id| drop(told(&mut dispatcher, 0, Event::Arrived(long(id)))));
    let waited = waiting(&dispatcher);
    assert!(waited > 0);
    let off = Event::AdmissionChanged(AdmissionConfig::off());
    assert_eq!(told(&mut dispatcher, 1, off).len(), waited);
    assert_eq!(waiting(&dispatcher), 0);
}

proptest! {
    /// Every request is decided on once, or waits, or has left; nobody waits beyond its time.
    #[test]
    fn everybody_is_decided_on_once(
        steps in vec((0..40_u64, 0..4_u32, select(Priority::ALL.to_vec()), 0..400_u64), 1..80),
    ) {
        let mut dispatcher = dispatcher(AdmissionConfig { queue_max: 5, ..AdmissionConfig::default() });
        let mut decided = std::collections::BTreeSet::new();
        let (mut now, mut next) = (0, 0);
        let mut placed = Vec::new();
        for (wait, what, priority, tenant) in steps {
            now += wait;
            let event = match what {
                0 | 1 => {
                    next += 1;
                    let tenant = TenantId(tenant % 3);
                    Event::Arrived(Request { priority, tenant, ..long(next) })
                }
                2 => placed.pop().map_or(Event::TimePassed, ended),
                _ => Event::TimePassed,
            };
            for it in told(&mut dispatcher, now, event) {
                prop_assert!(decided.insert(it.request), "{:?} is decided on twice", it.request);
                if it.verdict.is_ok() {
                    placed.push(it.request.0);
                }
            }
            prop_assert!(waiting(&dispatcher) <= 5);
            prop_assert_eq!(decided.len() + waiting(&dispatcher), usize::try_from(next).unwrap());
        }
        let late = now + 60_000;
        told(&mut dispatcher, late, Event::TimePassed);
        prop_assert_eq!(waiting(&dispatcher), 0);
    }
}

/// Two replicas that take `most` requests each.
fn two_of(strategy: StrategyName, most: u32) -> Dispatcher {
    let mut config = DispatcherConfig::new(strategy, 7);
    config.admission =
        AdmissionConfig { in_flight_max: most, ..AdmissionConfig::of(AdmissionMode::Static) };
    let mut dispatcher = Dispatcher::new(config);
    for replica in [ReplicaId(0), ReplicaId(1)] {
        told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        told(&mut dispatcher, 0, Event::HealthChanged { replica, health: Health::Ready });
    }
    dispatcher
}

#[test]
fn a_conversation_that_finds_its_replica_closed_for_once_returns_to_it() {
    let mut dispatcher = two_of(StrategyName::Sticky, 1);
    let turn = |id| Request { session: Some(SessionKey(9)), ..long(id) };
    let placed = |dispatcher: &mut Dispatcher, id| {
        told(dispatcher, id, Event::Arrived(turn(id)))[0].verdict.unwrap().replica
    };
    let home = placed(&mut dispatcher, 1);
    assert_ne!(placed(&mut dispatcher, 2), home, "the gate is closed there");
    told(&mut dispatcher, 3, ended(1));
    told(&mut dispatcher, 3, ended(2));
    assert_eq!(placed(&mut dispatcher, 4), home);
}

#[test]
fn what_a_dying_replica_leaves_goes_only_where_there_is_room() {
    let mut dispatcher = two_of(StrategyName::LeastRequest, 8);
    for id in 0..16 {
        assert!(told(&mut dispatcher, 0, Event::Arrived(long(id)))[0].verdict.is_ok());
    }
    let on_first: Vec<u64> = (0..16)
        .filter(|id| dispatcher.in_flight[&RequestId(*id)].replica == ReplicaId(0))
        .collect();
    let health = Health::Ejected;
    told(&mut dispatcher, 5_000, Event::HealthChanged { replica: ReplicaId(0), health });
    let verdicts: Vec<_> = on_first
        .iter()
        .map(|id| told(&mut dispatcher, 5_000, Event::AttemptFailed(RequestId(*id)))[0].verdict)
        .collect();
    let let_in = verdicts.iter().filter(|it| it.is_ok()).count();
    assert_eq!(let_in, 2, "an eighth more than a new one would find, and no more: {verdicts:?}");
    let refused = verdicts.iter().filter_map(|it| it.err());
    assert!(refused.into_iter().all(|it| matches!(it, Reject::Saturated { .. })), "{verdicts:?}");
}

/// What is known after twenty seconds of prompts of a thousand tokens, at a rate.
fn at_rate(per_s: u64) -> AdmissionView {
    at_rate_beside(per_s, 0)
}

/// The same where so many `others` serve another model, for which nobody asks.
fn at_rate_beside(per_s: u64, others: u32) -> AdmissionView {
    let mut dispatcher = dispatcher(AdmissionConfig::off());
    // As the form has it, whenever the first tokens come here.
    let estimate = EstimateConfig { frozen: true, ..EstimateConfig::default() };
    dispatcher.fleet = FleetView::new(estimate);
    for (replica, model) in (1..=1 + others).map(|it| (ReplicaId(it), u64::from(it.min(2)))) {
        told(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        let models = [ModelId(model)].into();
        told(&mut dispatcher, 0, Event::ModelsListed { replica, models });
        told(&mut dispatcher, 0, Event::HealthChanged { replica, health: Health::Ready });
    }
    let last = per_s * 20;
    for id in 0..last {
        let ms = id * 1_000 / per_s;
        let request = Request { prompt: Tokens(1_000), slo: Slo::default(), ..long(id) };
        told(&mut dispatcher, ms, Event::Arrived(request));
        told(&mut dispatcher, ms + 1, Event::FirstToken(RequestId(id)));
        told(&mut dispatcher, ms + 1, ended(id));
    }
    dispatcher.admission_view(at(20_000))
}

#[test]
fn the_knee_that_is_told_is_where_the_fleet_is_full_whatever_the_load() {
    for low in [1, 5] {
        let view = at_rate(low);
        assert_eq!(view.knee_per_s, None, "{view:?}");
    }
    assert!(at_rate(1).utilisation < 0.1, "an idle fleet is not a quarter full");
    let told: Vec<f64> = [16, 20, 24].map(|it| at_rate(it).knee_per_s.unwrap()).into();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate")]
    let knee = told[0] as u64;
    let full = at_rate(knee).utilisation;
    assert!((0.9..1.1).contains(&full), "{full} at {knee}/s");
    assert!(told.iter().all(|it| (0.9..1.1).contains(&(it / told[0]))), "{told:?}");
}

#[test]
fn replicas_of_one_model_fill_together_whatever_their_adapters_and_the_order_in_which_they_list_them()
 {
    let knee = |models: [&[u64]; 2]| {
        let mut dispatcher = two_of(StrategyName::LeastRequest, 1_000);
        for (replica, models) in [ReplicaId(0), ReplicaId(1)].into_iter().zip(models) {
            let models: Box<[ModelId]> = models.iter().map(|it| ModelId(*it)).collect();
            told(&mut dispatcher, 0, Event::ModelsListed { replica, models });
            let adapters = [2, 3].map(ModelId).into();
            told(&mut dispatcher, 0, Event::AdaptersListed { replica, adapters });
            dispatcher.know_speed(replica, 1.0, 1.0);
        }
        // Only one of them is busy.
        dispatcher.fleet.health_changed(at(0), ReplicaId(1), Health::Draining);
        for id in 0..500 {
            let ms = id * 40;
            let request = Request { prompt: Tokens(1_000), slo: Slo::default(), ..long(id) };
            told(&mut dispatcher, ms, Event::Arrived(request));
            told(&mut dispatcher, ms + 1, Event::FirstToken(RequestId(id)));
            told(&mut dispatcher, ms + 1, ended(id));
        }
        dispatcher.fleet.health_changed(at(20_000), ReplicaId(1), Health::Ready);
        dispatcher.admission_view(at(20_000)).knee_per_s
    };
    let alike = knee([&[1], &[1]]);
    assert_eq!(knee([&[1, 2, 3], &[3, 2, 1]]), alike);
    assert_eq!(knee([&[1, 2, 2], &[3, 1]]), alike);
    assert_ne!(knee([&[1], &[4]]), alike, "of one that is idle with another model");
}

#[test]
fn the_knee_is_that_of_the_model_that_is_asked_for_however_idle_others_are() {
    let (alone, beside) = (at_rate(20), at_rate_beside(20, 3));
    assert!(beside.utilisation < 0.3 * alone.utilisation, "{beside:?}");
    assert_eq!(beside.knee_per_s.map(f64::round), alone.knee_per_s.map(f64::round));
}
