//! Links in the documentation lead to files that are there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

/// The targets of a page's links, as written; code is left out.
fn targets(page: &str) -> Vec<String> {
    let mut targets = Vec::new();
    let mut in_code = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        let prose: String = line.split('`').step_by(2).collect();
        let links = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.extend(links.map(str::to_owned));
    }
    targets
}

#[test]
fn relative_links_lead_to_files_that_are_there() {
    let mut wrong = Vec::new();
    for page in tidy::files(&tidy::root(), &["md"]).unwrap() {
        for target in targets(&fs::read_to_string(&page).unwrap()) {
            let path = target.split(['#', ' ']).next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            if !elsewhere && !page.parent().unwrap().join(path).exists() {
                wrong.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere: {wrong:#?}");
}

#[test]
fn links_are_found_in_prose_and_not_in_code() {
    let page = "[a](b.md#c) `[x](y)` and [`d`](e \"title\")\n```\n[x](y)\n```\n![f](g.svg)";
    assert_eq!(targets(page), ["b.md#c", "e \"title\"", "g.svg"]);
}
