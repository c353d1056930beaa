//! When there would have been room for those who were turned away.
//!
//! Some refusals are followed, until coming again would have ended well: when their router, asked again
//! and again, would take the request at once, or when one came that was let in later on and is no less
//! work. That is what the time that the client was told is to be compared with.

use std::time::Duration;

use policy::{admission::Gate, event::Reject};
use types::{
    request::{Request, RequestId},
    time::Timestamp,
};

use super::{Event, World};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Part of the work of one request that counts as no less.
const NO_LESS: f64 = 0.9;

/// Refusals that are followed at once.
const FOLLOWED_MAX: usize = 1_024;

/// A refusal that was followed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refusal {
    /// When the request was turned away.
    pub at: Timestamp,
    /// What stood in its way.
    pub gate: Option<Gate>,
    /// After what time it was told to come again.
    pub told: Duration,
    /// After what time there was room; absent where there was none until the run ended.
    pub free_after: Option<Duration>,
}

/// The refusals that are followed.
#[derive(Debug, Default)]
pub(super) struct Followed {
    seen: u32,
    open: Vec<Open>,
    found: Vec<Refusal>,
}

/// One that has not found room.
#[derive(Debug)]
struct Open {
    router: u32,
    request: Request,
    work_s: f64,
    refusal: Refusal,
}

impl Followed {
    pub(super) fn refusals(self) -> Vec<Refusal> {
        self.found.into_iter().chain(self.open.into_iter().map(|it| it.refusal)).collect()
    }
}

impl World<'_> {
    /// Follows the refusal of a request, if its turn has come.
    pub(super) fn follow_refusal(&mut self, number: u64, reject: &Reject) {
        let Some(every) = self.setup.follow_refusals else { return };
        self.followed.seen = self.followed.seen.wrapping_add(1);
        let is_due = self.followed.seen.is_multiple_of(every.max(1));
        if !is_due || self.followed.open.len() >= FOLLOWED_MAX {
            return;
        }
        let at = self.now;
        let Some(told) = reject.retry_after() else { return };
        let Some(flight) = self.flight_mut(number) else { return };
        let (router, request) = (flight.router, flight.request.clone());
        let Some(request) = request else { return };
        let refusal = Refusal { at, gate: reject.gate(), told, free_after: None };
        if self.followed.open.is_empty() {
            self.enter_news(at + LOOK_EVERY, Event::Follow);
        }
        let dispatcher = self.routers.get_mut(router as usize).map(|it| &mut it.dispatcher);
        let work_s = dispatcher.map_or(0.0, |it| it.outlook(at, &request).work_s);
        self.followed.open.push(Open { router, request, work_s, refusal });
    }

    pub(super) fn look_at_followed(&mut self) {
        self.heard_news();
        let now = self.now;
        let Self { routers, followed: Followed { open, found, .. }, .. } = self;
        open.retain(|it| {
            let router = routers.get_mut(it.router as usize);
            let is_open = router.is_none_or(|of| of.dispatcher.outlook(now, &it.request).is_open);
            if is_open {
                found.push(Refusal { free_after: Some(now.since(it.refusal.at)), ..it.refusal });
            }
            !is_open
        });
        if !self.followed.open.is_empty() && self.goes_on() {
            self.enter_news(now + LOOK_EVERY, Event::Follow);
        }
    }

    /// Takes note that a request that came at `came` was let in by `router`.
    pub(super) fn let_in(&mut self, number: u64, router: u32, came: Timestamp) {
        let Self { routers, followed: Followed { open, found, .. }, .. } = self;
        if open.is_empty() {
            return;
        }
        let dispatcher = routers.get(router as usize).map(|it| &it.dispatcher);
        let Some(work_s) = dispatcher.and_then(|it| it.work_s(RequestId(number))) else { return };
        open.retain(|it| {
            let came_later = it.router == router && it.refusal.at < came;
            let is_free = came_later && NO_LESS * it.work_s <= work_s;
            if is_free {
                found.push(Refusal { free_after: Some(came.since(it.refusal.at)), ..it.refusal });
            }
            !is_free
        });
    }
}
