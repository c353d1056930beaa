//! What is known of other routers' requests, and what it leaves alone.

use std::time::Duration;

use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::{ModelId, Request, RequestId, SessionKey, TenantId},
    time::Timestamp,
};

use super::{BLOCKS_MAX, number};
use crate::{
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::{Event, News, PeerId, Placement},
    fleet_view::Load,
};

const PEER: PeerId = PeerId(3);

fn request(id: u64, family: u64, blocks: u64) -> Request {
    let prompt = Tokens(u32::try_from(blocks).unwrap() * 64 + 10);
    let hash = |at: u64| {
        BlockHash((family << 32 | at).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    Request::new(RequestId(id), ModelId(1), prompt, (0..blocks).map(hash).collect())
}

fn dispatcher(strategy: StrategyName, replicas: u32) -> Dispatcher {
    let mut dispatcher = Dispatcher::new(DispatcherConfig::new(strategy, 7));
    for id in (0..replicas).map(ReplicaId) {
        told(&mut dispatcher, Event::ReplicaJoined(id));
        told(&mut dispatcher, Event::HealthChanged { replica: id, health: Health::Ready });
    }
    dispatcher
}

fn told(dispatcher: &mut Dispatcher, event: Event) {
    dispatcher.handle(Timestamp::ZERO, event, &mut Vec::new());
}

fn hears(dispatcher: &mut Dispatcher, news: News) {
    told(dispatcher, Event::PeerTold { peer: PEER, news });
}

fn elsewhere(dispatcher: &mut Dispatcher, request: Request, replica: u32) {
    let (replica, cached) = (ReplicaId(replica), Tokens(0));
    hears(dispatcher, News::Placed { request, replica, cached });
}

fn ended(dispatcher: &mut Dispatcher, id: u64, output: Option<u32>) {
    let (request, outcome) = (RequestId(id), Outcome::Finished);
    hears(dispatcher, News::Ended { request, outcome, output: output.map(Tokens), cached: None });
}

fn placed(dispatcher: &mut Dispatcher, request: Request) -> Placement {
    let mut decisions = Vec::new();
    dispatcher.handle(Timestamp::ZERO, Event::Arrived(request), &mut decisions);
    decisions[0].verdict.unwrap()
}

fn loads(dispatcher: &Dispatcher, replica: u32) -> (Load, Load) {
    let it = dispatcher.fleet().get(ReplicaId(replica)).unwrap();
    (it.load, it.told)
}

#[test]
fn what_another_router_sent_somewhere_is_found_there() {
    for strategy in [StrategyName::LeastLatency, StrategyName::PrefixAware] {
        let mut dispatcher = dispatcher(strategy, 4);
        elsewhere(&mut dispatcher, request(1, 1, 100), 2);
        ended(&mut dispatcher, 1, None);
        let here = placed(&mut dispatcher, request(1, 1, 120));
        assert_eq!((here.replica, here.cached), (ReplicaId(2), Tokens(6_400)));
    }
}

#[test]
fn a_conversation_goes_on_where_another_router_has_it() {
    let mut dispatcher = dispatcher(StrategyName::Sticky, 8);
    let turn = |id, blocks| Request { session: Some(SessionKey(9)), ..request(id, id, blocks) };
    elsewhere(&mut dispatcher, turn(1, 10), 5);
    assert_eq!(placed(&mut dispatcher, turn(2, 20)).replica, ReplicaId(5));
    // It is this router's now, and stays where it is.
    elsewhere(&mut dispatcher, turn(2, 20), 1);
    assert_eq!(placed(&mut dispatcher, turn(3, 30)).replica, ReplicaId(5));
}

#[test]
fn the_answer_that_another_router_passed_on_counts_as_held() {
    let mut dispatcher = dispatcher(StrategyName::LeastLatency, 4);
    let turn = |id, blocks| Request { session: Some(SessionKey(9)), ..request(id, 1, blocks) };
    elsewhere(&mut dispatcher, turn(1, 10), 2);
    ended(&mut dispatcher, 1, Some(640));
    // Ten blocks and ten tokens of prompt and ten blocks of answer are there.
    let here = placed(&mut dispatcher, turn(2, 30));
    assert_eq!((here.replica, here.cached), (ReplicaId(2), Tokens(20 * 64)));
}

#[test]
fn its_work_counts_until_it_leaves_and_is_never_this_routers_own() {
    let mut dispatcher = dispatcher(StrategyName::LeastRequest, 2);
    for id in 0..3 {
        elsewhere(&mut dispatcher, request(id, id, 10), 0);
    }
    let one = |uncached| Load { in_flight: 3, queued_prefill: Tokens(uncached) };
    assert_eq!(loads(&dispatcher, 0), (Load::default(), one(3 * 650)));
    assert_eq!(dispatcher.in_flight(), 0);
    for id in 10..13 {
        assert_eq!(placed(&mut dispatcher, request(id, id, 1)).replica, ReplicaId(1));
    }
    // What the replica says of itself is not counted twice.
    let report = LoadReport { running: 3, ..LoadReport::default() };
    told(&mut dispatcher, Event::LoadReported { replica: ReplicaId(0), report });
    assert_eq!(dispatcher.fleet().get(ReplicaId(0)).unwrap().requests(Timestamp::ZERO), 3);
    hears(&mut dispatcher, News::FirstToken(RequestId(0)));
    hears(&mut dispatcher, News::FirstToken(RequestId(0)));
    assert_eq!(loads(&dispatcher, 0).1, one(2 * 650));
    (0..3).for_each(|id| ended(&mut dispatcher, id, None));
    ended(&mut dispatcher, 2, None);
    assert_eq!(loads(&dispatcher, 0), (Load::default(), Load::default()));
    assert_eq!(loads(&dispatcher, 1).0.in_flight, 3);
}

#[test]
fn a_request_that_is_placed_again_is_there_once() {
    let mut dispatcher = dispatcher(StrategyName::LeastRequest, 2);
    elsewhere(&mut dispatcher, request(1, 1, 10), 0);
    elsewhere(&mut dispatcher, request(1, 1, 10), 1);
    assert_eq!(loads(&dispatcher, 0).1, Load::default());
    assert_eq!(loads(&dispatcher, 1).1.in_flight, 1);
}

#[test]
fn who_lost_what_was_told_holds_nothing_of_that_router() {
    let mut dispatcher = dispatcher(StrategyName::LeastRequest, 2);
    elsewhere(&mut dispatcher, request(1, 1, 10), 0);
    let other =
        News::Placed { request: request(1, 2, 10), replica: ReplicaId(0), cached: Tokens(0) };
    told(&mut dispatcher, Event::PeerTold { peer: PeerId(4), news: other });
    assert_ne!(number(PEER, RequestId(1)), number(PeerId(4), RequestId(1)));
    assert_eq!(loads(&dispatcher, 0).1.in_flight, 2);
    hears(&mut dispatcher, News::Lost);
    assert_eq!(loads(&dispatcher, 0).1.in_flight, 1);
    // What was sent there is there nevertheless.
    let mut hits = crate::prefix_index::Hits::default();
    dispatcher.prefixes().hits(&request(1, 1, 10).blocks, &mut hits);
    assert_eq!(hits.of(dispatcher.fleet().get(ReplicaId(0)).unwrap().slot), 10);
}

#[test]
fn the_prompt_of_an_answer_in_one_piece_leaves_the_queue_when_it_should_be_computed() {
    let mut dispatcher = dispatcher(StrategyName::LeastLatency, 1);
    let unstreamed = Request { streamed: false, ..request(1, 1, 10) };
    elsewhere(&mut dispatcher, unstreamed, 0);
    assert_eq!(loads(&dispatcher, 0).1.queued_prefill, Tokens(650));
    let later = Timestamp::ZERO + Duration::from_secs(60);
    dispatcher.handle(later, Event::TimePassed, &mut Vec::new());
    assert_eq!(loads(&dispatcher, 0).1, Load { in_flight: 1, queued_prefill: Tokens(0) });
}

#[test]
fn a_replica_that_is_not_known_here_is_passed_over() {
    let mut dispatcher = dispatcher(StrategyName::LeastLatency, 1);
    elsewhere(&mut dispatcher, request(1, 1, 10), 7);
    assert!(dispatcher.prefixes().is_empty());
    ended(&mut dispatcher, 1, None);
}

#[test]
fn a_flood_of_a_tenant_through_another_router_leaves_a_quiet_one_its_hits() {
    let mut config = DispatcherConfig::new(StrategyName::LeastLatency, 7);
    config.prefix.index_bytes_max = 1 << 16;
    let mut dispatcher = Dispatcher::new(config);
    told(&mut dispatcher, Event::ReplicaJoined(ReplicaId(0)));
    told(&mut dispatcher, Event::HealthChanged { replica: ReplicaId(0), health: Health::Ready });
    let of = |tenant, it| Request { tenant: TenantId(tenant), ..it };
    placed(&mut dispatcher, of(1, request(0, 0, 10)));
    for id in 1..5_000 {
        elsewhere(&mut dispatcher, of(2, request(id, id, 10)), 0);
        ended(&mut dispatcher, id, None);
    }
    assert!(dispatcher.prefixes().bytes() <= 1 << 16);
    assert_eq!(placed(&mut dispatcher, of(1, request(1, 0, 10))).cached, Tokens(640));
}

#[test]
fn what_is_kept_of_other_routers_is_bounded() {
    let mut dispatcher = dispatcher(StrategyName::RoundRobin, 1);
    let blocks = 8_192;
    let most = (BLOCKS_MAX as u64) / blocks;
    for id in 0..most + 20 {
        elsewhere(&mut dispatcher, request(id, id, blocks), 0);
    }
    assert_eq!(u64::from(loads(&dispatcher, 0).1.in_flight), most);
    hears(&mut dispatcher, News::Lost);
    assert_eq!(dispatcher.elsewhere.blocks, 0);
    assert_eq!(loads(&dispatcher, 0).1, Load::default());
}
