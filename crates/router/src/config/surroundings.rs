//! What a configuration counts on beyond itself: keys in variables and files, folders, names, threads.
//!
//! All of it is looked at before anything starts, so that what is valid also runs.

use std::{fs, num::NonZeroUsize};

use super::{Config, Secret};
use crate::tenants::Tenants;

/// Most threads that serve; each takes a stack, and more than cores are of no use.
const WORKER_THREADS_MAX: usize = 1_024;

/// Everything wrong with what `config` counts on.
pub(super) fn problems(config: &Config) -> Vec<String> {
    let mut problems = Tenants::new(&config.tenants, &Tenants::default()).err().unwrap_or_default();
    if let Some(problem) = config.admin.key.as_ref().and_then(|it| Secret::hash(it).err()) {
        problems.push(format!("admin.key.{problem}"));
    }
    if let Some(discovery) = &config.discovery {
        if !names_a_port(&discovery.dns) {
            let dns = discovery.dns.escape_debug();
            problems.push(format!("discovery.dns: `{dns}` names no port; write HOST:PORT"));
        }
        if discovery.interval.is_zero() {
            problems.push("discovery.interval: must be more than zero".to_owned());
        }
    }
    if let Some(recording) = &config.recording {
        let folder = &recording.directory;
        let problem = match fs::metadata(folder) {
            Ok(found) if found.is_dir() => None,
            Ok(_) => Some("is no folder".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        problems.extend(problem.map(|it| {
            let folder = folder.display();
            format!("recording.directory: {folder}: {it}; name a folder that can be written")
        }));
        if recording.bytes_max.0 == 0 {
            problems.push("recording.bytes_max: must be more than zero".to_owned());
        }
    }
    let threads = config.worker_threads.map_or(1, NonZeroUsize::get);
    if WORKER_THREADS_MAX < threads {
        problems.push(format!(
            "worker_threads: {threads} is more than {WORKER_THREADS_MAX}; leave it out for one for each core"
        ));
    }
    problems
}

/// Whether `text` is a host and a port that can be reached.
pub(super) fn names_a_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

#[cfg(test)]
mod tests {
    use super::{super::tests::told, *};

    #[test]
    fn what_is_not_there_is_told_all_at_once() {
        let told = told(
            "
admin: { key: { env: NO_SUCH_VARIABLE } }
tenants:
  - { name: a, keys: [{ sha256: zz }, { file: no/such/key }] }
  - { name: b, keys: [{ env: NO_SUCH_VARIABLE }] }
recording: { directory: no/such/folder, bytes_max: 0B }
discovery: { dns: nohostport, interval: 0s }
worker_threads: 100000
",
        );
        for culprit in [
            "admin.key.env: the variable NO_SUCH_VARIABLE",
            "tenants[0].keys[0].sha256: must be 64",
            "tenants[0].keys[1].file: cannot read no/such/key",
            "tenants[1].keys[0].env",
            "recording.directory: no/such/folder",
            "recording.bytes_max",
            "discovery.dns: `nohostport` names no port",
            "discovery.interval",
            "worker_threads: 100000",
        ] {
            assert!(told.contains(culprit), "{culprit} is missing from: {told}");
        }
        assert_eq!(told.lines().count(), 10, "each once: {told}");
    }

    #[test]
    fn what_is_there_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "secret").unwrap();
        let (folder, file) = (folder.path().display(), file.display());
        let right = format!(
            "
tenants: [{{ name: a, keys: [{{ file: '{file}' }}] }}]
recording: {{ directory: '{folder}' }}
discovery: {{ dns: 'engines.example:8000' }}
worker_threads: 4
"
        );
        assert_eq!(told(&right), "");
        let no_folder = told(&format!("recording: {{ directory: '{file}' }}"));
        assert!(no_folder.contains("is no folder"), "{no_folder}");
        for dns in ["a:0", "a:65536", ":80", "a:", "a"] {
            assert!(
                told(&format!("discovery: {{ dns: '{dns}' }}")).contains("discovery.dns"),
                "{dns}"
            );
        }
    }
}
