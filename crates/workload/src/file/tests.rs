//! What a workload file may say, and what a plan holds.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{arrival, schedule::Schedule};

const SUPPORT_CHAT: &str = include_str!("../../../../config/workloads/support-chat.yaml");

const MOONCAKE: &str = include_str!("../../../../config/workloads/mooncake.yaml");

fn parse(text: &str) -> Result<Workload, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}

fn no_file(_: &str) -> io::Result<String> {
    Err(io::ErrorKind::NotFound.into())
}

fn load(schedule: Schedule, seconds: Option<u64>) -> Load {
    Load { schedule, duration: seconds.map(Duration::from_secs), seed: 1 }
}

#[test]
fn the_shipped_support_chat_states_every_default() {
    let workload = parse(SUPPORT_CHAT).unwrap();
    assert_eq!(workload, Workload::SupportChat(SupportChat::default()));
    let written = serde_yaml::to_string(&workload).unwrap();
    for key in written.lines().filter_map(|line| line.split(':').next()) {
        assert!(SUPPORT_CHAT.contains(key.trim()), "{key} is not in the file");
    }
}

#[test]
fn mistakes_in_a_file_are_named() {
    for (text, culprit) in [
        ("support-chat: { tenant: 4 }", "unknown field `tenant`"),
        ("support-chat: { think_time: { min: 2, max: 6s } }", "think_time"),
        ("chat: {}", "unknown field `chat`"),
        ("{}", "exactly one of the keys"),
        ("{ support-chat: {}, independent: {} }", "exactly one of the keys"),
        ("trace: {}", "missing field `file`"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(culprit), "{text}: {error}");
    }
}

#[test]
fn a_workload_survives_being_written() {
    for text in [
        "support-chat: {turns: 2}",
        "independent: {}",
        "trace: {file: a/b.jsonl}",
        "documents: {}",
        "mix: [{share: 1, documents: {}}]",
    ] {
        let workload = parse(text).unwrap();
        assert_eq!(parse(&serde_yaml::to_string(&workload).unwrap()).unwrap(), workload);
    }
}

#[test]
fn the_bundled_slice_reuses_what_its_readme_says() {
    let workload = parse(MOONCAKE).unwrap();
    let defaults = Trace::new(bundled::MOONCAKE_SLICE_NAME.to_owned());
    let shown = Trace { block_tokens: Some(512), ..defaults };
    assert_eq!(workload, Workload::Trace(shown));
    let planned = workload.plan(&load(Schedule::Trace { speedup: 1.0 }, None), no_file).unwrap();
    assert_eq!((planned.arrivals.len(), planned.until), (146, None));
    assert_eq!(planned.arrivals.last().unwrap().at.elapsed(), Duration::from_secs(597));
    let readme = 572_215.0 / 1_819_799.0;
    assert!((arrival::reuse(&planned.arrivals) - readme).abs() < 1e-9);
}

#[test]
fn what_is_missing_is_asked_for() {
    let chat = Workload::SupportChat(SupportChat::default());
    let trace = Workload::Trace(Trace::new("gone.jsonl".to_owned()));
    let poisson = || Schedule::Poisson { rate_per_s: 2.0 };
    for (workload, load, culprit) in [
        (&chat, load(Schedule::Trace { speedup: 1.0 }, Some(9)), "give a rate"),
        (&chat, load(poisson(), None), "give a duration"),
        (&chat, load(poisson(), Some(0)), "no request at all"),
        (&chat, load(Schedule::Poisson { rate_per_s: -2.0 }, Some(9)), "rate: needs"),
        (&trace, load(poisson(), None), "cannot read the trace gone.jsonl"),
    ] {
        let error = workload.plan(&load, no_file).unwrap_err().to_string();
        assert!(error.contains(culprit), "{error}");
    }
}

#[test]
fn independent_requests_share_nothing() {
    let workload = parse("independent: {}").unwrap();
    let load = load(Schedule::Constant { rate_per_s: 10.0 }, Some(10));
    let planned = workload.plan(&load, no_file).unwrap();
    let names: BTreeSet<u64> =
        planned.arrivals.iter().map(|it| it.prompt.messages[0].segments[0].id).collect();
    assert_eq!((planned.arrivals.len(), names.len()), (99, 99));
    assert_eq!(planned.until, Some(Duration::from_secs(10)));
}

#[test]
fn a_file_without_times_asks_for_a_rate() {
    let workload = parse("trace: {file: talks.jsonl}").unwrap();
    let read = |_: &str| {
        Ok(r#"{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes?"}]}"#.to_owned())
    };
    let error = workload.plan(&load(Schedule::Trace { speedup: 1.0 }, None), read).unwrap_err();
    assert_eq!(error.to_string(), "talks.jsonl does not tell when requests come; give a rate");
    let planned = workload.plan(&load(Schedule::Constant { rate_per_s: 1.0 }, None), read).unwrap();
    assert_eq!(planned.arrivals.len(), 1);
}

#[test]
fn a_file_of_no_known_format_is_told_what_there_is() {
    let workload = parse("trace: {file: x.csv}").unwrap();
    let read = |_: &str| Ok("a,b\n1,2\n".to_owned());
    let recorded = load(Schedule::Trace { speedup: 1.0 }, None);
    let error = workload.plan(&recorded, read).unwrap_err().to_string();
    assert!(error.starts_with("x.csv, line 1: no known format begins like this"), "{error}");
    assert!(error.contains("--format"), "{error}");
    let named = parse("trace: {file: x.csv, format: azure}").unwrap();
    let error = named.plan(&recorded, read).unwrap_err().to_string();
    assert!(error.contains("no column TIMESTAMP"), "{error}");
}
