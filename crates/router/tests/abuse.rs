//! What attackers send: ambiguous framing, floods of names, bombs. Named in docs/reliability.md.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "what a test measures is shown with --nocapture")]

mod common;

use std::sync::Arc;

use common::{
    CHAT, MODEL, Stage, chat, config, raw, stage, stage_with, until,
    witness::{provoke, witness},
};
use policy::config::StrategyName::RoundRobin;
use router::config::{Replica, units::ByteSize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const BODY: &str = r#"{"model":"m","messages":[]}"#;

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
