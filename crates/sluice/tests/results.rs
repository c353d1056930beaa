//! Results folders from the command line: written, held to thresholds, labelled, rebuilt, compared.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

const SCENARIO: &str = "name: small
fleet: { replicas: 2 }
workload: { support-chat: { tenants: 3, prefix_tokens: 500, turns: 2 } }
load: { rates_per_s: [4], duration: 20s }
slo: { ttft: 1s }
costs: { replica_hour: 2.5 }
workload_class: conversational
";

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

fn told(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8(both).unwrap()
}

fn json(file: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// A simulation's results in a folder, and the folder of its only run.
fn simulated(folder: &Path) -> std::path::PathBuf {
    let scenario = folder.join("small.yaml");
    fs::write(&scenario, SCENARIO).unwrap();
    let (scenario, out) = (scenario.to_str().unwrap(), folder.join("out"));
    let output = sluice(&["simulate", "-s", scenario, "--out", out.to_str().unwrap()]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(out.join("report.html").is_file());
    let mut entries = fs::read_dir(out).unwrap().map(|it| it.unwrap().path());
    entries.find(|it| it.is_dir()).unwrap()
}

#[test]
fn labels_that_come_late_change_goodput_and_cost() {
    let folder = tempfile::tempdir().unwrap();
    let run = simulated(folder.path());
    let before = json(&run.join("summary.json"));
    assert_eq!(before["runs"][0]["good"], before["runs"][0]["requests"]);
    assert!(before["request_goodput"].is_f64(), "vLLM's keys are missing");
    let labels = folder.path().join("labels.jsonl");
    let ids = [0, 1, 999_999].map(|id| format!("{{\"request_id\":\"{id}\",\"accepted\":false}}\n"));
    fs::write(&labels, ids.concat()).unwrap();
    let (dir, labels) = (run.to_str().unwrap(), labels.to_str().unwrap());
    let output = sluice(&["report", dir, "--labels", labels]);
    let text = told(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("1 of 3 labels are of no request here"), "{text}");
    assert!(text.contains("conversational") && text.contains("conversations"), "{text}");
    let after = json(&run.join("summary.json"));
    let good = |it: &Value| it["runs"][0]["good"].as_u64().unwrap();
    assert_eq!(good(&after), good(&before) - 2);
    let cost = |it: &Value| it["runs"][0]["cost_per_accepted"].as_f64().unwrap();
    assert!(cost(&after) > cost(&before));
    let same = ["ttft_ms", "itl_ms", "e2e_ms", "window_s", "cache_hit_rate"];
    for key in same {
        assert_eq!(after["runs"][0][key], before["runs"][0][key], "{key}");
    }
}

#[test]
fn a_threshold_that_is_missed_ends_with_1_and_one_that_is_held_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let run = simulated(folder.path());
    let dir = run.to_str().unwrap();
    assert!(
        sluice(&["report", dir, "--fail-under", "good_request_fraction>=0.99"]).status.success()
    );
    let missed = sluice(&["report", dir, "--fail-under", "ttft_ms.p99<=0.001"]);
    assert_eq!(missed.status.code(), Some(1));
    assert!(told(&missed).contains("ttft_ms.p99<=0.001 does not hold"), "{}", told(&missed));
    let wrong = sluice(&["report", dir, "--fail-under", "good"]);
    assert_eq!(wrong.status.code(), Some(2), "{}", told(&wrong));
}

#[test]
fn a_folder_without_results_is_told_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let output = sluice(&["report", folder.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(told(&output).contains("holds no results"), "{}", told(&output));
}

#[test]
fn nine_thousand_useful_requests_need_twenty_replicas_and_not_eighteen() {
    let known = ["plan", "--rate", "9000", "--knee", "450", "--throughput", "500"];
    let exact = ["--burst", "1", "--failures", "0", "--json"];
    let output = sluice(&[&known[..], &exact].concat());
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&plan["replicas"], &plan["by_throughput"]), (&20.into(), &18.into()));
    let table = told(&sluice(&known));
    assert!(table.contains("throughput (wrong)") && table.contains("need 26 replicas"), "{table}");
    let output = sluice(&["plan", "--rate", "9000"]);
    assert!(told(&output).contains("--knee R"), "{}", told(&output));
}

