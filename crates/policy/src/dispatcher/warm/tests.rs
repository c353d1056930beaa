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
    event::Event,
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
fn the_only_one_that_is_left_takes_all() {
    let mut dispatcher = fleet(StrategyName::LeastRequest, SlowStart::default());
    for replica in (0..REPLICAS).map(ReplicaId) {
        health(&mut dispatcher, 40_000, replica, Health::Ejected);
    }
    let it = ReplicaId(1);
    health(&mut dispatcher, 40_000, it, Health::Ready);
    assert_eq!(sent(&mut dispatcher, 40..41, it), [RATE]);
}
