//! Who may use whom: dependencies point down, and the pure crates reach nothing that acts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The crates of the workspace and which of its crates each may use; the table of
/// `docs/architecture.md`.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("policy", &["types"]),
    ("engine", &["types"]),
    ("workload", &["types"]),
    ("report", &["types"]),
    ("limits", &["types"]),
    ("wire", &["types"]),
    ("tokens", &["types", "wire"]),
    ("fleet", &["types", "policy", "wire"]),
    ("router", &["types", "policy", "wire", "fleet", "tokens"]),
    ("emulator", &["types", "engine", "wire"]),
    ("replay", &["types", "workload", "wire", "report"]),
    ("simulator", &["types", "policy", "engine", "workload", "report"]),
    ("calibration", &["types", "engine", "workload", "report"]),
    (
        "sluice",
        &[
            "types",
            "policy",
            "engine",
            "workload",
            "report",
            "wire",
            "router",
            "emulator",
            "replay",
            "simulator",
            "calibration",
        ],
    ),
];

/// Look at the others from outside, so may use any.
const EXEMPT: &[&str] = &["benches", "tidy"];

/// The crates that only think: time, randomness and bytes reach them as arguments.
const PURE: &[&str] = &[
    "types",
    "policy",
    "engine",
    "workload",
    "report",
    "limits",
    "wire",
    "tokens",
    "simulator",
    "calibration",
];

/// Crates that act, and what goes with them.
const ACTING: &[&str] = &["tokio", "hyper", "axum", "metrics", "tracing"];

/// The workspace's crates, each with those of its normal dependencies that are crates of it too.
fn workspace() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = tidy::cargo(&["metadata", "--format-version=1", "--no-deps"]).unwrap();
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let uses = package["dependencies"].as_array().unwrap().iter();
            let uses = uses.filter(|it| it["kind"].is_null() && !it["path"].is_null());
            (text(&package["name"]), uses.map(|it| text(&it["name"])).collect())
        })
        .collect()
}

#[test]
fn dependencies_point_down() {
    let workspace = workspace();
    let mut wrong = Vec::new();
    for (name, uses) in workspace.iter().filter(|it| !EXEMPT.contains(&it.0.as_str())) {
        let Some((_, allowed)) = MAY_USE.iter().find(|(of, _)| of == name) else {
            wrong.push(format!("{name} is not in the table: say which crates it may use"));
            continue;
        };
        for used in uses.iter().filter(|it| !allowed.contains(&it.as_str())) {
            wrong.push(format!("{name} must not use {used}"));
        }
    }
    for (name, _) in MAY_USE.iter().filter(|(name, _)| !workspace.contains_key(*name)) {
        wrong.push(format!("{name} is in the table and not in the workspace"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_crates_reach_nothing_that_acts() {
    let mut wrong = Vec::new();
    for name in PURE {
        let arguments = ["tree", "-p", name, "-e", "normal", "--prefix", "none", "--format", "{p}"];
        let tree = tidy::cargo(&arguments).unwrap();
        let reached = tree.lines().filter_map(|line| line.split(' ').next());
        for acting in reached.filter(|it| ACTING.contains(it)) {
            wrong.push(format!("{name} must stay pure, and reaches {acting}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_pure_crate_has_the_bans_of_one() {
    for name in PURE {
        let path = tidy::root().join("crates").join(name).join("clippy.toml");
        let bans = std::fs::read_to_string(&path).unwrap();
        for banned in ["std::time::Instant", "std::time::SystemTime", "std::collections::HashMap"] {
            assert!(bans.contains(banned), "{} does not ban {banned}", path.display());
        }
    }
}
