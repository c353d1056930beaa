//! `docs/metrics.md` lists exactly the metrics that the router exports.

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
