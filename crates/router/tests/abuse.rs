//! What attackers send: ambiguous framing, floods of names, bombs. Named in docs/reliability.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::sync::{Arc, Mutex};

use common::{CHAT, MODEL, Stage, chat, config, raw, stage, stage_with, until};
use policy::config::StrategyName::RoundRobin;
use router::config::{Replica, units::ByteSize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const BODY: &str = r#"{"model":"m","messages":[]}"#;

/// A replica that keeps connections and every head that it is sent, and answers each with its body.
struct Witness {
    url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

async fn witness() -> Witness {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heads = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&heads);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(testify(socket, Arc::clone(&seen)));
        }
    });
    Witness { url, heads }
}

async fn testify(mut socket: TcpStream, seen: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length =
                |line: &str| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok();
            let length: usize = head.lines().find_map(length).unwrap_or(0);
            if length <= rest.len() {
                let body = rest[..length].to_owned();
                if head.starts_with("POST ") {
                    seen.lock().unwrap().push(format!("{head}\r\n\r\n{body}"));
                }
                bytes.drain(..head.len() + 4 + length);
                let answer =
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if socket.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
                continue;
            }
        }
        match socket.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// What follows an ambiguous request: one of its own, if the router ends the first where it should
/// not.
fn smuggled() -> String {
    let body = r#"{"model":"evil","messages":[]}"#;
    format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line}\r\n{headers}\r\n\r\n{body}")
}

