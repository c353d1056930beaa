//! The results folder.
//!
//! Each file is written beside its place and then moved there, so that whoever looks sees the whole
//! of it or none, also when a run is interrupted.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use report::{
    RequestRecord, Summary, csv,
    html::{Detail, Page},
    judged::Judged,
    peers, windows,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use types::time::Timestamp;

/// What a run was: `run.json`.
#[derive(Clone, Debug, Serialize)]
pub struct Manifest {
    /// Version of the program.
    pub version: String,
    /// Commit it was built from, where known.
    pub commit: Option<String>,
    /// The command line.
    pub command: Vec<String>,
    /// The configuration in full, as the program understood it.
    pub config: serde_json::Value,
    /// Name of the workload.
    pub workload: String,
    /// Name of the policy.
    pub policy: String,
    /// Name of the admission mode.
    pub admission: String,
    /// What every random draw followed from.
    pub seed: u64,
    /// SHA-256 of the trace, where there was one.
    pub trace_sha256: Option<String>,
    /// The machine.
    pub host: Host,
    /// Which clock the times are from: `real` or `virtual`.
    pub clock: String,
    /// When the run started, in UTC; absent where the clock is virtual.
    pub started: Option<String>,
    /// What its requests were judged by.
    pub judged: Judged,
}

/// The machine that a run was measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Operating system.
    pub os: String,
    /// Processor architecture.
    pub arch: String,
    /// Processors that the program may use.
    pub cpus: usize,
}

impl Host {
    /// The machine that this program runs on.
    #[must_use]
    pub fn this() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self {
            name: name.map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()),
            os: std::env::consts::OS.to_owned(),
            arch: std::env::consts::ARCH.to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// The time now, in UTC, as a manifest states it.
#[must_use]
pub fn utc_now() -> String {
    jiff::Timestamp::now().to_string()
}

/// The SHA-256 of `bytes`, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a file of the results folder could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; pass a folder that can be written with --out", path.display())]
pub struct Unwritten {
    path: PathBuf,
    source: io::Error,
}

/// Makes `folder` if it is not there and tries whether it can be written, before a run whose results would
/// have no place.
///
/// # Errors
/// A folder that cannot be made or written.
pub fn prepare(folder: &Path) -> Result<(), Unwritten> {
    let unwritten = |source| Unwritten { path: folder.to_owned(), source };
    fs::create_dir_all(folder).map_err(unwritten)?;
    let trial = folder.join(".trial.unfinished");
    File::create(&trial).and_then(|_| fs::remove_file(&trial)).map_err(unwritten)
}

/// Writes a results folder, which is made if it is not there.
///
/// # Errors
/// The first file that cannot be written.
pub fn write(
    folder: &Path,
    manifest: &Manifest,
    records: &[RequestRecord],
    summary: &Summary,
) -> Result<(), Unwritten> {
    fs::create_dir_all(folder).map_err(|source| Unwritten { path: folder.to_owned(), source })?;
    write_file(folder, "run.json", |out| json(out, manifest))?;
    write_file(folder, "requests.jsonl", |out| {
        records.iter().try_for_each(|record| {
            serde_json::to_writer(&mut *out, record)?;
            out.write_all(b"\n")
        })
    })?;
    #[cfg(feature = "parquet")]
    write_file(folder, "requests.parquet", |out| {
        crate::columns::write(out, records).map_err(io::Error::other)
    })?;
    write_file(folder, "profile_export.jsonl", |out| {
        let start_ns = manifest.start_ns();
        let warm = Timestamp::from_elapsed(manifest.judged.info.warm_up);
        (0..).zip(records).try_for_each(|(number, record)| {
            serde_json::to_writer(&mut *out, &peers::aiperf(record, number, start_ns, warm))?;
            out.write_all(b"\n")
        })
    })?;
    write_summary(folder, summary)?;
    let page = page(manifest, records, summary);
    write_file(folder, "report.html", |out| out.write_all(page.render().as_bytes()))?;
    let windows = csv::windows(&windows::windows(records));
    write_file(folder, "windows.csv", |out| out.write_all(windows.as_bytes()))
}

/// Writes the summary of one run or several, into a folder that is made if it is not there.
///
/// # Errors
/// The first file that cannot be written.
pub fn write_summary(folder: &Path, summary: &Summary) -> Result<(), Unwritten> {
    fs::create_dir_all(folder).map_err(|source| Unwritten { path: folder.to_owned(), source })?;
    write_file(folder, "summary.json", |out| json(out, &peers::summary(summary)))?;
    write_file(folder, "summary.csv", |out| out.write_all(csv::runs(&summary.runs).as_bytes()))
}

/// The page of one run.
#[must_use]
pub fn page(manifest: &Manifest, records: &[RequestRecord], summary: &Summary) -> Page {
    let Judged { terms, disruptions, .. } = &manifest.judged;
    let name = format!("{}, {}, seed {}", manifest.workload, manifest.policy, manifest.seed);
    Page {
        title: format!("{} under {}", manifest.workload, manifest.policy),
        slo: Some(terms.slo),
        manifest: serde_json::to_value(manifest).unwrap_or_default(),
        runs: summary.runs.clone(),
        details: vec![Detail::of(&name, records, disruptions)],
        ..Page::default()
    }
}

impl Manifest {
    /// When the run started, in nanoseconds since 1970; zero where the clock is virtual.
    fn start_ns(&self) -> u64 {
        let started = self.started.as_deref().and_then(|it| it.parse::<jiff::Timestamp>().ok());
        started.and_then(|it| u64::try_from(it.as_nanosecond()).ok()).unwrap_or_default()
    }
}

/// Writes one file of text, into a folder that is made if it is not there.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write_text(folder: &Path, name: &str, text: &str) -> Result<(), Unwritten> {
    fs::create_dir_all(folder).map_err(|source| Unwritten { path: folder.to_owned(), source })?;
    write_file(folder, name, |out| out.write_all(text.as_bytes()))
}

