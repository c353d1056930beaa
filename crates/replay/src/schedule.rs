//! When requests leave.
//!
//! A thread of its own wakes for each request and hands it to the runtime. The runtime's timers
//! count in milliseconds and round up, which would make every request late by one; the system's
//! clock wakes a thread within some 50 µs and costs nothing while it sleeps. Where the clock is the
//! runtime's own and paused, its timers do.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};
use tokio_util::sync::CancellationToken;
use types::time::Timestamp;

use crate::{
    options::{ReplayOptions, Wake},
    send::{Outgoing, Sender},
    sessions::Numbered,
};

/// Time from the call to the run's start, for the first request to be made ready in.
const LEAD: Duration = Duration::from_millis(20);

/// Longest sleep before a look at whether the run was stopped.
const NAP_MAX: Duration = Duration::from_millis(50);

/// Time between two looks for turns that follow answers, where the runtime's timers wake.
const TURNS_EVERY: Duration = Duration::from_millis(1);

/// Turns that may wait for the clock's thread, which takes them the moment they come.
const TURNS_WAITING_MAX: usize = 1_024;

/// A run's clock and its end.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    start: Instant,
    /// When the last request must have ended.
    end: Timestamp,
    pub(crate) stop: CancellationToken,
}

impl Plan {
    /// A run that starts in a moment and schedules its last request at `last`.
    pub(crate) fn new(options: &ReplayOptions, last: Timestamp, stop: CancellationToken) -> Self {
        Self { start: Instant::now() + LEAD, end: last + options.drain_max, stop }
    }

    /// The time since the run's start; its start before that.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_elapsed(self.start.elapsed())
    }

    /// The instant of `at`. One beyond what the clock can tell is never; a century is near enough.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let never = Duration::from_secs(3_155_760_000);
        self.start.checked_add(at.elapsed()).unwrap_or(self.start + never)
    }

    /// When the request that was scheduled at `at` must have ended.
    pub(crate) fn deadline(&self, at: Timestamp, request_deadline: Duration) -> Instant {
        self.instant((at + request_deadline).min(self.end))
    }
}

/// What waits to be sent, and the channel on which more may come.
pub(crate) struct Clock {
    plan: Plan,
    sender: Arc<Sender>,
    /// What has a time of its own, by time.
    timeline: std::vec::IntoIter<Numbered>,
    /// What is ready to leave, by time: the next of the timeline, and turns that follow answers.
    ready: BTreeMap<(Timestamp, usize), Box<Outgoing>>,
    /// Whether the next of the timeline is among what is ready.
    is_next_ready: Option<(Timestamp, usize)>,
    /// Turns that follow answers; none where no more will come.
    turns: Option<Receiver<Numbered>>,
}

/// Starts to send `timeline`, which is by time, each when `wake` says so. Turns that follow answers
/// are sent there; whoever holds the end that is returned keeps the run going.
pub(crate) fn start(
    plan: Plan,
    timeline: Vec<Numbered>,
    sender: Arc<Sender>,
    wake: Wake,
) -> SyncSender<Numbered> {
    let (turns, coming) = sync_channel(TURNS_WAITING_MAX);
    let runtime = Handle::current();
    let clock = Clock {
        plan,
        sender,
        timeline: timeline.into_iter(),
        ready: BTreeMap::new(),
        is_next_ready: None,
        turns: Some(coming),
    };
    let on = runtime.clone();
    let _running = match wake {
        Wake::Thread => on.spawn_blocking(move || clock.run(&runtime)),
        Wake::Timers => on.spawn(async move { clock.run_by_timers(&runtime).await }),
    };
    turns
}

impl Clock {
    fn run(mut self, runtime: &Handle) {
        while let Some(wait) = self.send_due(runtime) {
            self.wait(wait.min(NAP_MAX));
        }
    }

    async fn run_by_timers(mut self, runtime: &Handle) {
        while let Some(wait) = self.send_due(runtime) {
            let most = if self.turns.is_some() { TURNS_EVERY } else { NAP_MAX };
            tokio::time::sleep(wait.min(most)).await;
            self.take_turns();
        }
    }

    /// Sends everything that is due, and returns the time until the next one is; none when nothing will
    /// come any more.
    fn send_due(&mut self, runtime: &Handle) -> Option<Duration> {
        while !self.plan.stop.is_cancelled() {
            self.make_next_ready();
            let due = self.ready.first_key_value().map(|(place, _)| place.0);
            let wait = match due {
                Some(due) => self.plan.instant(due).saturating_duration_since(Instant::now()),
                None if self.turns.is_none() => return None,
                None => NAP_MAX,
            };
            if !wait.is_zero() {
                return Some(wait);
            }
            if let Some((place, outgoing)) = self.ready.pop_first() {
                self.is_next_ready.take_if(|it| *it == place);
                self.sender.send(runtime, outgoing);
            }
        }
        None
    }

    /// Rendering a long prompt takes a while: it is done before the time comes.
    fn make_next_ready(&mut self) {
        if self.is_next_ready.is_none()
            && let Some((index, arrival)) = self.timeline.next()
        {
            self.is_next_ready = Some((arrival.at, index));
            self.ready.insert((arrival.at, index), self.sender.prepare(index, &arrival));
        }
    }

    /// Waits for a while, or for a turn that follows an answer.
    fn wait(&mut self, time: Duration) {
        let Some(turns) = &self.turns else { return thread::sleep(time) };
        match turns.recv_timeout(time) {
            Ok(turn) => self.take_turn(&turn),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.turns = None,
        }
    }

    /// Takes the turns that have come meanwhile.
    fn take_turns(&mut self) {
        while let Some(turns) = &self.turns {
            match turns.try_recv() {
                Ok(turn) => self.take_turn(&turn),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.turns = None,
            }
        }
    }

    fn take_turn(&mut self, (index, arrival): &Numbered) {
        let outgoing = self.sender.prepare(*index, arrival);
        self.ready.insert((arrival.at, *index), outgoing);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drain_cuts_a_longer_deadline() {
        let options =
            ReplayOptions { drain_max: Duration::from_secs(5), ..ReplayOptions::default() };
        let plan = Plan::new(&options, Timestamp::ZERO, CancellationToken::new());
        let deadline =
            |seconds| plan.deadline(Timestamp::ZERO, Duration::from_secs(seconds)) - plan.start;
        assert_eq!(deadline(3), Duration::from_secs(3));
        assert_eq!(deadline(9), Duration::from_secs(5));
    }
}
