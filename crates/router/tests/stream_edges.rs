//! Where a stream begins, where it ends, and how what is one is told. Named in docs/reliability.md by the ids A9
//! and A10.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{CHAT, Stage, chat, config, raw, received, stage_with, until};
use http::{Method, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use policy::config::StrategyName::RoundRobin;
use router::config::Replica;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const ERROR: &str = "data: {\"error\":{\"message\":\"scheduler died\",\"code\":500}}\n\n";
const ROLE: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const TOKEN: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// What a replica does next.
#[derive(Clone, Copy)]
enum Do {
    Say(&'static str),
    /// In chunks of so many bytes.
    SayIn(usize, &'static str),
    Wait(Duration),
    End,
    /// Neither says anything nor closes, until the router does.
    Hang,
}

use Do::{End, Hang, Say, SayIn, Wait};

/// A replica that answers every request with a stream of events of the media type `kind`.
async fn replica(kind: &'static str, does: &'static [Do]) -> String {
    raw::replica(move |mut socket, _| async move {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        let _ = socket.write_all(head.as_bytes()).await;
        for step in does {
            match *step {
                Say(text) => say(&mut socket, text.as_bytes()).await,
                SayIn(size, text) => {
                    for part in text.as_bytes().chunks(size) {
                        say(&mut socket, part).await;
                        let _ = socket.flush().await;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                Wait(time) => tokio::time::sleep(time).await,
                End => {
                    let _ = socket.write_all(b"0\r\n\r\n").await;
                }
                Hang => {
                    let _ = socket.read_u8().await;
                }
            }
        }
    })
    .await
}

async fn say(socket: &mut tokio::net::TcpStream, bytes: &[u8]) {
    let chunk = [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let _ = socket.write_all(&chunk).await;
}

async fn before(does: &'static [Do]) -> Stage {
    common::stage_before(replica("text/event-stream", does).await, config(RoundRobin)).await
}

#[tokio::test]
async fn a9_an_error_before_the_first_token_is_had_from_another_replica_however_it_comes() {
    const BEHIND_COMMENT: &[Do] = &[Say(": ping\n\n"), Say(ERROR), Say(DONE), End];
    const CUT: &[Do] = &[SayIn(7, ERROR), Say(DONE), End];
    const BEHIND_ROLE: &[Do] = &[Say(ROLE), Say(ERROR), Say(DONE), End];
    const LATER: &[Do] = &[Say(ROLE), Wait(Duration::from_millis(10)), Say(ERROR), Say(DONE), End];
    const BROKEN: &[Do] = &[Say(": ping\n\n"), Say(ROLE)];
    const NAMED: &[Do] = &[Say(": a\n\nretry: 5\n\n"), SayIn(3, "event: error\ndata: {}\n\n"), End];
    for (name, does) in [
        ("behind a comment", BEHIND_COMMENT),
        ("cut in pieces", CUT),
        ("behind an empty piece", BEHIND_ROLE),
        ("a little later", LATER),
        ("broken off", BROKEN),
        ("by its name", NAMED),
    ] {
        let mut config = config(RoundRobin);
        let dying = Replica::at(replica("text/event-stream", does).await);
        config.replicas.push(Replica { name: Some("dying".to_owned()), ..dying });
        let stage = stage_with(config, 1).await;
        for at in 0..4 {
            let answer = stage.chat(&chat(&format!("hi {at}"), 2, true)).await;
            assert_eq!(answer.header("x-sluice-replica"), "r0", "{name}: {}", answer.body);
            assert!(!answer.body.contains("error"), "{name}: {}", answer.body);
        }
        assert!(0 < stage.metric("sluice_retries_total").await, "{name}");
    }
}

/// How long `stage` takes until it has passed on `text`, the last of the answer so far.
async fn time_to(stage: &Stage, text: &str) -> (Duration, Response<Incoming>) {
    let began = tokio::time::Instant::now();
    let body = chat("hi", 2, true).to_string();
    let mut answer = stage.open(Method::POST, CHAT, &[], body).await;
    let mut seen = Vec::new();
    while !seen.ends_with(text.as_bytes()) {
        let piece = answer.body_mut().frame().await.unwrap().unwrap();
        seen.extend_from_slice(piece.data_ref().unwrap_or(&Bytes::new()));
    }
    (began.elapsed(), answer)
}

#[tokio::test]
async fn a9_what_says_nothing_of_the_answer_is_not_held_back_for_long() {
    let stage = before(&[Say(": ping\n\n"), Say(ROLE), Hang]).await;
    let (took, answer) = time_to(&stage, ROLE).await;
    // What hangs is given up a minute later.
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(answer);
    stage.until_idle().await;
}

#[tokio::test]
async fn a9_what_was_held_back_is_passed_on_as_it_came() {
    const BEGINNING: &str =
        ": ping\r\n\r\nevent: x\r\ndata: {\"choices\":[]}\r\n\r\n: odd \u{e9}\n\n";
    const DOES: &[Do] = &[SayIn(5, BEGINNING), SayIn(11, TOKEN), Say(TOKEN), Say(DONE), End];
    let stage = before(DOES).await;
    let answer = stage.chat(&chat("hi", 2, true)).await;
    assert_eq!(answer.body, format!("{BEGINNING}{TOKEN}{TOKEN}{DONE}"));
    assert_eq!(answer.header("x-sluice-attempts"), "1");
}

#[tokio::test]
async fn a9_a_long_beginning_is_held_back_in_part() {
    const LONG: &str = match std::str::from_utf8(&[b'a'; 40 << 10]) {
        Ok(it) => it,
        Err(_) => "",
    };
    let stage = before(&[Say(": "), Say(LONG), Say("\n\n"), Say(TOKEN), Say(DONE), End]).await;
    let answer = stage.chat(&chat("hi", 2, true)).await;
    assert_eq!(answer.body, format!(": {LONG}\n\n{TOKEN}{DONE}"));
}

#[tokio::test]
async fn a10_nothing_that_follows_done_is_passed_on_and_nobody_waits_for_it() {
    const SAME: &[Do] = &[Say(TOKEN), Say("data: [DONE]\n\ndata: {\"more\":1}\n\n"), Hang];
    const LATER: &[Do] = &[Say(TOKEN), SayIn(3, DONE), Say(TOKEN), Hang];
    const NOTHING: &[Do] = &[Say(TOKEN), SayIn(1, DONE), Hang];
    const ON_AND_ON: &[Do] = &[Say(TOKEN), Say(DONE), SayIn(1, ": more\n\n"), Say(TOKEN), Hang];
    for (name, does) in
        [("same piece", SAME), ("next piece", LATER), ("nothing", NOTHING), ("more", ON_AND_ON)]
    {
        // Silence would be borne for longer than this test is.
        let mut config = config(RoundRobin);
        config.timeouts.stall = Duration::from_secs(600);
        let url = replica("text/event-stream", does).await;
        let stage = common::stage_before(url, config).await;
        let answer = stage.chat(&chat("hi", 2, true)).await;
        assert_eq!(answer.body, format!("{TOKEN}{DONE}"), "{name}");
        stage.until_idle().await;
        let complete = "sluice_requests_total{outcome=\"complete\"}";
        until("it is complete", async || stage.metric(complete).await == 1).await;
    }
}

#[tokio::test]
async fn a10_what_ends_an_answer_of_another_dialect_is_no_reason_to_wait_either() {
    const STOP: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";
    const DOES: &[Do] = &[Say(STOP), Say(": more\n\n"), Hang];
    let mut config = config(RoundRobin);
    config.timeouts.stall = Duration::from_secs(600);
    let stage = common::stage_before(replica("text/event-stream", DOES).await, config).await;
    let answer = stage.post("/v1/messages", &[], chat("hi", 2, true).to_string()).await;
    assert_eq!(answer.body, format!("{STOP}: more\n\n"));
}

#[tokio::test]
async fn a2_a_stream_is_known_by_its_media_type_however_that_is_written() {
    for kind in ["Text/Event-Stream", "TEXT/EVENT-STREAM; charset=utf-8"] {
        let url = replica(kind, &[Say(TOKEN)]).await;
        let stage = common::stage_before(url, config(RoundRobin)).await;
        let body = chat("hi", 2, true).to_string();
        let answer = received(stage.open(Method::POST, CHAT, &[], body).await).await;
        assert!(answer.body.contains("upstream_disconnect"), "{kind}: {}", answer.body);
    }
}
