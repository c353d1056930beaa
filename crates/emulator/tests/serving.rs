//! Many requests at once, conversations, clients that leave or read slowly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeSet;

use common::{chat, eventually, post, question, replica, replica_of, streamed};
use engine::{Profile, StepTime};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

fn cached(answer: &common::Answer) -> u64 {
    answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

#[tokio::test]
async fn sixty_four_streams_at_once_all_get_their_tokens() {
    let replica = replica().await;
    let mut streams = JoinSet::new();
    for words in 0..64 {
        let (address, body) = (replica.address(), streamed(words, 20));
        streams.spawn(
            async move { common::send(address, &post("/v1/chat/completions", &body)).await },
        );
    }
    let answers = streams.join_all().await;
    for answer in &answers {
        assert!(answer.complete);
        assert_eq!(answer.streamed_text().len(), 20 * 4);
        let usage: Value =
            serde_json::from_str(answer.events().iter().rev().nth(1).unwrap()).unwrap();
        assert_eq!(usage["usage"]["completion_tokens"], 20);
        assert_eq!(answer.events().last(), Some(&"[DONE]"));
    }
    let ids: BTreeSet<String> = answers
        .iter()
        .map(|it| it.events().first().unwrap().split('"').nth(3).unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 64);
    let stats = replica.stats();
    assert_eq!((stats.in_flight, stats.counters.finished), (0, 64));
    assert_eq!(stats.counters.generation_tokens, 64 * 20);
}

#[tokio::test]
async fn the_second_turn_finds_the_first_and_its_answer_in_the_cache() {
    let replica = replica().await;
    let mut body = question(100, 100);
    let first = chat(&replica, &body).await;
    let answer = first.json()["choices"][0]["message"]["content"].clone();
    let prompt = first.json()["usage"]["prompt_tokens"].as_u64().unwrap();
    let turns = body["messages"].as_array_mut().unwrap();
    turns.push(json!({"role": "assistant", "content": answer}));
    turns.push(json!({"role": "user", "content": "and then?"}));
    let second = chat(&replica, &body).await;
    // The last token of the answer was never computed.
    assert_eq!(cached(&second), (prompt + 100 - 1) / 32 * 32);
}

#[tokio::test]
async fn an_answer_is_the_same_streamed_or_whole() {
    let replica = replica().await;
    let whole = chat(&replica, &question(30, 40)).await;
    let stream = chat(&replica, &streamed(30, 40)).await;
    assert_eq!(whole.json()["choices"][0]["message"]["content"], stream.streamed_text());
}

#[tokio::test]
async fn without_a_limit_the_answer_ends_by_itself() {
    let replica = replica().await;
    let body = json!({"model": "tiny-llama", "messages": [{"role": "user", "content": "hi"}]});
    let answer = chat(&replica, &body).await.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert!((1..=512).contains(&answer["usage"]["completion_tokens"].as_u64().unwrap()));
}

#[tokio::test]
async fn every_choice_has_its_own_text() {
    let replica = replica().await;
    let mut body = streamed(10, 12);
    body["n"] = json!(3);
    let answer = chat(&replica, &body).await;
    let mut texts = vec![String::new(); 3];
    for event in answer.events() {
        let Ok(event) = serde_json::from_str::<Value>(event) else { continue };
        let choice = &event["choices"][0];
        if let Some(text) = choice["delta"]["content"].as_str() {
            let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
            texts.get_mut(index).unwrap().push_str(text);
        }
    }
    assert!(texts.iter().all(|text| text.len() == 12 * 4));
    assert_eq!(texts.into_iter().collect::<BTreeSet<_>>().len(), 3);
}

/// A replica that takes 50 ms a step.
fn slow() -> Profile {
    let profile = common::profile();
    Profile { step: StepTime { weights_ms: 50.0, ..profile.step }, ..profile }
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_place() {
    let replica = replica_of(slow()).await;
    let mut leaving = Vec::new();
    for body in [streamed(100, 2000), question(200, 2000)] {
        let mut stream = TcpStream::connect(replica.address()).await.unwrap();
        stream.write_all(post("/v1/chat/completions", &body).as_bytes()).await.unwrap();
        leaving.push(stream);
    }
    eventually("both run", || replica.stats().load.running == 2).await;
    let mut first_bytes = [0; 16];
    leaving.first_mut().unwrap().read_exact(&mut first_bytes).await.unwrap();
    assert!(replica.stats().load.kv_usage > 0.0);
    drop(leaving);
    eventually("both are gone", || replica.stats().counters.aborted == 2).await;
    let stats = replica.stats();
    assert_eq!((stats.in_flight, stats.load.running), (0, 0));
    assert!(stats.load.kv_usage.abs() < f32::EPSILON);
}

#[tokio::test]
async fn a_reader_that_stops_reading_holds_up_nobody() {
    let replica = replica().await;
    let mut idle = TcpStream::connect(replica.address()).await.unwrap();
    let request = post("/v1/chat/completions", &streamed(10, 8000));
    idle.write_all(request.as_bytes()).await.unwrap();
    eventually("it runs", || replica.stats().load.running == 1).await;
    let answer = chat(&replica, &streamed(20, 50)).await;
    assert!(answer.complete);
    drop(idle);
    eventually("it is gone", || replica.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let replica = replica().await;
    let mut stream = TcpStream::connect(replica.address()).await.unwrap();
    let request =
        post("/v1/chat/completions", &question(5, 3)).replace("Connection: close\r\n", "");
    for _ in 0..3 {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        while !common::Answer::parse(&bytes).complete {
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0);
        }
        assert_eq!(common::Answer::parse(&bytes).status, 200);
    }
}

#[tokio::test]
async fn several_replicas_start_on_free_ports() {
    let options = emulator::Options {
        listen: "127.0.0.1:0".parse().unwrap(),
        replicas: 3,
        kv_blocks: Some(types::quantity::Blocks(100)),
        ..emulator::Options::default()
    };
    let replicas = emulator::start(&options).await.unwrap();
    let ports: BTreeSet<u16> = replicas.iter().map(|it| it.address().port()).collect();
    assert_eq!(ports.len(), 3);
    for replica in replicas {
        let page = common::get(replica.address(), "/metrics").await.body;
        assert!(page.contains("num_gpu_blocks=\"100\""));
        let models = common::get(replica.address(), "/v1/models").await.json();
        assert_eq!(models["data"][0]["id"], "llama-3-8b-h100");
        assert_eq!(models["data"][0]["max_model_len"], 1600);
        replica.shutdown().await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let replica = replica().await;
    let options = emulator::Options { listen: replica.address(), ..emulator::Options::default() };
    let error = emulator::start(&options).await.unwrap_err().to_string();
    assert!(error.contains(&replica.address().to_string()), "{error}");
}
