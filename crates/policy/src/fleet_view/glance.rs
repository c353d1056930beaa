//! What decisions read of each replica, side by side.
//!
//! All that is known of one replica fills a dozen cache lines and more, and most of what a decision asks
//! of it changes only when something happens there. So it is worked out then, and kept beside the
//! others'. A glance holds until its replica is touched, or until something that was seen there is too
//! old to count.

use std::{ops::Deref, time::Duration};

use types::{
    quantity::Tokens,
    replica::{LoadReport, ReplicaId},
    time::Timestamp,
};

use super::replica::{REPORT_AGE_MAX, Replica};
use crate::{
    estimate::replica::{Sharing, floor::Floor},
    prefix_index::Slot,
};

/// What decisions read of one replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Glance {
    pub(crate) id: ReplicaId,
    pub(crate) slot: Slot,
    pub(crate) is_ready: bool,
    /// Whether it serves whatever model.
    pub(crate) serves_any: bool,
    pub(crate) has_room: bool,
    /// Whether its replica was touched since.
    is_stale: bool,
    /// The longest prompt it is meant for.
    pub(crate) longest: Tokens,
    pub(crate) sharing: Sharing,
    pub(crate) queued_prefill: Tokens,
    pub(crate) reported: LoadReport,
    pub(crate) floor: Floor,
}

/// While glances hold, both ends included.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    from: Timestamp,
    until: Timestamp,
}

impl Span {
    fn always() -> Self {
        let until = Timestamp::from_elapsed(Duration::MAX);
        Self { from: Timestamp::ZERO, until }
    }

    fn has(&self, now: Timestamp) -> bool {
        self.from <= now && now <= self.until
    }

    /// Ends where something no longer counts, or begins there.
    fn narrow(&mut self, now: Timestamp, counts_until: Timestamp) {
        if now <= counts_until {
            self.until = self.until.min(counts_until);
        } else {
            self.from = self.from.max(counts_until + Duration::from_nanos(1));
        }
    }
}

impl Replica {
    fn glance(&self, now: Timestamp, span: &mut Span) -> Glance {
        let sharing = self.sharing(now);
        let seen = [self.foreign.map(|it| it.0), self.report.map(|it| it.0)];
        let reports = seen.into_iter().flatten().map(|it| it + REPORT_AGE_MAX);
        reports.chain(self.estimate.gaps_count_until()).for_each(|it| span.narrow(now, it));
        Glance {
            id: self.id,
            slot: self.slot,
            is_ready: self.is_ready(),
            serves_any: self.models.is_empty(),
            has_room: self.has_room(now, sharing),
            is_stale: false,
            longest: self.longest(),
            sharing,
            queued_prefill: self.load.queued_prefill + self.told.queued_prefill,
            reported: self.reported(),
            floor: self.estimate.floor(now, sharing),
        }
    }
}

/// Every replica by number, with a glance of each.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    all: Vec<Replica>,
    glances: Vec<Glance>,
    /// Places of those that were touched since their glance.
    stale: Vec<usize>,
    /// Requests on all of them, by their glances.
    requests: usize,
    /// While the other glances hold; nothing holds before the first.
    span: Option<Span>,
}

impl Deref for Replicas {
    type Target = [Replica];

    fn deref(&self) -> &[Replica] {
        &self.all
    }
}

impl Replicas {
    /// The replica at a place, to change it.
    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Replica> {
        if let Some(glance) = self.glances.get_mut(at).filter(|it| !it.is_stale) {
            glance.is_stale = true;
            self.stale.push(at);
        }
        self.all.get_mut(at)
    }

    /// Adds a replica before the one at a place.
    pub(super) fn insert(&mut self, at: usize, replica: Replica) {
        self.span = None;
        self.all.insert(at, replica);
    }

    /// Takes out the replica at a place.
    pub(super) fn remove(&mut self, at: usize) -> Replica {
        self.span = None;
        self.all.remove(at)
    }

    /// Has every glance hold at `now`.
    pub(super) fn refresh(&mut self, now: Timestamp) {
        let Some(span) = self.span.as_mut().filter(|it| it.has(now)) else {
            let mut span = Span::always();
            self.stale.clear();
            self.glances.clear();
            self.glances.extend(self.all.iter().map(|it| it.glance(now, &mut span)));
            self.requests = self.glances.iter().map(|it| it.sharing.all as usize).sum();
            self.span = Some(span);
            return;
        };
        for at in self.stale.drain(..) {
            if let Some((glance, replica)) = self.glances.get_mut(at).zip(self.all.get(at)) {
                let before = glance.sharing.all as usize;
                *glance = replica.glance(now, span);
                let after = glance.sharing.all as usize;
                self.requests = self.requests.saturating_sub(before).saturating_add(after);
            }
        }
        debug_assert!(self.is_fresh(now), "a glance is not what its replica is");
    }

    /// Requests on all of them, as of the last refresh.
    pub(super) const fn requests(&self) -> usize {
        self.requests
    }

    /// What decisions read of each, as of the last refresh.
    pub(super) fn glances(&self) -> &[Glance] {
        &self.glances
    }

    fn is_fresh(&self, now: Timestamp) -> bool {
        let fresh = self.all.iter().map(|it| it.glance(now, &mut Span::always()));
        let requests: usize = self.all.iter().map(|it| it.requests(now) as usize).sum();
        requests == self.requests && fresh.eq(self.glances.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::{EstimateConfig, ReplicaEstimate, Seats};

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn a_glance_holds_until_its_replica_is_touched_or_what_it_saw_is_too_old() {
        let mut replicas = Replicas::default();
        for id in [2, 1, 0] {
            let estimate = ReplicaEstimate::new(&EstimateConfig::default());
            replicas
                .insert(0, Replica::new(ReplicaId(id), Slot::default(), estimate, Seats::new(256)));
        }
        let mut requests = |now, touch: Option<u32>| {
            if let Some(running) = touch {
                let report = LoadReport { running, kv_usage: 0.1, ..LoadReport::default() };
                replicas.get_mut(1).unwrap().report(now, report);
            }
            replicas.refresh(now);
            assert!(replicas.is_fresh(now));
            replicas.glances().iter().map(|it| it.sharing.all).collect::<Vec<_>>()
        };
        assert_eq!(requests(at(0), None), [0, 0, 0]);
        assert_eq!(requests(at(1), Some(7)), [0, 7, 0]);
        assert_eq!(requests(at(10_001), None), [0, 7, 0]);
        assert_eq!(requests(at(10_002), None), [0, 0, 0]);
        // A clock that was read a little earlier.
        assert_eq!(requests(at(10_001), None), [0, 7, 0]);
        assert_eq!(requests(at(10_002), Some(3)), [0, 3, 0]);
        replicas.remove(0);
        replicas.refresh(at(10_003));
        assert_eq!(replicas.glances().len(), 2);
        assert!(replicas.is_fresh(at(10_003)));
    }
}
