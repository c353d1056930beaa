//! The router's configuration, and how it changes while clients ask.

use std::{
    fmt::Write as _,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use emulator::Handle;
use tokio::sync::watch;

use crate::wire;

/// Time between two reloads.
const RELOAD_EVERY: Duration = Duration::from_secs(7);

/// Short times, so that much happens; small bounds on what is remembered, so that it is full soon.
const COMMON: &str = "\
health: { interval: 500ms, timeout: 500ms, ejection: 300ms }
limits: { body_bytes_max: 256KiB, connections_max: 4000 }
timeouts: { answer: 20s, stall: 4s, client_head: 3s, client_body: 3s, client_stall: 4s, upstream_idle: 2s }
slo: { default: { ttft: 5s, tpot: 200ms } }
drain: { lame_duck: 0s, timeout: 5s }
";

/// A file, and what it says.
pub(crate) struct Config {
    file: PathBuf,
    urls: Vec<String>,
}

impl Config {
    /// Writes the first one.
    pub(crate) fn new(file: PathBuf, replicas: &[Handle]) -> io::Result<Self> {
        let config = Self { file, urls: replicas.iter().map(Handle::url).collect() };
        config.write(0)?;
        Ok(config)
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// The configuration after so many changes.
    fn text(&self, change: usize) -> String {
        let strategy = match change % 4 {
            0 => "least-latency",
            1 => "prefix-aware",
            2 => "sticky",
            _ => "least-request",
        };
        let mut text = COMMON.to_owned();
        let _ = writeln!(
            text,
            "attempts_max: {}\npolicy: {{ strategy: {strategy}, prefix: {{ index_bytes_max: 1MiB, held_bytes_max: 1MiB }}, \
             session: {{ sessions_max: 500 }} }}\nreplicas:",
            2 + change % 2
        );
        // Every third time one of them leaves, with what it has at that moment, and comes back after that.
        let gone = (change % 3 == 1).then(|| change % self.urls.len().max(1));
        for (at, url) in self.urls.iter().enumerate().filter(|(at, _)| Some(*at) != gone) {
            let _ = writeln!(text, "  - {{ name: r{at}, url: '{url}' }}");
        }
        text
    }

    fn write(&self, change: usize) -> io::Result<()> {
        fs::write(&self.file, self.text(change))
    }

    /// Changes it again and again, wrongly now and then; all replicas are back at the end. Returns how often the
    /// router was told.
    pub(crate) async fn keep_changing(
        self,
        admin: SocketAddr,
        mut stopped: watch::Receiver<bool>,
    ) -> io::Result<usize> {
        let mut change = 0;
        loop {
            let stop = stopped.wait_for(|it| *it);
            if tokio::time::timeout(RELOAD_EVERY, stop).await.is_ok() {
                break;
            }
            change += 1;
            if change % 5 == 0 {
                fs::write(&self.file, "policy: [")?;
            } else {
                self.write(change)?;
            }
            let _ = wire::ask(admin, "POST", "/admin/reload", "").await;
        }
        self.write(0)?;
        let _ = wire::ask(admin, "POST", "/admin/reload", "").await;
        Ok(change)
    }
}
