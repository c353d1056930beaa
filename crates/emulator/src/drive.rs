//! Drives an engine in real time.
//!
//! One task lets the engine step and sleeps until each step's end. The ends lie on the engine's own
//! schedule: each step begins where the last one ended, not when a timer got round to firing, so
//! that late timers (tokio's tick once a millisecond) delay single tokens by up to a tick but never
//! add up. Tokens are noted in inboxes and never wait for a reader.

use std::{collections::HashMap, ops::Range, sync::Arc, task::Waker, time::Duration};

use engine::{Counters, Engine, InvalidProfile, Job, Profile, Progress, Refusal};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use types::{replica::LoadReport, request::RequestId};

use crate::{
    answer::FinishReason,
    inbox::Inbox,
    kv_events::{Content, Publisher},
    metrics::Latencies,
};

#[cfg(test)]
mod tests;

/// A schedule that is further behind than this (the machine slept, or has too little CPU) starts
/// anew instead of rushing through the steps it missed.
const LAG_MAX: Duration = Duration::from_secs(1);

/// An engine shared between the task that drives it and the connections that feed it.
#[derive(Debug)]
pub(crate) struct Replica {
    core: Mutex<Core>,
    work: Notify,
}

#[derive(Debug)]
struct Core {
    engine: Engine,
    readers: HashMap<RequestId, Reader>,
    requests: u64,
    /// When the first job since the engine went idle was ready to run.
    ready: Option<Instant>,
    latencies: Latencies,
    progress: Vec<Progress>,
    /// Tells what the engine caches, to whoever listens.
    publisher: Option<Publisher>,
}

/// Who waits for the tokens of a job.
#[derive(Debug)]
struct Reader {
    inbox: Arc<Inbox>,
    choice: usize,
    finish_reason: FinishReason,
    arrived: Instant,
    last_token: Instant,
    content: Content,
}

/// What a replica shows of itself at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) load: LoadReport,
    pub(crate) counters: Counters,
    pub(crate) latencies: Latencies,
    /// Jobs that somebody waits for.
    pub(crate) in_flight: usize,
}

/// Answers under way; dropping the ticket aborts those that have not ended.
#[derive(Debug)]
pub(crate) struct Ticket {
    replica: Arc<Replica>,
    ids: Range<u64>,
    pub(crate) inbox: Arc<Inbox>,
}

impl Ticket {
    /// The id of the first answer; no other ticket has it.
    pub(crate) const fn first_id(&self) -> u64 {
        self.ids.start
    }
}

/// A job, how its answer will end, and what its blocks hold.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) job: Job,
    pub(crate) finish_reason: FinishReason,
    pub(crate) content: Content,
}

impl Core {
    /// Notes what the engine stored and evicted, while it is known what its blocks hold.
    fn note_kv_events(&mut self) {
        if let Some(publisher) = &mut self.publisher {
            publisher.note(self.engine.drain_kv_messages());
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.replica.abort(self.ids.clone());
    }
}

impl Replica {
    pub(crate) fn new(
        profile: Profile,
        publisher: Option<Publisher>,
    ) -> Result<Self, InvalidProfile> {
        let mut engine = Engine::new(profile)?;
        if publisher.is_some() {
            engine.record_kv_events();
        }
        let core = Core {
            engine,
            readers: HashMap::new(),
            requests: 0,
            ready: None,
            latencies: Latencies::default(),
            progress: Vec::new(),
            publisher,
        };
        Ok(Self { core: Mutex::new(core), work: Notify::new() })
    }

    /// Queues the jobs of one request, which arrived at `arrived` and is ready to run at `ready`.
    /// The jobs get their ids here.
    pub(crate) fn submit(
        self: &Arc<Self>,
        jobs: impl ExactSizeIterator<Item = Planned>,
        arrived: Instant,
        ready: Instant,
    ) -> Result<Ticket, Refusal> {
        let inbox = Arc::new(Inbox::new(jobs.len()));
        let mut core = self.core.lock();
        let first = core.requests;
        let mut refused = None;
        for (choice, Planned { job, finish_reason, content }) in jobs.enumerate() {
            let id = RequestId(core.requests);
            if let Err(refusal) = core.engine.submit(Job { id, ..job }) {
                refused = Some(refusal);
                break;
            }
            if let Some(publisher) = &mut core.publisher {
                publisher.arrived(&content);
            }
            let inbox = Arc::clone(&inbox);
            let last_token = arrived;
            let reader = Reader { inbox, choice, finish_reason, arrived, last_token, content };
            core.readers.insert(id, reader);
            core.requests = core.requests.saturating_add(1);
        }
        core.ready.get_or_insert(ready);
        let ids = first..core.requests;
        drop(core);
        self.work.notify_one();
        let ticket = Ticket { replica: Arc::clone(self), ids, inbox };
        refused.map_or(Ok(ticket), Err)
    }

