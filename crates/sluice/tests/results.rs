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
    // Whoever looks again without the labels finds what they changed.
    assert!(sluice(&["report", dir]).status.success());
    assert_eq!(json(&run.join("summary.json")), after);
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
    // Thresholds are for the knee: no other rate stands for it.
    let gate = ["--rates", "5,6", "--fail-under", "good_request_fraction>=0.1"];
    let output = sluice(&[&["frontier", "-s", scenario, "--seeds", "1"][..], &gate].concat());
    let text = told(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no knee by goodput: least-request (fewer than five"), "{text}");
}

/// Every file in `folder` and what it holds.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.is_file())
        .map(|it| (it.clone(), fs::read(it).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn a_comparison_leaves_the_runs_it_compares_as_they_are() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let runs = [simulated(folders[0].path()), simulated(folders[1].path())];
    // The same seed and workload, another policy and other gaps between tokens.
    let mut other = json(&runs[1].join("run.json"));
    other["judged"]["info"]["policy"] = "another".into();
    other["judged"]["info"]["workload"] = "a".into();
    fs::write(runs[1].join("run.json"), other.to_string()).unwrap();
    let itl = |run: &Value| run["itl_ms"]["p99"].clone();
    let first = json(&runs[0].join("summary.json"))["runs"][0].clone();
    let mut both = json(&runs[1].join("summary.json"));
    both["runs"][0]["policy"] = "another".into();
    both["runs"][0]["workload"] = "a".into();
    both["runs"][0]["itl_ms"]["p99"] = 4_321.0.into();
    let second = both["runs"][0].clone();
    // A summary of both, as a comparison may have left it: each run finds its own figures in it.
    both["runs"] = vec![second.clone(), first.clone()].into();
    runs.iter().for_each(|it| fs::write(it.join("summary.json"), both.to_string()).unwrap());
    let before = runs.each_ref().map(|it| contents(it));
    let [a, b] = runs.each_ref().map(|it| it.to_str().unwrap());
    let output = sluice(&["report", a, b]);
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("--out"), "{}", told(&output));
    assert!(before == runs.each_ref().map(|it| contents(it)), "an input folder was changed");
    let out = folders[0].path().join("compared");
    let compared = sluice(&["report", a, b, "--out", out.to_str().unwrap(), "--json"]);
    let read: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!(read["runs"].as_array().unwrap().len(), 2, "{}", told(&compared));
    for run in read["runs"].as_array().unwrap() {
        let expected = if run["policy"] == "another" { &second } else { &first };
        assert_eq!(itl(run), itl(expected), "{}", run["policy"]);
    }
    assert!(out.join("report.html").is_file());
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
fn results_that_are_not_whole_are_not_reported() {
    let folder = tempfile::tempdir().unwrap();
    let run = simulated(folder.path());
    let dir = run.to_str().unwrap();
    let (file, summary) = (run.join("requests.jsonl"), run.join("summary.json"));
    let (whole, before) = (fs::read_to_string(&file).unwrap(), fs::read(&summary).unwrap());
    let half: Vec<&str> = whole.lines().take(3).collect();
    for text in [String::new(), half.join("\n") + "\n"] {
        fs::write(&file, text).unwrap();
        let output = sluice(&["report", dir]);
        assert_eq!(output.status.code(), Some(1), "{}", told(&output));
        assert!(told(&output).contains("not whole"), "{}", told(&output));
        assert_eq!(fs::read(&summary).unwrap(), before, "the summary was written over");
    }
    fs::write(&file, whole).unwrap();
    assert!(sluice(&["report", dir]).status.success());
}

#[test]
fn what_a_run_is_not_to_be_believed_for_is_told_again() {
    let folder = tempfile::tempdir().unwrap();
    let run = simulated(folder.path());
    let dir = run.to_str().unwrap();
    let written = |key: &str, value: Value| {
        let mut manifest = json(&run.join("run.json"));
        manifest["judged"]["info"][key] = value;
        fs::write(run.join("run.json"), manifest.to_string()).unwrap();
    };
    written("doubts", serde_json::json!(["THE LOAD GENERATOR FELL BEHIND: 14 were not sent"]));
    let output = sluice(&["report", dir]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("FELL BEHIND: 14 were not sent"), "{}", told(&output));
    for file in ["summary.json", "report.html"] {
        let text = fs::read_to_string(run.join(file)).unwrap();
        assert!(text.contains("FELL BEHIND: 14"), "{file}");
    }
    assert!(sluice(&["report", dir, "--allow-lag"]).status.success());
    written("stopped", true.into());
    let output = sluice(&["report", dir, "--allow-lag"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("stopped before its end"), "{}", told(&output));
}

#[test]
fn what_did_not_leave_is_in_every_file_and_a_trace_keeps_its_rate() {
    let fleet = common::Fleet::of(2);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.csv");
    let rows: String =
        (0..40).map(|it| format!("2023-11-16 18:15:{:02}.0000000,30,400\n", it)).collect();
    fs::write(&trace, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}")).unwrap();
    let out = folder.path().join("out");
    let (trace, out_dir) = (trace.to_str().unwrap(), out.to_str().unwrap());
    let urls: Vec<String> = fleet.replicas.iter().map(|it| it.url()).collect();
    let common = ["replay", "--target", &urls[0], "--target", &urls[1], "--trace", trace];
    let how = ["--rate", "8", "--arrivals", "constant", "--duration", "2s", "--lag-max", "5s"];
    let limit = ["--open-requests-max", "1", "--costs", "replica_hour=3600", "--out", out_dir];
    let output = sluice(&[&common[..], &how, &limit].concat());
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let run = json(&out.join("summary.json"))["runs"][0].clone();
    // Fifteen are due within two seconds, and the trace has more.
    assert_eq!((&run["requests"], &run["window_s"]), (&15.into(), &2.0.into()), "{run:#}");
    assert!(run["unsent"].as_u64() > Some(0), "{run:#}");
    let manifest = json(&out.join("run.json"));
    let info = &manifest["judged"]["info"];
    assert_eq!((&info["records"], &info["unsent"]), (&15.into(), &run["unsent"]));
    assert_eq!(info["costs"]["replicas"], 2, "each target is a replica that is paid for");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("GENERATOR FELL BEHIND"));
    let again = sluice(&["report", out_dir]);
    assert_eq!(again.status.code(), Some(1), "{}", told(&again));
    // The whole trace, whose end nobody set: a request for each gap.
    let all = ["--speedup", "20", "--json", "--lag-max", "5s"];
    let output = sluice(&[&common[..], &all].concat());
    let read: Value = serde_json::from_slice(&output.stdout).unwrap();
    let offered = read["runs"][0]["offered_rps"].as_f64().unwrap();
    assert!((offered / 20.0 - 1.0).abs() < 1.0 / 40.0, "{offered}");
    assert!(read["mean_ttft_ms"].is_number(), "vLLM's keys are missing: {read:#}");
}

#[test]
fn a_run_that_counts_nothing_is_refused() {
    let nobody = ["replay", "--target", "http://127.0.0.1:9", "--model", "m", "--rate", "1"];
    let output = sluice(&[&nobody[..], &["--warm-up", "5s", "--duration", "3s"]].concat());
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains("--warm-up"), "{}", told(&output));
    let fleet = common::Fleet::of(1);
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("t.csv");
    let row = "2023-11-16 18:15:00.0000000,30,4\n";
    fs::write(&trace, format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{row}{row}")).unwrap();
    let (target, trace) = (fleet.replicas[0].url(), trace.to_str().unwrap());
    let output = sluice(&[
        "replay",
        "--target",
        &target,
        "--trace",
        trace,
        "--warm-up",
        "5s",
        "--allow-lag",
    ]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    assert!(told(&output).contains("so nothing counted"), "{}", told(&output));
}

/// Answers every request with `body`, as a router's admin port does.
fn admin(body: &'static str) -> String {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n";
            let length = body.len();
            write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
        }
    });
    url
}

