//! Who may use whom: dependencies point down, and the pure crates reach nothing that acts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Looks at the others from outside, so may use any.
const EXEMPT: &str = "benches";

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

/// The crates that the table of a page lists, each with those that it says may be used: rows of
/// `` | `crate` | one sentence | crate, crate | ``, in an order in which what is used comes first.
fn table(page: &str) -> Vec<(String, BTreeSet<String>)> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        let [name, _, uses] = cells.as_slice() else { return None };
        let uses = uses.split(", ").filter(|it| *it != "–").map(str::to_owned);
        Some((name.strip_suffix('`')?.to_owned(), uses.collect()))
    };
    let head = |line: &&str| *line != "| crate | one sentence | may use |";
    page.lines().skip_while(head).skip(2).map_while(row).collect()
}

/// Everything in which `listed` and the workspace differ.
fn differences(
    listed: &[(String, BTreeSet<String>)],
    workspace: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut before = BTreeSet::new();
    for (name, allowed) in listed {
        let Some(uses) = workspace.get(name) else {
            wrong.push(format!("{name} is in the table and not in the workspace"));
            continue;
        };
        wrong.extend(uses.difference(allowed).map(|it| format!("{name} must not use {it}")));
        wrong
            .extend(allowed.difference(uses).map(|it| format!("{name} may use {it} and does not")));
        wrong.extend(allowed.difference(&before).map(|it| format!("{it} must come before {name}")));
        before.insert(name.clone());
    }
    let unlisted = workspace.keys().filter(|it| *it != EXEMPT && !before.contains(*it));
    wrong.extend(
        unlisted.map(|it| format!("{it} is not in the table: say which crates it may use")),
    );
    wrong
}

fn page(name: &str) -> String {
    std::fs::read_to_string(tidy::root().join("docs").join(name)).unwrap()
}

#[test]
fn the_table_of_the_page_is_what_the_manifests_say() {
    let wrong = differences(&table(&page("architecture.md")), &workspace());
    assert!(wrong.is_empty(), "docs/architecture.md:\n{}", wrong.join("\n"));
}

#[test]
fn each_way_to_differ_is_told() {
    let page = "text\n| crate | one sentence | may use |\n|---|---|---|\n| `types` | Terms. | – |\n\
        | `wire` | Bytes. | types, policy |\n| `gone` | Was. | types |\n\nmore\n";
    let listed = table(page);
    assert_eq!(listed.len(), 3);
    let uses = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
    let workspace = [
        ("types".to_owned(), uses(&["wire"])),
        ("wire".to_owned(), uses(&["types"])),
        ("new".to_owned(), uses(&[])),
        (EXEMPT.to_owned(), uses(&["types"])),
    ];
    let expected = [
        "types must not use wire",
        "wire may use policy and does not",
        "policy must come before wire",
        "gone is in the table and not in the workspace",
        "new is not in the table: say which crates it may use",
    ];
    assert_eq!(differences(&listed, &workspace.into()), expected);
}

#[test]
fn pages_name_every_pure_crate() {
    let contributing = page("contributing.md");
    let contributing = contributing.split_whitespace().collect::<Vec<_>>().join(" ");
    let named = contributing.split("The pure crates (").nth(1).unwrap().split(')').next().unwrap();
    let named: Vec<&str> = named.split('`').skip(1).step_by(2).collect();
    assert_eq!(named, PURE);
    let architecture = page("architecture.md");
    let drawn = architecture.split("```").nth(1).unwrap();
    let is_drawn =
        |name: &&&str| drawn.split(|c: char| !c.is_alphanumeric()).any(|it| it == **name);
    let missing: Vec<_> = PURE.iter().filter(|it| !is_drawn(it)).collect();
    assert!(missing.is_empty(), "not in the diagram: {missing:?}");
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
