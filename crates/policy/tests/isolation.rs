//! What one client can do to another through the state they share. Named in docs/reliability.md: F2, F5, F9.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

use std::collections::{BTreeMap, VecDeque};

use policy::{
    admission::AdmissionConfig,
    config::{DispatcherConfig, StrategyName},
    dispatcher::Dispatcher,
    event::{Decision, Event, Placement},
};
use types::{
    block::{BlockHash, HashKey},
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::{ModelId, Request, RequestId, SessionKey, TenantId},
    time::Timestamp,
};

const MODEL: ModelId = ModelId(1);

/// Tokens in a block.
const BLOCK: u32 = 64;

/// A dispatcher that lets everybody in, and numbers its requests.
struct Bench {
    dispatcher: Dispatcher,
    next: u64,
}

impl Bench {
    fn new(strategy: StrategyName, replicas: u32, index_bytes: usize) -> Self {
        let mut config = DispatcherConfig::new(strategy, 7);
        config.prefix.index_bytes_max = index_bytes;
        config.admission = AdmissionConfig::off();
        let mut bench = Self { dispatcher: Dispatcher::new(config), next: 0 };
        (0..replicas).for_each(|it| bench.join(it));
        bench
    }

    fn tell(&mut self, event: Event) -> Vec<Decision> {
        let mut decisions = Vec::new();
        self.dispatcher.handle(Timestamp::ZERO, event, &mut decisions);
        decisions
    }

    fn join(&mut self, id: u32) {
        let replica = ReplicaId(id);
        self.tell(Event::ReplicaJoined(replica));
        self.tell(Event::HealthChanged { replica, health: Health::Ready });
    }

    /// A prompt that no other `number` shares a block with.
    fn request(&mut self, number: u64, blocks: u32) -> Request {
        self.next += 1;
        let hash = |at: u32| {
            let mixed = (number << 20 | u64::from(at)).wrapping_add(1);
            BlockHash(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        };
        let prompt = Tokens(blocks * BLOCK + 10);
        Request::new(RequestId(self.next), MODEL, prompt, (0..blocks).map(hash).collect())
    }

    fn place(&mut self, request: Request) -> Placement {
        self.tell(Event::Arrived(request))[0].verdict.unwrap()
    }

    fn end(&mut self, request: RequestId) {
        let (outcome, output) = (Outcome::Finished, Some(Tokens(10)));
        self.tell(Event::Ended { request, outcome, output, cached: None });
    }

    /// Serves a request at once and says where, and how much was believed to be held there.
    fn serve(&mut self, request: Request) -> Placement {
        let id = request.id;
        let placement = self.place(request);
        self.end(id);
        placement
    }
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(HashKey(1), name)
}

/// Share of the victim's prompt tokens that are believed to be held, with so many foreign prompts between
/// each two of its own.
fn victims_hits(attack: u64) -> f64 {
    // Room for some 28,000 blocks, of which the victim needs 2,000.
    let mut bench = Bench::new(StrategyName::PrefixAware, 4, 1 << 20);
    let (mut held, mut asked, mut foreign) = (0_u64, 0_u64, 1 << 30);
    for round in 0..4 {
        for prompt in 0..50 {
            for _ in 0..attack {
                foreign += 1;
                let request = Request { tenant: tenant("flood"), ..bench.request(foreign, 128) };
                bench.serve(request);
            }
            let request = Request { tenant: tenant("victim"), ..bench.request(prompt, 40) };
            let placement = bench.serve(request);
            if 0 < round {
                held += u64::from(placement.cached.0);
                asked += u64::from(40 * BLOCK);
            }
        }
    }
    held as f64 / asked as f64
}

#[test]
fn f2_a_flood_of_prompts_takes_nothing_from_another_tenant() {
    let (alone, flooded) = (victims_hits(0), victims_hits(30));
    println!(
        "F2: a victim's hits {:.1} % alone, {:.1} % beside 768,000 blocks of another tenant",
        100.0 * alone,
        100.0 * flooded
    );
    assert!(0.9 * alone <= flooded);
}

/// The most requests that any replica had at once, and the mean, when nine of ten requests are alike.
fn hottest(strategy: StrategyName, replicas: u32, at_once: usize) -> (u32, f64) {
    let mut bench = Bench::new(strategy, replicas, 1 << 20);
    let mut on: BTreeMap<ReplicaId, u32> = BTreeMap::new();
    let (mut open, mut most) = (VecDeque::new(), 0);
    for turn in 0..4_000_u64 {
        let is_hot = !turn.is_multiple_of(10);
        let family = if is_hot { 0 } else { 1_000 + turn };
        let name = family.to_le_bytes();
        let session = Some(SessionKey::new(HashKey(1), None, "m", &name));
        let request = Request { session, ..bench.request(family, 20) };
        let id = request.id;
        let replica = bench.place(request).replica;
        *on.entry(replica).or_default() += 1;
        open.push_back((id, replica));
        if at_once < open.len() {
            let (id, replica) = open.pop_front().unwrap();
            bench.end(id);
            *on.get_mut(&replica).unwrap() -= 1;
        }
        if at_once <= open.len() {
            most = most.max(*on.values().max().unwrap());
        }
    }
    (most, at_once as f64 / f64::from(replicas))
}

#[test]
fn f5_a_hot_conversation_is_spread_before_it_floods_its_replica() {
    for strategy in [StrategyName::ConsistentHash, StrategyName::Sticky, StrategyName::PrefixAware]
    {
        let (most, mean) = hottest(strategy, 8, 512);
        println!(
            "F5 {}: 90 % of 4,000 requests alike, 8 replicas, 512 at once: at most {most} on one, {:.2} × the mean",
            strategy.as_str(),
            f64::from(most) / mean
        );
        assert!(f64::from(most) <= 1.5 * mean, "{}: {most}", strategy.as_str());
    }
}

fn homes(bench: &mut Bench, keys: u64) -> Vec<ReplicaId> {
    let home = |key: u64| {
        let session = Some(SessionKey::new(HashKey(1), None, "m", &key.to_le_bytes()));
        let request = Request { session, ..bench.request(key, 2) };
        bench.serve(request).replica
    };
    (0..keys).map(home).collect()
}

fn moved(before: &[ReplicaId], after: &[ReplicaId]) -> f64 {
    let moved = before.iter().zip(after).filter(|(before, after)| before != after).count();
    moved as f64 / before.len() as f64
}

#[test]
fn f9_a_replica_that_comes_or_goes_moves_its_own_keys_only() {
    let mut bench = Bench::new(StrategyName::ConsistentHash, 8, 1 << 20);
    let with_8 = homes(&mut bench, 4_000);
    assert!(moved(&with_8, &homes(&mut bench, 4_000)) < f64::EPSILON, "nothing moves by itself");
    bench.join(8);
    let with_9 = homes(&mut bench, 4_000);
    bench.tell(Event::ReplicaLeft(ReplicaId(3)));
    let without = homes(&mut bench, 4_000);
    let (added, removed) = (moved(&with_8, &with_9), moved(&with_9, &without));
    println!(
        "F9: of 4,000 keys {:.1} % move when a 9th replica joins (1/9 is 11.1 %), {:.1} % when one of 9 leaves",
        100.0 * added,
        100.0 * removed
    );
    assert!(added <= 1.0 / 9.0 + 0.05 && removed <= 1.0 / 9.0 + 0.05);
}
