//! When requests leave.
//!
//! A thread of its own wakes for each request and hands it to the runtime. The runtime's timers
//! count in milliseconds and round up, which would make every request late by one; the system's
//! clock wakes a thread within some 50 µs and costs nothing while it sleeps.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use types::time::Timestamp;
use workload::Arrival;

use crate::{options::ReplayOptions, send::Sender};

/// Time from the call to the run's start, for the first request to be made ready in.
const LEAD: Duration = Duration::from_millis(20);

/// Longest sleep before a look at whether the run was stopped.
const NAP_MAX: Duration = Duration::from_millis(50);

/// A run's clock and its end.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    start: Instant,
    /// When the last request must have ended.
    end: Timestamp,
    pub(crate) stop: CancellationToken,
}

impl Plan {
    pub(crate) fn new(
        options: &ReplayOptions,
        arrivals: &[Arrival],
        stop: CancellationToken,
    ) -> Self {
        let last = arrivals.iter().map(|it| it.at).max().unwrap_or_default();
        Self { start: Instant::now() + LEAD, end: last + options.drain_max, stop }
    }

    /// The time since the run's start; its start before that.
    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_elapsed(self.start.elapsed())
    }

    /// When the request that was scheduled at `at` must have ended.
    pub(crate) fn deadline(&self, at: Timestamp, request_deadline: Duration) -> Instant {
        let end = (at + request_deadline).min(self.end).elapsed();
        // A deadline beyond what the clock can tell is none; a century is near enough to that.
        self.start.checked_add(end).unwrap_or(self.start + Duration::from_secs(3_155_760_000))
    }

    /// Sleeps until `at`; returns whether the run goes on.
    fn sleep_until(&self, at: Timestamp) -> bool {
        loop {
            if self.stop.is_cancelled() {
                return false;
            }
            let wake = self.start + at.elapsed();
            let left = wake.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(NAP_MAX));
        }
    }
}

/// Starts to send `arrivals` from a thread of its own.
pub(crate) fn start(plan: Plan, mut arrivals: Vec<Arrival>, sender: Arc<Sender>) {
    let runtime = Handle::current();
    arrivals.sort_by_key(|it| it.at);
    runtime.clone().spawn_blocking(move || {
        for (index, arrival) in arrivals.into_iter().enumerate() {
            // Rendering a long prompt takes a while: it is done before the time comes.
            let outgoing = sender.prepare(index, &arrival);
            drop(arrival);
            if !plan.sleep_until(outgoing.scheduled()) {
                return;
            }
            sender.send(&runtime, outgoing);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(drain_max: Duration) -> Plan {
        let options = ReplayOptions { drain_max, ..ReplayOptions::default() };
        Plan::new(&options, &[], CancellationToken::new())
    }

    #[test]
    fn the_drain_cuts_a_longer_deadline() {
        let plan = plan(Duration::from_secs(5));
        let deadline =
            |seconds| plan.deadline(Timestamp::ZERO, Duration::from_secs(seconds)) - plan.start;
        assert_eq!(deadline(3), Duration::from_secs(3));
        assert_eq!(deadline(9), Duration::from_secs(5));
    }

    #[test]
    fn a_stopped_run_does_not_sleep_on() {
        let plan = plan(Duration::ZERO);
        plan.stop.cancel();
        assert!(!plan.sleep_until(Timestamp::from_elapsed(Duration::from_secs(3_600))));
    }
}
