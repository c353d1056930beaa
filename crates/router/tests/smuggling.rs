//! Requests whose framing can be read in more than one way: none is smuggled. Named in docs/reliability.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use common::{
    CHAT, config, raw, stage, stage_with,
    witness::{provoked, witness},
};
use policy::config::StrategyName::RoundRobin;
use router::config::Replica;

const BODY: &str = r#"{"model":"m","messages":[]}"#;

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
