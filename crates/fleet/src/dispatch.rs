//! The dispatcher, shared between tasks.
//!
//! One lock, held for one synchronous call and never across an `.await`. It gives all events one
//! order, which is what makes a decision repeatable.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use policy::{
    config::DispatcherConfig,
    dispatcher::Dispatcher,
    event::{Decision, Event, Placement, Reject},
    recording::Entry,
};
use tokio::time::Instant;
use types::{
    outcome::Outcome,
    quantity::Tokens,
    request::{Request, RequestId},
    time::Timestamp,
};

use crate::recorder::Recorder;

/// Shares one [`Dispatcher`] between tasks.
#[derive(Debug)]
pub struct Dispatch {
    started: Instant,
    next_id: AtomicU64,
    dispatcher: Mutex<Dispatcher>,
    recorder: Option<Recorder>,
}

impl Dispatch {
    /// Starts with an empty fleet; time counts from now.
    #[must_use]
    pub fn new(config: DispatcherConfig) -> Arc<Self> {
        Self::recorded(config, None)
    }

    /// As [`Self::new`], with everything recorded by `recorder`, which was made for `config`.
    #[must_use]
    pub fn recorded(config: DispatcherConfig, recorder: Option<Recorder>) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            next_id: AtomicU64::new(0),
            dispatcher: Mutex::new(Dispatcher::new(config)),
            recorder,
        })
    }

    /// The time since the start, as the dispatcher counts it.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        Timestamp::from_elapsed(self.started.elapsed())
    }

    /// `instant` as the dispatcher counts time.
    #[must_use]
    pub fn at(&self, instant: Instant) -> Timestamp {
        Timestamp::from_elapsed(instant.duration_since(self.started))
    }

    /// A number that no other request of this run has.
    #[must_use]
    pub fn next_id(&self) -> RequestId {
        RequestId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    /// Places `request`, whose id came from [`Self::next_id`].
    ///
    /// # Errors
    ///
    /// Says why no replica takes the request.
    pub fn place(self: &Arc<Self>, request: Request) -> Result<Ticket, Reject> {
        let id = request.id;
        let placement = self.decide(id, Event::Arrived(request))?;
        Ok(Ticket {
            dispatch: Arc::clone(self),
            id,
            placement,
            outcome: Outcome::Cancelled,
            output: None,
        })
    }

    /// Tells the dispatcher what happened.
    pub fn observe(&self, event: Event) {
        let mut decisions = Vec::new();
        self.handle(event, &mut decisions);
        debug_assert!(decisions.is_empty(), "only an arrival or a retry is decided");
    }

    /// Looks at the dispatcher; `look` must be brief, every request waits for it.
    pub fn inspect<T>(&self, look: impl FnOnce(Timestamp, &Dispatcher) -> T) -> T {
        let dispatcher = self.dispatcher.lock();
        look(self.now(), &dispatcher)
    }

    fn decide(&self, id: RequestId, event: Event) -> Result<Placement, Reject> {
        let mut decisions = Vec::with_capacity(1);
        self.handle(event, &mut decisions);
        let decision = decisions.into_iter().find(|Decision { request, .. }| *request == id);
        // A request is always decided in the call that brings it; the default can't be reached.
        decision.map_or(Err(Reject::NoReplicas), |it| it.verdict)
    }

    fn handle(&self, event: Event, decisions: &mut Vec<Decision>) {
        let mut dispatcher = self.dispatcher.lock();
        // Read under the lock, so that the dispatcher never sees time run backwards.
        let at = self.now();
        let Some(recorder) = &self.recorder else {
            return dispatcher.handle(at, event, decisions);
        };
        dispatcher.handle(at, event.clone(), decisions);
        recorder.record(Entry { at, event, decisions: decisions.clone() });
    }
}

/// A placed request. Dropping it tells the dispatcher that the request has left: as cancelled,
/// unless [`Ticket::leave_as`] said otherwise.
pub struct Ticket {
    dispatch: Arc<Dispatch>,
    id: RequestId,
    placement: Placement,
    outcome: Outcome,
    output: Option<Tokens>,
}

impl Ticket {
    /// Where the request goes, and why.
    #[must_use]
    pub const fn placement(&self) -> &Placement {
        &self.placement
    }

    /// Learns that the first token of the answer came.
    pub fn first_token(&self) {
        self.dispatch.observe(Event::FirstToken(self.id));
    }

    /// Learns how much of the prompt the answer says was found in the replica's cache.
    pub fn found(&self, cached: Tokens) {
        self.dispatch.observe(Event::Found { request: self.id, cached });
    }

    /// Has the request placed elsewhere after an attempt that failed before its first byte.
    ///
    /// # Errors
    ///
    /// Says why no other replica takes the request, which has then left.
    pub fn retry(&mut self) -> Result<(), Reject> {
        self.placement = self.dispatch.decide(self.id, Event::AttemptFailed(self.id))?;
        Ok(())
    }

    /// Says how the request leaves when the ticket is dropped.
    pub fn leave_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Says how many tokens the answer had, as far as is known.
    pub fn generated(&mut self, output: Option<Tokens>) {
        self.output = output;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self { id: request, outcome, output, .. } = *self;
        self.dispatch.observe(Event::Ended { request, outcome, output });
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("id", &self.id)
            .field("placement", &self.placement)
            .field("outcome", &self.outcome)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use policy::config::StrategyName;
    use types::{
        replica::{Health, ReplicaId},
        request::ModelId,
    };

    use super::*;

    fn dispatch(replicas: u32) -> Arc<Dispatch> {
        let dispatch = Dispatch::new(DispatcherConfig::new(StrategyName::LeastRequest, 7));
        for replica in (0..replicas).map(ReplicaId) {
            dispatch.observe(Event::ReplicaJoined(replica));
            dispatch.observe(Event::HealthChanged { replica, health: Health::Ready });
        }
        dispatch
    }

    fn request(dispatch: &Dispatch) -> Request {
        let id = dispatch.next_id();
        let blocks = Vec::new().into();
        Request::new(id, ModelId(1), Tokens(100), blocks)
    }

    fn loads(dispatch: &Dispatch) -> Vec<u32> {
        dispatch.inspect(|_, it| it.fleet().replicas().iter().map(|it| it.load.in_flight).collect())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn places_taken_by_many_tasks_are_all_given_back() {
        let dispatch = dispatch(4);
        let tasks: Vec<_> = (0..400)
            .map(|at: u32| {
                let dispatch = Arc::clone(&dispatch);
                tokio::spawn(async move {
                    let mut ticket = dispatch.place(request(&dispatch)).unwrap();
                    tokio::task::yield_now().await;
                    match at % 4 {
                        0 => ticket.first_token(),
                        1 => ticket.leave_as(Outcome::Failed),
                        2 => ticket.retry().unwrap(),
                        _ => {}
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(loads(&dispatch), [0; 4]);
        assert_eq!(dispatch.inspect(|_, it| it.in_flight()), 0);
    }

    #[tokio::test]
    async fn a_ticket_whose_retry_was_refused_gives_nothing_back_twice() {
        let dispatch = dispatch(1);
        let kept = dispatch.place(request(&dispatch)).unwrap();
        let mut ticket = dispatch.place(request(&dispatch)).unwrap();
        assert_eq!(loads(&dispatch), [2]);
        assert_eq!(ticket.retry(), Err(Reject::AllTried));
        drop(ticket);
        assert_eq!(loads(&dispatch), [1]);
        drop(kept);
        assert_eq!(loads(&dispatch), [0]);
    }
}
