//! What is shared between the task that follows an engine and everybody else.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Whether an engine's events tell what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Following {
    /// Not yet: its models or its events have not been seen.
    #[default]
    Waiting,
    /// They do.
    Followed,
    /// Some were missed and can't be had again, so that what it holds is not known until it restarts
    /// or forgets everything.
    Gap,
    /// It computed prompts and told nothing.
    Silent,
    /// They can't be used, until the engine connects anew or says its first again; the log has said why.
    Unusable,
}

impl Following {
    /// Every value.
    pub const ALL: [Self; 5] =
        [Self::Waiting, Self::Followed, Self::Gap, Self::Silent, Self::Unusable];

    /// The value as metrics spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Followed => "followed",
            Self::Gap => "gap",
            Self::Silent => "silent",
            Self::Unusable => "unusable",
        }
    }
}

/// How the following of one engine goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KvStatus {
    /// Whether its events tell what it holds.
    pub following: Following,
    /// Events received.
    pub events: u64,
    /// Times that messages were missed.
    pub gaps: u64,
    /// Times that messages were asked for again.
    pub replays: u64,
    /// Times that the engine was seen to have restarted.
    pub restarts: u64,
    /// Blocks that could not be named, because the one before them is not known or there was no room.
    pub orphans: u64,
    /// Time from an event to its arrival here, as far as the two clocks agree.
    pub lag: Duration,
}

/// What is shared between the task that follows an engine and everybody else.
#[derive(Debug, Default)]
pub struct Feed {
    status: Mutex<KvStatus>,
    /// Answers since the last event whose prompts were computed in part: there should be events.
    computed: AtomicU32,
    /// Asks the task to begin anew.
    pub(super) anew: Notify,
}

impl Feed {
    /// How the following goes.
    pub fn status(&self) -> KvStatus {
        *self.status.lock()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut KvStatus)) {
        change(&mut self.status.lock());
    }

    /// Learns that the engine computed blocks of a prompt.
    pub(crate) fn computed(&self) {
        self.computed.fetch_add(1, Ordering::Relaxed);
    }

    /// Learns that the engine's cache was lost.
    pub(crate) fn lost(&self) {
        self.anew.notify_one();
    }

    /// Answers since the last event that there should be events of.
    pub(super) fn unexplained(&self) -> u32 {
        self.computed.load(Ordering::Relaxed)
    }

    pub(super) fn heard(&self) {
        self.computed.store(0, Ordering::Relaxed);
    }
}
