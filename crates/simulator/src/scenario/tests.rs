//! What a scenario file may say, and what it is told when it says something else.

use super::*;

const SMALL: &str = "
name: small
fleet: { replicas: 4 }
workload: { support-chat: {} }
load: { rates_per_s: [5], duration: 10s }
";

fn parse(text: &str) -> Result<Scenario, String> {
    serde_yaml::from_str(text).map_err(|error| error.to_string())
}

#[test]
fn four_keys_are_enough() {
    let scenario = parse(SMALL).unwrap();
    assert_eq!(scenario.problems(), Vec::<String>::new());
    assert_eq!(scenario.policy, Policy::default());
    assert_eq!(scenario.conversations, Conversations::Open);
}

#[test]
fn a_scenario_survives_being_written() {
    let faults = "
faults:
  - { kind: crash, at: 10s, replica: 1, down_for: 5s }
  - { kind: crash, at: 10s, replica: 1 }
  - { kind: slow, at: 1m, replica: 1, for: 5s, factor: 3 }
  - { kind: stall, at: 1m, replica: 1, for: 5s }
  - { kind: partition, at: 10s, replica: 1, for: 5s }
  - { kind: scale-out, at: 10s, replicas: 2 }
  - { kind: scale-in, at: 10s, replica: 3 }
  - { kind: rolling-deployment, at: 10s, down_for: 30s }
  - { kind: rotate-salt, at: 10s }
slo: { ttft: 2s, tpot: 50ms }
signals: { scrape_interval: null, scrape_loss: 0.1 }
";
    let scenario = parse(&format!("{SMALL}{faults}")).unwrap();
    assert_eq!(scenario.problems(), Vec::<String>::new());
    assert_eq!((scenario.faults.len(), scenario.signals.scrape_interval), (9, None));
    let written = serde_yaml::to_string(&scenario).unwrap();
    assert_eq!(parse(&written).unwrap(), scenario);
}

#[test]
fn loads_burst_rise_and_follow_a_series() {
    use workload::{Pacing, Schedule};
    let with = |load: &str| {
        let text = SMALL.replace("{ rates_per_s: [5], duration: 10s }", load);
        let scenario = parse(&text).unwrap();
        assert_eq!(scenario.problems(), Vec::<String>::new(), "{load}");
        assert_eq!(parse(&serde_yaml::to_string(&scenario).unwrap()).unwrap(), scenario);
        scenario.loads(1)
    };
    let bursts = with("{ rates_per_s: [5], arrivals: gamma, burstiness: 0.5, duration: 10s }");
    assert_eq!(bursts[0].1.schedule, Schedule::Gamma { rate_per_s: 5.0, burstiness: 0.5 });
    let ramp = with("{ rates_per_s: [5, 9], ramp: { from_per_s: 1, over: 5s }, duration: 10s }");
    let Schedule::Varying { pacing: Pacing::Poisson, rates } = &ramp[1].1.schedule else {
        panic!("{ramp:?}")
    };
    assert_eq!((rates.0[0].rate_per_s, rates.0[1].rate_per_s), (1.0, 9.0));
    let points = "[{ at: 0s, rate_per_s: 1 }, { at: 5s, rate_per_s: 4 }]";
    let series = with(&format!("{{ series: {points}, duration: 10s }}"));
    assert_eq!(series[0].0, None);
    let scaled = with(&format!("{{ rates_per_s: [8], series: {points}, duration: 10s }}"));
    let Schedule::Varying { rates, .. } = &scaled[0].1.schedule else { panic!("{scaled:?}") };
    assert_eq!((rates.0[0].rate_per_s, rates.0[1].rate_per_s), (2.0, 8.0));
    let lonely = SMALL.replace("rates_per_s: [5]", "ramp: { from_per_s: 1, over: 5s }");
    let problems = parse(&lonely).unwrap().problems().join("; ");
    assert!(problems.contains("load.ramp: needs rates_per_s"), "{problems}");
}

