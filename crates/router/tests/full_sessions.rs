//! A flood of conversations at the full count: what is read of a request and what the dispatcher keeps of it, without a
//! network between. Named in docs/reliability.md by the id F4, and run by `benches/full_counts.sh`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::HeaderMap;
use policy::{
    config::{DispatcherConfig, SessionConfig, StrategyName::Sticky},
    dispatcher::Dispatcher,
    event::{Event, Placement, Reason},
};
use types::{
    block::HashKey,
    outcome::Outcome,
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::{ModelId, Request, RequestId, SessionKey},
    time::Timestamp,
};
use wire::{
    headers::session::Sources,
    openai::{self, Endpoint},
};

const SESSIONS: u64 = 10_000_000;

/// Memory that this process has resident, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

/// The session of a request that names it so in its body, and in no other way.
fn session(sources: &Sources, name: &str) -> Option<SessionKey> {
    let body = format!(
        r#"{{"model":"m","messages":[{{"role":"system","content":"hi"}}],"session_id":"{name}"}}"#
    );
    let view = openai::parse(Endpoint::ChatCompletions, body.as_bytes()).unwrap();
    sources.find(&HeaderMap::new(), &view, HashKey(7), None, None).map(|it| it.key)
}

/// A dispatcher before four replicas, and the requests that it has had.
struct Stage {
    dispatcher: Dispatcher,
    asked: u64,
}

impl Stage {
    fn new() -> Self {
        let mut dispatcher = Dispatcher::new(DispatcherConfig::new(Sticky, 7));
        for id in (0..4).map(ReplicaId) {
            dispatcher.handle(Timestamp::ZERO, Event::ReplicaJoined(id), &mut Vec::new());
            let ready = Event::HealthChanged { replica: id, health: Health::Ready };
            dispatcher.handle(Timestamp::ZERO, ready, &mut Vec::new());
        }
        Self { dispatcher, asked: 0 }
    }

    /// Places a request of a session and has it served; where it went, and how long the decision took.
    fn serve(&mut self, session: Option<SessionKey>) -> (Placement, Duration) {
        self.asked += 1;
        // Ten thousand requests a second.
        let now = Timestamp::from_elapsed(Duration::from_micros(100 * self.asked));
        let (id, model) = (RequestId(self.asked), ModelId::from_name("m"));
        let request = Request { session, ..Request::new(id, model, Tokens(10), Arc::default()) };
        let mut decisions = Vec::with_capacity(1);
        let began = Instant::now();
        self.dispatcher.handle(now, Event::Arrived(request), &mut decisions);
        let took = began.elapsed();
        self.dispatcher.handle(now, Event::FirstToken(id), &mut Vec::new());
        let (outcome, output) = (Outcome::Finished, Some(Tokens(1)));
        let ended = Event::Ended { request: id, outcome, output, cached: None };
        self.dispatcher.handle(now, ended, &mut Vec::new());
        (decisions[0].verdict.unwrap(), took)
    }

    /// Serves the first request of each of these sessions; how long a decision took in the mean, and the longest.
    fn flood(&mut self, sources: &Sources, names: std::ops::Range<u64>) -> (Duration, Duration) {
        let (mut all, mut longest, mut count) = (Duration::ZERO, Duration::ZERO, 0);
        for name in names {
            let (placed, took) = self.serve(session(sources, &format!("session-{name}")));
            assert_ne!(placed.reason, Reason::Session, "nobody has asked in it before");
            (all, longest, count) = (all + took, longest.max(took), count + 1);
        }
        (all / count, longest)
    }
}

#[test]
#[ignore = "ten million sessions: benches/full_counts.sh"]
fn full_f4_of_ten_million_sessions_the_last_are_kept() {
    let kept = SessionConfig::default().sessions_max.get() as u64;
    let sources = Sources::default();
    let mut stage = Stage::new();
    let idle = memory();
    let (first, _) = stage.flood(&sources, 0..2 * kept);
    let full = memory();
    let (all, longest) = stage.flood(&sources, 2 * kept..SESSIONS - kept);
    let (last, _) = stage.flood(&sources, SESSIONS - kept..SESSIONS);
    let after = memory();
    println!(
        "F4: 10⁷ sessions, {} kept; memory {:.1} MB before, {:.1} after {}, {:.1} after all; a decision {:.2} µs among \
         the first {}, {:.2} in the mean of all, {:.2} among the last {kept}, the longest {:.1} ms",
        stage.dispatcher.sessions(),
        idle as f64 / 1e6,
        full as f64 / 1e6,
        2 * kept,
        after as f64 / 1e6,
        first.as_secs_f64() * 1e6,
        2 * kept,
        all.as_secs_f64() * 1e6,
        last.as_secs_f64() * 1e6,
        longest.as_secs_f64() * 1e3,
    );
    assert_eq!(stage.dispatcher.sessions() as u64, kept);
    assert!(after - idle <= 20_000_000, "{idle} → {after}");
    assert!(after <= full + 1_000_000, "{full} → {after}");
    assert!(last <= 2 * first, "{first:?} and {last:?}");
    // Names of 64 KB are none, and put out nobody.
    let long = "s".repeat(64 << 10);
    for at in 0..1_000 {
        assert_eq!(session(&sources, &format!("{long}{at}")), None);
        stage.serve(None);
    }
    assert_eq!(stage.dispatcher.sessions() as u64, kept);
    let mut reason =
        |name: u64| stage.serve(session(&sources, &format!("session-{name}"))).0.reason;
    for at in 0..1_000 {
        assert_eq!(reason(SESSIONS - 1 - at), Reason::Session, "{at}");
    }
    assert_ne!(reason(SESSIONS - 2 * kept), Reason::Session);
}
