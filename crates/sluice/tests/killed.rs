//! Replicas that are killed, or come and go, before a router as a process. Named in docs/reliability.md by the ids
//! A1, A2, A13 and A15; what begins with full_ is run by benches/full_counts.sh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Connection, Fleet, Router, Start, chat, get, question, until, written};
use emulator::Fault;

/// An emulated replica as a process; killed when dropped.
struct Killable {
    process: Child,
    url: String,
}

impl Killable {
    fn start() -> Self {
        let mut sluice = Command::new(env!("CARGO_BIN_EXE_sluice"));
        sluice.args(["--log-format", "json", "emulate", "--listen", "127.0.0.1:0"]);
        let mut process = sluice.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "it ended");
        let url = line.split('"').find(|it| it.starts_with("http://")).unwrap().to_owned();
        // Nobody reads the rest of it, but it must not fill the pipe.
        thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Self { process, url }
    }

    /// Ends it as the system does when there is no memory left.
    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A router before two replicas that are processes.
fn before_two(folder: &std::path::Path) -> ([Killable; 2], Router) {
    let replicas = [Killable::start(), Killable::start()];
    let [a, b] = replicas.each_ref().map(|it| &it.url);
    let text = format!(
        "admission: {{ mode: off }}\npolicy: {{ strategy: round-robin }}\nreplicas:\n  - {{ name: r0, url: '{a}' }}\n  - {{ \
         name: r1, url: '{b}' }}\n"
    );
    let router = Start::with(&written(folder, &text)).now();
    router.until_ready();
    (replicas, router)
}

