//! Reads results folders.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use replay::output;
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

/// Smallest part of a file that is worth a thread.
const PART_BYTES_MIN: u64 = 1 << 20;

/// What is read at once.
const READ_BYTES: usize = 1 << 18;

/// The labels that a run was given later, in its folder.
const LABELS: &str = "labels.jsonl";

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
        let requests = folder.join("requests.jsonl");
        let mut records = records(&requests)?;
        let (known, found) = (judged.info.records, records.len() as u64);
        if found == 0 || known.is_some_and(|known| known != found) {
            let known = known.map_or_else(String::new, |it| format!(" of the {it} that were sent"));
            bail!(
                "{} holds {found} requests{known}; it is damaged or not whole, run it again",
                requests.display()
            );
        }
        let kept = folder.join(LABELS);
        let before = if kept.is_file() { self::labels(&kept)? } else { Vec::new() };
        judged.judge_again(&mut records, &before);
        let labels = judged.judge_again(&mut records, labels);
        let run = Run::measure(&judged.info, &records, &Histogram::new());
        let mut run = run.disrupted(&judged.info, &records, &judged.disruptions);
        // Each gap between tokens is in no file; what is known of them all is in the summary.
        let summary: Option<Summary> = json(&folder.join("summary.json")).ok();
        let is_it = |it: &Run| {
            let named = |it: &Run| (it.workload.clone(), it.rules(), it.seed);
            named(it) == named(&run)
        };
        let before = summary.and_then(|it| it.runs.into_iter().find(is_it));
        run.itl_ms = before.as_ref().and_then(|it| it.itl_ms);
        run.limits = before.and_then(|it| it.limits);
        let name = format!("{}, {}, seed {}", run.workload, run.policy, run.seed);
        let detail = Detail::of(&name, &records, &judged.disruptions);
        Ok(Self { run, detail, manifest, slo: judged.terms.slo, labels })
    }
}

/// Keeps `labels` in the folder of a run, behind those that are there, so that whoever reads it later
/// judges it by them too.
///
/// # Errors
/// A folder that cannot be written.
pub(super) fn keep(folder: &Path, labels: &[Label]) -> anyhow::Result<()> {
    let mut text = fs::read_to_string(folder.join(LABELS)).unwrap_or_default();
    let mut known: BTreeSet<String> = text.lines().map(str::to_owned).collect();
    for label in labels {
        let line = serde_json::to_string(label)?;
        // One that is there already says nothing new.
        if known.insert(line.clone()) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    output::write_text(folder, LABELS, &text)?;
    Ok(())
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
    let text = fs::read(file)
        .with_context(|| format!("cannot read {name}; pass a folder that --out wrote, whole"))?;
    serde_json::from_slice(&text).with_context(|| {
        format!("cannot parse {name}, which is damaged or not whole; run it again")
    })
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

/// The records in a file, one a line, read and parsed by as many threads as there are processors, each its
/// part of the file line by line: the text of a million records is never in memory as a whole.
fn records(file: &Path) -> anyhow::Result<Vec<RequestRecord>> {
    let name = file.display();
    let bytes = fs::metadata(file).with_context(|| format!("cannot read {name}"))?.len();
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let each = bytes.div_ceil(threads).max(PART_BYTES_MIN);
    let parts: Vec<(u64, u64)> = (0..threads)
        .map(|it| (it.saturating_mul(each), it.saturating_add(1).saturating_mul(each).min(bytes)))
        .take_while(|(from, until)| from < until)
        .collect();
    let parsed: Vec<anyhow::Result<Vec<RequestRecord>>> = thread::scope(|scope| {
        let started: Vec<_> =
            parts.iter().map(|part| scope.spawn(|| records_between(file, *part))).collect();
        let joined = started.into_iter().map(|it| {
            it.join().unwrap_or_else(|_| Err(anyhow!("a thread that read {name} broke off")))
        });
        joined.collect()
    });
    let mut all = Vec::new();
    for part in parsed {
        let mut part = part?;
        if all.is_empty() {
            all = part;
        } else {
            all.append(&mut part);
        }
    }
    Ok(all)
}

/// The records on the lines that begin between two places of a file.
fn records_between(file: &Path, (from, until): (u64, u64)) -> anyhow::Result<Vec<RequestRecord>> {
    let name = file.display();
    let cannot = || format!("cannot read {name}");
    let mut open = File::open(file).with_context(cannot)?;
    // A line that begins before is the part's before; where one begins exactly here, it is ours.
    let mut at = from.saturating_sub(1);
    open.seek(SeekFrom::Start(at)).with_context(cannot)?;
    let mut lines = BufReader::with_capacity(READ_BYTES, open);
    let mut line = Vec::new();
    if from > 0 {
        at = at.saturating_add(lines.read_until(b'\n', &mut line).with_context(cannot)? as u64);
    }
    let mut records = Vec::new();
    while at < until {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).with_context(cannot)? as u64;
        if read == 0 {
            break;
        }
        let is_whole = line.ends_with(b"\n");
        if !line.trim_ascii().is_empty() {
            // Looked at once as text, so that the parser need not look at each word of it again.
            let parsed = str::from_utf8(&line).map_err(anyhow::Error::from);
            let parsed = parsed.and_then(|text| Ok(serde_json::from_str(text)?));
            match parsed {
                Ok(record) => records.push(record),
                Err(error) => return Err(bad_line(file, at, is_whole, &error)),
            }
        }
        at = at.saturating_add(read);
    }
    Ok(records)
}

/// What to say of the line that begins at a place of a file.
fn bad_line(file: &Path, at: u64, is_whole: bool, error: &anyhow::Error) -> anyhow::Error {
    let before = File::open(file).map(|it| BufReader::new(it.take(at)).lines().count());
    let number = before.unwrap_or_default().saturating_add(1);
    let name = file.display();
    if is_whole {
        anyhow!("{name}, line {number}: not a request's record: {error}; delete it, or run again")
    } else {
        anyhow!(
            "{name}, line {number}: cut off, as by a full disk: {error}; delete it to use the others"
        )
    }
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
    fn every_line_is_read_once_wherever_parts_begin() {
        let lines: Vec<String> = (0..50)
            .map(|number: usize| {
                let request_id = "x".repeat(number % 7);
                let turn = u32::try_from(number).unwrap();
                serde_json::to_string(&RequestRecord {
                    request_id,
                    turn,
                    ..RequestRecord::default()
                })
                .unwrap()
                    + if number.is_multiple_of(5) { "\n\n" } else { "\n" }
            })
            .collect();
        let text = lines.concat();
        let file = written(&text);
        let bytes = text.len() as u64;
        for cut in 0..=bytes {
            let part = |from, until| records_between(file.path(), (from, until)).unwrap();
            let turns: Vec<u32> =
                part(0, cut).iter().chain(&part(cut, bytes)).map(|it| it.turn).collect();
            assert_eq!(turns, (0..50).collect::<Vec<_>>(), "cut at {cut}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let file = written("{}\n{}\nnonsense\n");
        let error = format!("{:#}", records(file.path()).unwrap_err());
        assert!(error.contains("line 3"), "{error}");
        let half = format!("{:#}", records(written("{}\n{\"turn\":").path()).unwrap_err());
        assert!(half.contains("line 2: cut off"), "{half}");
        let error = format!("{:#}", labels(file.path()).unwrap_err());
        assert!(error.contains("line 1") && error.contains("request_id"), "{error}");
    }
}
