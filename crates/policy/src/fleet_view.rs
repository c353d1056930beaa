//! What the dispatcher believes of each replica: health, models, load.
//!
//! Load has two parts. What this dispatcher placed is counted exactly and at once: it is reserved
//! at the pick, so that simultaneous requests never choose from one stale snapshot. What others
//! placed is read from the engine's own reports.

use std::time::Duration;

use types::{
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::ModelId,
    time::Timestamp,
};

use crate::prefix_index::Slot;

/// Age at which a load report no longer counts; several scrapes must have failed by then.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);

/// Work placed on a replica and not yet given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests whose last byte has not come.
    pub in_flight: u32,
    /// Prompt tokens to be computed for requests whose first token has not come.
    pub queued_prefill: Tokens,
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Which replica.
    pub id: ReplicaId,
    /// Where the prefix index files it.
    pub slot: Slot,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Models it serves; empty means any.
    pub models: Box<[ModelId]>,
    /// Work placed here.
    pub load: Load,
    /// Requests that others placed here, when that was seen.
    foreign: Option<(Timestamp, u32)>,
}

impl Replica {
    /// Requests on the replica at `now`: those placed here and those that others placed.
    #[must_use]
    pub fn requests(&self, now: Timestamp) -> u32 {
        let foreign = match self.foreign {
            Some((seen, requests)) if now.since(seen) <= REPORT_AGE_MAX => requests,
            Some(_) | None => 0,
        };
        self.load.in_flight.saturating_add(foreign)
    }

    /// Whether the replica takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health == Health::Ready
    }

    fn serves(&self, model: ModelId) -> bool {
        self.models.is_empty() || self.models.contains(&model)
    }
}

/// Every replica of the fleet, in the order in which they joined.
#[derive(Debug, Default)]
pub struct FleetView {
    replicas: Vec<Replica>,
}

impl FleetView {
    /// Adds a replica that is not ready yet; one that is already known stays as it is.
    pub fn join(&mut self, id: ReplicaId, slot: Slot) {
        if self.get(id).is_none() {
            self.replicas.push(Replica {
                id,
                slot,
                health: Health::Starting,
                models: Box::default(),
                load: Load::default(),
                foreign: None,
            });
        }
    }

    /// Removes a replica and returns what was known of it.
    pub fn leave(&mut self, id: ReplicaId) -> Option<Replica> {
        let position = self.replicas.iter().position(|it| it.id == id)?;
        Some(self.replicas.remove(position))
    }

    /// What is known of replica `id`.
    #[must_use]
    pub fn get(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.iter().find(|it| it.id == id)
    }

    /// What is known of replica `id`, to change it.
    pub fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        self.replicas.iter_mut().find(|it| it.id == id)
    }

    /// Every replica, in the order in which they joined.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Whether a replica serves `model`, ready or not; a fleet of nobody might serve any.
    #[must_use]
    pub fn knows(&self, model: ModelId) -> bool {
        self.replicas.is_empty() || self.replicas.iter().any(|it| it.serves(model))
    }

    /// The replicas that take requests for `model`, in the order in which they joined.
    pub fn ready_for(&self, model: ModelId) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |it| it.is_ready() && it.serves(model))
    }

    /// Learns what replica `id` says of its load: whatever exceeds what was placed here is the
    /// work of others.
    pub fn report(&mut self, now: Timestamp, id: ReplicaId, report: LoadReport) {
        if let Some(replica) = self.get_mut(id) {
            let requests = report.running.saturating_add(report.waiting);
            let foreign = requests.saturating_sub(replica.load.in_flight);
            replica.foreign = Some((now, foreign));
        }
    }

    /// Reserves a request with `uncached` prompt tokens on replica `id`.
    pub fn reserve(&mut self, id: ReplicaId, uncached: Tokens) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.in_flight = replica.load.in_flight.saturating_add(1);
            replica.load.queued_prefill += uncached;
        }
    }

    /// Gives back the prefill part of a reservation.
    pub fn release_prefill(&mut self, id: ReplicaId, uncached: Tokens) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.queued_prefill = replica.load.queued_prefill.saturating_sub(uncached);
        }
    }

    /// Gives back the request part of a reservation.
    pub fn release_request(&mut self, id: ReplicaId) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.in_flight = replica.load.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_placed_counts_until_the_report_is_old() {
        let mut fleet = FleetView::default();
        let id = ReplicaId(3);
        fleet.join(id, Slot::default());
        fleet.reserve(id, Tokens(10));
        let report = LoadReport { running: 4, waiting: 2, kv_usage: 0.5 };
        fleet.report(Timestamp::ZERO, id, report);
        let requests = |now| fleet.get(id).unwrap().requests(now);
        assert_eq!(requests(Timestamp::ZERO), 6);
        assert_eq!(requests(Timestamp::ZERO + Duration::from_secs(11)), 1);
    }

    #[test]
    fn a_report_that_lags_behind_takes_nothing_away() {
        let mut fleet = FleetView::default();
        let id = ReplicaId(3);
        fleet.join(id, Slot::default());
        for _ in 0..5 {
            fleet.reserve(id, Tokens(10));
        }
        fleet.report(Timestamp::ZERO, id, LoadReport::default());
        assert_eq!(fleet.get(id).unwrap().requests(Timestamp::ZERO), 5);
    }
}