#[test]
fn a_frontier_becomes_a_plan() {
    let folder = tempfile::tempdir().unwrap();
    let scenario = folder.path().join("queue.yaml");
    let text = "name: queue
fleet: { replicas: 1, station: { servers: 1, service: { kind: exponential, mean: 20ms } } }
policy: { strategy: least-request }
workload: { independent: {} }
load: { rates_per_s: [10], duration: 60s }
slo: { e2e: 500ms }
";
    fs::write(&scenario, text).unwrap();
    let (scenario, out) = (scenario.to_str().unwrap(), folder.path().join("frontier"));
    let out = out.to_str().unwrap();
    let output = sluice(&["frontier", "-s", scenario, "--seeds", "3", "--out", out]);
    let text = told(&output);
    assert!(output.status.success() && text.contains("knee by goodput: 4"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let page = fs::read_to_string(Path::new(out).join("report.html")).unwrap();
    assert!(page.contains("queue: the goodput frontier"));
    let output = sluice(&["plan", "--rate", "400", "--frontier", out, "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(plan["by_goodput"].as_u64() > plan["by_throughput"].as_u64(), "{plan:#}");
    let gate = ["--fail-under", "knee_goodput_rps>=1000"];
    let missed = sluice(&[&["frontier", "-s", scenario, "--seeds", "1"][..], &gate].concat());
    assert_eq!(missed.status.code(), Some(1), "{}", told(&missed));
    assert!(told(&missed).contains("least-request: knee_goodput_rps>=1000 does not hold"));
}

#[test]
fn a_sweep_sends_each_rate_by_itself_and_can_be_read_again() {
    let fleet = common::Fleet::of(1);
    let folder = tempfile::tempdir().unwrap();
    let workload = folder.path().join("w.yaml");
    fs::write(
        &workload,
        "independent: { prompt_tokens: { min: 9, max: 90 }, answer_tokens: { min: 1, max: 5 } }",
    )
    .unwrap();
    let out = folder.path().join("out");
    let target = fleet.replicas[0].url();
    let paths = [workload.to_str().unwrap(), out.to_str().unwrap()];
    let output = sluice(&[
        "replay",
        "--target",
        &target,
        "--workload",
        paths[0],
        "--sweep",
        "20,5",
        "--duration",
        "1s",
        "--arrivals",
        "constant",
        "--allow-lag",
        "--out",
        paths[1],
        "--fail-under",
        "completed>=6",
    ]);
    // Rates in order, each with what belongs to it: four requests within 1 s at 5/s are too few.
    let text = told(&output);
    let rows: Vec<&str> = text.lines().filter(|it| it.contains("/s ")).collect();
    assert!(rows[0].starts_with(" 5/s") && rows[1].starts_with(" 20/s"), "{text}");
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("5/s: completed>=6 does not hold"), "{text}");
    assert!(!text.contains("20/s: completed>=6"), "{text}");
    let runs = json(&out.join("summary.json"))["runs"].as_array().unwrap().len();
    assert_eq!(runs, 2);
    let completed =
        |rate: &str| json(&out.join(rate).join("summary.json"))["runs"][0]["completed"].clone();
    assert_eq!((completed("5"), completed("20")), (4.into(), 19.into()));
    // Both runs are found below the folder, and its page is made anew from them.
    fs::remove_file(out.join("report.html")).unwrap();
    let again = sluice(&["report", paths[1], "--json"]);
    let read: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(read["runs"].as_array().unwrap().len(), 2, "{}", told(&again));
    assert!(out.join("report.html").is_file());
}

#[test]
fn a_run_says_what_it_was_and_a_table_outlives_its_folder() {
    let fleet = common::Fleet::of(1);
    let folder = tempfile::tempdir().unwrap();
    let config =
        common::written(folder.path(), &fleet.configuration("policy: { strategy: sticky }\n"));
    let router = common::Start::with(&config).now();
    router.until_ready();
    let target = format!("http://{}", router.data);
    let trace = folder.path().join("trace.jsonl");
    let row = |at: usize| {
        let at = at * 400;
        format!(
            "{{\"timestamp\": {at}, \"input_length\": 20, \"output_length\": 2, \"hash_ids\": [{at}]}}\n"
        )
    };
    fs::write(&trace, (0..9).map(row).collect::<String>()).unwrap();
    let out = folder.path().join("out");
    let (trace, name) = (trace.to_str().unwrap(), out.to_str().unwrap());
    let replay = ["replay", "--target", &target, "--trace", trace, "--allow-lag", "--out", name];
    let output = sluice(&[&replay[..], &["--duration", "1s"]].concat());
    assert!(output.status.success(), "{}", told(&output));
    let manifest = json(&out.join("run.json"));
    assert_eq!(manifest["policy"], "sticky", "what the answers say: {manifest}");
    assert_eq!(manifest["judged"]["terms"]["slo"]["ttft_ms"], 1500.0, "{manifest}");
    assert_eq!(manifest["config"]["slo"]["tpot_ms"], 60.0, "{manifest}");
    assert_eq!(manifest["judged"]["info"]["scheduled_for_ms"], 1000.0, "{manifest}");
    assert_eq!(manifest["trace_sha256"].as_str().map(str::len), Some(64), "{manifest}");
    let is_repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.git").exists();
    let commit = manifest["commit"].as_str().map(str::len);
    assert_eq!(commit, is_repository.then_some(40), "{manifest}");
    // Three requests within a second that does not end with the last of them.
    let run = json(&out.join("summary.json"))["runs"][0].clone();
    assert_eq!((&run["requests"], &run["offered_rps"]), (&3.into(), &3.0.into()), "{run}");
    // The trace ends before its time, and so does what counts.
    let whole = sluice(&[&replay[..], &["--speedup", "8", "--duration", "9s"]].concat());
    assert!(whole.status.success(), "{}", told(&whole));
    let manifest = json(&out.join("run.json"));
    assert!(manifest["judged"]["info"]["scheduled_for_ms"].is_null(), "{manifest}");
    // What cannot be written is told all the same.
    fs::remove_file(out.join("summary.json")).unwrap();
    fs::create_dir(out.join("summary.json")).unwrap();
    let lost = sluice(&[&replay[..], &["--speedup", "8"]].concat());
    let text = told(&lost);
    assert!(lost.status.code() == Some(1) && text.contains("cannot write"), "{text}");
    assert!(text.contains("time to first token"), "the table is missing: {text}");
}
