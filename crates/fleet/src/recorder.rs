//! Writes a flight recording: what the dispatcher learned and decided, in its own order.
//!
//! Entries are handed over under the dispatcher's lock and written by a thread of their own. The
//! queue between them is bounded and nobody waits for room in it: a recording with a gap can't be
//! replayed, so when the disk is too slow or the file long enough the recording ends there, and all
//! of it up to there is good.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use policy::{
    config::DispatcherConfig,
    recording::{Entry, FORMAT, Header},
};

/// Entries that may wait to be written.
const WAITING_MAX: usize = 8_192;

/// Longest time that an entry stays in memory when nothing follows it.
const FLUSH_AFTER: Duration = Duration::from_millis(500);

/// Writes a recording; what waits is written when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    /// Gone once the recording has ended.
    sender: Mutex<Option<SyncSender<Entry>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Begins the recording `file`, which must not exist yet, of a dispatcher that begins with
    /// `config`. It ends at `bytes_max`.
    ///
    /// # Errors
    ///
    /// When the file can't be made or written, or exists.
    pub fn create(file: &Path, bytes_max: u64, config: DispatcherConfig) -> io::Result<Self> {
        let mut out = BufWriter::new(File::create_new(file)?);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let bytes = write_line(&mut out, &Header { sluice_recording: FORMAT, version, config })?;
        out.flush()?;
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let tape = Tape { out, file: file.to_owned(), bytes, bytes_max };
        let thread = thread::Builder::new().name("recorder".to_owned());
        let thread = thread.spawn(move || tape.write(&receiver))?;
        Ok(Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    /// Appends an entry, or ends the recording where there is no room for it.
    pub(crate) fn record(&self, entry: Entry) {
        let mut sender = self.sender.lock();
        let Some(open) = sender.as_ref() else { return };
        match open.try_send(entry) {
            Ok(()) => return,
            Err(TrySendError::Full(_)) => {
                tracing::error!(
                    "the recording ends here: events come faster than they are written"
                );
            }
            // The thread has said why it ended.
            Err(TrySendError::Disconnected(_)) => {}
        }
        *sender = None;
    }

    /// Ends the recording and returns when all that waited is written. Blocks.
    pub(crate) fn finish(&self) {
        *self.sender.lock() = None;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            // A panic in the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.finish();
    }
}

/// The file, and how far it has come.
struct Tape {
    out: BufWriter<File>,
    file: PathBuf,
    bytes: u64,
    bytes_max: u64,
}

impl Tape {
    fn write(mut self, entries: &Receiver<Entry>) {
        let result = self.write_all(entries).and_then(|()| self.out.flush());
        if let Err(error) = result {
            tracing::error!(file = %self.file.display(), %error, "the recording ends here");
        }
    }

    fn write_all(&mut self, entries: &Receiver<Entry>) -> io::Result<()> {
        while self.bytes < self.bytes_max {
            let entry = match entries.recv_timeout(FLUSH_AFTER) {
                Ok(entry) => entry,
                Err(RecvTimeoutError::Timeout) => {
                    self.out.flush()?;
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            self.bytes = self.bytes.saturating_add(write_line(&mut self.out, &entry)?);
        }
        let (file, bytes) = (self.file.display(), self.bytes);
        tracing::warn!(%file, bytes, "the recording ends here: it is as long as it may become");
        Ok(())
    }
}

/// Writes one line and says how many bytes it took.
fn write_line(out: &mut impl Write, line: &impl serde::Serialize) -> io::Result<u64> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    out.write_all(&text)?;
    Ok(text.len() as u64)
}