#[test]
fn what_a_router_was_told_of_becomes_a_window_of_the_run() {
    let fleet = common::Fleet::of(1);
    let folder = tempfile::tempdir().unwrap();
    let workload = folder.path().join("w.yaml");
    let lengths = "{ prompt_tokens: { min: 9, max: 90 }, answer_tokens: { min: 1, max: 5 } }";
    fs::write(&workload, format!("independent: {lengths}")).unwrap();
    let out = folder.path().join("out");
    let (workload, out_dir) = (workload.to_str().unwrap(), out.to_str().unwrap());
    let events = r#"{"now_s": 50.0, "disruptions": [
        {"kind": "long-ago", "from_s": 1.0, "until_s": 2.0},
        {"kind": "deployment", "from_s": 49.5, "until_s": 349.5}]}"#;
    let (target, admin) = (fleet.replicas[0].url(), admin(events));
    let to = ["replay", "--target", &target, "--admin", &admin, "--workload", workload];
    let how = ["--rate", "20", "--duration", "2s", "--allow-lag", "--out", out_dir];
    let output = sluice(&[&to[..], &how].concat());
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("deployment: "), "{}", told(&output));
    let split = |it: Value| it["runs"][0]["disruption"].clone();
    let before = split(json(&out.join("summary.json")));
    assert_eq!(before["disruptions"].as_array().unwrap().len(), 1, "{before:#}");
    // Two seconds are too few to see a recovery of five.
    assert_eq!(before["disruptions"][0]["recovered"], false, "{before:#}");
    assert!(before["inside"]["requests"].as_u64() > Some(0), "{before:#}");
    assert!(sluice(&["report", out_dir, "--allow-lag"]).status.success());
    assert_eq!(split(json(&out.join("summary.json"))), before);
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
