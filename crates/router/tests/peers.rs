//! Routers that tell each other what they place, over HTTP, before the same emulated replicas.

#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use common::{Answer, CHAT, MODEL, Stage, config, emulate, received, stage_with, until};
use emulator::{Fault, Handle};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use policy::config::StrategyName;
use router::config::{Config, Peers, Replica, Secret};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use types::{
    quantity::Tokens,
    request::{ModelId, RequestId},
};
use wire::placements::{Frame, Frames, Hello, Placed, write};

const SEED: u64 = 0x5eed;

/// A loopback address that nobody else uses: of this process and of nobody before.
fn own_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    (Ipv4Addr::new(127, high.max(1), low, last), 9_090).into()
}

/// A configuration of a router whose admin port is at `admin` and who listens to those at `peers`.
fn sharing(admin: SocketAddr, peers: &[SocketAddr]) -> Config {
    let mut config = config(StrategyName::LeastLatency);
    config.hash_seed = Some(SEED);
    config.admin.listen = admin;
    config.peers =
        Peers { urls: peers.iter().map(|it| format!("http://{it}")).collect(), ..Peers::default() };
    config
}

/// A router with that configuration before `replicas`, which stay their owner's.
async fn before(mut config: Config, replicas: &[Handle]) -> Stage {
    for (at, replica) in replicas.iter().enumerate() {
        let name = Some(format!("r{at}"));
        config.replicas.push(Replica { name, ..Replica::at(replica.url()) });
    }
    stage_with(config, 0).await
}

async fn emulated(count: usize) -> Vec<Handle> {
    let mut replicas = Vec::new();
    for _ in 0..count {
        replicas.push(emulate(Fault::None).await);
    }
    replicas
}

async fn until_connected(stage: &Stage, count: u64) {
    let connected = async || stage.metric("sluice_peers_connected").await == count;
    until("the other routers are heard", connected).await;
}

async fn until_failed(stage: &Stage, reason: &str) {
    let failures = format!("sluice_peer_failures_total{{reason=\"{reason}\"}}");
    until("the other router is refused", async || stage.metric(&failures).await > 0).await;
}

/// What a user of conversation `chat` says in turn `turn`.
fn said(chat: usize, turn: usize) -> Value {
    let text = format!("what user {chat} says in turn {turn}, at some length. ").repeat(80);
    json!({ "role": "user", "content": text })
}

async fn ask(stage: &Stage, messages: &[Value]) -> Answer {
    let body = json!({
        "model": MODEL,
        "messages": messages,
        "max_tokens": 2,
        "ignore_eos": true,
    });
    let answer = stage.post(CHAT, &[], body.to_string()).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer
}