#[test]
fn a_misspelt_key_is_named() {
    for (from, to) in [
        ("replicas: 4", "replica: 4"),
        ("duration", "durations"),
        ("name", "nam"),
        ("support-chat: {}", "support-chat: { tenant: 1 }"),
    ] {
        let error = parse(&SMALL.replace(from, to)).unwrap_err();
        let key = to.split([':', ' ']).rfind(|it| it.len() > 2 && *it != "chat").unwrap();
        assert!(error.contains(key), "{key} is not in: {error}");
    }
    let fault = format!("{SMALL}faults: [{{ kind: slow, at: 1s, replica: 1, for: 1s, speed: 1 }}]");
    assert!(parse(&fault).unwrap_err().contains("speed"));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let scenario = parse(
        "
name: ''
fleet: { replicas: 0, station: { servers: 0, service: { kind: erlang, mean: 1s, shape: 0 } } }
routers: 0
attempts_max: 0
policy: { prefix: { match_min: 2, block: 0 }, saturation: { threshold: 0.1 } }
workload: { support-chat: { tenants: 0 } }
load: { rates_per_s: [-1], duration: 10s, warm_up: 10s }
signals: { scrape_loss: 2, cache_stated: 0 }
faults: [{ kind: slow, at: 1s, replica: 9, for: 1s, factor: 0 }]
",
    )
    .unwrap();
    let problems = scenario.problems().join("\n");
    for culprit in [
        "name",
        "fleet.replicas",
        "fleet.station.servers",
        "fleet.station.service.shape",
        "routers",
        "attempts_max",
        "policy.prefix.match_min",
        "policy.prefix.block",
        "policy.saturation.threshold",
        "workload.tenants",
        "load.rate",
        "load.warm_up",
        "signals.scrape_loss",
        "signals.cache_stated",
        "faults[0].factor",
    ] {
        assert!(problems.contains(culprit), "{culprit} is missing from:\n{problems}");
    }
}

#[test]
fn generated_traffic_needs_a_rate_and_an_end() {
    let scenario = parse(&SMALL.replace("rates_per_s: [5], duration: 10s", "")).unwrap();
    assert_eq!(scenario.problems().len(), 2, "{:?}", scenario.problems());
}

const CLASSES: &str = "
slo:
  default: { ttft: 1ns }
  classes: { batch: { completion: 1m }, interactive: { ttft: 10s } }
ranks: { 1: { class: batch }, 2: { slo: { e2e: 1ns } } }
";

#[test]
fn promises_are_written_with_classes_or_without() {
    let flat = parse(&format!("{SMALL}slo: {{ ttft: 2s }}")).unwrap();
    let named = parse(&format!("{SMALL}slo: {{ default: {{ ttft: 2s }} }}")).unwrap();
    assert_eq!(flat.slo, named.slo);
    let classed = parse(&format!("{SMALL}{CLASSES}")).unwrap();
    assert_eq!(classed.problems(), Vec::<String>::new());
    assert_eq!(parse(&serde_yaml::to_string(&classed).unwrap()).unwrap(), classed);
    let names: Vec<String> = classed.classes().into_keys().collect();
    assert_eq!(names, ["batch", "interactive", "tenant-2"]);
    let both = parse(&format!("{SMALL}slo: {{ ttft: 2s, default: {{ ttft: 1s }} }}")).unwrap_err();
    assert!(both.contains("not both"), "{both}");
}

#[test]
fn a_class_that_nobody_promised_anything_is_named() {
    let ranks = "ranks: { 1: { class: batsh }, 2: { class: batch, slo: { ttft: 1s } } }";
    let slo = "slo: { classes: { batch: { completion: 1m, ttft: 1s }, none: { ttft: 0s } } }";
    let problems = parse(&format!("{SMALL}{slo}\n{ranks}")).unwrap().problems().join("\n");
    for culprit in ["ranks.1.class: batsh", "ranks.2:", "slo.classes.batch:", "slo.classes.none:"] {
        assert!(problems.contains(culprit), "{culprit} is missing from:\n{problems}");
    }
}

#[test]
fn each_request_is_judged_by_the_promise_of_its_class() {
    let mix = "mix: [{ share: 1, slo_class: interactive, independent: {} }, \
               { share: 1, slo_class: batch, independent: {} }, { share: 1, independent: {} }]";
    let text = SMALL.replace("support-chat: {}", mix) + CLASSES;
    let scenario = parse(&text).unwrap();
    assert_eq!(scenario.problems(), Vec::<String>::new());
    let (_, load) = scenario.loads(1).remove(0);
    let planned = scenario.plan(&load, |_| Err(io::ErrorKind::NotFound.into())).unwrap();
    let profile = Profile::named(&scenario.fleet.profile).unwrap();
    let setup = scenario.setup(scenario.policy.strategy, AdmissionMode::Off, 1, profile);
    let recording = crate::run(&setup, planned.arrivals).unwrap();
    let info = report::RunInfo::default();
    let run = report::Run::measure(&info, &recording.records, &recording.gaps);
    let of = |name: &str| run.by_slo_class.iter().find(|it| it.name == name).unwrap();
    // What everybody is promised cannot be kept, what the classes are can.
    assert_eq!(of("").good, 0);
    assert_eq!(of("interactive").good, of("interactive").requests);
    assert_eq!(of("batch").accepted_row_rate, Some(1.0));
    assert!(of("batch").ttft_ms.is_none() && of("batch").requests > 0);
    assert_eq!(run.good, of("interactive").good + of("batch").good);
}
