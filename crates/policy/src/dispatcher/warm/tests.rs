//! A replica that comes back gets its share little by little, under every strategy.

use std::time::Duration;

use types::{
    block::BlockHash,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::{ModelId, Request, RequestId, SessionKey},
    time::Timestamp,
};

use crate::{
    config::{DispatcherConfig, Routing, StrategyName},
    dispatcher::Dispatcher,
    event::{Event, Reject},
    slow_start::SlowStart,
};

const REPLICAS: u32 = 4;
/// Requests a second.
const RATE: u64 = 200;

fn at(millis: u64) -> Timestamp {
    Timestamp::from_elapsed(Duration::from_millis(millis))
}

fn fleet(strategy: StrategyName, slow_start: SlowStart) -> Dispatcher {
    let routing = Routing { slow_start, ..Routing::new(strategy) };
    let config = DispatcherConfig { routing, ..DispatcherConfig::new(strategy, 7) };
    let mut dispatcher = Dispatcher::new(config);
    for replica in (0..REPLICAS).map(ReplicaId) {
        tell(&mut dispatcher, 0, Event::ReplicaJoined(replica));
        health(&mut dispatcher, 0, replica, Health::Ready);
    }
    dispatcher
}

fn tell(dispatcher: &mut Dispatcher, millis: u64, event: Event) -> Option<ReplicaId> {
    let mut decisions = Vec::new();
    dispatcher.handle(at(millis), event, &mut decisions);
    decisions.first().and_then(|it| it.verdict.ok()).map(|it| it.replica)
}

fn health(dispatcher: &mut Dispatcher, millis: u64, replica: ReplicaId, health: Health) {
    tell(dispatcher, millis, Event::HealthChanged { replica, health });
}

/// One of many conversations, each with a prompt of its own.
fn request(id: u64) -> Request {
    let family = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 97;
    let hash = |at: u64| BlockHash((family << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let blocks = (0..8).map(hash).collect();
    let request = Request::new(RequestId(id), ModelId(1), Tokens(520), blocks);
    Request { session: Some(SessionKey(family.into())), ..request }
}

/// Sends requests between two points in time, each of which takes 300 ms, and counts those that go
/// to `to`, by second.
fn sent(dispatcher: &mut Dispatcher, seconds: std::ops::Range<u64>, to: ReplicaId) -> Vec<u64> {
    let mut counts = Vec::new();
    for second in seconds {
        let mut count = 0;
        for nth in 0..RATE {
            let millis = second * 1_000 + nth * 1_000 / RATE;
            let id = second * RATE + nth;
            if let Some(ended) = id.checked_sub(RATE * 3 / 10) {
                let request = RequestId(ended);
                tell(dispatcher, millis, Event::FirstToken(request));
                let outcome = Outcome::Finished;
                let (output, cached) = (Some(Tokens(20)), None);
                tell(dispatcher, millis, Event::Ended { request, outcome, output, cached });
            }
            count += u64::from(tell(dispatcher, millis, Event::Arrived(request(id))) == Some(to));
        }
        counts.push(count);
    }
    counts
}

#[test]
#[expect(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]
fn a_recovered_replica_gets_a_fifth_of_its_share_at_most_at_first_and_never_a_herd() {
    let fair = RATE / u64::from(REPLICAS);
    for strategy in StrategyName::ALL {
        let mut dispatcher = fleet(strategy, SlowStart::default());
        let it = ReplicaId(2);
        sent(&mut dispatcher, 0..40, it);
        health(&mut dispatcher, 40_000, it, Health::Ejected);
        tell(&mut dispatcher, 45_000, Event::CacheLost(it));
        assert_eq!(sent(&mut dispatcher, 40..50, it).iter().sum::<u64>(), 0, "{strategy}");
        health(&mut dispatcher, 50_000, it, Health::Ready);
        let counts = sent(&mut dispatcher, 50..80, it);
        let (first, most) = (counts[0] * 100 / fair, counts.iter().max().unwrap() * 100 / fair);
        println!(
            "A11 {strategy}: {first} % of its share in the first second, at most {most} % in one of 30"
        );
        assert!(counts[0] * 5 <= fair, "{strategy}: {counts:?}");
        assert!(counts.iter().all(|it| *it * 2 <= fair * 3), "{strategy}: {counts:?}");
        // Who is not kept away by what it does not hold gets its share in the end.
        if [StrategyName::RoundRobin, StrategyName::Random, StrategyName::LeastRequest]
            .contains(&strategy)
        {
            let late: u64 = counts[25..].iter().sum();
            assert!(late * 10 >= fair * 5 * 8, "{strategy}: {counts:?}");
        }
    }
}

#[test]
fn without_slow_start_it_gets_what_its_strategy_gives() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, SlowStart::off());
    let it = ReplicaId(2);
    sent(&mut dispatcher, 0..2, it);
    health(&mut dispatcher, 2_000, it, Health::Ejected);
    health(&mut dispatcher, 2_000, it, Health::Ready);
    assert_eq!(sent(&mut dispatcher, 2..3, it), [RATE / u64::from(REPLICAS)]);
}

