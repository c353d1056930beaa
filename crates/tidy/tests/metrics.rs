//! `docs/metrics.md` lists exactly the metrics that the router exports, and no page names others.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use router::telemetry::{Kind, METRICS};

#[test]
fn the_page_lists_exactly_what_is_exported() {
    let page = fs::read_to_string(tidy::root().join("docs/metrics.md")).unwrap();
    let listed: Vec<&str> = page.lines().filter(|it| it.starts_with("| `sluice_")).collect();
    let exported: Vec<String> = METRICS
        .iter()
        .map(|it| {
            let kind = match it.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            format!("| `{}` | {kind} | {} |", it.name, it.help)
        })
        .collect();
    assert_eq!(listed, exported);
}

/// The metrics' names in a text; what ends with an underscore is the beginning of several.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    words.filter(|it| it.starts_with("sluice_") && !it.ends_with('_'))
}

#[test]
fn no_page_names_a_metric_that_is_not_exported() {
    let mut seen = 0;
    for entry in fs::read_dir(tidy::root().join("docs")).unwrap() {
        let page = entry.unwrap().path();
        // What changed once is told by the names of then.
        if !page.is_file() || page.ends_with("changelog.md") {
            continue;
        }
        for name in names(&fs::read_to_string(&page).unwrap()) {
            seen += 1;
            let parts = ["_bucket", "_sum", "_count"];
            let whole = parts.iter().find_map(|it| name.strip_suffix(it)).unwrap_or(name);
            let is_exported = METRICS.iter().any(|it| it.name == name || it.name == whole);
            assert!(is_exported, "{}: {name}", page.display());
        }
    }
    assert!(METRICS.len() < seen, "{seen} names were found");
}

#[test]
fn how_to_read_each_metric_of_admission_is_explained_to_operators() {
    let page = fs::read_to_string(tidy::root().join("docs/operating.md")).unwrap();
    let explained: Vec<&str> = names(&page).collect();
    for metric in METRICS.iter().filter(|it| it.name.starts_with("sluice_admission_")) {
        assert!(explained.contains(&metric.name), "{}", metric.name);
    }
}
