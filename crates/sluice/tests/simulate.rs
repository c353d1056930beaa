//! Simulations and fits from the command line: what they print, and what they say to mistakes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use serde_json::Value;

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = sluice(arguments);
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn failed(arguments: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = sluice(arguments);
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

const SCENARIO: &str = "
name: small
fleet: { replicas: 2, profile: llama-3-8b-h100, overrides: { kv_tokens: 20000 } }
routers: 2
workload:
  support-chat: { tenants: 4, prefix_tokens: 1000, turns: 2 }
load: { rates_per_s: [5], duration: 20s }
slo: { ttft: 1s, tpot: 50ms }
signals: { scrape_delay: 50ms, scrape_loss: 0.1 }
faults: [{ kind: crash, at: 8s, replica: 1, down_for: 4s }]
";

/// A scenario file in a folder that lasts as long as the test.
fn scenario(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("scenario.yaml");
    fs::write(&file, text).unwrap();
    (folder, file)
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let (_folder, file) = scenario(SCENARIO);
    let file = file.to_str().unwrap();
    let run = |jobs: &str| {
        let policies = ["--policy", "round-robin,prefix-aware", "--seeds", "3"];
        printed(&[&["simulate", "-s", file, "--json", "--jobs", jobs][..], &policies].concat())
    };
    let once = run("1");
    assert_eq!(once, run("4"));
    let summary: Value = serde_json::from_str(&once).unwrap();
    assert_eq!(summary["runs"].as_array().unwrap().len(), 6);
}

#[test]
fn a_request_is_explained_under_each_policy_within_the_width_of_a_terminal() {
    let (_folder, file) = scenario(SCENARIO);
    let file = file.to_str().unwrap();
    let ask = |request: &'static str, more: &[&'static str]| {
        let policies = ["--policy", "least-latency,sticky,peer-dynamo", "--explain", request];
        [&["compare", "-s", file][..], &policies, more].concat()
    };
    let text = printed(&ask("30", &[]));
    assert!(text.lines().all(|it| it.chars().count() <= 100), "{text}");
    for part in [
        "request 30",
        "least-latency, at",
        "sticky, at",
        "wait s",
        "blocks",
        "← chosen",
        "TTFT predicted",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json: Value = serde_json::from_str(&printed(&ask("30", &["--json"]))).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    assert!(runs.iter().all(|it| it["decisions"][0]["request"] == 30), "{json:#}");
    let (code, told) = failed(&ask("1000000", &[]));
    assert!(code == 1 && told.contains("the requests have the numbers 0 to"), "{told}");
}

#[test]
fn a_summary_says_what_decisions_turned_out_to_cost() {
    let (_folder, file) = scenario(SCENARIO);
    let file = file.to_str().unwrap();
    let run = ["simulate", "-s", file, "--policy", "round-robin,prefix-aware", "--no-limits"];
    let text = printed(&run);
    assert!(text.contains("recomputed, held elsewhere"), "{text}");
    let json: Value = serde_json::from_str(&printed(&[&run[..], &["--json"]].concat())).unwrap();
    let recomputed = |at: usize| json["runs"][at]["regret"]["recomputed_share"].as_f64().unwrap();
    assert!(recomputed(1) < recomputed(0), "who follows prefixes computes less anew: {text}");
    assert!(json["runs"][0]["regret"]["ttft_error_ms"]["p50"].as_f64().unwrap() >= 0.0);
}

#[test]
fn every_run_stands_beside_its_limits_unless_nobody_wants_them() {
    let (_folder, file) = scenario(SCENARIO);
    let file = file.to_str().unwrap();
    let summary = |more: &[&str]| -> Value {
        let run = [&["simulate", "-s", file, "--policy", "random,sticky", "--json"][..], more];
        serde_json::from_str(&printed(&run.concat())).unwrap()
    };
    for run in summary(&[])["runs"].as_array().unwrap() {
        let limits = &run["limits"];
        let share = |of: &Value| of.as_f64().unwrap();
        assert!(share(&run["cache_hit_rate"]) <= share(&limits["hit_rate_best"]), "{run}");
        assert!(share(&run["good_request_fraction"]) <= share(&limits["good_request_fraction"]));
        assert!(share(&limits["knee_rps"]) > 5.0);
    }
    assert_eq!(summary(&["--no-limits"])["runs"][0]["limits"], Value::Null);
    let table = printed(&["compare", "-s", file, "--policy", "random,sticky", "--seeds", "2"]);
    for part in ["limits of small", "of limit", "fluid knee", "too few seeds"] {
        assert!(table.contains(part), "{part} is not in:\n{table}");
    }
}

#[test]
fn a_policy_is_no_rival_to_itself() {
    let (_folder, file) = scenario(SCENARIO);
    let file = file.to_str().unwrap();
    let (code, told) = failed(&["compare", "-s", file, "--policy", "sticky,sticky"]);
    assert!(code == 1 && told.contains("two policies"), "{told}");
}

#[test]
fn a_scenario_with_mistakes_is_told_all_of_them_with_the_configuration_code() {
    let wrong = SCENARIO
        .replace("replicas: 2,", "replicas: 0,")
        .replace("scrape_loss: 0.1", "scrape_loss: 3");
    let (_folder, file) = scenario(&wrong);
    let (code, told) = failed(&["simulate", "-s", file.to_str().unwrap()]);
    assert_eq!(code, 78, "{told}");
    for part in ["scenario.yaml", "fleet.replicas", "faults[0].replica", "signals.scrape_loss"] {
        assert!(told.contains(part), "{part} is not in: {told}");
    }
    let (code, told) = failed(&["simulate", "-s", "no/such.yaml"]);
    assert!(code == 78 && told.contains("no/such.yaml"), "{told}");
}

#[test]
fn a_profile_that_is_neither_a_name_nor_a_file_is_answered_with_the_names() {
    let (_folder, file) = scenario(&SCENARIO.replace("profile: llama-3-8b-h100", "profile: gpt-9"));
    let (code, told) = failed(&["simulate", "-s", file.to_str().unwrap()]);
    assert!(code == 1 && told.contains("gpt-9") && told.contains("llama-3-8b-h100"), "{told}");
}

#[test]
fn a_fit_of_what_tells_nothing_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("measured");
    let name = file.to_str().unwrap();
    for (text, arguments, parts) in [
        ("", &["--stages"][..], &["measured", "no stage"][..]),
        ("a,b\n1,2\n", &["--stages"], &["line 2", "workload"]),
        ("", &["--model", "Llama-3.1-8B", "--gpu", "H100", "--recording"], &["no requests"]),
        ("{}\n", &["--model", "Llama-3.1-8B", "--gpu", "H100", "--recording"], &["line 1"]),
    ] {
        fs::write(&file, text).unwrap();
        let (code, told) = failed(&[&["calibrate"][..], arguments, &[name]].concat());
        assert_eq!(code, 1, "{told}");
        assert!(parts.iter().all(|it| told.contains(it)), "{parts:?} are not in: {told}");
    }
    let (code, told) = failed(&["calibrate", "--target", "http://127.0.0.1:9"]);
    assert!(code == 1 && told.contains("127.0.0.1:9"), "{told}");
    assert_eq!(failed(&["calibrate"]).0, 2);
}