#[test]
fn a_fleet_that_starts_is_not_slowed() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, SlowStart::default());
    let counts = sent(&mut dispatcher, 0..3, ReplicaId(3));
    assert_eq!(counts, [RATE / u64::from(REPLICAS); 3]);
}

#[test]
fn who_is_first_seen_soon_after_the_start_was_there_before() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, SlowStart::default());
    let (early, late) = (ReplicaId(4), ReplicaId(5));
    tell(&mut dispatcher, 9_000, Event::ReplicaJoined(early));
    health(&mut dispatcher, 9_000, early, Health::Ready);
    assert_eq!(sent(&mut dispatcher, 9..10, early), [RATE / 5]);
    tell(&mut dispatcher, 60_000, Event::ReplicaJoined(late));
    health(&mut dispatcher, 60_000, late, Health::Ready);
    let counts = sent(&mut dispatcher, 60..61, late);
    assert!(counts[0] * 5 <= RATE / 6, "{counts:?}");
}

#[test]
fn the_only_one_that_is_left_takes_all() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, SlowStart::default());
    for replica in (0..REPLICAS).map(ReplicaId) {
        health(&mut dispatcher, 40_000, replica, Health::Ejected);
    }
    let it = ReplicaId(1);
    health(&mut dispatcher, 40_000, it, Health::Ready);
    assert_eq!(sent(&mut dispatcher, 40..41, it), [RATE]);
}

fn bounded(dispatcher: &mut Dispatcher, replica: u32, prompt_max: u32) {
    let (replica, prompt_max) = (ReplicaId(replica), Tokens(prompt_max));
    tell(dispatcher, 0, Event::PromptsBounded { replica, prompt_max });
}

fn prompt(id: u64, tokens: u32) -> Event {
    Event::Arrived(Request { prompt: Tokens(tokens), session: None, ..request(id) })
}

#[test]
fn a_prompt_goes_to_the_pool_for_the_shortest_that_it_fits_into() {
    for strategy in StrategyName::ALL {
        let mut dispatcher = fleet(strategy, SlowStart::default());
        bounded(&mut dispatcher, 0, 1_000);
        bounded(&mut dispatcher, 1, 1_000);
        bounded(&mut dispatcher, 2, 8_000);
        for id in 0..30 {
            let pools = [(1_000, 0..=1), (1_001, 2..=2), (8_000, 2..=2), (8_001, 3..=3)];
            for (at, (tokens, pool)) in (0..).zip(pools) {
                let to = tell(&mut dispatcher, 0, prompt(id * 4 + at, tokens)).unwrap();
                assert!(pool.contains(&to.0), "{strategy}: {tokens} tokens to {to}");
            }
        }
    }
}

