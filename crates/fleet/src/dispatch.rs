//! The dispatcher, shared between tasks.
//!
//! One lock, held for one synchronous call and never across an `.await`. It gives all events one
//! order, which is what makes a decision repeatable. A request that has to wait for a replica is told
//! through a channel of its own, by whoever brings the event that lets it go.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use policy::{
    config::DispatcherConfig,
    dispatcher::Dispatcher,
    event::{Decision, Event, News, Placement, Reject},
    recording::Entry,
};
use rustc_hash::FxHashMap;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use types::{
    outcome::Outcome,
    quantity::Tokens,
    request::{Request, RequestId},
    time::Timestamp,
};

use crate::{placements::Placements, recorder::Recorder};

/// Shares one [`Dispatcher`] between tasks.
#[derive(Debug)]
pub struct Dispatch {
    started: Instant,
    next_id: AtomicU64,
    shared: Mutex<Shared>,
    /// Told when a request begins to wait.
    waits: Notify,
    recorder: Option<Recorder>,
    placements: Arc<Placements>,
}

#[derive(Debug)]
struct Shared {
    dispatcher: Dispatcher,
    /// Those who wait for a decision; the dispatcher's queue bounds them.
    waiting: FxHashMap<RequestId, oneshot::Sender<Result<Placement, Reject>>>,
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
            shared: Mutex::new(Shared {
                dispatcher: Dispatcher::new(config),
                waiting: FxHashMap::default(),
            }),
            waits: Notify::new(),
            recorder,
            placements: Arc::default(),
        })
    }

    /// Ends the recording, if there is one, and returns when all of it is written. Blocks.
    pub fn end_recording(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.finish();
        }
    }

    /// What other routers are told of the requests that are placed here.
    #[must_use]
    pub const fn placements(&self) -> &Arc<Placements> {
        &self.placements
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

    /// Places `request`, whose id came from [`Self::next_id`], when a replica has room for it. A caller
    /// that stops waiting leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Says why no replica takes the request.
    pub async fn place(self: &Arc<Self>, request: Request) -> Result<Ticket, Reject> {
        let id = request.id;
        let told = self.ask(id, Event::Arrived(request));
        let waiting = match told {
            Asked::Decided(verdict) => return Ok(self.ticket(id, verdict?)),
            Asked::Waits(told) => Waiting { dispatch: Arc::clone(self), id, told },
        };
        self.waits.notify_one();
        waiting.placed().await
    }

    const fn new_ticket(dispatch: Arc<Self>, id: RequestId, placement: Placement) -> Ticket {
        let outcome = Outcome::Cancelled;
        Ticket {
            dispatch,
            id,
            placement,
            outcome,
            output: None,
            cached: None,
            held: Duration::ZERO,
        }
    }

    fn ticket(self: &Arc<Self>, id: RequestId, placement: Placement) -> Ticket {
        Self::new_ticket(Arc::clone(self), id, placement)
    }

    /// Looks at those who wait when it is time to; never returns.
    pub async fn tend(&self) {
        loop {
            let next = self.shared.lock().dispatcher.next_wakeup();
            let woken = self.waits.notified();
            match next {
                None => woken.await,
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(self.started + at.elapsed()) => {}
                        () = woken => {}
                    }
                    self.observe(Event::TimePassed);
                }
            }
        }
    }

    /// Tells the dispatcher what happened.
    pub fn observe(&self, event: Event) {
        let mut decisions = Vec::new();
        self.handle(&mut self.shared.lock(), event, &mut decisions);
        debug_assert!(
            decisions.is_empty(),
            "only an arrival or a retry is decided, or one who waits"
        );
    }

    /// Looks at the dispatcher; `look` must be brief, every request waits for it.
    pub fn inspect<T>(&self, look: impl FnOnce(Timestamp, &Dispatcher) -> T) -> T {
        let shared = self.shared.lock();
        look(self.now(), &shared.dispatcher)
    }

    /// Tells the dispatcher of an event that asks for a decision on request `id`.
    fn ask(&self, id: RequestId, event: Event) -> Asked {
        let mut decisions = Vec::with_capacity(1);
        let mut shared = self.shared.lock();
        self.handle(&mut shared, event, &mut decisions);
        let decision = decisions.into_iter().find(|Decision { request, .. }| *request == id);
        match decision {
            Some(it) => Asked::Decided(it.verdict),
            None => {
                let (tell, told) = oneshot::channel();
                shared.waiting.insert(id, tell);
                Asked::Waits(told)
            }
        }
    }

    /// Tells other routers which requests were placed, and where.
    fn tell_placed(&self, dispatcher: &Dispatcher, decisions: &[Decision]) {
        for Decision { request, verdict } in decisions {
            let Ok(Placement { replica, cached, .. }) = *verdict else { continue };
            if let Some(request) = dispatcher.request(*request).cloned() {
                self.placements.tell(&News::Placed { request, replica, cached });
            }
        }
    }

    /// Applies an event, and tells those who waited what was decided on them.
    fn handle(&self, shared: &mut Shared, event: Event, decisions: &mut Vec<Decision>) {
        // Read under the lock, so that the dispatcher never sees time run backwards.
        let at = self.now();
        let is_heard = self.placements.is_heard();
        let left = if is_heard { told_of(&event) } else { None };
        match &self.recorder {
            None => shared.dispatcher.handle(at, event, decisions),
            Some(recorder) => {
                shared.dispatcher.handle(at, event.clone(), decisions);
                recorder.record(Entry { at, event, decisions: decisions.clone() });
            }
        }
        if is_heard {
            left.iter().for_each(|it| self.placements.tell(it));
            self.tell_placed(&shared.dispatcher, decisions);
        }
        decisions.retain(|Decision { request, verdict }| {
            let Some(tell) = shared.waiting.remove(request) else { return true };
            // Who does not listen any more says so to the dispatcher itself.
            let _ = tell.send(*verdict);
            false
        });
    }
}

