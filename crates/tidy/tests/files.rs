//! What every source file looks like, and what stands at the top of the repository.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and long files are only reported"
)]

use std::{fs, path::PathBuf};

/// A file of more lines must be split.
const LINES_MAX: usize = 600;

/// A file of more lines is worth a thought.
const LINES_AIM: usize = 400;

fn sources() -> Vec<PathBuf> {
    let root = tidy::root();
    let mut sources = tidy::files(&root.join("crates"), &["rs"]).unwrap();
    sources.extend(tidy::files(&root.join("benches"), &["rs"]).unwrap());
    assert!(sources.len() > 20, "found only {} source files", sources.len());
    sources
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let without = |path: &PathBuf| !fs::read_to_string(path).unwrap().starts_with("//! ");
    let wrong: Vec<PathBuf> = sources().into_iter().filter(without).collect();
    assert!(wrong.is_empty(), "files that do not start with `//! `: {wrong:#?}");
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    let mut wrong = Vec::new();
    for path in sources() {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        } else if lines > LINES_AIM {
            eprintln!("{}: {lines} lines, aim at {LINES_AIM}", path.display());
        }
    }
    assert!(wrong.is_empty(), "files of more than {LINES_MAX} lines: {wrong:#?}");
}

#[test]
fn the_top_of_the_repository_stays_small() {
    let expected = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "README.md",
        "crates",
        "config",
        "deploy",
        "benches",
        "docs",
        "target",
        "results",
    ];
    let names = fs::read_dir(tidy::root()).unwrap().map(|it| it.unwrap().file_name());
    let others: Vec<_> = names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| !name.starts_with('.') && !expected.contains(&name.as_str()))
        .collect();
    assert!(others.is_empty(), "do not belong at the top: {others:?}");
}