    fn abort(&self, ids: Range<u64>) {
        let mut core = self.core.lock();
        for id in ids.map(RequestId) {
            if let Some(reader) = core.readers.remove(&id) {
                core.engine.abort(id);
                if let Some(publisher) = &mut core.publisher {
                    publisher.left(&reader.content);
                }
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let core = self.core.lock();
        Snapshot {
            load: core.engine.load(),
            counters: *core.engine.counters(),
            latencies: core.latencies.clone(),
            in_flight: core.readers.len(),
        }
    }

    pub(crate) fn reset_prefix_cache(&self) -> bool {
        let mut core = self.core.lock();
        let is_reset = core.engine.reset_prefix_cache();
        core.note_kv_events();
        if let Some(publisher) = &mut core.publisher {
            publisher.publish();
        }
        is_reset
    }

    /// Keeps the next `batches` of KV events from those who listen.
    pub(crate) fn lose_kv_events(&self, batches: u32) {
        if let Some(publisher) = &mut self.core.lock().publisher {
            publisher.lose(batches);
        }
    }

    /// KV events published since the start.
    pub(crate) fn kv_events_published(&self) -> u64 {
        self.core.lock().publisher.as_ref().map_or(0, Publisher::published)
    }

    /// Becomes what a new process would be: an empty cache, counters at zero, nothing in flight.
    pub(crate) fn restart(&self) {
        let mut core = self.core.lock();
        // The profile was valid when this engine was made from it.
        if let Ok(engine) = Engine::new(core.engine.profile().clone()) {
            core.engine = engine;
        }
        if let Some(publisher) = &mut core.publisher {
            publisher.restart();
            core.engine.record_kv_events();
        }
        core.readers.clear();
        core.ready = None;
        core.latencies = Latencies::default();
    }

    /// Runs the engine for ever.
    pub(crate) async fn drive(&self) {
        let mut clock = Instant::now();
        let mut wakers = Vec::new();
        loop {
            let Some(step) = self.begin_step() else {
                self.work.notified().await;
                clock = self.core.lock().ready.unwrap_or_else(Instant::now);
                continue;
            };
            clock += step;
            sleep_until(clock).await;
            self.finish_step(clock, &mut wakers);
            wakers.drain(..).for_each(Waker::wake);
            let lag = clock.elapsed();
            if lag > LAG_MAX {
                tracing::warn!(?lag, "the emulated engine fell behind and skips the time it lost");
                clock = Instant::now();
            }
        }
    }

    fn begin_step(&self) -> Option<Duration> {
        let mut core = self.core.lock();
        let step = core.engine.begin_step();
        if step.is_none() {
            core.ready = None;
        }
        core.note_kv_events();
        step
    }

    /// Ends the step at `now` and collects who must be woken.
    fn finish_step(&self, now: Instant, wakers: &mut Vec<Waker>) {
        let mut core = self.core.lock();
        if let Some(publisher) = &mut core.publisher {
            publisher.publish();
        }
        let Core { engine, readers, latencies, progress, publisher, .. } = &mut *core;
        progress.clear();
        engine.finish_step(progress);
        for token in progress.iter() {
            let Some(reader) = readers.get_mut(&token.id) else { continue };
            let gap = now.saturating_duration_since(reader.last_token);
            latencies.record_token(token, gap);
            reader.last_token = now;
            wakers.extend(reader.inbox.deliver(reader.choice, token));
            if token.last {
                let whole = now.saturating_duration_since(reader.arrived);
                latencies.record_end(reader.finish_reason, whole);
                let reader = readers.remove(&token.id);
                if let Some((publisher, reader)) = publisher.as_mut().zip(reader) {
                    publisher.left(&reader.content);
                }
            }
        }
    }
}