fn json(out: &mut BufWriter<File>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

fn write_file(
    folder: &Path,
    name: &str,
    content: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Unwritten> {
    let path = folder.join(name);
    let unfinished = folder.join(format!(".{name}.unfinished"));
    let written = File::create(&unfinished).and_then(|file| {
        let mut out = BufWriter::new(file);
        content(&mut out)?;
        out.flush()?;
        fs::rename(&unfinished, &path)
    });
    written.map_err(|source| Unwritten { path, source })
}

#[cfg(test)]
mod tests {
    use report::{Histogram, Run, RunInfo};

    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            version: "0.1.0".to_owned(),
            commit: None,
            command: vec!["sluice".to_owned(), "replay".to_owned()],
            config: serde_json::Value::Null,
            workload: "support-chat".to_owned(),
            policy: "least-latency".to_owned(),
            admission: "off".to_owned(),
            seed: 1,
            trace_sha256: Some(sha256(b"abc")),
            host: Host::this(),
            clock: "real".to_owned(),
            started: Some(utc_now()),
            judged: Judged::default(),
        }
    }

    #[test]
    fn a_results_folder_holds_what_the_contract_lists_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("a/b");
        let records = [RequestRecord::default(), RequestRecord::default()];
        let run = Run::measure(&RunInfo::default(), &records, &Histogram::new());
        write(&folder, &manifest(), &records, &Summary::new(vec![run])).unwrap();
        let mut names: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        let expected = [
            "profile_export.jsonl",
            "report.html",
            "requests.jsonl",
            #[cfg(feature = "parquet")]
            "requests.parquet",
            "run.json",
            "summary.csv",
            "summary.json",
            "windows.csv",
        ];
        assert_eq!(names, expected);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("requests.jsonl").lines().count(), 2);
        assert_eq!(read("profile_export.jsonl").lines().count(), 2);
        let summary: Summary = serde_json::from_str(&read("summary.json")).unwrap();
        assert_eq!((summary.schema.as_str(), summary.runs[0].failed), ("sluice.summary/1", 2));
        let run: serde_json::Value = serde_json::from_str(&read("run.json")).unwrap();
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(run["trace_sha256"], sha256);
        assert!(run["started"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn a_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a/b");
        prepare(&new).unwrap();
        assert_eq!(fs::read_dir(&new).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = prepare(&file.path().join("x")).unwrap_err();
        assert!(error.to_string().contains("with --out"), "{error}");
        let summary = Summary::new(Vec::new());
        let error = write(&file.path().join("x"), &manifest(), &[], &summary).unwrap_err();
        assert!(error.to_string().contains("with --out"), "{error}");
    }
}
