//! E8: what can be done to a server with frames of HTTP/2 alone. Named in docs/reliability.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use common::{CHAT, Stage, chat, config, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Frames of one flood, where it is not bounded by what the router takes.
const FRAMES: u32 = 20_000;

/// What the router is asked for beside a flood.
const BESIDE: usize = 20;

/// How long a flood may go on before the router has ended it, or stopped taking it.
const FLOOD_MAX: Duration = Duration::from_secs(10);

/// When a flood is to be over; the bar is a second, the rest is for a machine that does much else.
const OVER_MAX: Duration = Duration::from_secs(5);

/// What memory may grow by.
const GROWTH_MAX: usize = 20 << 20;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a chat, each field spelled out.
fn head() -> Vec<u8> {
    // :method POST and :scheme http stand in the table of all connections.
    let mut head = vec![0x83, 0x86];
    for (index, value) in [(0x04, CHAT), (0x01, "r")] {
        head.extend([index, u8::try_from(value.len()).unwrap()]);
        head.extend(value.bytes());
    }
    head
}

/// Opens a connection as HTTP/2 clients do; `settings` are its own.
async fn open(stage: &Stage, settings: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    socket.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
    socket
}

/// What came back from the router: frames by their kind.
#[derive(Debug, Default)]
struct Back {
    kinds: BTreeMap<u8, usize>,
    is_closed: bool,
}

impl Back {
    /// Reads until the connection ends or nothing has come for a while.
    async fn read(mut socket: tokio::net::tcp::OwnedReadHalf, quiet: Duration) -> Self {
        let mut back = Self::default();
        let mut bytes = Vec::new();
        loop {
            while let Some(header) = bytes.get(..9) {
                let header: [u8; 9] = Vec::from(header).try_into().unwrap();
                let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
                let whole = 9 + usize::try_from(length).unwrap();
                if bytes.len() < whole {
                    break;
                }
                *back.kinds.entry(header[3]).or_default() += 1;
                bytes.drain(..whole);
            }
            match tokio::time::timeout(quiet, socket.read_buf(&mut bytes)).await {
                Ok(Ok(0) | Err(_)) => {
                    back.is_closed = true;
                    return back;
                }
                Ok(Ok(_)) => {}
                Err(_) => return back,
            }
        }
    }

    fn got(&self, kind: u8) -> usize {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }
}

/// How a flood ended.
#[derive(Debug)]
struct Ended {
    back: Back,
    /// From its first byte until the router would take no more.
    after: Duration,
    /// Bytes that the router took.
    sent: usize,
}

/// Writes `pieces` until they are over, the connection is, or the router takes nothing for a while.
async fn flood(socket: TcpStream, pieces: impl Iterator<Item = Vec<u8>>, reads: bool) -> Ended {
    let (near, mut far) = socket.into_split();
    let quiet = Duration::from_secs(1);
    // Who does not read keeps its half all the same.
    let (reading, kept): (Option<JoinHandle<Back>>, _) = if reads {
        (Some(tokio::spawn(Back::read(near, quiet))), None)
    } else {
        (None, Some(near))
    };
    let began = Instant::now();
    let (mut sent, mut batch) = (0, Vec::new());
    for piece in pieces {
        batch.extend(piece);
        if batch.len() < 1 << 14 {
            continue;
        }
        match tokio::time::timeout(quiet, far.write_all(&batch)).await {
            Ok(Ok(())) => sent += batch.len(),
            Ok(Err(_)) | Err(_) => break,
        }
        batch.clear();
        if FLOOD_MAX < began.elapsed() {
            break;
        }
    }
    let _ = tokio::time::timeout(quiet, far.write_all(&batch)).await;
    let after = began.elapsed();
    let back = match reading {
        Some(reading) => reading.await.unwrap(),
        None => Back::read(kept.unwrap(), quiet).await,
    };
    Ended { back, after, sent }
}

/// Resident memory of this process, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1_024
}

/// Asks for short answers one after another and says how long the slowest took.
async fn others(stage: &Stage) -> Duration {
    let mut slowest = Duration::ZERO;
    for _ in 0..BESIDE {
        let began = Instant::now();
        assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200);
        slowest = slowest.max(began.elapsed());
    }
    slowest
}

/// Runs a flood, and others' requests beside it; prints what was seen.
async fn beside(stage: &Stage, what: &str, flood: impl Future<Output = Ended>) -> Ended {
    let alone = others(stage).await;
    let before = resident_bytes();
    let (ended, slowest) = tokio::join!(flood, others(stage));
    let grown = resident_bytes().saturating_sub(before);
    println!(
        "E8 {what}: {} KB taken in {} ms, {} GOAWAY, {} RST_STREAM, closed {}; memory +{} KB; slowest of {BESIDE} \
         others {} ms (alone {} ms)",
        ended.sent >> 10,
        ended.after.as_millis(),
        ended.back.got(GOAWAY),
        ended.back.got(RST_STREAM),
        ended.back.is_closed,
        grown >> 10,
        slowest.as_millis(),
        alone.as_millis(),
    );
    assert!(grown <= GROWTH_MAX, "{what}: memory grew by {grown} bytes");
    ended
}

