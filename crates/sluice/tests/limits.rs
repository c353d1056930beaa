//! A router as a process that runs out of what the system lets it have. Named in docs/reliability.md by the id B9.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    thread,
    time::{Duration, Instant},
};

use common::{Connection, Fleet, Router, Start, chat, get, question, until, written};
use emulator::Fault;

fn descriptors_left(router: &Router, limit: usize) -> usize {
    limit.saturating_sub(router.descriptors())
}

#[test]
fn b9_without_descriptors_it_waits_and_recovers() {
    let (fleet, folder) = (Fleet::of(2), tempfile::tempdir().unwrap());
    // Streams begin and say no more: whatever the router then computes, it computes for nobody.
    (0..2).for_each(|at| fleet.set_fault(at, Fault::StallAfter(1)));
    let file = written(folder.path(), &fleet.configuration(""));
    let mut router = Start { before: "ulimit -n 256", ..Start::with(&file) }.now();
    router.until_ready();
    let mut kept: Vec<Connection> = Vec::new();
    let body = question("count", 100_000, true).to_string();
    for _ in 0..400 {
        // The system takes connections on the router's behalf, as many as fit into its queue.
        let Ok(mut connection) = Connection::to(router.data) else { break };
        if connection.send("POST /v1/chat/completions", &body).is_ok() {
            kept.push(connection);
        }
    }
    let streaming = in_flight_at_rest(&fleet);
    let left = descriptors_left(&router, 256);
    let (held, full) = (kept.len(), cpu_share(&router, Duration::from_secs(2)));
    assert!(streaming < held, "some of the {held} wait to be taken");
    assert_eq!(fleet.in_flight(), streaming, "and waited all the while");
    for _ in 0..20 {
        assert!(router.is_ready(), "the admin port is served all the while");
        assert!(get(router.admin, "/metrics").unwrap().status == 200);
        thread::sleep(Duration::from_millis(100));
    }
    kept.clear();
    until("replicas are rid of them", || fleet.in_flight() == 0);
    (0..2).for_each(|at| fleet.set_fault(at, Fault::None));
    thread::sleep(Duration::from_millis(500));
    let idle = cpu_share(&router, Duration::from_secs(2));
    for _ in 0..50 {
        assert!(chat(router.data, &question("hi", 2, false)).unwrap().is_whole());
    }
    println!(
        "B9: limit 256, {held} clients: {streaming} stream, {left} descriptors left; CPU {:.1} % while the others \
         wait, {:.1} % after; 50 of 50 served then; {} ejections",
        100.0 * full,
        100.0 * idle,
        router.logged("replica ejected")
    );
    assert!(0 < left && 0 < streaming);
    // What spins takes all of a core, or its part of one on a busy machine.
    assert!(
        full < 0.2 && idle < 0.2,
        "{full} while there is no descriptor for a client, {idle} after"
    );
    assert_eq!(router.logged("replica ejected"), 0);
    assert!(router.child.try_wait().unwrap().is_none());
}

/// Requests that replicas have, once none has come or gone for a second.
fn in_flight_at_rest(fleet: &Fleet) -> usize {
    let (mut seen, mut since) = (fleet.in_flight(), Instant::now());
    until("nothing comes or goes", || {
        let now = fleet.in_flight();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        Duration::from_secs(1) <= since.elapsed()
    });
    seen
}

/// The part of one core that the router takes during the next `time`.
fn cpu_share(router: &Router, time: Duration) -> f64 {
    let (cpu, began) = (router.cpu(), Instant::now());
    thread::sleep(time);
    (router.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64()
}