/// Reads until `text` is there; false when it ends before that.
fn read_until(connection: &mut impl std::io::Read, seen: &mut String, text: &str) -> bool {
    let mut bytes = [0; 4_096];
    while !seen.contains(text) {
        let Ok(read @ 1..) = connection.read(&mut bytes) else { return false };
        seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    true
}

#[test]
#[ignore = "a full count: benches/full_counts.sh"]
fn full_a2_100_streams_of_a_replica_that_is_killed_end_with_an_error_each() {
    let folder = tempfile::tempdir().unwrap();
    let ([mut victim, _other], router) = before_two(folder.path());
    let count = 200;
    let killed: Arc<Mutex<Option<Instant>>> = Arc::default();
    let begun: Arc<AtomicUsize> = Arc::default();
    let clients: Vec<_> = (0..count)
        .map(|at| {
            let (data, killed, begun) = (router.data, Arc::clone(&killed), Arc::clone(&begun));
            thread::spawn(move || {
                let mut body = question(&format!("question {at}"), 400, true);
                let mut path = "POST /v1/chat/completions";
                // Round robin: two of these in turn, and so each replica gets half of each.
                if at % 4 < 2 {
                    path = "POST /v1/completions";
                    body["prompt"] = body["messages"][0]["content"].clone();
                }
                let mut connection = Connection::to(data).unwrap();
                connection.send(path, &body.to_string()).unwrap();
                let socket = connection.socket();
                let mut seen = String::new();
                assert!(read_until(socket, &mut seen, "data: {"), "{seen}");
                begun.fetch_add(1, Ordering::Relaxed);
                let is_over = read_until(socket, &mut seen, "data: [DONE]\n\n");
                let after = killed.lock().unwrap().map(|it| it.elapsed());
                (is_over, seen, after)
            })
        })
        .collect();
    until("all of them stream", || begun.load(Ordering::Relaxed) == count);
    *killed.lock().unwrap() = Some(Instant::now());
    victim.kill();
    let (mut whole, mut told) = (0, Vec::new());
    for client in clients {
        let (is_over, seen, after) = client.join().unwrap();
        assert!(is_over, "it ends without a word: {seen}");
        assert!(seen.contains("x-sluice-attempts: 1"), "nothing is sent again: {seen}");
        if seen.contains("x-sluice-replica: r1") {
            assert!(!seen.contains("\"error\""), "{seen}");
            whole += 1;
        } else {
            let end = seen.rsplit("data: ").nth(1).unwrap();
            assert!(end.contains("\"code\":\"upstream_disconnect\""), "{seen}");
            assert!(!seen.contains("\"finish_reason\":\"stop\""), "no invented end: {seen}");
            told.push(after.unwrap());
        }
    }
    told.sort();
    let ms = |it: Duration| it.as_secs_f64() * 1e3;
    println!(
        "A2: {} streams when their replica was killed, half of chats and half of completions: all told so in their dialect, \
         after {:.1} ms in the median and {:.1} ms at the latest; {whole} of the other replica's whole",
        told.len(),
        ms(told[told.len() / 2]),
        ms(told[told.len() - 1])
    );
    assert_eq!((told.len(), whole), (count / 2, count / 2));
    let failed = metric(&router, "sluice_requests_total{outcome=\"replica-failed\"}");
    assert_eq!(failed, told.len(), "each is counted once");
    until("nothing is reserved", || router.reserved() == 0);
}

#[test]
#[ignore = "a full count: benches/full_counts.sh"]
fn full_a1_100_requests_without_a_byte_from_a_killed_replica_are_served_by_another() {
    let folder = tempfile::tempdir().unwrap();
    let ([mut victim, _other], router) = before_two(folder.path());
    let count = 200;
    let body = |at: usize| question(&format!("question {at}"), 150, false);
    let clients: Vec<_> = (0..count)
        .map(|at| {
            let (data, body) = (router.data, body(at));
            thread::spawn(move || (chat(data, &body).unwrap(), Instant::now()))
        })
        .collect();
    let streaming = || {
        let status = get(router.admin, "/admin/replicas").unwrap().json();
        [0, 1].map(|it| status["replicas"][it]["in_flight"].as_u64().unwrap())
    };
    until("all of them wait", || streaming() == [100, 100]);
    let killed = Instant::now();
    victim.kill();
    // What was there takes as long as it did; what it is to the others is asked as soon as it is known.
    until("they are placed elsewhere", || streaming()[0] == 0);
    let moved = killed.elapsed();
    let answers: Vec<_> = clients.into_iter().map(|it| it.join().unwrap()).collect();
    let served = answers.iter().filter(|it| it.0.is_whole()).count();
    let attempts =
        |count: &str| answers.iter().filter(|it| it.0.header("x-sluice-attempts") == count).count();
    let (first, second) = (attempts("1"), attempts("2"));
    println!(
        "A1: {second} requests waited for a replica when it was killed, and {first} for another: {served} of {count} served, \
         2 attempts at the most; all of them at the other one after {:.1} ms",
        moved.as_secs_f64() * 1e3
    );
    assert_eq!((served, first, second), (count, count / 2, count / 2));
}

#[test]
fn a15_replicas_killed_one_after_another_cost_what_had_begun_and_nothing_else() {
    let (fleet, folder) = (Fleet::of(4), tempfile::tempdir().unwrap());
    let router =
        Start::with(&written(folder.path(), &fleet.configuration("attempts_max: 3\n"))).now();
    router.until_ready();
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let clients: Vec<_> = (0..8)
        .map(|at| {
            let (stop, counts, data) = (Arc::clone(&stop), Arc::clone(&counts), router.data);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let is_stream = at % 2 == 0;
                    let answer = chat(data, &question("go", 30, is_stream));
                    let broke = |it: &common::Answer| {
                        it.status == 200 && it.body.contains("upstream_disconnect")
                    };
                    let kind = match &answer {
                        Ok(it) if it.is_whole() => 0,
                        // Its first byte had been passed on.
                        Ok(it) if broke(it) => 1,
                        Ok(_) | Err(_) => 2,
                    };
                    if kind == 2 {
                        println!("A15 failed: {answer:?}");
                    }
                    counts[kind].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(500));
    for at in 0..4 {
        fleet.set_fault(at, Fault::Down);
        thread::sleep(Duration::from_millis(400));
        fleet.set_fault(at, Fault::None);
        router.until_ready();
        thread::sleep(Duration::from_millis(200));
    }
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|it| it.join().unwrap());
    let [whole, begun, other] = [0, 1, 2].map(|it| counts[it].load(Ordering::Relaxed));
    let sample = "sluice_requests_total{outcome=\"replica-failed\"}";
    let counted = metric(&router, sample);
    println!(
        "A15: 4 kills under load: {whole} whole, {begun} broken off after their first byte, {other} others failed"
    );
    assert_eq!(other, 0);
    assert_eq!(counted, begun, "each is counted, and nothing else");
    until("nothing is reserved", || router.reserved() == 0);
}

fn metric(router: &Router, sample: &str) -> usize {
    let text = get(router.admin, "/metrics").unwrap().body;
    let line = text.lines().find_map(|it| it.strip_prefix(sample)?.strip_prefix(' '));
    line.map_or(0, |it| it.parse().unwrap())
}

/// Answers that come whole before a replica that has just gone comes back, or the other way round: what breaks with it is at
/// most what is under way then, and so few of these on a machine of any speed.
const WHOLE_BETWEEN: usize = 50;

/// Has one of three replicas go and come back, each second or as soon as the others have served enough meanwhile.
fn flap(flaps: usize) {
    let (fleet, folder) = (Fleet::of(3), tempfile::tempdir().unwrap());
    let router = Start::with(&written(folder.path(), &fleet.configuration(""))).now();
    router.until_ready();
    let stop = Arc::new(AtomicBool::new(false));
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (stop, counts, data) = (Arc::clone(&stop), Arc::clone(&counts), router.data);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let whole = chat(data, &question("go", 3, true)).is_ok_and(|it| it.is_whole());
                    counts[usize::from(whole)].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let began = Instant::now();
    for fault in [Fault::Down, Fault::None].into_iter().cycle().take(2 * flaps) {
        fleet.set_fault(0, fault);
        let before = counts[1].load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(500));
        until("some are served", || before + WHOLE_BETWEEN <= counts[1].load(Ordering::Relaxed));
    }
    let took = began.elapsed().as_secs();
    stop.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|it| it.join().unwrap());
    let [failed, whole] = [0, 1].map(|it| counts[it].load(Ordering::Relaxed));
    let (ejected, ready) = (router.logged("replica ejected"), router.logged("replica ready"));
    // A machine that stands still may have one ejected that is late with its probes.
    let for_going = router.logged_where(|it| {
        it.contains("replica ejected") && ["Refused", "Broken"].iter().any(|why| it.contains(why))
    });
    println!(
        "A13: {flaps} flaps in {took} s: {whole} of {} whole; {ejected} ejections and {ready} returns logged",
        whole + failed
    );
    assert!(95 * (whole + failed) <= 100 * whole, "{failed} failed");
    assert!(
        0 < for_going && for_going <= flaps,
        "a line for each time it goes, and no more: {for_going}"
    );
    assert!(ready <= ejected + 3, "and one for each return: {ready} for {ejected}");
}

#[test]
fn a13_a_replica_that_comes_and_goes_costs_nothing_and_little_is_said_of_it() {
    flap(10);
}

#[test]
#[ignore = "five minutes: benches/full_counts.sh"]
fn full_a13_a_replica_may_come_and_go_for_five_minutes() {
    flap(300);
}
