//! B7: clients that come and go. In a file of its own, and so alone in its process, whose descriptors and tasks it
//! counts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use common::{CHAT, PATIENCE, Stage, chat, raw, stage};
use policy::config::StrategyName::RoundRobin;
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpSocket, TcpStream},
};

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Connections of the kernel that wait at `port` for stray packets.
fn waiting_at(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = format!(":{port:04X}");
    let waits = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.len() > 3 && fields[1].ends_with(&local) && fields[3] == "06"
    };
    table.lines().filter(waits).count()
}

/// Makes `count` connections, uses them and closes them; with `every`, no sooner than one each time it has passed.
async fn churn(stage: &Stage, count: usize, every: Duration) {
    let began = Instant::now();
    for at in 0..count {
        tokio::time::sleep_until((began + every * u32::try_from(at).unwrap()).into()).await;
        let body = chat("hi", 1, false).to_string();
        let mut socket = match at % 4 {
            // One that is reset, and one that says nothing.
            0 => {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_zero_linger().unwrap();
                drop(socket.connect(stage.data).await.unwrap());
                continue;
            }
            1 => {
                drop(TcpStream::connect(stage.data).await.unwrap());
                continue;
            }
            _ => raw::post(stage.data, CHAT, &body).await,
        };
        let mut seen = Vec::new();
        while !seen.ends_with(b"}") {
            assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
        }
    }
}

/// Makes `count` connections from `clients` clients, `per_s` of them in a second where that is said.
async fn leaves_nothing(count: usize, clients: u32, per_s: Option<u32>) {
    let stage = Arc::new(stage(RoundRobin, 1).await);
    // Another process may have used a port of that number a moment ago, as a client.
    let strangers = waiting_at(stage.data.port());
    churn(&stage, 200, Duration::ZERO).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = (descriptors(), tasks());
    let began = Instant::now();
    let every = per_s.map_or(Duration::ZERO, |it| Duration::from_secs(1) * clients / it);
    let mut churning = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let stage = Arc::clone(&stage);
        churning.spawn(async move { churn(&stage, count / clients as usize, every).await });
    }
    churning.join_all().await;
    let took = began.elapsed();
    let left = || (descriptors(), tasks(), waiting_at(stage.data.port()).saturating_sub(strangers));
    let (mut after, patience) = (left(), Instant::now() + PATIENCE);
    while before.0 + 2 < after.0 || before.1 + 2 < after.1 || 0 < after.2 {
        assert!(Instant::now() < patience, "of {before:?} before, {after:?} are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
        after = left();
    }
    println!(
        "B7: {count} connections in {:.1} s: descriptors {} → {}, tasks {} → {}, {} connections wait at the router's \
         port",
        took.as_secs_f64(),
        before.0,
        after.0,
        before.1,
        after.1,
        after.2
    );
    stage.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b7_connections_that_come_and_go_leave_nothing() {
    leaves_nothing(4_000, 8, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute: benches/full_counts.sh"]
async fn full_b7_120_000_connections_that_come_and_go_leave_nothing() {
    leaves_nothing(120_000, 80, Some(2_000)).await;
}