#[test]
fn a_pool_with_nobody_ready_spills_into_a_larger_one_and_never_into_a_smaller() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, SlowStart::default());
    bounded(&mut dispatcher, 0, 1_000);
    bounded(&mut dispatcher, 1, 1_000);
    bounded(&mut dispatcher, 2, 8_000);
    health(&mut dispatcher, 0, ReplicaId(0), Health::Ejected);
    assert_eq!(tell(&mut dispatcher, 0, prompt(1, 500)), Some(ReplicaId(1)));
    health(&mut dispatcher, 0, ReplicaId(1), Health::Draining);
    assert_eq!(tell(&mut dispatcher, 0, prompt(2, 500)), Some(ReplicaId(2)));
    health(&mut dispatcher, 0, ReplicaId(2), Health::Ejected);
    assert_eq!(tell(&mut dispatcher, 0, prompt(3, 500)), Some(ReplicaId(3)));
    health(&mut dispatcher, 0, ReplicaId(3), Health::Ejected);
    health(&mut dispatcher, 0, ReplicaId(1), Health::Ready);
    assert_eq!(tell(&mut dispatcher, 0, prompt(4, 500)), Some(ReplicaId(1)));
    assert_eq!(tell(&mut dispatcher, 0, prompt(5, 1_001)), None);
}

#[test]
fn a_retry_leaves_a_pool_that_has_failed_the_request() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, SlowStart::default());
    bounded(&mut dispatcher, 0, 1_000);
    assert_eq!(tell(&mut dispatcher, 0, prompt(1, 500)), Some(ReplicaId(0)));
    let next = tell(&mut dispatcher, 0, Event::AttemptFailed(RequestId(1)));
    assert!(next.is_some_and(|it| it != ReplicaId(0)), "{next:?}");
}

#[test]
fn a_prompt_that_no_pool_takes_is_told_so() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, SlowStart::default());
    (0..4).for_each(|replica| bounded(&mut dispatcher, replica, 1_000 * (replica + 1)));
    let mut decisions = Vec::new();
    dispatcher.handle(at(0), prompt(1, 5_000), &mut decisions);
    let too_long = Reject::TooLong { prompt_max: Tokens(4_000) };
    assert_eq!(decisions[0].verdict, Err(too_long));
}

const ADAPTER: ModelId = ModelId(77);

fn list_adapter(dispatcher: &mut Dispatcher) {
    for replica in (0..REPLICAS).map(ReplicaId) {
        let adapters = Box::new([ADAPTER]);
        tell(dispatcher, 0, Event::AdaptersListed { replica, adapters });
    }
}

fn adapted(id: u64) -> Event {
    Event::Arrived(Request { model: ADAPTER, session: None, ..request(id) })
}

#[test]
fn a_replica_that_has_the_adapter_loaded_is_preferred_until_it_is_saturated() {
    for strategy in StrategyName::ALL {
        let mut dispatcher = fleet(strategy, SlowStart::default());
        list_adapter(&mut dispatcher);
        let (replica, most) = (ReplicaId(2), 4);
        let adapters = Box::new([ADAPTER]);
        tell(&mut dispatcher, 0, Event::AdaptersInUse { replica, adapters, most });
        let to: Vec<_> = (0..20).filter_map(|id| tell(&mut dispatcher, 0, adapted(id))).collect();
        assert_eq!(to.len(), 20, "{strategy}");
        assert_eq!(to[..4], [replica; 4], "{strategy}");
        assert!(to.iter().any(|it| *it != replica), "{strategy}: preferred, not required");
        let plain = tell(&mut dispatcher, 0, Event::Arrived(request(100)));
        assert!(plain.is_some(), "{strategy}");
    }
}

#[test]
fn an_adapter_that_nobody_has_loaded_goes_where_there_is_room_and_stays_there() {
    let mut dispatcher = fleet(StrategyName::RoundRobin, SlowStart::default());
    list_adapter(&mut dispatcher);
    for replica in [0, 1, 3].map(ReplicaId) {
        let adapters = Box::new([ModelId(5)]);
        tell(&mut dispatcher, 0, Event::AdaptersInUse { replica, adapters, most: 1 });
    }
    let to: Vec<_> = (0..3).filter_map(|id| tell(&mut dispatcher, 0, adapted(id))).collect();
    assert_eq!(to, [ReplicaId(2); 3]);
}