/// Requests whose end, target or meaning readers disagree on, and what a smuggler puts after them.
#[expect(clippy::too_many_lines, reason = "a table")]
fn vectors() -> Vec<(&'static str, String)> {
    let post = format!("POST {CHAT} HTTP/1.1");
    let length = BODY.len();
    let chunked = format!("{length:x}\r\n{BODY}\r\n0\r\n\r\n");
    let with = |headers: &str, body: &str| request(&post, headers, body);
    let sized =
        |headers: &str| with(&format!("host: r\r\ncontent-length: {length}\r\n{headers}"), BODY);
    let in_chunks = |encoding: &str, body: &str| with(&format!("host: r\r\n{encoding}"), body);
    let te = "transfer-encoding: chunked";
    vec![
        ("cl.te", with(&format!("host: r\r\ncontent-length: 4\r\n{te}"), &chunked)),
        ("te.cl", with(&format!("host: r\r\n{te}\r\ncontent-length: 4"), &chunked)),
        (
            "two lengths",
            with(&format!("host: r\r\ncontent-length: {length}\r\ncontent-length: 0"), BODY),
        ),
        ("one length twice", sized(&format!("content-length: {length}"))),
        ("list of lengths", with(&format!("host: r\r\ncontent-length: {length}, {length}"), BODY)),
        ("signed length", with(&format!("host: r\r\ncontent-length: +{length}"), BODY)),
        ("negative length", with("host: r\r\ncontent-length: -1", BODY)),
        ("hexadecimal length", with(&format!("host: r\r\ncontent-length: 0x{length:x}"), BODY)),
        ("endless length", with("host: r\r\ncontent-length: 99999999999999999999999", BODY)),
        ("chunked, then identity", in_chunks("transfer-encoding: chunked, identity", &chunked)),
        ("xchunked", in_chunks("transfer-encoding: xchunked", &chunked)),
        ("vertical tab", in_chunks("transfer-encoding: \u{b}chunked", &chunked)),
        ("two encodings", in_chunks(&format!("{te}\r\n{te}"), &chunked)),
        ("space before the colon", in_chunks("transfer-encoding : chunked", &chunked)),
        (
            "chunked in HTTP/1.0",
            request(&format!("POST {CHAT} HTTP/1.0"), &format!("host: r\r\n{te}"), &chunked),
        ),
        ("bare return in a value", sized("x: a\rb: c")),
        ("zero byte in a value", sized("x: a\0b")),
        ("folded line", sized("x: a\r\n b")),
        ("underscore in a size", in_chunks(te, &format!("0_2\r\n{BODY}\r\n0\r\n\r\n"))),
        ("0x in a size", in_chunks(te, &format!("0x{length:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        ("signed size", in_chunks(te, &format!("+{length:x}\r\n{BODY}\r\n0\r\n\r\n"))),
        (
            "size beyond numbers",
            in_chunks(te, &format!("fffffffffffffffff\r\n{BODY}\r\n0\r\n\r\n")),
        ),
        ("lines of chunks without return", in_chunks(te, &format!("{length:x}\n{BODY}\n0\n\n"))),
        (
            "long extension",
            in_chunks(te, &format!("{length:x};{}\r\n{BODY}\r\n0\r\n\r\n", "a".repeat(20_000))),
        ),
        ("no host", with(&format!("content-length: {length}"), BODY)),
        ("two hosts", sized("host: evil")),
        (
            "HTTP/1.32",
            request(
                &format!("POST {CHAT} HTTP/1.32"),
                &format!("host: r\r\ncontent-length: {length}"),
                BODY,
            ),
        ),
        (
            "other host in the line",
            request(
                &format!("POST http://evil{CHAT} HTTP/1.1"),
                &format!("host: r\r\ncontent-length: {length}"),
                BODY,
            ),
        ),
        ("strange expectation", sized("expect: 200-ok")),
        ("upgrade", sized("connection: upgrade\r\nupgrade: websocket")),
        ("connect", request("CONNECT r:80 HTTP/1.1", "host: r", "")),
        ("space in a name", sized("x y: a")),
        ("no name", sized(": a")),
        ("bare feed as the end", in_chunks(te, &format!("{length:x}\r\n{BODY}\r\n0\r\n\n"))),
        (
            "trailer with a bare feed",
            in_chunks(te, &format!("{length:x}\r\n{BODY}\r\n0\r\nX: 5\n\r\n")),
        ),
        ("HTTP/0.9", format!("POST {CHAT}\r\n\r\n")),
        ("lines without return", format!("{post}\nhost: r\ncontent-length: {length}\n\n{BODY}")),
    ]
}

/// How long a router may say nothing and keep the connection.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// Sends `bytes` and what is smuggled after them, and returns what comes back until the router
/// closes or has answered two requests.
async fn provoke(stage: &Stage, bytes: &str) -> String {
    let (answers, is_over) = provoked(stage, bytes).await;
    assert!(is_over, "still waiting: {answers}");
    answers
}

/// The same, and whether it came to that.
async fn provoked(stage: &Stage, bytes: &str) -> (String, bool) {
    let mut socket = TcpStream::connect(stage.data).await.unwrap();
    // The router may have closed before it has all of it.
    let _ = socket.write_all(bytes.as_bytes()).await;
    let _ = socket.write_all(smuggled().as_bytes()).await;
    let mut seen = Vec::new();
    let reading = async {
        while String::from_utf8_lossy(&seen).matches("HTTP/1.").count() < 2 {
            match socket.read_buf(&mut seen).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    // One that waits for more of a body gets none.
    let is_over = tokio::time::timeout(SILENCE_MAX, reading).await.is_ok();
    (String::from_utf8_lossy(&seen).into_owned(), is_over)
}

/// Sends one vector past a router of its own and checks what reached its replica.
async fn nothing_is_smuggled(name: &str, bytes: &str) {
    let witness = witness().await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(witness.url.clone()));
    let stage = stage_with(config, 0).await;
    let (answers, is_over) = provoked(&stage, bytes).await;
    assert!(is_over, "{name} is neither refused nor served: {answers}");
    let heads = witness.heads.lock().unwrap().clone();
    let served = answers.matches("HTTP/1.1 200").count();
    assert_eq!(heads.len(), served, "{name}: as many reach a replica as are answered: {answers}");
    for head in &heads {
        let head = head.split("\r\n\r\n").next().unwrap().to_lowercase();
        assert!(!head.contains("transfer-encoding"), "{name}: {head}");
        assert_eq!(head.matches("content-length").count(), 1, "{name}: {head}");
        assert_eq!(head.matches("\r\nhost:").count(), 1, "{name}: {head}");
        assert!(!head.contains("upgrade") && !head.contains("evil"), "{name}: {head}");
        let is_plain = |it: u8| it == b'\r' || it == b'\n' || it == b'\t' || it >= b' ';
        assert!(head.bytes().all(is_plain), "{name}: {head:?}");
    }
    // What is refused for its framing closes the connection: nothing after it is served.
    if answers.starts_with("HTTP/1.1 400") {
        assert_eq!(served, 0, "{name}: {answers}");
    }
    let first = answers.lines().next().unwrap_or_default();
    if !HARMLESS.contains(&name) {
        assert!(!first.contains(" 200 "), "{name} is ambiguous and served: {answers}");
    }
}

/// Vectors of which one reading is left once the router has written them anew: chunks win over a
/// length, which goes no further (RFC 9112, section 6.3), and equal lengths are one.
const HARMLESS: [&str; 9] = [
    "cl.te",
    "te.cl",
    "long extension",
    "other host in the line",
    "upgrade",
    "lines without return",
    "one length twice",
    "list of lengths",
    "HTTP/1.32",
];

#[tokio::test]
async fn e1_no_request_is_smuggled_past_the_router() {
    let mut trying = tokio::task::JoinSet::new();
    for (name, bytes) in vectors() {
        trying.spawn(async move { nothing_is_smuggled(name, &bytes).await });
    }
    println!("E1: {} vectors, all refused or made plain", trying.len());
    assert!(27 <= trying.len());
    while let Some(tried) = trying.join_next().await {
        tried.unwrap();
    }
}

#[tokio::test]
async fn e1_nothing_is_served_behind_a_chunked_body_that_nobody_reads() {
    let stage = stage(RoundRobin, 1).await;
    let hidden = "GET /v1/models HTTP/1.1\r\nhost: r\r\n\r\n";
    let victim = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n{hidden}",
        hidden.len()
    );
    for line in ["GET /v1/models", "POST /v1/nothing"] {
        for end in ["0\r\n\n", "0\r\nX: 5\n\r\n"] {
            let head = format!("{line} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n");
            let bytes = format!("{head}{end}{victim}");
            let answers = raw::rest(raw::send(stage.data, &bytes).await).await;
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{line} {end:?}: {answers}");
            assert!(answers.contains("connection: close"), "{line} {end:?}: {answers}");
        }
    }
}

#[tokio::test]
async fn e4_heads_that_are_too_long_or_of_too_many_lines_go_no_further() {
    let stage = stage(RoundRobin, 1).await;
    let many = |count: usize| -> String { (0..count).map(|it| format!("x-{it}: a\r\n")).collect() };
    for (name, headers) in [
        ("64 KB", format!("x: {}\r\n", "a".repeat(64 << 10))),
        ("1 MB", format!("x: {}\r\n", "a".repeat(1 << 20))),
        ("200 lines", many(200)),
        ("10,000 lines", many(10_000)),
    ] {
        let mut socket = TcpStream::connect(stage.data).await.unwrap();
        let head =
            format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\n{headers}content-length: 2\r\n\r\n{{}}");
        let _ = socket.write_all(head.as_bytes()).await;
        let mut seen = Vec::new();
        // It may be reset before all of the answer is here.
        let _ = socket.read_to_end(&mut seen).await;
        let answer = String::from_utf8_lossy(&seen);
        assert!(seen.is_empty() || answer.starts_with("HTTP/1.1 431"), "{name}: {answer}");
    }
    assert_eq!(stage.replicas[0].stats().counters.prompt_tokens, 0);
}

#[tokio::test]
async fn e5_a_body_that_says_it_is_huge_is_refused_before_it_comes() {
    let stage = stage(RoundRobin, 1).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: 1073741824\r\n\r\n");
    let answer = raw::rest(raw::send(stage.data, &head).await).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

/// A router with room for four bodies of the longest kind, 1 MiB, before a replica that answers who says
/// hi, and nobody else.
async fn little_room() -> Stage {
    let url = raw::replica(|mut socket, request| async move {
        if request.contains("hi") {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        } else {
            let _ = socket.read_u8().await;
        }
    })
    .await;
    let mut config = config(RoundRobin);
    config.limits.body_bytes_max = ByteSize(1 << 20);
    config.limits.body_bytes_in_flight_max = ByteSize(4 << 20);
    common::stage_before(url, config).await
}

const MIB: usize = 1 << 20;

fn announced(length: usize) -> String {
    format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test]
async fn e5_heads_that_announce_much_and_send_nothing_keep_nobody_out() {
    let stage = stage(RoundRobin, 1).await;
    let chunked = format!("POST {CHAT} HTTP/1.1\r\nhost: r\r\ntransfer-encoding: chunked\r\n\r\n");
    let mut open = Vec::new();
    for at in 0..64 {
        let head = if at % 2 == 0 { announced(32 * MIB) } else { chunked.clone() };
        open.push(raw::send(stage.data, &head).await);
    }
    // As many again with a first byte: 64 announce 2 GiB, where 512 MiB are allowed.
    for _ in 0..32 {
        open.push(raw::send(stage.data, &(announced(32 * MIB) + "{")).await);
    }
    let mut served = 0;
    for _ in 0..20 {
        served += u32::from(stage.chat(&chat("hi", 1, false)).await.status == 200);
    }
    println!("E5: {served} of 20 served beside {} bodies that do not come", open.len());
    assert_eq!(served, 20);
}

#[tokio::test]
async fn e5_bodies_together_take_no_more_memory_than_they_may() {
    let stage = little_room().await;
    let before = r#"{"model":"m","prompt":""#;
    let body = format!("{before}{}\"}}", "x".repeat(MIB - before.len() - 2));
    assert_eq!(body.len(), MIB);
    let mut open = Vec::new();
    for count in 1..=4 {
        open.push(raw::post(stage.data, "/v1/completions", &body).await);
        until("it is placed", async || {
            let status = stage.admin(http::Method::GET, "/admin/replicas", "").await.json();
            status["replicas"][0]["in_flight"] == count
        })
        .await;
    }
    let refused = stage.chat(&chat("hi", 1, false)).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "overloaded"));
    assert_eq!(refused.header("x-sluice-dropped-reason"), "rejected-saturated");
    open.pop();
    until("it is given back", async || stage.chat(&chat("hi", 1, false)).await.status == 200).await;
}

#[tokio::test]
async fn e5_bodies_that_stand_still_make_room_for_those_that_come() {
    let stage = little_room().await;
    let part = announced(MIB) + &"x".repeat(MIB - 1);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(raw::send(stage.data, &part).await);
    }
    let began = std::time::Instant::now();
    // Until the bodies are here there is room; then the one that needs some has one of them ended.
    until("a body is ended", async || {
        let _ = stage.chat(&chat("hi", 1, false)).await;
        let mut seen = [0; 12];
        open.iter().any(|it| it.try_read(&mut seen).is_ok() && &seen == b"HTTP/1.1 503")
    })
    .await;
    until("there is room", async || stage.chat(&chat("hi", 1, false)).await.status == 200).await;
    println!("E5: room again {} ms after four bodies stood still", began.elapsed().as_millis());
}

#[tokio::test]
async fn e6_json_bombs_are_answered_and_not_felt() {
    let stage = stage(RoundRobin, 1).await;
    let million = 1_000_000;
    // A chat that is served, and then some.
    let with = |more: &str| {
        let messages = r#""messages":[{"role":"user","content":"hi"}]"#;
        format!(r#"{{"model":"{MODEL}",{messages},"ignore_eos":true,{more}}}"#)
    };
    let messages = |text: &str| format!(r#"{{"model":"{MODEL}","messages":{text}}}"#);
    let few = r#""max_tokens":1"#;
    let twice = "appears more than once";
    for (name, status, said, body) in [
        ("nothing", 200, "", with(few)),
        ("deep", 400, "", messages(&("[".repeat(million) + &"]".repeat(million)))),
        ("keys", 200, "", with(&(r#""k":1,"#.repeat(million) + few))),
        ("turns", 400, "", messages(&format!("[{}{{}}]", "{},".repeat(million)))),
        ("long text", 200, "", with(&format!(r#""prompt":"{}",{few}"#, "a".repeat(16 << 20)))),
        ("numbers", 400, "", with(r#""max_tokens":1e99999"#)),
        ("surrogate", 400, "`model`", r#"{"model":"\ud800","messages":[]}"#.to_owned()),
        ("mark", 400, "not JSON", format!("\u{feff}{}", with(few))),
        ("zero", 400, "not JSON", format!("{{\"model\":\"{MODEL}\0\",\"messages\":[]}}")),
        // Whichever of two is taken, it is one that is served.
        ("models", 400, twice, with(&format!(r#"{few},"model":"{MODEL}""#))),
        ("escaped model", 400, twice, with(&format!(r#"{few},"mod\u0065l":"{MODEL}""#))),
        ("streams", 400, twice, with(&format!(r#"{few},"stream":true,"stream":false"#))),
        (
            "escaped stream",
            400,
            twice,
            with(&format!(r#"{few},"stream":true,"stre\u0061m":false"#)),
        ),
    ] {
        let (bytes, began) = (body.len(), std::time::Instant::now());
        let answer = stage.post(CHAT, &[], body).await;
        println!(
            "E6 {name}: {bytes} bytes, {} in {} ms",
            answer.status,
            began.elapsed().as_millis()
        );
        assert_eq!(answer.status, status, "{name}: {answer:?}");
        assert!(answer.body.contains(said), "{name}: {answer:?}");
    }
    assert_eq!(stage.chat(&chat("hi", 1, false)).await.status, 200);
}

#[tokio::test]
async fn e12_and_g10_paths_are_taken_as_they_are_written() {
    let stage = stage(RoundRobin, 1).await;
    for path in [
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions;a",
        "/v1/chat/%63ompletions",
        "/v1/x/../chat/completions",
        "/v1/x/%2e%2e/chat/completions",
        "/V1/chat/completions",
        "/flush_cache",
        "/workers",
        "/abort_request",
        "/reset_prefix_cache",
        "/admin/replicas",
        "/metrics",
        "/v1/load_lora_adapter",
        "/sleep",
        "/collective_rpc",
    ] {
        assert_eq!(stage.post(path, &[], BODY).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn b8_methods_that_nobody_serves_are_refused_and_go_nowhere() {
    let stage = stage(RoundRobin, 1).await;
    for method in ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "BREW"] {
        let answer = provoke(
            &stage,
            &format!("{method} {CHAT} HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n"),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{method}: {answer}");
    }
    let star = provoke(&stage, "OPTIONS * HTTP/1.1\r\nhost: r\r\nconnection: close\r\n\r\n").await;
    assert!(star.starts_with("HTTP/1.1 404"), "{star}");
}

#[tokio::test]
async fn b8_a_client_that_asks_first_is_told_to_go_on() {
    let stage = stage(RoundRobin, 1).await;
    let body = chat("hi", 1, false).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: r\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut socket = raw::send(stage.data, &head).await;
    let mut told = [0; 25];
    socket.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(body.as_bytes()).await.unwrap();
    assert!(raw::rest(socket).await.starts_with("HTTP/1.1 200 OK"));
}

/// Every answer goes to who asked for it, over kept connections and with requests sent ahead.
#[tokio::test]
async fn b6_no_answer_is_mixed_up_with_another() {
    let witness = witness().await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(witness.url.clone()));
    let stage = Arc::new(stage_with(config, 0).await);
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let stage = Arc::clone(&stage);
            tokio::spawn(async move {
                let mut socket = TcpStream::connect(stage.data).await.unwrap();
                let mut sent = String::new();
                let mut expected = Vec::new();
                for at in 0..100 {
                    let body = format!(r#"{{"model":"m","user":"{client}-{at}","messages":[]}}"#);
                    sent += &format!(
                        "POST {CHAT} HTTP/1.1\r\nhost: r\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    expected.push(body);
                }
                socket.write_all(sent.as_bytes()).await.unwrap();
                let mut seen = Vec::new();
                while String::from_utf8_lossy(&seen).matches("\"user\"").count() < expected.len() {
                    assert_ne!(socket.read_buf(&mut seen).await.unwrap(), 0);
                }
                let seen = String::from_utf8(seen).unwrap();
                let mut rest = seen.as_str();
                for body in &expected {
                    let at = rest.find(body.as_str()).unwrap_or_else(|| panic!("{body} in {rest}"));
                    assert_eq!(
                        rest[..at].matches("HTTP/1.1 200").count(),
                        1,
                        "in order, each once"
                    );
                    rest = &rest[at + body.len()..];
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(witness.heads.lock().unwrap().len(), 800);
}

/// A replica that says too short a length: what is left over must not become the next answer.
#[tokio::test]
async fn a10_bytes_beyond_an_answer_reach_nobody() {
    let url = raw::replica(|mut socket, _| async move {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
        let _ = socket.write_all(answer.as_bytes()).await;
        let _ = socket.read_u8().await;
    })
    .await;
    let mut config = config(RoundRobin);
    config.replicas.push(Replica::at(url));
    let stage = stage_with(config, 0).await;
    for _ in 0..100 {
        let answer = stage.post(CHAT, &[], BODY).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, "{}"));
    }
}

#[tokio::test]
async fn g6_what_clients_send_makes_no_series() {
    let stage = stage(RoundRobin, 1).await;
    let series = async || {
        let text = stage.admin(http::Method::GET, "/metrics", "").await.body;
        text.lines().filter(|it| !it.starts_with('#')).count()
    };
    let _ = stage.chat(&chat("hi", 1, false)).await;
    let before = series().await;
    for at in 0..500 {
        // By turns one that is served, a model that nobody has, and a priority that is none.
        let mut body = chat("hi", 1, false);
        body["user"] = format!("user-{at}").into();
        let (mut priority, status) = ("batch".to_owned(), [200, 404, 400][at % 3]);
        match status {
            404 => body["model"] = format!("model-{at}").into(),
            400 => priority = format!("priority-{at}"),
            _ => {}
        }
        let session = format!("session-{at}");
        let headers = [("x-sluice-priority", priority.as_str()), ("x-session-id", &session)];
        let answer = stage.post(CHAT, &headers, body.to_string()).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let _ = stage.get(&format!("/path/{at}")).await;
    }
    let after = series().await;
    println!(
        "G6: {} new series after 500 users, sessions and paths, a third with models or priorities of their own",
        after - before
    );
    assert!(after <= before + 50, "{before} series became {after}");
    let size = stage.admin(http::Method::GET, "/metrics", "").await.body.len();
    assert!(size < 1 << 20, "{size} bytes");
}

#[tokio::test]
async fn g8_a_request_id_is_short_or_replaced() {
    let stage = stage(RoundRobin, 1).await;
    let long = "a".repeat(1_000);
    for id in [long.as_str(), "a b", "a\u{1b}[31m"] {
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: r\r\nconnection: close\r\nx-request-id: {id}\r\n\r\n"
        );
        let answer = raw::rest(raw::send(stage.data, &head).await).await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.contains("x-request-id: req-"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn f4_a_flood_of_sessions_is_bounded() {
    let mut config = config(policy::config::StrategyName::Sticky);
    config.policy.session.sessions_max = 100.try_into().unwrap();
    let stage = stage_with(config, 1).await;
    for at in 0..300 {
        let _ = stage
            .post(CHAT, &[("x-session-id", &format!("s-{at}"))], chat("hi", 1, false).to_string())
            .await;
    }
    let kept = stage.metric("sluice_sessions").await;
    println!("F4: {kept} of 300 sessions kept");
    assert_eq!(kept, 100);
}

#[tokio::test]
async fn f4_a_long_name_is_no_session() {
    let stage = stage(policy::config::StrategyName::Sticky, 1).await;
    // Nothing else of it names a conversation: that would begin with what a user says.
    let body = format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"system","content":"hi"}}],"max_tokens":1}}"#
    );
    for (length, sessions) in [(300, 0), (257, 0), (256, 1)] {
        let name = "s".repeat(length);
        let answer = stage.post(CHAT, &[("x-session-id", &name)], body.clone()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        stage.until_idle().await;
        let kept = async || stage.metric("sluice_sessions").await;
        until("it is kept, or is not", async || kept().await == sessions).await;
    }
}
