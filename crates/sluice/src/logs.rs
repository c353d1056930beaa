//! Writes log lines to stderr without ever waiting for whoever reads them.
//!
//! Lines gather in memory and a thread writes them out some twenty times a second. A writer that is
//! woken for each line (as `tracing-appender` does) cost the router 16 µs of CPU a request, more than
//! formatting the line; this one costs an append.

use std::{
    io::{self, IsTerminal as _, Write},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::args::LogFormat;

mod line;

/// The variable that says which lines are written.
const FILTER: &str = "SLUICE_LOG";

/// Bytes that may wait to be written, those included that are just being written; beyond it lines are lost
/// rather than requests delayed.
const WAITING_BYTES_MAX: usize = 8 << 20;

/// Longest time that a line waits before it is written.
const WRITE_EVERY: Duration = Duration::from_millis(50);

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Lines {
    waiting: Mutex<Waiting>,
    lost: AtomicU64,
    is_over: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Bytes taken out to be written, which takes as long as whoever reads them.
    being_written: usize,
}

impl Lines {
    /// Appends a line, unless too much is waiting.
    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.being_written + waiting.lines.len() + line.len() <= WAITING_BYTES_MAX {
            waiting.lines.extend_from_slice(line);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes what waits, and how many lines were lost.
    fn write_to(&self, out: &mut impl Write) {
        let lines = {
            let mut waiting = self.waiting.lock();
            waiting.being_written = waiting.lines.len();
            mem::take(&mut waiting.lines)
        };
        // Nobody is left to be told that nothing can be written.
        let _ = out.write_all(&lines);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if 0 < lost {
            let _ = writeln!(
                out,
                "{lost} log lines were lost: they came faster than they could be written"
            );
        }
        self.waiting.lock().being_written = 0;
    }
}

/// Hands lines to [`Lines`]; each write is a whole line.
#[derive(Clone, Debug)]
struct LineWriter(Arc<Lines>);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Writes what still waits when it is dropped.
#[derive(Debug)]
pub(crate) struct LogGuard {
    lines: Arc<Lines>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.lines.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic in the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Starts to write log lines; those still waiting are written when the guard is dropped.
pub(crate) fn start(format: LogFormat, default_filter: &str) -> LogGuard {
    let lines = Arc::new(Lines::default());
    let asked = std::env::var(FILTER).ok().filter(|it| !it.trim().is_empty());
    let parsed = asked.as_ref().map(EnvFilter::try_new);
    let (filter, refused) = match parsed {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(default_filter), Some(error)),
        None => (EnvFilter::new(default_filter), None),
    };
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(LineWriter(Arc::clone(&lines)));
    // People get colours.
    if format == LogFormat::Text && io::stderr().is_terminal() {
        logs.with_target(false).init();
    } else {
        logs.event_format(line::Lines(format)).init();
    }
    if let Some(error) = refused {
        tracing::warn!(
            "{FILTER} is not followed: `{}`: {error}; write {default_filter}, debug or router=trace",
            asked.unwrap_or_default()
        );
    }
    let writing = Arc::clone(&lines);
    let thread = thread::Builder::new().name("logs".to_owned()).spawn(move || write_on(&writing));
    LogGuard { lines, thread: thread.ok() }
}

fn write_on(lines: &Lines) {
    loop {
        let is_over = lines.is_over.load(Ordering::Acquire);
        lines.write_to(&mut io::stderr().lock());
        if is_over {
            return;
        }
        thread::park_timeout(WRITE_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let lines = Lines::default();
        lines.add(b"one\n");
        lines.add(b"two\n");
        let mut out = Vec::new();
        lines.write_to(&mut out);
        assert_eq!(out, b"one\ntwo\n");
        lines.write_to(&mut out);
        assert_eq!(out.len(), 8, "nothing is written twice");
    }

    #[test]
    fn what_cannot_wait_is_lost_and_counted() {
        let lines = Lines::default();
        lines.add(&vec![b'x'; WAITING_BYTES_MAX]);
        lines.add(b"one more\n");
        let mut out = Vec::new();
        lines.write_to(&mut out);
        let told = String::from_utf8_lossy(out.get(WAITING_BYTES_MAX..).unwrap()).into_owned();
        assert!(told.starts_with("1 log lines were lost"), "{told}");
    }

    #[test]
    fn what_is_being_written_counts_as_waiting() {
        /// Where as much more is logged while something is written.
        struct Busy<'a>(&'a Lines);

        impl Write for Busy<'_> {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                // Not while it is told what was lost: that is when there is room again.
                if bytes.len() == WAITING_BYTES_MAX {
                    self.0.add(&vec![b'y'; bytes.len()]);
                }
                Ok(bytes.len())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        let lines = Lines::default();
        lines.add(&vec![b'x'; WAITING_BYTES_MAX]);
        lines.write_to(&mut Busy(&lines));
        assert_eq!(lines.waiting.lock().lines.len(), 0, "there was no room for it");
    }
}
