//! A recording replays to the same decisions, and to others under another rule.

use std::time::Duration;

use proptest::prelude::*;
use types::{
    block::BlockHash,
    quantity::Tokens,
    replica::{Health, LoadReport},
    request::{ModelId, Request, RequestId, SessionKey},
};

use super::*;
use crate::config::StrategyName;

fn header(strategy: StrategyName) -> Header {
    let config = DispatcherConfig::new(strategy, 7);
    Header { sluice_recording: FORMAT, version: "test".to_owned(), config }
}

/// Records what a dispatcher makes of `events`, one each millisecond.
fn record(header: &Header, events: impl IntoIterator<Item = Event>) -> Vec<Entry> {
    let mut dispatcher = Dispatcher::new(header.config);
    let mut entries = Vec::new();
    for (at, event) in (0_u64..).zip(events) {
        let at = Timestamp::from_elapsed(Duration::from_millis(at));
        let mut decisions = Vec::new();
        dispatcher.handle(at, event.clone(), &mut decisions);
        entries.push(Entry { at, event, decisions });
    }
    entries
}

fn fleet(replicas: u32) -> impl Iterator<Item = Event> {
    (0..replicas).map(ReplicaId).flat_map(|replica| {
        [Event::ReplicaJoined(replica), Event::HealthChanged { replica, health: Health::Ready }]
    })
}

fn arrival(id: u64, prefix: u64) -> Event {
    let blocks = (0..4).map(|it| BlockHash(prefix << 8 | it)).collect();
    let session = Some(SessionKey(u128::from(prefix) << 100));
    let request = Request::new(RequestId(id), ModelId(1), Tokens(256), blocks);
    Event::Arrived(Request { session, ..request })
}

fn any_event() -> impl Strategy<Value = Event> {
    let request = (0..40_u64).prop_map(RequestId);
    let replica = (0..4_u32).prop_map(ReplicaId);
    prop_oneof![
        4 => (40..1_000_000_u64, 0..6_u64).prop_map(|(id, prefix)| arrival(id, prefix)),
        1 => request.clone().prop_map(Event::AttemptFailed),
        1 => request.clone().prop_map(Event::FirstToken),
        2 => request.prop_map(|request| Event::Ended { request, outcome: Outcome::Finished, output: None, cached: None }),
        1 => (replica.clone(), any::<f32>()).prop_map(|(replica, kv)| Event::LoadReported {
            replica,
            report: LoadReport { running: 3, waiting: 1, kv_usage: if kv.is_finite() { kv } else { 0.5 }, preemptions: Some(7), preemptions_of_ended: None },
        }),
        1 => replica.clone().prop_map(|replica| Event::HealthChanged { replica, health: Health::Ejected }),
        1 => replica.prop_map(Event::CacheLost),
        1 => Just(Event::RoutingChanged(Routing::new(StrategyName::PowerOfTwo))),
    ]
}

proptest! {
    #[test]
    fn what_was_written_reads_back_and_decides_the_same(
        events in prop::collection::vec(any_event(), 0..80),
        strategy in prop::sample::select(StrategyName::ALL.to_vec()),
    ) {
        // A request arrives once.
        let mut seen = std::collections::BTreeSet::new();
        let events = events.into_iter().filter(|it| {
            if let Event::Arrived(request) = it { seen.insert(request.id) } else { true }
        });
        let header = header(strategy);
        let entries = record(&header, fleet(4).chain(events));
        let mut replay = Replay::again(&header);
        for entry in &entries {
            let text = serde_json::to_string(entry).unwrap();
            let read: Entry = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read, entry);
            replay.feed(&read);
        }
        prop_assert_eq!(replay.tally().first_difference, None);
        prop_assert_eq!(replay.tally().same, replay.tally().recorded);
    }
}

#[test]
fn another_rule_is_asked_what_it_would_have_chosen() {
    let header = header(StrategyName::RoundRobin);
    // Prefixes in turn, and one replica more than prefixes: round-robin never comes back in time.
    let events = (0..12).flat_map(|id| {
        let ended = Event::Ended {
            request: RequestId(id),
            outcome: Outcome::Finished,
            output: None,
            cached: None,
        };
        [arrival(id, id % 3), Event::FirstToken(RequestId(id)), ended]
    });
    let entries = record(&header, fleet(4).chain(events));
    let tally = |mut replay: Replay| {
        entries.iter().for_each(|it| replay.feed(it));
        replay.tally().clone()
    };
    let again = tally(Replay::again(&header));
    let routing = Routing::new(StrategyName::PrefixAware);
    let instead = tally(Replay::instead(&header, routing));
    assert_eq!((again.recorded, again.same, again.rejected), (12, 12, 0));
    assert!(again.expected_hit_rate() < 0.01, "{again:?}");
    // All but the first request of each prefix, and of those all but the last token.
    assert!(0.7 < instead.expected_hit_rate(), "{instead:?}");
    assert!(instead.agreement() < 1.0 && instead.first_difference.is_some());
}

#[test]
fn what_was_turned_away_then_leaves_at_once_now() {
    let header = header(StrategyName::RoundRobin);
    let mut entries = record(&header, fleet(1).chain([arrival(1, 0)]));
    let last = entries.last_mut().unwrap();
    for decision in &mut last.decisions {
        decision.verdict = Err(crate::event::Reject::NoReplicas);
    }
    let mut replay = Replay::again(&header);
    entries.iter().for_each(|it| replay.feed(it));
    assert_eq!(replay.dispatcher.in_flight(), 0);
    let difference = replay.tally().first_difference.unwrap();
    assert!(
        difference.recorded.unwrap().verdict.is_err() && difference.now.unwrap().verdict.is_ok()
    );
}

#[test]
fn a_replay_explains_a_decision_as_it_was_explained_when_it_was_made() {
    let header = header(StrategyName::LeastLatency);
    let events: Vec<Event> = fleet(5).chain((40..60).map(|id| arrival(id, id % 4))).collect();
    let asked = RequestId(57);
    let mut live = Dispatcher::new(header.config);
    live.explain(ExplainConfig::only(asked));
    for (at, event) in (0_u64..).zip(events.clone()) {
        let at = Timestamp::from_elapsed(Duration::from_millis(at));
        live.handle(at, event, &mut Vec::new());
    }
    let mut replay = Replay::again(&header).explaining(asked);
    record(&header, events).iter().for_each(|it| replay.feed(it));
    let told: Vec<_> = live.explanations().newest().collect();
    assert_eq!((told.len(), told[0].candidates.len()), (1, 5));
    assert_eq!(replay.explanations().newest().collect::<Vec<_>>(), told);
}

#[test]
fn a_recording_that_says_less_of_its_decisions_comes_out_again_all_the_same() {
    let header = header(StrategyName::PrefixAware);
    let events = fleet(3).chain((40..60).map(|id| arrival(id, id % 4)));
    let mut replay = Replay::again(&header);
    for mut entry in record(&header, events) {
        for decision in &mut entry.decisions {
            decision.verdict =
                decision.verdict.map(|it| Placement { most_cached: None, ttft: None, ..it });
        }
        replay.feed(&entry);
    }
    assert_eq!(replay.tally().first_difference, None);
    assert_eq!(replay.tally().decided, 20);
}
