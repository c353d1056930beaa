//! What those are told who measure something that cannot be measured: one sentence with the culprit and the
//! cure, before anything is sent where that can be.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

const QUEUE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/scenarios/textbook-queue.yaml");
/// Nobody listens there.
const NOBODY: &str = "http://127.0.0.1:9";
const ROW: &str =
    r#"{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}"#;

/// Exit code and stderr.
fn told(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn refused(arguments: &[&str], code: i32, parts: &[&str]) {
    let (actual, error) = told(arguments);
    assert_eq!(actual, code, "{arguments:?}: {error}");
    for part in parts {
        assert!(error.contains(part), "{arguments:?}: {part} is missing: {error}");
    }
}

fn written(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let file = folder.join(name);
    fs::write(&file, bytes).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn numbers_that_make_no_sense_are_refused_as_they_are_typed() {
    for rate in ["-1", "0", "NaN", "inf", "1e300", "many"] {
        refused(&["simulate", "-s", QUEUE, "--rate", rate], 2, &["--rate"]);
        refused(&["frontier", "-s", QUEUE, "--rates", rate], 2, &["--rates"]);
        refused(&["replay", "--target", NOBODY, "--rate", rate], 2, &["--rate"]);
        refused(&["plan", "--knee", "5", "--rate", rate], 2, &["--rate"]);
    }
    let replay = ["replay", "--target", NOBODY, "--model", "m", "--speedup", "1000"];
    let open = ["--open-requests-max", "9999999999999999999"];
    refused(&[&replay[..], &open].concat(), 1, &["open_requests_max", "1000000"]);
    refused(&["replay", "--target", NOBODY, "--timeout", "0s"], 2, &["--timeout", "30s"]);
    refused(&["simulate", "-s", QUEUE, "--rate", "1e7"], 78, &["more than 10000000"]);
}

#[test]
fn files_that_are_no_traces_are_named_with_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let half = format!("{ROW}\n{}", &ROW[..30]);
    for (name, bytes, parts) in [
        ("cut.gz", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xab][..], ["cut.gz", "not whole"]),
        ("no.zst", b"text", ["no.zst", "not whole"]),
        ("empty.jsonl", b"", ["empty.jsonl", "is empty"]),
        ("half.jsonl", half.as_bytes(), ["half.jsonl, line 2", "--skip-bad-lines"]),
        ("binary.jsonl", &[0, 255, 254, 10], ["binary.jsonl", "UTF-8"]),
    ] {
        let file = written(folder, name, bytes);
        for verb in ["simulate", "compare", "frontier"] {
            refused(&[verb, "-s", QUEUE, "--trace", &file], 1, &parts);
        }
        let replay = ["replay", "--target", NOBODY, "--model", "m", "--trace", &file];
        refused(&replay, 1, &parts);
        assert!(!told(&replay).1.contains("that exists"), "{name}");
    }
    let good = written(folder, "good.jsonl", ROW.as_bytes());
    let azure = ["simulate", "-s", QUEUE, "--trace", &good, "--format", "azure"];
    refused(&azure, 1, &["good.jsonl, line 1", "TIMESTAMP"]);
    refused(&["simulate", "-s", QUEUE, "--format", "azure"], 2, &["--trace"]);
}

#[test]
fn options_of_a_server_are_refused_for_a_scenario() {
    for option in [
        ["--hang-up", "10%:2s"],
        ["--goodput", "time_to_first_token:5"],
        ["--duration", "5s"],
        ["--disrupt", "true"],
        ["--header", "a: b"],
    ] {
        refused(&[&["frontier", "-s", QUEUE][..], &option].concat(), 2, &[option[0], "--scenario"]);
    }
}

#[test]
fn a_server_that_answers_nothing_is_no_result() {
    let replay = ["replay", "--target", NOBODY, "--model", "m", "--speedup", "1000", "--allow-lag"];
    refused(&replay, 1, &["no request was answered", "refused", "--target"]);
    let frontier = ["frontier", "--target", NOBODY, "--model", "m", "--duration", "1s"];
    let once = ["--warm-up", "0s", "--settle", "0s", "--rates", "5", "--seeds", "1"];
    refused(&[&frontier[..], &once].concat(), 1, &["no request was answered", "refused"]);
    refused(&[&frontier[..], &["--warmth", "cold"]].concat(), 1, &["--restart COMMAND"]);
}

