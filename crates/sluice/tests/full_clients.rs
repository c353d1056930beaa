//! Clients that read or send as little as they can, before a router as a process, at the counts that
//! docs/reliability.md asks for. Run by benches/full_counts.sh.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{ChildStdout, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use common::{Connection, Router, Start, get, question, until, written};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

const STREAM: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
const TOKEN: &[u8] = b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

/// What a replica wrote for those who ask for much.
type Written = Arc<AtomicU64>;

/// A replica of few words: a question with "much" in it gets 64 KB each second, one with "little" 50 tokens in it,
/// "nothing" a token and no more, and all else an answer at once. It lists a thousand models.
async fn replica(written: Written) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    // So that what isn't taken stays with the replica.
    socket.set_send_buffer_size(16 << 10).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(4_096).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, Arc::clone(&written)));
        }
    });
    address
}

async fn serve(mut socket: TcpStream, written: Written) {
    let mut bytes = vec![0; 4_096];
    loop {
        let Ok(read @ 1..) = socket.read(&mut bytes).await else { return };
        let asked = String::from_utf8_lossy(&bytes[..read]).into_owned();
        let streams = ["much", "little", "nothing"].iter().find(|it| asked.contains(**it));
        let said = if let Some(kind) = streams {
            // It ends when the router hangs up.
            let _ = stream(&mut socket, kind, &written).await;
            return;
        } else if asked.starts_with("GET /v1/models") {
            let one = |at| format!(r#"{{"id":"m{at}","object":"model","owned_by":"nobody"}}"#);
            let all: Vec<String> = (0..1_000).map(one).chain([one_model()]).collect();
            let body = format!(r#"{{"object":"list","data":[{}]}}"#, all.join(","));
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        } else {
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}".to_owned()
        };
        if socket.write_all(said.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn one_model() -> String {
    r#"{"id":"llama-3-8b-h100"}"#.to_owned()
}

async fn stream(socket: &mut TcpStream, kind: &str, written: &Written) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    socket.write_all(STREAM).await?;
    match kind {
        "much" => {
            let text = "a".repeat(6_500);
            let event =
                format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
            let mut every = tokio::time::interval(Duration::from_millis(100));
            loop {
                every.tick().await;
                socket.write_all(event.as_bytes()).await?;
                written.fetch_add(event.len() as u64, Ordering::Relaxed);
            }
        }
        "little" => {
            let mut every = tokio::time::interval(Duration::from_millis(20));
            loop {
                every.tick().await;
                socket.write_all(TOKEN).await?;
            }
        }
        _ => {
            socket.write_all(TOKEN).await?;
            let _ = socket.read_u8().await;
            Ok(())
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A router before a replica of few words.
fn before(replica: SocketAddr, more: &str) -> (Router, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "admission: {{ mode: off }}\nhealth: {{ silence: 10m, standstill: 10m }}\nreplicas:\n  - {{ url: \
         'http://{replica}' }}\n{more}"
    );
    let router = Start::with(&written(folder.path(), &text)).now();
    router.until_ready();
    (router, folder)
}

fn request(what: &str) -> String {
    let body = question(what, 9, true).to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn memory_kb(router: &Router) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", router.child.id())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Streams a little, and returns the times between what comes.
async fn gaps(to: SocketAddr, time: Duration) -> Vec<Duration> {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(request("little").as_bytes()).await.unwrap();
    let mut bytes = [0; 4_096];
    let (began, mut last, mut gaps) = (Instant::now(), None::<Instant>, Vec::new());
    while began.elapsed() < time {
        assert_ne!(socket.read(&mut bytes).await.unwrap(), 0);
        let now = Instant::now();
        gaps.extend(last.map(|it| now.duration_since(it)));
        last = Some(now);
    }
    gaps
}

/// The 99th percentile of the times between what 50 streams get, in milliseconds.
async fn pace(to: SocketAddr, time: Duration) -> f64 {
    let mut others = JoinSet::new();
    for _ in 0..50 {
        others.spawn(gaps(to, time));
    }
    let mut all: Vec<Duration> = others.join_all().await.into_iter().flatten().collect();
    all.sort();
    assert!(50 * 10 < all.len(), "they streamed");
    all[all.len() * 99 / 100].as_secs_f64() * 1e3
}

/// Reads 1 KB each second.
async fn read_slowly(to: SocketAddr, read: Arc<AtomicU64>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut socket = socket.connect(to).await.unwrap();
    socket.write_all(request("much").as_bytes()).await.unwrap();
    let mut bytes = [0; 1_024];
    loop {
        let got = socket.read(&mut bytes).await.unwrap();
        assert_ne!(got, 0, "it is given up");
        read.fetch_add(got as u64, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
#[ignore = "a minute: benches/full_counts.sh"]
fn full_b2_500_readers_of_1_kb_a_second_cost_little_memory_and_hold_up_nobody() {
    let runtime = runtime();
    let (written, read) = (Written::default(), Written::default());
    let replica = runtime.block_on(replica(Arc::clone(&written)));
    let (router, _folder) = before(replica, "");
    let (data, time) = (router.data, Duration::from_secs(20));
    let alone = runtime.block_on(pace(data, time));
    let (idle, streams, mut most) = (memory_kb(&router), 500, 0);
    let began = Instant::now();
    let mut slow = JoinSet::new();
    for _ in 0..streams {
        slow.spawn_on(read_slowly(data, Arc::clone(&read)), runtime.handle());
    }
    let others = runtime.spawn(async move {
        tokio::time::sleep(Duration::from_secs(10)).await;
        pace(data, time).await
    });
    while !others.is_finished() {
        most = most.max(memory_kb(&router));
        std::thread::sleep(Duration::from_millis(200));
    }
    let beside = runtime.block_on(others).unwrap();
    let took = began.elapsed().as_secs_f64();
    assert!(slow.try_join_next().is_none(), "all of them are still there");
    let kb = |it: &Written| it.load(Ordering::Relaxed) as f64 / 1024.0 / streams as f64;
    let each = most.saturating_sub(idle) as f64 / streams as f64;
    let (written, read) = (kb(&written), kb(&read));
    let held = written - read;
    println!(
        "B2: {streams} readers of 1 KB a second, whose replica writes 64, for {took:.0} s: {each:.0} KiB of the router's \
         memory each; of {:.0} KiB the replica could write {written:.0}, {read:.0} were read, which leaves {held:.0} in all \
         buffers, those of the system with them; p99 between two events of 50 \
         others {beside:.1} ms, {alone:.1} ms without them ({:.2} ×)",
        64.0 * took,
        beside / alone
    );
    assert!(each <= 256.0, "{each} KiB");
    assert!(held <= 512.0, "the replica is held up: {held} KiB");
}

/// Times that a request takes that is answered at once, in turn, in milliseconds: the 99th percentile.
fn asked_at_once(to: SocketAddr) -> f64 {
    let mut took: Vec<Duration> = (0..1_000)
        .map(|_| {
            let began = Instant::now();
            let answer = common::chat(to, &question("quick", 1, false)).unwrap();
            assert!(answer.is_whole(), "{answer:?}");
            began.elapsed()
        })
        .collect();
    took.sort();
    took[990].as_secs_f64() * 1e3
}

async fn open_and_say_nothing(to: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(to).await.unwrap();
    socket.write_all(request("nothing").as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.windows(5).any(|it| it == b"delta") {
        assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
    }
    socket
}

#[test]
#[ignore = "two minutes: benches/full_counts.sh"]
fn full_b3_8_000_streams_that_say_nothing_give_their_memory_back() {
    let runtime = runtime();
    let replica = runtime.block_on(replica(Written::default()));
    let (router, _folder) = before(replica, "");
    let (data, streams) = (router.data, 8_000);
    let empty = asked_at_once(data);
    let idle = memory_kb(&router);
    let mut open = Vec::new();
    for _ in 0..streams / 200 {
        let mut opening = JoinSet::new();
        for _ in 0..200 {
            opening.spawn_on(open_and_say_nothing(data), runtime.handle());
        }
        open.extend(runtime.block_on(opening.join_all()));
    }
    std::thread::sleep(Duration::from_secs(1));
    let full = memory_kb(&router);
    let beside = asked_at_once(data);
    drop(open);
    std::thread::sleep(Duration::from_secs(60));
    let after = memory_kb(&router);
    let each = (full - idle) as f64 / streams as f64;
    println!(
        "B3: {streams} streams that say nothing: {each:.1} KiB each; p99 of a new request {beside:.1} ms, {empty:.1} ms \
         without them ({:.2} ×); memory {idle} KB idle, {full} KB with them, {after} KB 60 s after they closed ({:.2} ×)",
        beside / empty,
        after as f64 / idle as f64
    );
    assert!(each <= 20.0, "{each} KiB");
    assert!(
        after as f64 <= 1.3 * idle as f64,
        "{after} KB are left of {full}, where {idle} is usual"
    );
    until("nothing is reserved", || router.reserved() == 0);
}

/// Asks the router as others do while it is attacked, until that is over; returns how many of how many were served.
fn ask_others(data: SocketAddr, is_over: &AtomicBool) -> (usize, usize) {
    let (mut served, mut asked) = (0, 0);
    while !is_over.load(Ordering::Relaxed) {
        asked += 1;
        let answer = Connection::to(data).and_then(|mut it| it.chat(&question("quick", 1, false)));
        served += usize::from(answer.is_ok_and(|it| it.is_whole()));
        std::thread::sleep(Duration::from_millis(10));
    }
    (served, asked)
}

/// How long slowhttptest attacks at most. It opens its connections as fast as the machine lets it, in 5 s or in half a
/// minute.
const ATTACKED: Duration = Duration::from_secs(65);

/// Longest time from when slowhttptest says that it has opened its last connection until the router has ended all: each
/// has 10 s from when it came.
const ENDED_WITHIN: Duration = Duration::from_secs(15);

/// Descriptors more than before that need not be those of slow clients: others ask all the while, over connections of
/// their own and of the router to its replica, and so does slowhttptest itself.
const OTHERS: usize = 20;

/// Learns when slowhttptest says that it has opened so many connections, whatever became of them. It says how far it is
/// every 5 s.
fn learn_when_open(said: ChildStdout, connections: u64, open: &OnceLock<Instant>) {
    let mut counts = BTreeMap::new();
    for line in BufReader::new(said).lines().map_while(Result::ok) {
        // Between the colours that it writes in.
        let plain: String =
            line.split('\x1b').map(|it| it.split_once('m').map_or(it, |it| it.1)).collect();
        let Some((name, value)) = plain.split_once(':') else { continue };
        if let Ok(count) = value.trim().parse::<u64>() {
            counts.insert(name.to_owned(), count);
        }
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        let is_told = name == "service available";
        if is_told && connections <= of("connected") + of("error") + of("closed") {
            let _ = open.set(Instant::now());
        }
    }
}

/// Has slowhttptest attack a router with 4,000 connections, until all but few of them have been ended.
fn withstands(id: &str, what: &str, path: &str, arguments: &str) {
    if Command::new("slowhttptest").arg("-h").output().is_err() {
        println!("{id} skipped: slowhttptest is missing (apt-get install slowhttptest)");
        return;
    }
    let runtime = runtime();
    let replica = runtime.block_on(replica(Written::default()));
    let more = "timeouts: { client_head: 10s, client_body: 10s, client_stall: 10s }\n";
    let (router, _folder) = before(replica, more);
    let idle = (memory_kb(&router), router.descriptors());
    // What it says comes at once.
    let mut tool = Command::new("stdbuf");
    tool.args(["-oL", "slowhttptest"])
        .args(arguments.split(' '))
        .args("-c 4000 -r 800 -l 90 -p 3".split(' '));
    tool.arg("-u").arg(format!("http://{}{path}", router.data));
    let mut attack = tool.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let all_open = Arc::new(OnceLock::new());
    let (said, open) = (attack.stdout.take().unwrap(), Arc::clone(&all_open));
    let listening = std::thread::spawn(move || learn_when_open(said, 4_000, &open));
    let data = router.data;
    let is_over = Arc::new(AtomicBool::new(false));
    let others: Vec<_> = (0..4)
        .map(|_| Arc::clone(&is_over))
        .map(|is_over| std::thread::spawn(move || ask_others(data, &is_over)))
        .collect();
    let (began, mut most, mut left) = (Instant::now(), 0, usize::MAX);
    let is_late = || match all_open.get() {
        Some(open) => ENDED_WITHIN < open.elapsed(),
        None => ATTACKED < began.elapsed(),
    };
    while began.elapsed() < Duration::from_secs(20) || (OTHERS < left && !is_late()) {
        left = router.descriptors().saturating_sub(idle.1);
        most = most.max(left);
        std::thread::sleep(Duration::from_millis(100));
    }
    let ended = began.elapsed().as_secs_f64();
    let opened = all_open.get().map(|it| (*it - began).as_secs_f64());
    is_over.store(true, Ordering::Relaxed);
    let others = others.into_iter().map(|it| it.join().unwrap());
    let (served, asked) = others.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1));
    attack.kill().unwrap();
    attack.wait().unwrap();
    listening.join().unwrap();
    until("its connections are given back", || router.descriptors() <= idle.1 + 4);
    println!(
        "{id}: slowhttptest {arguments} ({what}), 4,000 connections: {served} of {asked} others served; {most} connections \
         at once and {left} after {ended:.0} s, all opened after {opened:.0?} s; memory {} → {} KB, descriptors {} → {}",
        idle.0,
        memory_kb(&router),
        idle.1,
        router.descriptors()
    );
    assert!(asked * 999 <= served * 1_000 && 1_000 < asked);
    assert!(
        1_000 < most && left <= OTHERS,
        "those whose time is over are ended: {left} of {most} left"
    );
    assert!(get(router.admin, "/readyz").is_ok_and(|it| it.status == 200));
    until("nothing is reserved", || router.reserved() == 0);
}

#[test]
#[ignore = "half a minute and slowhttptest: benches/full_counts.sh"]
fn full_b4_slow_heads_of_4_000_clients_hold_up_nobody() {
    withstands("B4", "slow heads", "/v1/chat/completions", "-H -i 2");
}

#[test]
#[ignore = "half a minute and slowhttptest: benches/full_counts.sh"]
fn full_b4_slow_bodies_of_4_000_clients_hold_up_nobody() {
    withstands("B4", "slow bodies", "/v1/chat/completions", "-B -i 2");
}

#[test]
#[ignore = "half a minute and slowhttptest: benches/full_counts.sh"]
fn full_b5_slow_readers_of_4_000_clients_hold_up_nobody() {
    withstands("B5", "slow readers", "/v1/models", "-X -w 10 -y 20 -n 5 -z 32 -k 3");
}
