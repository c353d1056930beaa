//! The most requests that can be served on time, by somebody who knows the future.
//!
//! One server, jobs that arrive over time, and deadlines that are *agreeable*: who arrives earlier
//! has no later deadline, as with one SLO for all. Then the order of arrival is an optimal order
//! for whichever jobs are served, preemption gains nothing, and what is left is to choose whom to
//! turn away. Kise, Ibaraki and Mine (Operations Research 26, 1978) choose so: append jobs in the
//! order of arrival; whenever the last one is late, drop the job whose absence lets the last one
//! end earliest. Without job `l` that end comes earlier by
//!
//! ```text
//! red(l) = min(p_l, min over j > l of (start_j − r_j))
//! ```
//!
//! where `p` is the service time and `r` the arrival: a later job moves up at most to its arrival.
//! They scan for the largest reduction, O(n²) in all; a `tree::SlackTree` finds it in O(log n).
//! With all arrivals at zero this is the rule of Moore and Hodgson (drop the longest).

mod tree;

use std::time::Duration;

use types::time::Timestamp;

use tree::SlackTree;

/// Work that is on time when it is done by its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it can start.
    pub arrival: Timestamp,
    /// How long a server takes for it.
    pub service: Duration,
    /// When it must be done.
    pub deadline: Timestamp,
}

impl Job {
    /// A job that arrives at `arrival`, takes `service` and must be done within `slo`.
    #[must_use]
    pub fn within(slo: Duration, arrival: Timestamp, service: Duration) -> Self {
        Self { arrival, service, deadline: arrival + slo }
    }
}

/// Whom to serve so that as many jobs as possible are on time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnTime {
    /// Whether each job is served, in the order in which the jobs were given.
    pub served: Vec<bool>,
    /// Whether `served` is a schedule that exists. Where it is not, because some job arrived later
    /// and was due earlier than another or because servers were pooled, its count is a bound that
    /// no schedule exceeds.
    pub is_exact: bool,
}

impl OnTime {
    /// How many jobs are on time.
    #[must_use]
    pub fn count(&self) -> usize {
        self.served.iter().filter(|served| **served).count()
    }
}

/// The most jobs that one server can finish on time; O(n log n).
///
/// Deadlines that are not agreeable are put off until they are, each to the latest deadline of an
/// earlier arrival; the count is then a bound ([`OnTime::is_exact`]).
#[must_use]
pub fn one_server(jobs: &[Job]) -> OnTime {
    pooled(jobs, 1)
}

/// A bound on the jobs that `servers` servers can finish on time, each job on one of them.
///
/// One server that is `servers` times as fast can do whatever the many can do, slice by slice, so
/// its optimum is no smaller. A job that is late even on an empty server of the fleet is left out.
/// Exact for one server. No servers finish nothing.
#[must_use]
pub fn pooled(jobs: &[Job], servers: u32) -> OnTime {
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    let of = |at: &usize| jobs.get(*at).map(|job| (job.arrival, job.deadline));
    order.sort_by_key(of);
    let mut schedule = Schedule::new(jobs.len());
    let mut served = vec![false; jobs.len()];
    let mut latest = Timestamp::ZERO;
    let mut is_exact = servers <= 1;
    for (place, at) in order.iter().enumerate() {
        let Some(job) = jobs.get(*at) else { continue };
        is_exact &= job.deadline >= latest;
        latest = latest.max(job.deadline);
        let Some(service) = nanos(job.service).checked_div(u64::from(servers)) else { continue };
        if job.arrival + job.service <= job.deadline {
            schedule.append(place, nanos(job.arrival.elapsed()), service, nanos(latest.elapsed()));
        }
    }
    for (place, at) in order.iter().enumerate() {
        if let Some(served) = served.get_mut(*at) {
            *served = schedule.is_kept(place);
        }
    }
    OnTime { served, is_exact }
}

/// Nanoseconds, saturating after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The jobs kept so far, one after another in the order of arrival.
#[derive(Debug)]
struct Schedule {
    tree: SlackTree,
    kept: Vec<bool>,
    /// When the last job ends, in nanoseconds.
    end: u64,
}

impl Schedule {
    fn new(jobs: usize) -> Self {
        Self { tree: SlackTree::new(jobs), kept: vec![false; jobs], end: 0 }
    }

    fn is_kept(&self, place: usize) -> bool {
        self.kept.get(place).copied().unwrap_or(false)
    }

    /// Appends the job at `place`, after all that were appended, and drops one if it is late.
    fn append(&mut self, place: usize, arrival: u64, service: u64, deadline: u64) {
        let start = self.end.max(arrival);
        self.end = start.saturating_add(service);
        self.tree.insert(place, service, start.saturating_sub(arrival));
        self.keep(place, true);
        if self.end <= deadline {
            return;
        }
        // A job that starts when it arrives is on time, so the last one waited for another, and
        // leaving out the last alone ends before its deadline.
        if let Some(cut) = self.tree.largest_reduction() {
            self.tree.remove(cut.place, cut.reduction);
            self.end = self.end.saturating_sub(cut.reduction);
            self.keep(cut.place, false);
        }
        debug_assert!(self.end <= deadline, "the last job is still late");
    }

    fn keep(&mut self, place: usize, keep: bool) {
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = keep;
        }
    }
}

#[cfg(test)]
mod tests;