/// What other routers are told of an event. That a request never was placed makes no difference: nobody
/// knows of it then.
fn told_of(event: &Event) -> Option<News> {
    match *event {
        Event::FirstToken(request) => Some(News::FirstToken(request)),
        Event::Ended { request, outcome, output, cached } => {
            Some(News::Ended { request, outcome, output, cached })
        }
        Event::Arrived(_)
        | Event::AttemptFailed(_)
        | Event::TokensCame { .. }
        | Event::AnswerHeld { .. }
        | Event::ReplicaJoined(_)
        | Event::HealthChanged { .. }
        | Event::ModelsListed { .. }
        | Event::PromptsBounded { .. }
        | Event::AdaptersListed { .. }
        | Event::AdaptersInUse { .. }
        | Event::CacheLost(_)
        | Event::CacheSized { .. }
        | Event::CacheFollowed { .. }
        | Event::BlocksStored { .. }
        | Event::BlocksRemoved { .. }
        | Event::ReplicaLeft(_)
        | Event::LoadReported { .. }
        | Event::PeerTold { .. }
        | Event::RoutingChanged(_)
        | Event::AdmissionChanged(_)
        | Event::TimePassed => None,
    }
}

/// What came of a question.
enum Asked {
    Decided(Result<Placement, Reject>),
    Waits(oneshot::Receiver<Result<Placement, Reject>>),
}

/// A request that waits for a replica. Dropping it before it was told tells the dispatcher that the
/// request has left, whether or not it was placed meanwhile.
struct Waiting {
    dispatch: Arc<Dispatch>,
    id: RequestId,
    told: oneshot::Receiver<Result<Placement, Reject>>,
}

impl Waiting {
    async fn placed(mut self) -> Result<Ticket, Reject> {
        // The sender goes only when it has told.
        let verdict = (&mut self.told).await.unwrap_or(Err(Reject::NoReplicas));
        let dispatch = Arc::clone(&self.dispatch);
        // From here on the ticket stands for it, or nothing has to.
        let id = std::mem::replace(&mut self.id, NOBODY);
        verdict.map(|placement| Dispatch::new_ticket(dispatch, id, placement))
    }
}

/// The number of no request.
const NOBODY: RequestId = RequestId(u64::MAX);

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.id == NOBODY {
            return;
        }
        self.dispatch.shared.lock().waiting.remove(&self.id);
        let (request, outcome) = (self.id, Outcome::Cancelled);
        self.dispatch.observe(Event::Ended { request, outcome, output: None, cached: None });
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
    cached: Option<Tokens>,
    held: Duration,
}

/// Time for which the end of an answer may have been there before its client took it that is nothing to speak of.
const HELD_LITTLE: Duration = Duration::from_millis(10);

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

    /// Has the request placed elsewhere after an attempt that failed before its first byte.
    ///
    /// # Errors
    ///
    /// Says why no other replica takes the request, which has then left.
    pub fn retry(&mut self) -> Result<(), Reject> {
        self.placement = match self.dispatch.ask(self.id, Event::AttemptFailed(self.id)) {
            Asked::Decided(verdict) => verdict?,
            // A request that was placed before is decided at once.
            Asked::Waits(_) => return Err(Reject::NoReplicas),
        };
        Ok(())
    }

    /// Says how the request leaves when the ticket is dropped.
    pub fn leave_as(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// Says how many tokens the answer had and how many of the prompt's the replica found in its
    /// cache, as far as is known.
    pub fn used(&mut self, output: Option<Tokens>, cached: Option<Tokens>) {
        (self.output, self.cached) = (output, cached);
    }

    /// Says that the last of the answer may have been there for so long, its client being slow to take it.
    pub fn was_held(&mut self, held: Duration) {
        self.held = held;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let Self { id: request, outcome, output, cached, held, .. } = *self;
        if HELD_LITTLE <= held {
            self.dispatch.observe(Event::AnswerHeld { request, held });
        }
        self.dispatch.observe(Event::Ended { request, outcome, output, cached });
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
