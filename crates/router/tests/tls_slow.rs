//! E9: clients that take their time to agree on TLS. In a file of its own, and so alone in its process, whose memory
//! it measures.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::time::{Duration, Instant};

use common::{
    config, received, stage_with,
    tls::{Authority, ask, connect, question},
};
use policy::config::StrategyName::RoundRobin;
use router::config::Tls;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Clients that say nothing, or half of a greeting, when TLS is to be agreed on.
const SLOW: usize = 2_000;

/// How long a handshake may take here.
const BOUND: Duration = Duration::from_secs(5);

/// When the last of them has ended at the latest, on a machine that does much else.
const LATEST: Duration = Duration::from_secs(15);

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e9_slow_handshakes_hold_up_nobody_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let own = authority.vouch(folder.path(), "own", "localhost");
    let mut config = config(RoundRobin);
    config.tls = Some(Tls { cert: own.cert.clone(), key: own.key.clone(), client_ca: None });
    config.timeouts.client_handshake = BOUND;
    let stage = stage_with(config, 1).await;
    let began = Instant::now();
    let mut slow = Vec::new();
    // Nothing at all; then a record that announces 512 bytes of greeting, and the first of them.
    let mut held = [0, 0];
    for (said, held) in [&[][..], &[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]].iter().zip(&mut held) {
        let before = resident_bytes();
        for _ in 0..SLOW / 2 {
            let opened = Instant::now();
            let mut socket = tokio::net::TcpStream::connect(stage.data).await.unwrap();
            socket.write_all(said).await.unwrap();
            slow.push((opened, socket));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        *held = resident_bytes().saturating_sub(before) / (SLOW / 2);
    }
    let client = authority.client(None, &[b"h2", b"http/1.1"]);
    let asked = Instant::now();
    let answer = ask(connect(stage.data, client).await.unwrap(), question()).await.unwrap();
    assert_eq!(received(answer).await.status, 200);
    let served = asked.elapsed();
    let mut ending = tokio::task::JoinSet::new();
    for (opened, mut socket) in slow {
        ending.spawn(async move {
            let mut bytes = Vec::new();
            // By a reset, where what was said has not been read.
            let _ = tokio::time::timeout(LATEST, socket.read_to_end(&mut bytes)).await;
            opened.elapsed()
        });
    }
    for lasted in ending.join_all().await {
        assert!((BOUND..LATEST).contains(&lasted), "one ended after {lasted:?}");
    }
    println!(
        "E9: {SLOW} handshakes pending: {held:?} bytes each (silent, half a greeting), another client served in {} ms, all ended \
         after {:.1} s",
        served.as_millis(),
        began.elapsed().as_secs_f64()
    );
    assert!(held.iter().all(|it| *it <= 30 << 10), "{held:?} bytes each");
}
