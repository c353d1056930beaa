//! Leaves a replica alone for as long as it has asked, in `retry-after`.
//!
//! It is well meanwhile: its health is as it was, and only the dispatcher is told that it takes nothing.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use policy::event::Event;
use tokio::time::Instant;
use types::replica::Health;

use super::{Replica, State};

/// Longest time that a replica is left alone because it said so.
pub const COOLING_MAX: Duration = Duration::from_secs(600);

impl Replica {
    /// Learns that the replica has no room and wants to be left alone for a while. It is not ill, so
    /// only the dispatcher is told; the longest wait is [`COOLING_MAX`]. Of several waits the one that
    /// ends last counts.
    pub fn declined(self: &Arc<Self>, retry_after: Option<Duration>) {
        self.answered();
        let Some(wait) = retry_after.filter(|it| !it.is_zero()) else { return };
        let until = Instant::now() + wait.min(COOLING_MAX);
        let is_first = {
            let mut state = self.state.lock();
            let before = state.cooled_until.replace(until);
            state.cooled_until = before.max(Some(until));
            self.tell_health(&state);
            before.is_none()
        };
        if is_first {
            tokio::spawn(cool_down(Arc::downgrade(self), until));
        }
    }

    /// How long it still wants to be left alone; none where it is not ready or takes requests.
    #[must_use]
    pub fn cools_for(&self) -> Option<Duration> {
        let state = self.state.lock();
        let is_ready = state.tracker.health() == Health::Ready;
        let left = state.cooled_until?.saturating_duration_since(Instant::now());
        is_ready.then_some(left)
    }

    /// Ends the time in which it is left alone, or says until when that was put off.
    fn cooled(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let put_off = state.cooled_until.filter(|it| Instant::now() < *it);
        if put_off.is_none() {
            state.cooled_until = None;
            self.tell_health(&state);
        }
        put_off
    }

    /// Tells the dispatcher whether it takes requests. While its state is held, so that of two changes
    /// the later one is told last.
    pub(super) fn tell_health(&self, state: &State) {
        let health = match (state.tracker.health(), state.cooled_until) {
            (Health::Ready, Some(_)) => Health::Draining,
            (health, _) => health,
        };
        self.dispatch.observe(Event::HealthChanged { replica: self.id, health });
    }
}

/// Waits until a replica need no longer be left alone.
async fn cool_down(replica: Weak<Replica>, mut until: Instant) {
    loop {
        tokio::time::sleep_until(until).await;
        let Some(replica) = replica.upgrade() else { return };
        match replica.cooled() {
            Some(put_off) => until = put_off,
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use policy::config::{DispatcherConfig, StrategyName};
    use types::replica::ReplicaId;

    use super::*;
    use crate::{
        client::{ClientConfig, Reach},
        dispatch::Dispatch,
        health::{Failure, HealthConfig},
        replica::ReplicaSpec,
    };

    /// A replica that takes requests, and whoever chooses it.
    fn ready() -> (Arc<Dispatch>, Arc<Replica>) {
        let dispatch = Dispatch::new(DispatcherConfig::new(StrategyName::LeastRequest, 7));
        let origin = "http://127.0.0.1:1".parse().unwrap();
        let spec = ReplicaSpec::new("r".to_owned(), origin, Reach::default());
        let (health, client) = (HealthConfig::default(), ClientConfig::default());
        let id = ReplicaId(0);
        let replica = Replica::join(&dispatch, id, spec, health, &client, &Arc::default());
        (0..health.probe_successes).for_each(|_| replica.probed(Ok(())));
        (dispatch, replica)
    }

    fn told(dispatch: &Dispatch) -> Health {
        dispatch.inspect(|_, it| it.fleet().get(ReplicaId(0)).unwrap().health)
    }

    /// Lets tasks that are due run.
    async fn advance(seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_wishes_to_be_left_alone_the_one_that_ends_last_counts() {
        let (dispatch, replica) = ready();
        assert_eq!((told(&dispatch), replica.cools_for()), (Health::Ready, None));
        let seconds = Duration::from_secs;
        replica.declined(Some(seconds(2)));
        replica.declined(Some(seconds(20)));
        replica.declined(Some(seconds(1)));
        advance(3).await;
        assert_eq!((told(&dispatch), replica.health()), (Health::Draining, Health::Ready));
        assert_eq!(replica.cools_for(), Some(seconds(17)));
        advance(16).await;
        assert_eq!(told(&dispatch), Health::Draining);
        advance(2).await;
        assert_eq!((told(&dispatch), replica.cools_for()), (Health::Ready, None));
        replica.declined(Some(seconds(2)));
        assert_eq!(told(&dispatch), Health::Draining, "it may ask again");
        advance(3).await;
        assert_eq!(told(&dispatch), Health::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_back_while_it_wants_to_be_left_alone_is_left_alone() {
        let (dispatch, replica) = ready();
        replica.declined(Some(Duration::from_secs(20)));
        replica.request_failed(Failure::Refused);
        assert_eq!((told(&dispatch), replica.cools_for()), (Health::Ejected, None));
        while replica.health() != Health::Ready {
            advance(1).await;
            replica.probed(Ok(()));
        }
        assert_eq!(told(&dispatch), Health::Draining);
        advance(20).await;
        assert_eq!(told(&dispatch), Health::Ready);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_left_alone_for_ever() {
        let (dispatch, replica) = ready();
        replica.declined(Some(Duration::from_secs(u64::MAX)));
        assert_eq!(replica.cools_for(), Some(COOLING_MAX));
        tokio::time::sleep(COOLING_MAX + Duration::from_secs(1)).await;
        assert_eq!(told(&dispatch), Health::Ready);
    }
}
