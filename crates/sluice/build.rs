//! Tells the program which commit it is built from, for the manifests of results; without a repository, or
//! without git, nothing is told. Changes that were not committed are not seen.

#![allow(clippy::print_stdout, reason = "how a build script speaks")]

use std::{env, path::Path, process::Command};

/// What manifests state; set already where somebody builds who knows better, as from an archive.
const COMMIT: &str = "SLUICE_COMMIT";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={COMMIT}");
    // The repository's own, and not one that an archive happens to be unpacked in.
    if env::var_os(COMMIT).is_some() || !Path::new("../../.git").exists() {
        return;
    }
    // Each commit, and each other one that is checked out, leaves a line there.
    if let Some(log) =
        git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|it| Path::new(it).exists())
    {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "HEAD"]) {
        println!("cargo::rustc-env={COMMIT}={commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|it| !it.is_empty())
}
