//! What is said of files with keys that others can read. Named in docs/reliability.md by the id G9.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use common::{Fleet, Start, until, written};

const KEY: &str = "a-key-that-nobody-is-to-see";

const WARNING: &str = "a file with a key can be read by other users of this machine";

fn set(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

/// What `sluice check` says on stdout and stderr.
fn checked(file: &Path, more: &[&str]) -> (String, String) {
    let mut check = Command::new(env!("CARGO_BIN_EXE_sluice"));
    let output = check.args(["check", "-c"]).arg(file).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "a warning is no failure");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn g9_files_with_keys_that_others_can_read_are_warned_of() {
    let (fleet, folder) = (Fleet::of(1), tempfile::tempdir().unwrap());
    let key = folder.path().join("key");
    fs::write(&key, KEY).unwrap();
    let more = format!("hash_seed: 7\nadmin: {{ key: {{ file: '{}' }} }}\n", key.display());
    let file = written(folder.path(), &fleet.configuration(&more));
    set(&file, 0o640);
    set(&key, 0o644);

    let (told, warned) = checked(&file, &[]);
    assert!(told.ends_with("is valid\n") && warned.lines().count() == 2, "{told}{warned}");
    for part in [
        format!("warning: {} (hash_seed) has mode 640", file.display()),
        format!("warning: {} (admin.key) has mode 644", key.display()),
        format!("chmod 600 {}", key.display()),
    ] {
        assert!(warned.contains(&part), "{part} is missing: {warned}");
    }
    // The configuration in full is for machines, and holds no key.
    let (printed, _) = checked(&file, &["--print-config"]);
    assert!(printed.starts_with("listen:") && !printed.contains("hash_seed"), "{printed}");

    let router = Start::with(&file).now();
    until("both are warned of", || router.logged(WARNING) == 2);
    let line =
        router.lines.lock().unwrap().iter().find(|it| it.contains(WARNING)).cloned().unwrap();
    assert!(line.contains("WARN") && line.contains("chmod 600") && line.contains("640"), "{line}");

    set(&key, 0o600);
    router.signal("HUP");
    until("the one that is left is warned of", || router.logged(WARNING) == 3);
    assert_eq!(router.logged("configuration reloaded"), 1);
    set(&file, 0o600);
    router.signal("HUP");
    until("it is read again", || router.logged("configuration reloaded") == 2);
    assert_eq!(router.logged(WARNING), 3, "nothing is left to warn of");
    assert_eq!(checked(&file, &[]).1, "");
    assert_eq!(router.logged(KEY), 0);
}