fn found(answer: &Answer) -> u64 {
    answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn a_conversation_begun_at_one_router_goes_on_at_its_replica_through_another() {
    let replicas = emulated(4).await;
    let (one, other) = (own_address(), own_address());
    let here = before(sharing(one, &[other]), &replicas).await;
    let there = before(sharing(other, &[one]), &replicas).await;
    until_connected(&here, 1).await;
    until_connected(&there, 1).await;
    for chat in 0..12 {
        let (first, second) = if chat % 2 == 0 { (&here, &there) } else { (&there, &here) };
        let mut messages = vec![said(chat, 0)];
        let before = second.metric("sluice_placements_received_total").await;
        let begun = ask(first, &messages).await;
        // That it was placed, and that it has left.
        let is_told =
            async || before + 2 <= second.metric("sluice_placements_received_total").await;
        until("the other router knows", is_told).await;
        messages.push(json!({ "role": "assistant", "content": "well" }));
        messages.push(said(chat, 1));
        let goes_on = ask(second, &messages).await;
        assert_eq!(begun.header("x-sluice-replica"), goes_on.header("x-sluice-replica"), "{chat}");
        assert!(600 < found(&goes_on), "{chat}: {}", goes_on.body);
    }
    // What others have under way is never reserved here.
    here.until_idle().await;
    there.until_idle().await;
    assert_eq!(here.metric("sluice_placements_unknown_total").await, 0);
    assert_eq!(here.metric("sluice_placements_dropped_total").await, 0);
}

#[tokio::test]
async fn a_router_that_names_blocks_otherwise_is_refused() {
    let replicas = emulated(1).await;
    let (one, other, third) = (own_address(), own_address(), own_address());
    let mut unlike = sharing(one, &[]);
    unlike.hash_seed = Some(SEED + 1);
    let _unlike = before(unlike, &replicas).await;
    let mut coarse = sharing(other, &[]);
    coarse.policy.prefix.block = types::units::TokenCount(Tokens(128));
    let _coarse = before(coarse, &replicas).await;
    let stage = before(sharing(third, &[one, other]), &replicas).await;
    let refused = "sluice_peer_failures_total{reason=\"names\"}";
    until("both are refused", async || stage.metric(refused).await >= 2).await;
    assert_eq!(stage.metric("sluice_peers_connected").await, 0);
    ask(&stage, &[said(0, 0)]).await;
}

#[tokio::test]
async fn only_the_admin_key_lets_a_router_listen() {
    let replicas = emulated(1).await;
    let folder = tempfile::tempdir().unwrap();
    let secret = |key: &str| {
        let file = folder.path().join(key);
        std::fs::write(&file, key).unwrap();
        Some(Secret { file: Some(file), ..Secret::default() })
    };
    let one = own_address();
    let mut closed = sharing(one, &[]);
    closed.admin.key = secret("right");
    let closed = before(closed, &replicas).await;
    let answer = closed.admin(Method::GET, "/admin/placements", "").await;
    assert_eq!(answer.status, 401);
    let listening = |key: &str| {
        let mut config = sharing(own_address(), &[one]);
        config.peers.key = secret(key);
        config
    };
    let wrong = before(listening("wrong"), &replicas).await;
    until_failed(&wrong, "key").await;
    assert_eq!(wrong.metric("sluice_peers_connected").await, 0);
    let right = before(listening("right"), &replicas).await;
    until_connected(&right, 1).await;
}

#[tokio::test]
async fn a_router_that_is_not_there_harms_nobody_and_is_heard_when_it_comes() {
    let replicas = emulated(2).await;
    let (one, other) = (own_address(), own_address());
    let stage = before(sharing(one, &[other]), &replicas).await;
    until_failed(&stage, "unreachable").await;
    ask(&stage, &[said(0, 0)]).await;
    let late = before(sharing(other, &[one]), &replicas).await;
    until_connected(&stage, 1).await;
    until_connected(&late, 1).await;
    // One that goes while it has requests leaves nothing behind.
    let _streaming = late.stream(10_000).await;
    let told = async || stage.metric("sluice_placements_received_total").await > 0;
    until("the other has a request under way", told).await;
    late.router.abort();
    until_connected(&stage, 0).await;
    ask(&stage, &[said(1, 0)]).await;
    stage.until_idle().await;
}

#[tokio::test]
async fn a_router_does_not_listen_to_itself_nor_twice_to_another() {
    let replicas = emulated(1).await;
    let one = own_address();
    let there = before(sharing(([127, 0, 0, 1], 0).into(), &[]), &replicas).await;
    let mut config = sharing(one, &[one, there.admin]);
    // The same router by another name.
    config.peers.dns = Some(format!("localhost:{}", there.admin.port()));
    config.peers.urls.push(format!("http://localhost:{}", there.admin.port()));
    let stage = before(config, &replicas).await;
    until_connected(&stage, 1).await;
    for chat in 0..5 {
        ask(&stage, &[said(chat, 0)]).await;
    }
    assert_eq!(stage.metric("sluice_peers_connected").await, 1);
    assert_eq!(stage.metric("sluice_placements_received_total").await, 0);
}

#[tokio::test]
async fn who_listens_and_takes_nothing_holds_up_nobody() {
    let replicas = emulated(1).await;
    let stage = before(sharing(own_address(), &[]), &replicas).await;
    let mut deaf = TcpStream::connect(stage.admin).await.unwrap();
    let request = format!("GET /admin/placements HTTP/1.1\r\nhost: {}\r\n\r\n", stage.admin);
    deaf.write_all(request.as_bytes()).await.unwrap();
    until("it listens", async || stage.metric("sluice_placements_listeners").await == 1).await;
    for chat in 0..30 {
        ask(&stage, &[said(chat, 0)]).await;
    }
    assert!(60 <= stage.metric("sluice_placements_told_total").await);
    drop(deaf);
    until("it is gone", async || stage.metric("sluice_placements_listeners").await == 0).await;
}

/// What a router says first.
async fn hello(stage: &Stage) -> Hello {
    let uri = format!("http://{}/admin/placements", stage.admin);
    let request = Request::get(uri).body(Full::new(bytes::Bytes::new())).unwrap();
    let mut body = stage.client.request(request).await.unwrap().into_body();
    let mut frames = Frames::default();
    loop {
        let piece = body.frame().await.unwrap().unwrap();
        frames.push(&piece.into_data().unwrap());
        if let Some(Frame::Hello(hello)) = frames.take().unwrap() {
            return hello;
        }
    }
}

/// Something at `address` that answers each who asks with `bytes`, and stays silent then.
async fn saying(address: SocketAddr, bytes: Vec<u8>) {
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 2_048];
            let _ = socket.read(&mut head).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            let _ = socket.write_all(&bytes).await;
            kept.push(socket);
        }
    });
}

