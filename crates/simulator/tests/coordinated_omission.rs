//! What a load generator hides that waits for answers before it sends on.
//!
//! A service takes 5 ms and stands still for one second in ten. A thousand requests a second come on
//! schedule, whatever it does: one in ten meets the stall and waits for its end, so the 99th percentile
//! is 5 ms + 1 s · (1 − 0.01/0.1). Five connections that each send when they are answered send as many
//! while all is well, and five in the whole of a stall.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use report::Stats;
use simulator::{Fault, ServiceTime, Setup};
use types::time::Timestamp;
use workload::Arrival;

use crate::common::{arrival, station};

const SERVICE: Duration = Duration::from_millis(5);

/// Times of ten seconds that a run goes on for.
const CYCLES: u64 = 5;

/// A service without a queue that stands still in the last second of every ten.
fn stalling() -> Setup {
    let stall = |cycle: u64| Fault::Stall {
        at: Duration::from_secs(cycle * 10 + 9),
        replica: 0,
        lasts: Duration::from_secs(1),
    };
    Setup {
        faults: (0..CYCLES).map(stall).collect(),
        ..station(10_000, ServiceTime::Constant { mean: SERVICE })
    }
}

fn e2e_ms(setup: &Setup, arrivals: Vec<Arrival>) -> Stats {
    let records = simulator::run(setup, arrivals).unwrap().records;
    Stats::of(records.iter().map(|it| it.e2e().unwrap().as_secs_f64() * 1e3).collect()).unwrap()
}

#[track_caller]
fn near(found: f64, expected: f64, within: f64) {
    assert!((found - expected).abs() <= within, "{found} is not {expected} ± {within}");
}

#[test]
fn requests_on_schedule_see_the_stall() {
    let at = |number: u64| Timestamp::from_elapsed(Duration::from_millis(number));
    let arrivals = (0..CYCLES * 10_000).map(|number| arrival(at(number))).collect();
    let seen = e2e_ms(&stalling(), arrivals);
    near(seen.mean, 55.05, 0.1);
    near(seen.p50, 5.0, 1e-9);
    near(seen.p95, 505.0, 1.0);
    near(seen.p99, 905.0, 1.0);
    near(seen.max, 1_005.0, 1.0);
}

#[test]
fn a_closed_loop_hides_it() {
    // Each connection is a conversation without thought: 1,800 answers in nine seconds, and one more
    // that the last stall holds up.
    let turns = u32::try_from(CYCLES * 1_800 + 1).unwrap();
    let connection = |session: u64| {
        (0..turns).map(move |turn| Arrival {
            session: Some(session),
            turn,
            ..arrival(Timestamp::ZERO)
        })
    };
    let setup = Setup { closed_conversations: true, ..stalling() };
    let seen = e2e_ms(&setup, (0..5).flat_map(connection).collect());
    near(seen.mean, 5.56, 0.01);
    near(seen.p99, 5.0, 1e-9);
    near(seen.max, 1_005.0, 5.0);
}
