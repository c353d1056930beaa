//! Bounds how many replicas may be ejected for what their requests met.
//!
//! Requests are a witness that whoever sends them can influence: a prompt that an engine answers with an
//! error says as much of the prompt as of the engine. So of the replicas that serve the same models and
//! whose probes are answered, half stay, however their requests end. What a probe or a refused
//! connection says is another matter, and bounded by nothing.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use policy::dispatcher::Dispatcher;
use types::{
    replica::{Health, ReplicaId},
    request::ModelId,
};

/// The replicas of a fleet that are ejected for what their requests met.
#[derive(Debug, Default)]
pub(crate) struct Ejections(Mutex<BTreeSet<ReplicaId>>);

impl Ejections {
    /// Learns that `replica` was ejected for what its requests met.
    pub(crate) fn ejected(&self, replica: ReplicaId) {
        self.0.lock().insert(replica);
    }

    /// Learns that it is that no more.
    pub(crate) fn over(&self, replica: ReplicaId) {
        self.0.lock().remove(&replica);
    }

    /// Whether `replica` may be ejected for what its requests met.
    pub(crate) fn may_eject(&self, replica: ReplicaId, dispatcher: &Dispatcher) -> bool {
        let fleet = dispatcher.fleet();
        let models: &[ModelId] = fleet.get(replica).map_or(&[], |it| &it.models);
        let ejected = self.0.lock();
        let (mut alive, mut out) = (0_usize, 0_usize);
        for peer in fleet.replicas() {
            let is_peer = models.is_empty()
                || peer.models.is_empty()
                || peer.models.iter().any(|it| models.contains(it));
            let is_out = ejected.contains(&peer.id);
            if is_peer && (is_out || peer.health == Health::Ready) {
                alive = alive.saturating_add(1);
                out = out.saturating_add(usize::from(is_out));
            }
        }
        out.saturating_add(1).saturating_mul(2) <= alive
    }
}

#[cfg(test)]
mod tests {
    use policy::{
        config::{DispatcherConfig, StrategyName},
        event::Event,
    };
    use types::time::Timestamp;

    use super::*;

    /// Replicas that are ready, each with its models.
    fn dispatcher(models: &[&[u64]]) -> Dispatcher {
        let mut dispatcher = Dispatcher::new(DispatcherConfig::new(StrategyName::LeastRequest, 7));
        for (at, models) in models.iter().enumerate() {
            let replica = ReplicaId(u32::try_from(at).unwrap());
            let models = models.iter().copied().map(ModelId).collect();
            for event in [
                Event::ReplicaJoined(replica),
                Event::ModelsListed { replica, models },
                Event::HealthChanged { replica, health: Health::Ready },
            ] {
                dispatcher.handle(Timestamp::ZERO, event, &mut Vec::new());
            }
        }
        dispatcher
    }

    /// How many are ejected when everybody's requests fail.
    fn ejected(dispatcher: &mut Dispatcher, replicas: u32) -> Vec<u32> {
        let ejections = Ejections::default();
        let mut out = Vec::new();
        for replica in (0..replicas).map(ReplicaId) {
            if ejections.may_eject(replica, dispatcher) {
                ejections.ejected(replica);
                let event = Event::HealthChanged { replica, health: Health::Ejected };
                dispatcher.handle(Timestamp::ZERO, event, &mut Vec::new());
                out.push(replica.0);
            }
        }
        out
    }

    #[test]
    fn half_of_those_that_live_stay_and_the_last_one_always() {
        for (replicas, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let mut dispatcher = dispatcher(&vec![&[1_u64][..]; replicas as usize]);
            assert_eq!(ejected(&mut dispatcher, replicas).len(), most, "of {replicas}");
        }
    }

    #[test]
    fn the_dead_are_not_counted_and_other_models_neither() {
        let mut fleet = dispatcher(&[&[1], &[1], &[2], &[2, 3]]);
        let dead = Event::HealthChanged { replica: ReplicaId(0), health: Health::Ejected };
        fleet.handle(Timestamp::ZERO, dead, &mut Vec::new());
        assert_eq!(ejected(&mut fleet, 4), [2], "the last one of model 1 stays");
    }

    #[test]
    fn one_that_is_back_may_be_ejected_again() {
        let fleet = dispatcher(&[&[1], &[1]]);
        let ejections = Ejections::default();
        ejections.ejected(ReplicaId(0));
        assert!(!ejections.may_eject(ReplicaId(1), &fleet));
        ejections.over(ReplicaId(0));
        assert!(ejections.may_eject(ReplicaId(1), &fleet));
    }
}
