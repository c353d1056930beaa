//! Reads results folders.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use report::{
    Histogram, RequestRecord, Run, Summary,
    cost::Costs,
    html::Detail,
    judged::{Joined, Judged, Label},
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use types::slo::Slo;

use super::progress;
use crate::results::Paid;

/// Most runs that one folder is searched for.
const RUNS_MAX: usize = 2_000;

/// Lines that one thread parses while others do the same.
const CHUNK_LINES: usize = 4_096;

/// A run that was read and judged again.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) run: Run,
    pub(super) detail: Detail,
    pub(super) manifest: Value,
    pub(super) slo: Slo,
    pub(super) labels: Joined,
}

impl Loaded {
    /// Reads the run in `folder`, gives it `labels`, and measures it anew.
    pub(super) fn read(
        folder: &Path,
        labels: &[Label],
        paid: &Paid,
        replicas: Option<u32>,
    ) -> anyhow::Result<Self> {
        progress(&format!("reading {}", folder.display()));
        let file = folder.join("run.json");
        let manifest: Value = json(&file)?;
        let judged = manifest.get("judged").cloned().unwrap_or_default();
        let mut judged: Judged = serde_json::from_value(judged).map_err(|_| {
            anyhow!(
                "{} does not say what its requests were judged by; run it again with this version",
                file.display()
            )
        })?;
        if let Some(prices) = &paid.costs {
            let known = judged.info.costs.as_ref().map(|it| it.replicas);
            let replicas = replicas.or(known).unwrap_or(1);
            judged.info.costs = Some(Costs { prices: prices.clone(), replicas });
        }
        judged.info.workload_class = paid.workload_class.or(judged.info.workload_class);
        let mut records = records(&folder.join("requests.jsonl"))?;
        let labels = judged.judge_again(&mut records, labels);
        let mut run = Run::measure(&judged.info, &records, &Histogram::new());
        // Each gap between tokens is in no file; what is known of them all is in the summary.
        let summary: Option<Summary> = json(&folder.join("summary.json")).ok();
        let before = summary.and_then(|it| it.runs.into_iter().find(|it| it.seed == run.seed));
        run.itl_ms = before.as_ref().and_then(|it| it.itl_ms);
        run.limits = before.and_then(|it| it.limits);
        let name = format!("{}, {}, seed {}", run.workload, run.policy, run.seed);
        let detail = Detail::of(&name, &records, &judged.disruptions);
        Ok(Self { run, detail, manifest, slo: judged.terms.slo, labels })
    }
}

/// The folders with a run's requests: `folder` itself, or those right below it.
pub(super) fn runs_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let has_run = |folder: &Path| folder.join("requests.jsonl").is_file();
    if has_run(folder) {
        return Ok(vec![folder.to_owned()]);
    }
    let entries = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}; pass a folder of results", folder.display()))?;
    let mut runs: Vec<PathBuf> =
        entries.filter_map(|it| Some(it.ok()?.path())).filter(|it| has_run(it)).collect();
    runs.sort();
    if runs.len() > RUNS_MAX {
        let (name, found) = (folder.display(), runs.len());
        bail!("{name} holds {found} runs; pass those to compare, {RUNS_MAX} at most");
    }
    Ok(runs)
}

/// The value that a JSON file holds.
pub(super) fn json<T: DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    let name = file.display();
    let text = fs::read(file).with_context(|| format!("cannot read {name}"))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot parse {name}"))
}

/// The labels in a file, one a line.
pub(super) fn labels(file: &Path) -> anyhow::Result<Vec<Label>> {
    let name = file.display();
    let open = File::open(file).with_context(|| format!("cannot open the labels {name}"))?;
    let lines = BufReader::new(open).lines().enumerate();
    lines
        .filter(|(_, line)| !line.as_ref().is_ok_and(|it| it.trim().is_empty()))
        .map(|(number, line)| {
            let line = line.with_context(|| format!("cannot read the labels {name}"))?;
            serde_json::from_str(&line).with_context(|| {
                let line = number.saturating_add(1);
                format!(
                    r#"{name}, line {line}: not a label such as {{"request_id": "r1", "accepted": true}}"#
                )
            })
        })
        .collect()
}

/// The records in a file, one a line, parsed by as many threads as there are processors.
fn records(file: &Path) -> anyhow::Result<Vec<RequestRecord>> {
    let name = file.display();
    let text = fs::read(file).with_context(|| format!("cannot read {name}"))?;
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|it| !it.is_empty()).collect();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let each = lines.len().div_ceil(threads).max(CHUNK_LINES);
    let parse = |first: usize, lines: &[&[u8]]| -> anyhow::Result<Vec<RequestRecord>> {
        let parsed = lines.iter().zip(first..).map(|(line, number)| {
            serde_json::from_slice(line).with_context(|| {
                format!("{name}, line {}: not a request's record", number.saturating_add(1))
            })
        });
        parsed.collect()
    };
    let parts: Vec<anyhow::Result<Vec<RequestRecord>>> = thread::scope(|scope| {
        let started: Vec<_> = lines
            .chunks(each)
            .zip((0..).step_by(each))
            .map(|(chunk, first)| scope.spawn(move || parse(first, chunk)))
            .collect();
        let joined = started.into_iter().map(|it| {
            it.join().unwrap_or_else(|_| Err(anyhow!("a thread that read {name} broke off")))
        });
        joined.collect()
    });
    let mut records = Vec::with_capacity(lines.len());
    for part in parts {
        records.append(&mut part?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn records_come_back_in_their_order() {
        let line = |number: u64| {
            let record =
                RequestRecord { request_id: number.to_string(), ..RequestRecord::default() };
            serde_json::to_string(&record).unwrap() + "\n"
        };
        let file = written(&(0..10_000).map(line).collect::<String>());
        let records = records(file.path()).unwrap();
        let numbers: Vec<u64> = records.iter().map(|it| it.request_id.parse().unwrap()).collect();
        assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let file = written("{}\n{}\nnonsense\n");
        let error = format!("{:#}", records(file.path()).unwrap_err());
        assert!(error.contains("line 3"), "{error}");
        let error = format!("{:#}", labels(file.path()).unwrap_err());
        assert!(error.contains("line 1") && error.contains("request_id"), "{error}");
    }
}
