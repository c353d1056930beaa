//! A router's recording replays to the decisions that it made.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{fs, path::Path};

use common::{CHAT, chat, config, stage_with};
use emulator::Fault;
use http::Method;
use policy::{
    config::{Routing, StrategyName},
    event::Event,
    recording::{Entry, Header, Replay, Tally},
};
use router::{config::Recording, serve::Router};

fn read(folder: &Path) -> (Header, Vec<Entry>) {
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "one run, one file: {files:?}");
    let text = fs::read_to_string(&files[0]).unwrap();
    assert!(!text.contains("secret"), "no text is recorded");
    let mut lines = text.lines();
    let header = serde_json::from_str(lines.next().unwrap()).unwrap();
    (header, lines.map(|it| serde_json::from_str(it).unwrap()).collect())
}

fn replay(mut replay: Replay, entries: &[Entry]) -> Tally {
    entries.iter().for_each(|it| replay.feed(it));
    replay.tally().clone()
}

#[tokio::test]
async fn a_recording_replays_to_the_same_decisions() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(StrategyName::PrefixAware);
    config.recording = Some(Recording::into_directory(folder.path().to_owned()));
    let mut stage = stage_with(config, 3).await;
    let ask = async |at: usize| {
        let question = format!("the secret of conversation {}: {}", at % 4, "word ".repeat(200));
        stage.chat(&chat(&question, 3, at.is_multiple_of(2))).await
    };
    for at in 0..12 {
        ask(at).await;
    }
    stage.replicas[1].set_fault(Fault::CloseBeforeAnswer).await.unwrap();
    for at in 12..24 {
        ask(at).await;
    }
    let switched = stage.admin(Method::PUT, "/admin/policy", r#"{"strategy":"random"}"#).await;
    assert_eq!(switched.status, 200);
    for at in 24..30 {
        ask(at).await;
    }
    stage.stop.cancel();
    (&mut stage.router).await.unwrap();

    let (header, entries) = read(folder.path());
    let again = replay(Replay::again(&header), &entries);
    assert_eq!(again.first_difference, None);
    assert!(30 <= again.decided && again.same == again.recorded, "{again:?}");
    let retries = entries.iter().filter(|it| matches!(it.event, Event::AttemptFailed(_))).count();
    assert!(0 < retries, "a retry is among what was recorded");

    let routing = Routing::new(StrategyName::RoundRobin);
    let instead = replay(Replay::instead(&header, routing), &entries);
    assert!(instead.agreement() < 1.0 && instead.expected_hit_rate() < again.expected_hit_rate());
}

#[tokio::test]
async fn a_recording_ends_at_its_length_and_requests_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(StrategyName::PrefixAware);
    let mut recording = Recording::into_directory(folder.path().to_owned());
    recording.bytes_max.0 = 2_000;
    config.recording = Some(recording);
    let mut stage = stage_with(config, 1).await;
    for _ in 0..10 {
        let body = chat(&"long ".repeat(300), 1, false).to_string();
        assert_eq!(stage.open(Method::POST, CHAT, &[], body).await.status(), 200);
    }
    stage.stop.cancel();
    (&mut stage.router).await.unwrap();
    let (header, entries) = read(folder.path());
    assert!(entries.len() < 40, "{}", entries.len());
    assert_eq!(replay(Replay::again(&header), &entries).first_difference, None);
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_named() {
    let mut config = config(StrategyName::PrefixAware);
    config.replicas.push(router::config::Replica::at("http://127.0.0.1:9".to_owned()));
    config.recording = Some(Recording::into_directory("no/such/folder".into()));
    let error = Router::open(config).await.unwrap_err().to_string();
    assert!(error.contains("no/such/folder") && error.contains("recording.directory"), "{error}");
}