#[test]
fn a_folder_for_results_is_tried_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let out = format!("{}/below", written(folder.path(), "file", b""));
    for line in [
        &["replay", "--target", NOBODY, "--model", "m", "--speedup", "1000", "--allow-lag"][..],
        &["frontier", "--target", NOBODY, "--model", "m"],
        &["frontier", "-s", QUEUE],
        &["simulate", "-s", QUEUE],
        &["compare", "-s", QUEUE],
    ] {
        let arguments = [line, &["--out", &out]].concat();
        let (code, error) = told(&arguments);
        assert!(code == 1 && error.contains("cannot write"), "{arguments:?}: {error}");
        assert!(!error.contains("no request was answered"), "{arguments:?}: {error}");
    }
}

#[test]
fn results_that_are_damaged_or_not_ones_own_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (out, name) = (&out, out.to_str().unwrap());
    let simulate = |rate: &str| told(&["simulate", "-s", QUEUE, "--rate", rate, "--out", name]);
    assert_eq!(simulate("50").0, 0);
    assert_eq!(simulate("50").0, 0, "the same run replaces itself");
    let (code, error) = simulate("60");
    assert!(code == 1 && error.contains("another simulation"), "{error}");
    refused(&["report", name, name], 1, &["given twice"]);
    let run = fs::read_dir(out).unwrap().flatten().find(|it| it.path().is_dir()).unwrap().path();
    let (records, manifest) = (run.join("requests.jsonl"), run.join("run.json"));
    let whole = fs::read(&records).unwrap();
    fs::write(&records, &whole[..whole.len() - 40]).unwrap();
    refused(&["report", name], 1, &["requests.jsonl, line", "cut off"]);
    fs::write(&records, &whole).unwrap();
    let whole = fs::read(&manifest).unwrap();
    fs::write(&manifest, "{").unwrap();
    refused(&["report", name], 1, &["run.json", "run it again"]);
    fs::write(&manifest, whole).unwrap();
    assert_eq!(told(&["report", name]).0, 0);
    fs::write(&records, "").unwrap();
    refused(&["report", name], 1, &["requests.jsonl holds 0 requests", "not whole"]);
}

#[test]
fn caches_that_hold_the_prompts_already_are_not_called_cold() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}"#;
    let trace = written(folder.path(), "bodies.jsonl", text.as_bytes());
    let frontier = ["frontier", "--target", NOBODY, "--model", "m", "--trace", &trace];
    let cold = ["--warmth", "warm-model-cold-cache"];
    refused(&[&frontier[..], &cold].concat(), 1, &["warm-model-cold-cache", "--restart COMMAND"]);
}

#[test]
fn thresholds_on_no_figure_are_refused_before_anything_is_measured() {
    let nosuch = ["--fail-under", "nosuch>=1"];
    let replay = ["replay", "--target", NOBODY, "--model", "m"];
    refused(&[&replay[..], &nosuch].concat(), 2, &["nosuch", "request_goodput", "ttft_ms.p99"]);
    let frontier = ["frontier", "-s", QUEUE];
    refused(
        &[&frontier[..], &nosuch].concat(),
        2,
        &["nosuch", "knee_goodput_rps", "sustained_rps"],
    );
    refused(&["report", "nowhere", nosuch[0], nosuch[1]], 2, &["nosuch"]);
    // What only some runs have is not refused: nobody listens, and that is what is told.
    let known = ["--fail-under", "limits.knee_rps>=1", "--allow-lag", "--speedup", "1000"];
    refused(&[&replay[..], &known].concat(), 1, &["no request was answered"]);
}

#[test]
fn options_that_would_be_ignored_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let workload = written(folder.path(), "w.yaml", b"independent: {}");
    let replay = ["replay", "--target", NOBODY, "--model", "m", "--workload", &workload];
    let how = ["--rate", "1", "--duration", "1s", "--format", "azure"];
    refused(&[&replay[..], &how].concat(), 1, &["--format", "--trace FILE"]);
    let frontier = ["frontier", "--target", NOBODY, "--model", "m", "--workload", &workload];
    refused(&[&frontier[..], &["--format", "azure"]].concat(), 1, &["--format", "--trace FILE"]);
    let twice =
        ["--goodput-class", "a=request_latency:5", "--goodput-class", "a=request_latency:6"];
    refused(&[&replay[..], &how[..4], &twice].concat(), 1, &["--goodput-class a", "twice"]);
}
