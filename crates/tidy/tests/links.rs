//! Links in the documentation lead to files that are there, and so do paths that stand in code.

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

/// Folders at the top that hold files which pages name.
const FOLDERS: [&str; 5] = ["benches", "config", "crates", "deploy", "docs"];

/// What a path has in place of what the reader is to put there.
const PLACEHOLDER: &str = "NAME";

/// The paths from the top that a page's prose has in code, each alternative of `{a,b}` by itself. What
/// stands for many files, or for one to be written, is none.
fn paths(page: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (number, block) in page.split("```").enumerate() {
        // Code blocks show commands; what runs them tells when they are wrong.
        if number % 2 == 1 {
            continue;
        }
        for code in block.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let is_path = FOLDERS.iter().any(|it| code.starts_with(&format!("{it}/")))
                && !code.contains(PLACEHOLDER)
                && code.chars().all(|it| it.is_ascii_alphanumeric() || "/._-{},".contains(it));
            match (is_path, code.split_once('{')) {
                (false, _) => {}
                (true, None) => paths.push(code.to_owned()),
                (true, Some((start, rest))) => {
                    let (names, end) = rest.split_once('}').unwrap_or((rest, ""));
                    paths.extend(names.split(',').map(|it| format!("{start}{it}{end}")));
                }
            }
        }
    }
    paths
}

#[test]
fn paths_in_code_lead_to_files_that_are_there() {
    let root = tidy::root();
    let mut wrong = Vec::new();
    for page in tidy::files(&root, &["md"]).unwrap() {
        // What a run was measured with stays as it was.
        if page.starts_with(root.join("benches/runs")) {
            continue;
        }
        let named = paths(&fs::read_to_string(&page).unwrap());
        let gone = named.into_iter().filter(|it| !root.join(it).exists());
        wrong.extend(gone.map(|it| format!("{}: {it}", page.display())));
    }
    assert!(wrong.is_empty(), "paths that are not there: {wrong:#?}");
}

#[test]
fn paths_are_found_in_code_and_not_in_commands() {
    let page = "`crates/a/{b,c}.rs` crates/d `docs/NAME.md` `config/*.yaml` `a/b` \
        `deploy/e/`\n```sh\n`docs/no.md`\n```\n`cat docs/no.md` `docs/f.md`";
    assert_eq!(paths(page), ["crates/a/b.rs", "crates/a/c.rs", "deploy/e/", "docs/f.md"]);
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
