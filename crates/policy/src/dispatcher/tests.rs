//! The dispatcher's laws, on cases made by hand and on histories made by chance.

use std::{collections::BTreeSet, time::Duration};

use proptest::{collection::vec, option, prelude::*, sample::select};
use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::{ModelId, Request, RequestId, SessionKey},
    time::Timestamp,
};

use super::{CacheMode, Dispatcher};
use crate::{
    config::{DispatcherConfig, Routing, StrategyName},
    event::{Decision, Event, News, PeerId, Placement, Reason, Reject},
    fleet_view::Load,
};

const MODEL: ModelId = ModelId(1);

fn request(id: u64, family: u64, blocks: u64) -> Request {
    let prompt = Tokens(u32::try_from(blocks).unwrap() * 64 + 10);
    let blocks = (0..blocks).map(|at| hash(family << 32 | at)).collect();
    Request::new(RequestId(id), MODEL, prompt, blocks)
}

/// Spreads small numbers over all 64 bits, as real block hashes are.
fn hash(number: u64) -> BlockHash {
    BlockHash(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn dispatcher(strategy: StrategyName, replicas: u32) -> Dispatcher {
    let mut config = DispatcherConfig::new(strategy, 7);
    config.prefix.index_bytes_max = 1 << 16;
    let mut dispatcher = Dispatcher::new(config);
    for id in (0..replicas).map(ReplicaId) {
        told(&mut dispatcher, Event::ReplicaJoined(id));
        told(&mut dispatcher, Event::HealthChanged { replica: id, health: Health::Ready });
    }
    dispatcher
}

fn told(dispatcher: &mut Dispatcher, event: Event) -> Vec<Decision> {
    let mut decisions = Vec::new();
    dispatcher.handle(Timestamp::ZERO, event, &mut decisions);
    decisions
}

fn placed(dispatcher: &mut Dispatcher, request: Request) -> Placement {
    told(dispatcher, Event::Arrived(request))[0].verdict.unwrap()
}

fn load(dispatcher: &Dispatcher, id: ReplicaId) -> Load {
    dispatcher.fleet().get(id).unwrap().load
}

#[test]
fn a_burst_of_equal_requests_does_not_herd_onto_one_replica() {
    let mut dispatcher = dispatcher(StrategyName::LeastRequest, 4);
    for id in 0..40 {
        placed(&mut dispatcher, request(id, 1, 10));
    }
    for id in (0..4).map(ReplicaId) {
        assert_eq!(load(&dispatcher, id).in_flight, 10);
    }
}

#[test]
fn a_cached_prefix_is_followed_and_only_the_rest_is_reserved() {
    let mut dispatcher = dispatcher(StrategyName::PrefixAware, 8);
    let first = placed(&mut dispatcher, request(1, 1, 10));
    assert_eq!((first.reason, first.cached), (Reason::Load, Tokens(0)));
    let second = placed(&mut dispatcher, request(2, 1, 12));
    assert_eq!((second.replica, second.reason), (first.replica, Reason::Prefix));
    assert_eq!(second.cached, Tokens(640));
    let reserved = load(&dispatcher, first.replica);
    assert_eq!((reserved.in_flight, reserved.queued_prefill), (2, Tokens(650 + 138)));
}

#[test]
fn a_saturated_favourite_gives_way_to_the_fallback() {
    let mut dispatcher = dispatcher(StrategyName::PrefixAware, 8);
    let home = placed(&mut dispatcher, request(0, 1, 10)).replica;
    let next: Vec<_> = (1..8).map(|id| placed(&mut dispatcher, request(id, 1, 10))).collect();
    assert!(next.iter().take(3).all(|it| (it.replica, it.reason) == (home, Reason::Prefix)));
    let spilled = next.iter().find(|it| it.replica != home).unwrap();
    assert_eq!(spilled.reason, Reason::Fallback);
}

#[test]
fn a_conversation_stays_and_moves_only_when_its_replica_is_gone() {
    let mut dispatcher = dispatcher(StrategyName::Sticky, 4);
    let turn = |id| Request { session: Some(SessionKey(9)), ..request(id, id, 4) };
    let home = placed(&mut dispatcher, turn(1)).replica;
    for id in 2..5 {
        let next = placed(&mut dispatcher, turn(id));
        assert_eq!((next.replica, next.reason), (home, Reason::Session));
    }
    told(&mut dispatcher, Event::HealthChanged { replica: home, health: Health::Draining });
    let away = placed(&mut dispatcher, turn(6));
    assert_ne!(away.replica, home);
    told(&mut dispatcher, Event::HealthChanged { replica: home, health: Health::Ready });
    let next = placed(&mut dispatcher, turn(7));
    assert_eq!((next.replica, next.reason), (away.replica, Reason::Session));
}

#[test]
fn a_retry_goes_elsewhere_and_gives_back_what_it_held() {
    let mut dispatcher = dispatcher(StrategyName::RoundRobin, 2);
    let first = placed(&mut dispatcher, request(1, 1, 10));
    let again = told(&mut dispatcher, Event::AttemptFailed(RequestId(1)))[0].verdict.unwrap();
    assert_ne!(again.replica, first.replica);
    assert_eq!((again.reason, again.attempt), (Reason::Retry, 2));
    assert_eq!(load(&dispatcher, first.replica), Load::default());
    let none_left = told(&mut dispatcher, Event::AttemptFailed(RequestId(1)))[0].verdict;
    assert_eq!(none_left, Err(Reject::AllTried));
    assert_eq!(dispatcher.in_flight(), 0);
    assert_eq!(load(&dispatcher, again.replica), Load::default());
}

#[test]
fn a_refusal_says_what_is_missing() {
    let mut dispatcher = dispatcher(StrategyName::Random, 1);
    let id = ReplicaId(0);
    let models = Box::new([ModelId(5)]);
    told(&mut dispatcher, Event::ModelsListed { replica: id, models });
    let refused = |dispatcher: &mut Dispatcher, at| {
        told(dispatcher, Event::Arrived(request(at, 1, 1)))[0].verdict.unwrap_err()
    };
    assert_eq!(refused(&mut dispatcher, 1), Reject::UnknownModel);
    told(&mut dispatcher, Event::ModelsListed { replica: id, models: Box::new([MODEL]) });
    told(&mut dispatcher, Event::HealthChanged { replica: id, health: Health::Ejected });
    assert_eq!(refused(&mut dispatcher, 2), Reject::NoReplicas);
    told(&mut dispatcher, Event::ReplicaLeft(id));
    assert_eq!(refused(&mut dispatcher, 3), Reject::NoReplicas);
}

#[test]
fn a_replica_that_lost_its_cache_is_cold() {
    let mut dispatcher = dispatcher(StrategyName::PrefixAware, 2);
    let home = placed(&mut dispatcher, request(1, 1, 10)).replica;
    told(&mut dispatcher, Event::CacheLost(home));
    assert_eq!(placed(&mut dispatcher, request(2, 1, 10)).cached, Tokens(0));
}

fn event() -> impl Strategy<Value = Event> {
    let id = || (0..40_u64).prop_map(RequestId);
    let replica = || (0..6_u32).prop_map(ReplicaId);
    let arrived = (0..40_u64, 0..5_u64, 0..20_u64, option::of(0..4_u128)).prop_map(
        |(id, family, blocks, session)| {
            let session = session.map(SessionKey);
            Event::Arrived(Request { session, ..request(id, family, blocks) })
        },
    );
    let health = select(vec![Health::Ready, Health::Ejected, Health::Draining]);
    let outcome = select(vec![Outcome::Finished, Outcome::Failed, Outcome::Cancelled]);
    let strategy = select(StrategyName::ALL.to_vec());
    prop_oneof![
        8 => arrived,
        2 => id().prop_map(Event::AttemptFailed),
        4 => id().prop_map(Event::FirstToken),
        6 => (id(), outcome, option::of(0..1_000_u32)).prop_map(|(request, outcome, cached)| {
            let (output, cached) = (Some(Tokens(9)), cached.map(Tokens));
            Event::Ended { request, outcome, output, cached }
        }),
        1 => (id(), 0..2_000_u64).prop_map(|(request, ms)| {
            Event::AnswerHeld { request, held: Duration::from_millis(ms) }
        }),
        2 => replica().prop_map(Event::ReplicaJoined),
        4 => (replica(), health).prop_map(|(replica, health)| Event::HealthChanged { replica, health }),
        1 => (replica(), 0..9_u32).prop_map(|(replica, tokens)| Event::TokensCame {
            replica,
            tokens,
            waited: Duration::from_millis(u64::from(tokens) * 9),
        }),
        1 => replica().prop_map(Event::CacheLost),
        1 => replica().prop_map(Event::ReplicaLeft),
        1 => (replica(), 0..9_u32).prop_map(|(replica, running)| Event::LoadReported {
            replica,
            report: LoadReport { running, ..LoadReport::default() },
        }),
        2 => (replica(), any::<bool>())
            .prop_map(|(replica, follows)| Event::CacheFollowed { replica, follows }),
        3 => (replica(), 0..5_u64, 1..20_u64).prop_map(|(replica, family, blocks)| {
            let blocks = Box::from(&*request(0, family, blocks).blocks);
            Event::BlocksStored { replica, parent: None, blocks }
        }),
        1 => (replica(), 0..5_u64, 1..20_usize).prop_map(|(replica, family, blocks)| {
            let all = request(0, family, 20).blocks;
            let blocks = all.iter().rev().take(blocks).copied().collect();
            Event::BlocksRemoved { replica, blocks }
        }),
        1 => strategy.prop_map(|it| Event::RoutingChanged(Routing::new(it))),
        8 => (0..2_u16, news()).prop_map(|(peer, news)| {
            Event::PeerTold { peer: PeerId(peer), news }
        }),
    ]
}

/// What another router may say.
fn news() -> impl Strategy<Value = News> {
    let id = || (0..20_u64).prop_map(RequestId);
    let placed = (0..20_u64, 0..5_u64, 0..20_u64, 0..6_u32, any::<bool>(), 0..2_000_u32);
    prop_oneof![
        6 => placed.prop_map(|(id, family, blocks, replica, streamed, cached)| News::Placed {
            request: Request { streamed, ..request(id, family, blocks) },
            replica: ReplicaId(replica),
            cached: Tokens(cached),
        }),
        3 => id().prop_map(News::FirstToken),
        4 => (id(), option::of(0..1_000_u32)).prop_map(|(request, cached)| News::Ended {
            request,
            outcome: Outcome::Finished,
            output: Some(Tokens(9)),
            cached: cached.map(Tokens),
        }),
        1 => Just(News::Lost),
    ]
}

/// Feeds `events` to a fresh dispatcher, leaving out what no driver sends (a second arrival of a
/// request in flight, a retry after the first token, a replica's number given again), and checks
/// the books after each.
#[expect(clippy::wildcard_enum_match_arm, reason = "the books only care for some events")]
fn decide(events: &[Event]) -> Vec<Decision> {
    let mut dispatcher = dispatcher(StrategyName::PrefixAware, 3);
    let (mut all, mut open, mut answering) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let mut gone = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        let now = Timestamp::ZERO + Duration::from_millis(at as u64);
        let expected = match event {
            Event::Arrived(request) if open.contains(&request.id) => continue,
            Event::AttemptFailed(id) if answering.contains(id) => continue,
            Event::ReplicaJoined(id) if gone.contains(id) => continue,
            Event::Arrived(_) => 1,
            Event::AttemptFailed(id) => usize::from(open.contains(id)),
            _ => 0,
        };
        let mut decisions = Vec::new();
        dispatcher.handle(now, event.clone(), &mut decisions);
        assert_eq!(decisions.len(), expected, "each request is decided exactly once: {event:?}");
        match event {
            Event::ReplicaLeft(id) => drop(gone.insert(*id)),
            Event::FirstToken(id) if open.contains(id) => drop(answering.insert(*id)),
            Event::Ended { request, .. } => {
                open.remove(request);
                answering.remove(request);
            }
            _ => {}
        }
        for Decision { request, verdict } in &decisions {
            match verdict {
                Ok(_) => open.insert(*request),
                Err(_) => open.remove(request),
            };
        }
        check_books(&dispatcher, open.len());
        all.extend(decisions);
    }
    for id in open {
        let ended =
            Event::Ended { request: id, outcome: Outcome::Cancelled, output: None, cached: None };
        dispatcher.handle(Timestamp::ZERO, ended, &mut all);
    }
    for peer in (0..2).map(PeerId) {
        told(&mut dispatcher, Event::PeerTold { peer, news: News::Lost });
    }
    check_books(&dispatcher, 0);
    let none = (Load::default(), Load::default());
    let idle = dispatcher.fleet().replicas().iter().all(|it| (it.load, it.told) == none);
    assert!(idle, "all that was reserved was given back: {:?}", dispatcher.fleet());
    assert!(dispatcher.caches.is_idle(), "nothing is on its way any more");
    all
}

/// What the replicas have reserved is what the requests in flight hold.
fn check_books(dispatcher: &Dispatcher, open: usize) {
    assert_eq!(dispatcher.in_flight(), open);
    for replica in dispatcher.fleet().replicas() {
        let held = dispatcher.in_flight.values().filter(|it| it.replica == replica.id);
        assert_eq!(replica.load.in_flight as usize, held.clone().count());
        let uncached: Tokens = held.filter(|it| !it.answering).map(|it| it.uncached).sum();
        assert_eq!(replica.load.queued_prefill, uncached);
    }
}

proptest! {
    /// Determinism and conservation: the same events always bring about the same decisions, and
    /// the books balance after each.
    #[test]
    fn replaying_events_replays_decisions(events in vec(event(), 0..250)) {
        prop_assert_eq!(decide(&events), decide(&events));
    }
}

/// A dispatcher of `replicas` that are all followed.
fn following(replicas: u32) -> Dispatcher {
    let mut dispatcher = dispatcher(StrategyName::KvAware, replicas);
    for replica in (0..replicas).map(ReplicaId) {
        told(&mut dispatcher, Event::CacheFollowed { replica, follows: true });
    }
    dispatcher
}

fn stored(dispatcher: &mut Dispatcher, replica: u32, request: &Request, blocks: usize) {
    let blocks = request.blocks[..blocks].into();
    let replica = ReplicaId(replica);
    told(dispatcher, Event::BlocksStored { replica, parent: None, blocks });
}

fn ended(dispatcher: &mut Dispatcher, id: u64, cached: u32) {
    let request = RequestId(id);
    let cached = Some(Tokens(cached));
    told(dispatcher, Event::Ended { request, outcome: Outcome::Finished, output: None, cached });
}

#[test]
fn what_an_engine_says_counts_and_not_what_was_sent() {
    let mut dispatcher = following(2);
    stored(&mut dispatcher, 1, &request(1, 1, 10), 7);
    let first = placed(&mut dispatcher, request(1, 1, 10));
    assert_eq!((first.replica, first.cached), (ReplicaId(1), Tokens(7 * 64)));
    ended(&mut dispatcher, 1, 7 * 64);
    // The engine has not said that it stored the rest, and nobody brings it any more.
    assert_eq!(placed(&mut dispatcher, request(2, 1, 10)).cached, Tokens(7 * 64));
    ended(&mut dispatcher, 2, 7 * 64);
    let blocks = request(1, 1, 10).blocks[3..7].iter().rev().copied().collect();
    told(&mut dispatcher, Event::BlocksRemoved { replica: ReplicaId(1), blocks });
    assert_eq!(placed(&mut dispatcher, request(3, 1, 10)).cached, Tokens(3 * 64));
}

#[test]
fn blocks_on_their_way_are_coming_hits() {
    let mut dispatcher = following(4);
    let first = placed(&mut dispatcher, request(1, 1, 10));
    told(&mut dispatcher, Event::FirstToken(RequestId(1)));
    let second = placed(&mut dispatcher, request(2, 1, 10));
    assert_eq!((first.cached, second.cached), (Tokens(0), Tokens(640)));
    assert_eq!(second.replica, first.replica);
    // The second brings nothing that the first does not, and so nothing is left without it.
    ended(&mut dispatcher, 1, 0);
    ended(&mut dispatcher, 2, 640);
    assert_eq!(placed(&mut dispatcher, request(3, 1, 10)).cached, Tokens(0));
    let again = told(&mut dispatcher, Event::AttemptFailed(RequestId(3)))[0].verdict.unwrap();
    assert_eq!(again.cached, Tokens(0));
}

#[test]
fn a_prompt_of_whole_blocks_never_hits_its_last() {
    let mut dispatcher = following(1);
    let whole = Request { prompt: Tokens(640), ..request(1, 1, 10) };
    stored(&mut dispatcher, 0, &whole, 10);
    assert_eq!(placed(&mut dispatcher, whole).cached, Tokens(9 * 64));
}

#[test]
fn a_lost_cache_leaves_no_ghost() {
    let mut dispatcher = following(2);
    stored(&mut dispatcher, 1, &request(1, 1, 10), 10);
    told(&mut dispatcher, Event::CacheLost(ReplicaId(1)));
    assert_eq!(placed(&mut dispatcher, request(1, 1, 10)).cached, Tokens(0));
    ended(&mut dispatcher, 1, 0);
    stored(&mut dispatcher, 1, &request(1, 1, 10), 4);
    assert_eq!(placed(&mut dispatcher, request(2, 1, 10)).cached, Tokens(4 * 64));
}

#[test]
fn an_engine_whose_answers_find_something_else_is_not_believed_until_they_agree() {
    let mut dispatcher = following(1);
    stored(&mut dispatcher, 0, &request(0, 1, 10), 10);
    let mode = |it: &Dispatcher| it.cache_mode(ReplicaId(0));
    for id in 0..32 {
        placed(&mut dispatcher, request(id, 1, 10));
        ended(&mut dispatcher, id, 0);
    }
    assert_eq!(mode(&dispatcher), CacheMode::Disagreeing);
    for id in 32..64 {
        placed(&mut dispatcher, request(id, 1, 10));
        ended(&mut dispatcher, id, 640);
    }
    assert_eq!(mode(&dispatcher), CacheMode::Precise);
    told(&mut dispatcher, Event::CacheFollowed { replica: ReplicaId(0), follows: false });
    assert_eq!(mode(&dispatcher), CacheMode::Approximate);
}

#[test]
fn an_engine_whose_answers_come_in_one_piece_is_seen_to_go_on_by_their_ends() {
    let seats = |outcome| {
        let mut dispatcher = dispatcher(StrategyName::RoundRobin, 1);
        let (replica, mut decisions) = (ReplicaId(0), Vec::new());
        for id in 1..=5 {
            let at = |ms| Timestamp::from_elapsed(Duration::from_millis(id * 1_000 + ms));
            let whole = Request { streamed: false, ..request(id, id, 1) };
            let report = LoadReport { running: 6, waiting: 3, ..LoadReport::default() };
            let (output, cached) = (Some(Tokens(10)), None);
            let ended = Event::Ended { request: RequestId(id), outcome, output, cached };
            dispatcher.handle(at(0), Event::Arrived(whole), &mut decisions);
            dispatcher.handle(at(500), ended, &mut decisions);
            dispatcher.handle(at(600), Event::LoadReported { replica, report }, &mut decisions);
        }
        assert!(decisions.iter().filter(|it| it.verdict.is_ok()).count() > 0);
        dispatcher.fleet().get(replica).unwrap().seats.count()
    };
    assert_eq!(seats(Outcome::Finished), 6);
    assert_eq!(seats(Outcome::Cancelled), 256, "its client's doing");
}
