//! The life of a router under much load: what process.rs holds for a few clients, for hundreds. Named in
//! docs/reliability.md by the ids D1 and D3, and run by `benches/full_counts.sh`. What blocks here blocks a thread of its
//! own: replicas and clients run in two others.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use common::{
    Start,
    balanced::Balanced,
    get,
    load::{Message, Pool, Replica, Wire, asking, listed, memory},
    until, written,
};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

const HEALTH: &str = "health: { interval: 500ms, ejection: 200ms }\nadmission: { mode: off }\n";

async fn replicas(count: usize) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(Replica::start().await);
    }
    replicas
}

fn open(replicas: &[Replica]) -> usize {
    replicas.iter().map(|it| it.seen.open.load(Ordering::Relaxed)).sum()
}

/// Begins so many slow streams of `tokens` tokens each, each over a connection of its own.
fn streams(router: SocketAddr, count: usize, tokens: u64) -> Vec<JoinHandle<Option<Message>>> {
    let stream = move |at: usize| async move {
        let mut wire = Wire::to(router).await.ok()?;
        wire.chat("", &asking(&format!("slow {at}"), tokens, true)).await.ok()
    };
    (0..count).map(|at| tokio::spawn(stream(at))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "500 streams: benches/full_counts.sh"]
async fn full_d1_sigterm_with_500_streams() {
    let replicas = replicas(4).await;
    let folder = tempfile::tempdir().unwrap();
    let more = format!("{HEALTH}drain: {{ lame_duck: 1s, timeout: 8s }}\n{}", listed(&replicas));
    let mut router = Start::with(&written(folder.path(), &more)).now();
    router.until_ready();
    // Those of five seconds end in time, the others in two minutes.
    let (data, admin) = (router.data, router.admin);
    let (short, long) = (streams(data, 450, 25), streams(data, 50, 600));
    until("all stream", || open(&replicas) == 500);
    let told = Instant::now();
    router.signal("TERM");
    until("it is not ready", || get(admin, "/readyz").unwrap().status == 503);
    let unready = told.elapsed();
    // Half of the lame-duck time is left by now, or more.
    let mut late = 0;
    while told.elapsed() < Duration::from_millis(500) {
        let answer =
            Wire::to(data).await.unwrap().chat("", &asking("late", 1, late % 2 == 0)).await;
        let answer = answer.unwrap();
        assert!(answer.is_whole() && answer.is_last(), "{}", answer.head);
        late += 1;
    }
    let (mut whole, mut told_so) = (0, 0);
    for answer in short {
        whole += usize::from(answer.await.unwrap().is_some_and(|it| it.is_whole()));
    }
    for answer in long {
        let answer = answer.await.unwrap();
        told_so += usize::from(answer.is_some_and(|it| {
            let body = String::from_utf8_lossy(&it.body).into_owned();
            body.contains("\"error\"") && !body.contains("\"finish_reason\":\"stop\"")
        }));
    }
    let (code, ended) = (router.ended().0, told.elapsed());
    println!(
        "D1: SIGTERM with 500 streams: not ready after {} ms, {late} requests served meanwhile, {whole} of 450 whole, \
         {told_so} of 50 ended with an error, over after {:.1} s with exit code {code:?}",
        unready.as_millis(),
        ended.as_secs_f64()
    );
    assert_eq!((whole, told_so, code), (450, 50, Some(0)));
    assert!(0 < late && unready < Duration::from_millis(500) && ended < Duration::from_secs(12));
}

/// Requests that are sent at a rate, whatever becomes of those before.
struct OpenLoop {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    sending: JoinHandle<()>,
}

impl OpenLoop {
    /// Sends so many requests a second to the routers that are `ready`, in turn, as a balancer does that keeps
    /// connections to them.
    fn start(a_second: u32, routers: Vec<SocketAddr>, ready: Arc<Vec<AtomicBool>>) -> Self {
        let (stop, sent, failed) = (Arc::default(), Arc::default(), Arc::default());
        let mut this = Self { stop, sent, failed, sending: tokio::spawn(async {}) };
        let (stop, sent) = (Arc::clone(&this.stop), Arc::clone(&this.sent));
        let failed = Arc::clone(&this.failed);
        let pools: Arc<Vec<Pool>> = Arc::new(routers.iter().map(|_| Pool::default()).collect());
        this.sending = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / a_second);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut asked = tokio::task::JoinSet::new();
            while !stop.load(Ordering::Relaxed) {
                ticks.tick().await;
                let turn = sent.fetch_add(1, Ordering::Relaxed);
                for (pool, ready) in pools.iter().zip(&*ready) {
                    if !ready.load(Ordering::Relaxed) {
                        pool.close();
                    }
                }
                let to = (0..routers.len()).map(|it| (it + turn) % routers.len());
                let Some(to) = to.into_iter().find(|it| ready[*it].load(Ordering::Relaxed)) else {
                    failed.lock().unwrap().push("no router is ready".to_owned());
                    continue;
                };
                let (pools, failed, router) =
                    (Arc::clone(&pools), Arc::clone(&failed), routers[to]);
                asked.spawn(async move {
                    let body = asking(&format!("go {turn}"), 3, turn.is_multiple_of(2));
                    match pools[to].chat(router, "", &body).await {
                        Ok(answer) if answer.is_whole() => {}
                        other => failed.lock().unwrap().push(format!("{other:?}")),
                    }
                });
                while asked.try_join_next().is_some() {}
            }
            while asked.join_next().await.is_some() {}
        });
        this
    }

    /// How many were sent; fails when one has failed.
    async fn end(self, told: &str) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.sending.await.unwrap();
        let (sent, failed) = (self.sent.load(Ordering::Relaxed), self.failed.lock().unwrap());
        println!("{told}, {sent} requests sent, {} failed", failed.len());
        assert!(failed.is_empty(), "{:?}", failed.first());
        sent
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half a minute at 300 requests a second: benches/full_counts.sh"]
async fn full_d1_two_routers_restarted_at_300_a_second() {
    let replicas = replicas(4).await;
    let folder = tempfile::tempdir().unwrap();
    let more = format!("{HEALTH}drain: {{ lame_duck: 1s, timeout: 20s }}\n{}", listed(&replicas));
    let file = written(folder.path(), &more);
    let mut routers = Balanced::start(file);
    let load = OpenLoop::start(300, routers.ports.clone(), Arc::clone(&routers.ready));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for round in 0..8 {
        routers.restart(round % 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let sent = load.end("D1: 8 restarts of 2 routers at 300 requests a second").await;
    assert!(3_000 < sent, "{sent}: the rate was not kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "100 reloads under 500 streams and 500 requests a second: benches/full_counts.sh"]
async fn full_d3_100_reloads_under_load() {
    let replicas = replicas(4).await;
    let folder = tempfile::tempdir().unwrap();
    let with = |round: usize| {
        // One of them leaves and comes back, its streams still running.
        let some = if round.is_multiple_of(2) { &replicas[..] } else { &replicas[..3] };
        let strategy = ["round-robin", "sticky", "least-request"][round % 3];
        (format!("{HEALTH}policy: {{ strategy: {strategy} }}\n{}", listed(some)), strategy)
    };
    let file = written(folder.path(), &with(0).0);
    let router = Start::with(&file).now();
    router.until_ready();
    let (data, admin, process) = (router.data, router.admin, router.child.id());
    let long = streams(data, 500, 1_000_000);
    while open(&replicas) < 500 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let load = OpenLoop::start(500, vec![data], Arc::new(vec![AtomicBool::new(true)]));
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = memory(process, "VmRSS");
    let mut took = Vec::new();
    for round in 1..=100 {
        let (text, strategy) = with(round);
        std::fs::write(&file, text).unwrap();
        let began = Instant::now();
        router.signal("HUP");
        until("it is in force", || {
            get(admin, "/admin/policy").unwrap().json()["strategy"] == strategy
        });
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let after = memory(process, "VmRSS");
    let _sent = load.end("D3: 100 reloads under 500 streams and 500 requests a second").await;
    assert_eq!(open(&replicas), 500, "every stream goes on");
    replicas.iter().for_each(|it| it.seen.ends.store(true, Ordering::Relaxed));
    let mut whole = 0;
    for answer in long {
        whole += usize::from(answer.await.unwrap().is_some_and(|it| it.is_whole()));
    }
    until("nothing is reserved", || router.reserved() == 0);
    took.sort();
    let grown = (i128::from(after) - i128::from(before)) as f64 / 1e6;
    println!(
        "D3: {whole} of 500 streams whole; in force after {} ms in the median, {} ms at most; memory {grown:+.1} MB on \
         {:.1}; 0 reserved",
        took[50].as_millis(),
        took[99].as_millis(),
        before as f64 / 1e6
    );
    assert_eq!(whole, 500);
    assert!(took[99] < Duration::from_secs(1), "{took:?}");
    assert!(grown < 5.0, "{grown} MB");
}