/// Numbers of a client's streams.
fn streams() -> impl Iterator<Item = u32> {
    (0..FRAMES).map(|it| 2 * it + 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e8_floods_of_frames_are_ended_or_held_back() {
    let mut config = config(RoundRobin);
    config.timeouts.client_stall = Duration::from_secs(2);
    let stage = stage_with(config, 1).await;
    others(&stage).await;
    let head = head();
    let over = |ended: &Ended| {
        assert!(ended.back.is_closed && ended.after < OVER_MAX, "{ended:?}");
    };

    let resets = streams().flat_map(|id| {
        [frame(HEADERS, END_HEADERS, id, &head), frame(RST_STREAM, 0, id, &8_u32.to_be_bytes())]
    });
    let ended = beside(&stage, "rapid reset", flood(open(&stage, &[]).await, resets, true)).await;
    over(&ended);
    assert_eq!(ended.back.got(GOAWAY), 1);

    // Each stream is made to be reset by the router itself.
    let provoked = streams().flat_map(|id| {
        [frame(HEADERS, END_HEADERS, id, &head), frame(WINDOW_UPDATE, 0, id, &[0; 4])]
    });
    let ended =
        beside(&stage, "made to reset", flood(open(&stage, &[]).await, provoked, true)).await;
    over(&ended);
    assert_eq!(ended.back.got(GOAWAY), 1);

    let begun = std::iter::once(frame(HEADERS, 0, 1, &head));
    let continued = begun.chain((0..FRAMES).map(|_| {
        let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x07][..], &[b'a'; 256]].concat();
        frame(CONTINUATION, 0, 1, &field)
    }));
    let ended =
        beside(&stage, "continuation", flood(open(&stage, &[]).await, continued, true)).await;
    over(&ended);

    // A field of 4,000 bytes is put into the table, and then named again and again by one byte.
    let mut bomb = head.clone();
    bomb.extend([0x40, 0x01, b'x', 0x7f, 0xa1, 0x1e]);
    bomb.extend([b'a'; 4_000]);
    bomb.extend([0xbe; 12_000]);
    let offered = 2_000;
    let bombs = (0..offered).map(|at| frame(HEADERS, END_HEADERS | END_STREAM, 2 * at + 1, &bomb));
    let ended = beside(&stage, "header bomb", flood(open(&stage, &[]).await, bombs, true)).await;
    over(&ended);
    // The first of them is one too many; the system's buffers take a few more.
    let of = usize::try_from(offered).unwrap() * bomb.len();
    assert!(ended.sent < of / 2, "{} of {of} bytes taken", ended.sent);

    let opened = streams().map(|id| frame(HEADERS, END_HEADERS, id, &head));
    let ended = beside(&stage, "many streams", flood(open(&stage, &[]).await, opened, true)).await;
    over(&ended);
    assert!(0 < ended.back.got(RST_STREAM), "those beyond 100 are refused");

    let begun = std::iter::once(frame(HEADERS, END_HEADERS, 1, &head));
    let empty = begun.chain((0..50 * FRAMES).map(|_| frame(DATA, 0, 1, &[])));
    let ended = beside(&stage, "empty data", flood(open(&stage, &[]).await, empty, true)).await;
    over(&ended);

    stage.until_idle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e8_what_a_client_does_not_take_is_not_kept_for_it() {
    let mut config = config(RoundRobin);
    config.timeouts.client_stall = Duration::from_secs(2);
    let stage = stage_with(config, 1).await;
    others(&stage).await;
    for (what, wave) in
        [("settings", frame(SETTINGS, 0, 0, &[])), ("ping", frame(PING, 0, 0, &[0; 8]))]
    {
        let waves = std::iter::repeat_n(wave, 4_000_000);
        let ended = beside(&stage, what, flood(open(&stage, &[]).await, waves, false)).await;
        // What the system's buffers hold, and no more.
        assert!(ended.sent < 32 << 20, "{what}: {} bytes taken", ended.sent);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e8_a_client_that_allows_nothing_more_is_given_up() {
    let mut config = config(RoundRobin);
    config.timeouts.client_stall = Duration::from_millis(500);
    let stage = stage_with(config, 1).await;
    // SETTINGS_INITIAL_WINDOW_SIZE is nothing at all.
    let mut socket = open(&stage, &[0, 4, 0, 0, 0, 0]).await;
    // Longer than a test may take: whoever is rid of them was not so because they had ended.
    let body = chat("count", 100_000, true).to_string();
    let began = Instant::now();
    for at in 0..20 {
        let id = 2 * at + 1;
        socket.write_all(&frame(HEADERS, END_HEADERS, id, &head())).await.unwrap();
        socket.write_all(&frame(DATA, END_STREAM, id, body.as_bytes())).await.unwrap();
    }
    // Counted when they leave, for on a slow machine the first may have left before the last comes.
    let left = "sluice_requests_total{outcome=\"client-gone\"}";
    until("all have been given up", async || stage.metric(left).await == 20).await;
    println!("E8 zero window: 20 streams given up after {} ms", began.elapsed().as_millis());
    until("the replica is rid of them", async || stage.upstream_in_flight() == 0).await;
    stage.until_idle().await;
}
