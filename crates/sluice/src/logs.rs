//! Writes log lines to stderr without ever waiting for whoever reads them.

use std::io::{BufWriter, IsTerminal as _};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Lines that may wait to be written; beyond it lines are lost rather than requests delayed.
const LINES_WAITING_MAX: usize = 16_384;

/// Bytes of lines that are written at once.
const BATCH_BYTES: usize = 64 << 10;

/// Starts to write log lines; those still waiting are written when the guard is dropped.
pub(crate) fn start(format: LogFormat, default_filter: &str) -> WorkerGuard {
    let stderr = std::io::stderr();
    let is_terminal = stderr.is_terminal();
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING_MAX)
        .lossy(true)
        // The writing thread flushes whenever it has caught up, so a lone line is not held back and
        // a burst takes one system call.
        .finish(BufWriter::with_capacity(BATCH_BYTES, stderr));
    let filter = EnvFilter::try_from_env("SLUICE_LOG");
    let filter = filter.unwrap_or_else(|_| EnvFilter::new(default_filter));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_target(false)
        .with_ansi(is_terminal);
    match format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    guard
}
