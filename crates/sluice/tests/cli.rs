//! What a person at a terminal is told when something is wrong, and how the programs end.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
};

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).output().unwrap()
}

/// Exit code and stderr.
fn failed(arguments: &[&str]) -> (i32, String) {
    let output = sluice(arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_configuration_with_three_mistakes_is_told_all_three() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let text =
        "replicas: [{ url: 'ftp://a' }]\nattempts_max: 0\npolicy: { prefix: { match_min: 3 } }\n";
    fs::write(&file, text).unwrap();
    for verb in ["check", "serve"] {
        let (code, told) = failed(&[verb, "-c", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{told}");
        for culprit in ["router.yaml", "replicas[0].url", "attempts_max", "policy.prefix.match_min"]
        {
            assert!(told.contains(culprit), "{culprit} is missing: {told}");
        }
    }
}

#[test]
fn keys_kinds_and_values_that_are_wrong_are_told_together() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let text = "polcy: {}\nlisten: notaport\nreplicas: [{ url: 'http://127.0.0.1:9' }]\n\
        timeouts: { stall: -5s }\ndrain: { lame_duk: 5s }\nattempts_max: 0\n";
    fs::write(&file, text).unwrap();
    for verb in ["check", "serve"] {
        let (code, told) = failed(&[verb, "-c", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{told}");
        for told_of in [
            "polcy (line 1): `polcy` is no key here, did you mean `policy`?",
            "listen (line 2): `notaport`: ",
            "write for example 127.0.0.1:8080",
            "timeouts.stall (line 4): ",
            "drain.lame_duk (line 5): ",
            "attempts_max: must be more than zero",
        ] {
            assert!(told.contains(told_of), "{told_of} is missing: {told}");
        }
        assert_eq!(told.lines().count(), 6, "{told}");
    }
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    fs::write(&file, "polcy: {}\n").unwrap();
    let (code, told) = failed(&["check", "-c", file.to_str().unwrap()]);
    assert!(code == 78 && told.contains("router.yaml"), "{told}");
    assert_eq!(told.matches("`polcy`").count(), 1, "the culprit is named once: {told}");
    fs::write(&file, "replicas:\n  - url: http://127.0.0.1:9\n    nam: a\n").unwrap();
    let (code, told) = failed(&["check", "-c", file.to_str().unwrap()]);
    assert!(code == 78 && told.contains("`nam`") && told.contains("line 3"), "{told}");
    let (code, told) = failed(&["check", "-c", "no/such/file.yaml"]);
    assert!(code == 78 && told.contains("no/such/file.yaml"), "{told}");
    let (code, told) = failed(&["serve"]);
    assert!(code == 78 && told.contains("--replica URL"), "{told}");
    assert!(told.contains("from the command line is invalid"), "{told}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let replica = ["serve", "--replica", "http://127.0.0.1:9"];
    let (code, told) = failed(&[&replica[..], &["--listen", &address]].concat());
    assert!(code == 1 && told.contains(&address) && told.contains("`listen`"), "{told}");
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, told) = failed(&["demo", "--port", &port]);
    assert!(code == 1 && told.contains(&port) && told.contains("--port"), "{told}");
}

#[test]
fn a_bad_line_of_a_trace_is_named_with_the_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace.jsonl");
    let row = r#"{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}"#;
    let file_name = file.to_str().unwrap();
    for bad in [&row[..40], r#"{"timestamp": 1, "output_length": 5}"#] {
        fs::write(&file, format!("{row}\n{bad}\n")).unwrap();
        let target = ["replay", "--target", "http://127.0.0.1:9", "--model", "m"];
        let (code, told) = failed(&[&target[..], &["--trace", file_name]].concat());
        assert_eq!(code, 1, "{told}");
        for part in ["/trace.jsonl, line 2: ", "--skip-bad-lines"] {
            assert!(told.contains(part), "{part} is missing: {told}");
        }
        assert_eq!(told.matches("line ").count(), 1, "{told}");
    }
}

#[test]
fn what_is_mistyped_is_a_usage_error() {
    for arguments in
        [&["serv"][..], &["replay"], &["serve", "--policy", "robin"], &["demo", "--port", "x"]]
    {
        assert_eq!(failed(arguments).0, 2, "{arguments:?}");
    }
    let (_, told) = failed(&["serve", "--policy", "robin"]);
    assert!(told.contains("round-robin"), "{told}");
    for (arguments, cure) in [
        (&["emulate", "--profile", "gpt-9"][..], "llama-3-8b-h100"),
        (&["emulate", "--fault", "gremlins"], "--fault"),
        (&["emulate", "--listen", "20182"], "127.0.0.1:20182"),
        (&["serve", "--listen", "20182"], "127.0.0.1:20182"),
        (&["serve", "--admin-listen", "here"], "IP:PORT"),
        (&["serve", "--worker-threads", "0"], "above 0; leave it out"),
        (&["demo", "--duration", "0s"], "no time at all"),
    ] {
        let (code, told) = failed(arguments);
        assert!(code == 2 && told.contains(cure), "{arguments:?}: {told}");
    }
}

#[test]
fn no_emulated_replica_is_ready_before_all_have_a_port() {
    let (code, told) = failed(&["emulate", "--listen", "127.0.0.1:65535", "--replicas", "3"]);
    assert!(code == 1 && told.contains("65535") && !told.contains("ready"), "{told}");
}

#[test]
fn a_log_filter_that_is_none_is_told() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_sluice"));
    check.args(["check", "-c", "no/such/file.yaml"]).env("SLUICE_LOG", "router=loud");
    let told = String::from_utf8(check.output().unwrap().stderr).unwrap();
    assert!(told.contains("SLUICE_LOG") && told.contains("router=loud"), "{told}");
}

#[test]
fn a_served_process_ends_at_sigterm_with_0() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["serve", "--replica", "http://127.0.0.1:9", "--listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("serving")));
    let kill = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
}

#[test]
fn a_recording_that_cannot_be_replayed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("decisions.jsonl");
    let told = |text: &str| {
        fs::write(&file, text).unwrap();
        failed(&["simulate", "--recording", file.to_str().unwrap()])
    };
    let (code, error) = told("{\"model\":\"m\"}\n");
    assert!(code == 1 && error.contains("decisions.jsonl") && error.contains("line 1"), "{error}");

    let config = "{\"seed\":1,\"routing\":{\"strategy\":\"random\",\"saturation\":null,\"match_min\":0.3},\
        \"prefix\":{\"block\":64,\"index_bytes_max\":4096,\"replicas\":4},\
        \"session\":{\"ttl\":{\"secs\":60,\"nanos\":0},\"sessions_max\":9}}";
    let head = |format: u32| {
        format!("{{\"sluice_recording\":{format},\"version\":\"0.0.1\",\"config\":{config}}}\n")
    };
    let (code, error) = told(&head(99));
    assert!(code == 1 && error.contains("format 99"), "{error}");
    let joined = "{\"at\":1,\"event\":{\"replica-joined\":0}}\n";
    let (code, error) = told(&format!("{}{joined}{{\"at\":2}}\n", head(1)));
    assert!(code == 1 && error.contains("line 3"), "{error}");
    // What was decided then is not what this version decides.
    let decided = "{\"at\":2,\"event\":{\"attempt-failed\":7},\
        \"decisions\":[{\"request\":7,\"verdict\":{\"Err\":\"no-replicas\"}}]}\n";
    let (code, error) = told(&format!("{}{joined}{decided}", head(1)));
    assert!(code == 1 && error.contains("version 0.0.1"), "{error}");

    fs::write(&file, format!("{}{joined}{}", head(1), joined.trim_end())).unwrap();
    let whole = sluice(&["simulate", "--recording", file.to_str().unwrap(), "--policy", "sticky"]);
    assert!(whole.status.success(), "{whole:?}");
    fs::write(&file, format!("{}{joined}{}", head(1), &joined[..20])).unwrap();
    let cut = sluice(&["simulate", "--recording", file.to_str().unwrap(), "--policy", "sticky"]);
    let table = String::from_utf8(cut.stdout).unwrap();
    assert!(cut.status.success() && table.contains("cut off"), "{table}");
    assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
}

#[test]
fn what_is_valid_is_what_can_be_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("router.yaml");
    let text = "replicas: [{ url: 'http://127.0.0.1:99999' }]\nadmin: { key: { env: NO_SUCH_VARIABLE } }\n\
        tenants: [{ name: a, keys: [{ sha256: zz }] }]\nrecording: { directory: no/such/folder }\n\
        discovery: { dns: nohostport }\nworker_threads: 100000\n";
    fs::write(&file, text).unwrap();
    for verb in ["check", "serve"] {
        let (code, told) = failed(&[verb, "-c", file.to_str().unwrap()]);
        assert_eq!(code, 78, "{told}");
        for culprit in [
            "replicas[0].url: `http://127.0.0.1:99999` is no replica URL: its port",
            "admin.key.env",
            "tenants[0].keys[0].sha256",
            "recording.directory",
            "discovery.dns",
            "worker_threads",
        ] {
            assert!(told.contains(culprit), "{culprit} is missing: {told}");
        }
    }
}
