//! A5: a replica whose machine is gone without a word. Run by benches/half_open.sh, in a network of its own.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    process::Command,
    time::{Duration, Instant},
};

use common::{CHAT, chat, config, raw, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use router::config::Replica;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Where the replica is; what is sent there can be made to go nowhere.
const AWAY: &str = "127.0.0.9";

/// Streams at once, and how often.
const STREAMS: usize = 200;
const ROUNDS: usize = 2;

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

/// Answers probes, and every POST with a first token and then nothing.
async fn serve(mut socket: TcpStream) {
    let mut bytes = vec![0; 65_536];
    loop {
        let Ok(read) = socket.read(&mut bytes).await else { return };
        if read == 0 {
            return;
        }
        let answer = if bytes.starts_with(b"POST") {
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"choices\":[{\"delta\":\
             {\"content\":\"a\"}}]}\n\n"
        } else {
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        };
        if socket.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute and a network namespace: benches/half_open.sh"]
async fn a5_a_replica_that_is_gone_without_a_word_is_found_out() {
    let listener = TcpListener::bind(format!("{AWAY}:0")).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut served = JoinSet::new();
    let (sender, mut sockets) = tokio::sync::mpsc::channel(64);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            sender.send(socket).await.unwrap();
        }
    });
    let mut config = config(RoundRobin);
    config.health = router::config::Health::default();
    config.replicas.push(Replica::at(url));
    let serving = tokio::spawn(async move {
        while let Some(socket) = sockets.recv().await {
            served.spawn(serve(socket));
        }
    });
    let stage = stage_with(config, 0).await;
    let before = descriptors();
    for round in 0..ROUNDS {
        until("it is ready", async || stage.health(0).await == "ready").await;
        let mut clients = Vec::new();
        for _ in 0..STREAMS {
            let mut client = raw::post(stage.data, CHAT, &chat("hi", 9, true).to_string()).await;
            let mut seen = Vec::new();
            while !seen.ends_with(b"\n\n\r\n") {
                assert_ne!(client.read_buf(&mut seen).await.unwrap(), 0);
            }
            clients.push(client);
        }
        ip(&format!("route add blackhole {AWAY} table local"));
        let gone = Instant::now();
        let mut ejected = None;
        let (mut first, mut last) = (None, None);
        for mut client in clients {
            let mut seen = Vec::new();
            loop {
                let reading = client.read_buf(&mut seen);
                match tokio::time::timeout(Duration::from_millis(100), reading).await {
                    Ok(Ok(0)) => panic!("it ends without an error"),
                    Ok(read) => {
                        read.unwrap();
                        if String::from_utf8_lossy(&seen).contains("upstream_disconnect") {
                            break;
                        }
                    }
                    Err(_) if ejected.is_none() && stage.health(0).await == "ejected" => {
                        ejected = Some(gone.elapsed());
                    }
                    Err(_) => assert!(gone.elapsed() < Duration::from_secs(40), "still open"),
                }
            }
            first.get_or_insert(gone.elapsed());
            last = Some(gone.elapsed());
        }
        stage.until_idle().await;
        ip(&format!("route del blackhole {AWAY} table local"));
        println!(
            "A5 round {round}: {STREAMS} streams; ejected after {:.1} s, first stream ended with an error after {:.1} s, \
             the last after {:.1} s",
            ejected.unwrap().as_secs_f64(),
            first.unwrap().as_secs_f64(),
            last.unwrap().as_secs_f64()
        );
        assert!(last.unwrap() <= Duration::from_secs(30));
    }
    // The replica's own sides of them are in this process too, and know nothing yet.
    serving.abort();
    let _ = serving.await;
    until("descriptors are given back", async || descriptors() <= before + 4).await;
    println!("A5: {} streams cut off; descriptors {before} → {}", STREAMS * ROUNDS, descriptors());
}