#[tokio::test]
async fn what_is_no_placement_is_refused_and_what_is_one_is_taken_as_far_as_it_makes_sense() {
    let replicas = emulated(1).await;
    let like = before(sharing(own_address(), &[]), &replicas).await;
    let fingerprint = hello(&like).await.fingerprint;
    let begun = |run: u64, frames: &[Frame]| {
        let mut bytes = Vec::new();
        write(&Frame::Hello(Hello { run, fingerprint }), &mut bytes);
        frames.iter().for_each(|it| write(it, &mut bytes));
        bytes
    };
    let addresses: Vec<SocketAddr> = (0..4).map(|_| own_address()).collect();
    saying(addresses[0], b"<html>".repeat(50)).await;
    saying(addresses[1], [begun(1, &[]), u32::MAX.to_le_bytes().to_vec()].concat()).await;
    saying(addresses[2], [begun(2, &[]), vec![1, 0, 0, 0, 99]].concat()).await;
    let placed = |id: u64, replica: String| {
        let blocks = (0..100).map(types::block::BlockHash).collect();
        let request =
            types::request::Request::new(RequestId(id), ModelId(1), Tokens(6_400), blocks);
        Frame::Placed(Placed { request, replica, cached: Tokens(0) })
    };
    let mut odd: Vec<Frame> =
        (0..50).map(|it| placed(it, "http://10.9.9.9:1".to_owned())).collect();
    odd.extend((0..50).map(|it| placed(it, replicas[0].url())));
    odd.extend([Frame::FirstToken(RequestId(9)), Frame::FirstToken(RequestId(99_999))]);
    odd.extend([Frame::Lost(3), Frame::Alive]);
    saying(addresses[3], begun(3, &odd)).await;
    let stage = before(sharing(own_address(), &addresses), &replicas).await;
    let malformed = "sluice_peer_failures_total{reason=\"malformed\"}";
    until("what is no placement is refused", async || stage.metric(malformed).await >= 3).await;
    let received = async || stage.metric("sluice_placements_received_total").await == 53;
    until("what is one is taken", received).await;
    assert_eq!(stage.metric("sluice_placements_unknown_total").await, 50);
    assert_eq!(stage.metric("sluice_peers_connected").await, 1);
    ask(&stage, &[said(0, 0)]).await;
    stage.until_idle().await;
}

#[tokio::test]
async fn placements_are_no_part_of_the_data_port() {
    let replicas = emulated(1).await;
    let stage = before(sharing(own_address(), &[]), &replicas).await;
    let answer = received(stage.open(Method::GET, "/admin/placements", &[], "").await).await;
    assert_eq!(answer.status, 404);
}

const CHATS: usize = 48;
const TURNS: usize = 6;
const REPLICAS: usize = 4;

/// One conversation, each turn through the next of `stages`: prompt tokens, and those found.
async fn converse(stages: Arc<Vec<Stage>>, seats: Arc<Semaphore>, chat: usize) -> (u64, u64) {
    let (mut prompt, mut cached) = (0, 0);
    let mut messages = Vec::new();
    for turn in 0..TURNS {
        messages.push(said(chat, turn));
        let seat = seats.acquire().await.unwrap();
        let answer = ask(&stages[(chat + turn) % stages.len()], &messages).await;
        drop(seat);
        prompt += answer.json()["usage"]["prompt_tokens"].as_u64().unwrap();
        cached += found(&answer);
        messages.push(json!({ "role": "assistant", "content": format!("answer {turn}") }));
    }
    (prompt, cached)
}

/// The hit rate in per cent through `count` routers.
async fn hit_rate(count: usize, share: bool) -> f64 {
    let replicas = emulated(REPLICAS).await;
    let addresses: Vec<SocketAddr> = (0..count).map(|_| own_address()).collect();
    let mut stages = Vec::new();
    for (at, address) in addresses.iter().enumerate() {
        let others = addresses.iter().enumerate().filter(|it| share && it.0 != at);
        let others: Vec<SocketAddr> = others.map(|it| *it.1).collect();
        stages.push(before(sharing(*address, &others), &replicas).await);
    }
    for stage in stages.iter().filter(|_| share) {
        until_connected(stage, count as u64 - 1).await;
    }
    let (stages, seats) = (Arc::new(stages), Arc::new(Semaphore::new(16)));
    let mut chats = JoinSet::new();
    for chat in 0..CHATS {
        chats.spawn(converse(Arc::clone(&stages), Arc::clone(&seats), chat));
    }
    let told = chats.join_all().await;
    let sum = |of: fn(&(u64, u64)) -> u64| told.iter().map(of).sum::<u64>() as f64;
    100.0 * sum(|it| it.1) / sum(|it| it.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure, which takes a while: `--ignored --nocapture` shows it"]
async fn three_routers_find_as_much_as_one() {
    let one = hit_rate(1, false).await;
    let alone = hit_rate(3, false).await;
    let told = hit_rate(3, true).await;
    println!(
        "hit rate: 1 router {one:.1} %, 3 that tell nothing {alone:.1} %, 3 that tell {told:.1} %"
    );
    assert!(one - told < 2.0, "{one} {alone} {told}");
}
