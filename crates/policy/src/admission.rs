//! Who is let in, who waits, and who is told to come again.
//!
//! A fleet that takes whatever comes keeps no promise once more comes than it can serve. What it can
//! serve is no number that anybody knows: it depends on what is asked, and on what is cached. So each
//! request is let in or not by what it would meet and do on the replicas as they are now ([`gate`]),
//! predictions being raised until only a few are broken. What cannot be predicted is counted against
//! a limit that grows as long as promises are kept ([`limit`]).
//!
//! Who finds no gate open waits at the router as long as that can end well
//! ([`WaitQueue`](crate::wait_queue)), and is otherwise turned away at once, before any work was done
//! on it, with the time after which coming again makes sense. Nothing that has been sent is ever given
//! up for another.
//!
//! The less urgent, those who have had more than their share ([`shares`]) and those who come again meet
//! gates that close earlier: what is left open is for the others, who then always find room.
//!
//! Decision 7 has the options and what each was measured to do.

pub mod config;
mod ease;
pub mod gate;
pub mod limit;
mod lines;
pub mod peer_limit;
mod room;
pub mod shares;

use std::time::Duration;

use types::{
    replica::ReplicaId,
    request::{Priority, Request, RequestId},
    time::Timestamp,
};

pub use self::{
    config::{AdmissionConfig, AdmissionMode},
    gate::Gate,
    limit::Limit,
    peer_limit::PeerLimit,
    shares::Promises,
};
use self::{
    ease::Ease,
    lines::Lines,
    room::{Room, Watched},
    shares::{Claims, Sizes},
};
use crate::{
    estimate::decay::Decayed,
    token_bucket::TokenBucket,
    wait_queue::{Place, WaitQueue},
};

/// Over how long the rates at which requests are placed are averaged.
const RATE_TIME: Duration = Duration::from_secs(5);

/// Retries that may come at once, as when a replica dies with all it had; and as many may come of clients that say that
/// they were turned away.
const RETRIES_AT_ONCE: f64 = 200.0;

/// How long a request without a promise of a first token may wait.
pub(crate) const UNPROMISED_WAIT: Duration = Duration::from_secs(1);

/// How long a request may wait that somebody waits for, whatever time it was promised: beyond that it holds a
/// connection and a place for an answer that hardly anybody is there to read.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two looks at those who wait, when nothing else gives cause.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Time until those are dealt with who waited too long, and were too many for one event: others want the lock.
const REST_AFTER: Duration = Duration::from_millis(1);

/// Part of the GPU time that work for later is given at least once its window is about to end, and over how long
/// that is counted.
const LATER_SHARE_MIN: f64 = 0.07;
const GIVEN_TIME: Duration = Duration::from_secs(20);

/// Time that passes between two looks whether there is room for somebody who was turned away, for each replica: what
/// a look takes grows with their number, a fifth of a microsecond each, and so looks take a twentieth of the time at
/// most.
const LOOK_EVERY_REPLICAS: Duration = Duration::from_nanos(4_000);

/// Part of the window for work for later after which it no longer gives way.
const LAST_PART: u32 = 4;

/// How a request stands to the others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// The factor by which what is predicted for it is raised, so that room is left for those who go
    /// before it.
    pub(crate) reserve: f64,
    /// Whether its tenant has had more than its share.
    pub(crate) is_over_share: bool,
    /// Whether it is work for later, beside others that are more urgent.
    pub(crate) is_for_later: bool,
    /// Whether there is work for later beside it.
    pub(crate) is_urgent: bool,
}

/// What is known of all requests together.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) config: AdmissionConfig,
    pub(crate) queue: WaitQueue,
    pub(crate) sizes: Sizes,
    lines: Lines,
    /// When it may next be looked whether there is room for one of those who were turned away.
    look_for_room: Timestamp,
    placed: Decayed,
    /// What the router may send again after a failed attempt.
    retries: TokenBucket,
    pub(crate) claims: Claims,
    /// When those who wait were last looked at.
    pub(crate) looked: Timestamp,
    /// Who was looked at last of those who can be done later.
    pub(crate) looked_until: Option<Place>,
    /// The line that was looked at last.
    pub(crate) line: u64,
    /// The replica that is kept for one who waits.
    pub(crate) kept: Option<Kept>,
    /// How far the measured pace may exceed what was promised.
    pub(crate) ease: Ease,
    /// GPU time that was given, to all and to work for later.
    given: [Decayed; 2],
}

/// A replica that others may not take before a certain request, which is starved: else those who ask for less would
/// always fill what there is before it is enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) request: RequestId,
    /// The most urgent of those who may not.
    pub(crate) priority: Priority,
    pub(crate) replica: ReplicaId,
}

impl Admission {
    pub(crate) fn new(config: AdmissionConfig) -> Self {
        Self {
            config,
            queue: WaitQueue::default(),
            sizes: Sizes::default(),
            lines: Lines::default(),
            look_for_room: Timestamp::ZERO,
            placed: Decayed::new(RATE_TIME),
            retries: TokenBucket::full(RETRIES_AT_ONCE),
            claims: Claims::new(RETRIES_AT_ONCE),
            looked: Timestamp::ZERO,
            looked_until: None,
            line: 0,
            kept: None,
            ease: Ease::default(),
            given: [Decayed::new(GIVEN_TIME); 2],
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.config.mode != AdmissionMode::Off
    }

    /// Notes that a request of `line` came.
    pub(crate) fn came(&mut self, now: Timestamp, request: &Request, line: u64) {
        self.retries.add(self.config.retry_share);
        self.claims.earn(self.config.retry_share);
        if self.is_on() {
            self.claims.earn_for(request.tenant, self.config.retry_share);
            self.lines.came(now, line, request.tenant, request.priority);
        }
    }

    /// Whether one more may be sent again after a failed attempt.
    pub(crate) fn may_retry(&mut self) -> bool {
        !self.is_on() || self.retries.take()
    }

    /// Gives back what was taken for one that is not sent again after all.
    pub(crate) fn not_retried(&mut self) {
        self.retries.add(1.0);
    }

    /// Notes that a request of `work_s`, one of `line`, was placed.
    pub(crate) fn placed(
        &mut self,
        now: Timestamp,
        (request, line): (&Request, u64),
        arrived: Timestamp,
        work_s: f64,
    ) {
        if self.is_on() {
            self.lines.gave(now, line, (request.tenant, request.priority), work_s);
            self.sizes.decided(now, work_s, true);
            let [all, later] = &mut self.given;
            all.add(now, work_s);
            if request.slo.completion.is_some() {
                later.add(now, work_s);
            }
            self.lines.placed(now, line, self.placed);
            self.room_of(line, request).let_in(arrived, work_s);
        }
        self.placed.add(now, 1.0);
    }

    /// What is known of room for requests like `request` of `line`.
    pub(crate) fn room_of(&mut self, line: u64, request: &Request) -> &mut Room {
        self.lines.room(line, request.slo.completion.is_some())
    }

    /// One who was turned away and is watched, if it is time to look whether there is room for it in a fleet of so
    /// many `replicas`.
    pub(crate) fn watched(&mut self, now: Timestamp, replicas: usize) -> Option<Watched> {
        if now < self.look_for_room {
            return None;
        }
        let watched = self.lines.due(now)?;
        let replicas = u32::try_from(replicas).unwrap_or(u32::MAX);
        self.look_for_room = now + LOOK_EVERY_REPLICAS.saturating_mul(replicas);
        Some(watched)
    }

    /// One of those who wait that hardly gets in, and the most urgent class that is to let it go before: work for later
    /// whose window is about to end, or the first of a size that gets in much more rarely than others. Never one whose
    /// tenant has had more than its share: the others would make room for what they are to go before.
    pub(crate) fn starved(&self, now: Timestamp) -> Option<(Place, Priority)> {
        if let Some(late) = self.starved_later(now) {
            return Some((late, Priority::System));
        }
        let place = self.sizes.starved(now).find_map(|size| self.queue.first_of(size))?;
        Some((place, place.0.0))
    }

    fn starved_later(&self, now: Timestamp) -> Option<Place> {
        let place = self.queue.next_later(None).filter(|it| !it.1)?;
        let waiting = self.queue.get(&place)?;
        let window = waiting.request.slo.completion?;
        let [all, later] = self.given.each_ref().map(|it| it.sum(now));
        let is_starved = is_late(now, waiting.arrived, window) && later < LATER_SHARE_MIN * all;
        is_starved.then_some(place)
    }

    /// Requests placed in a second, of late, whoever serves them.
    pub(crate) fn rate_per_s(&self, now: Timestamp) -> f64 {
        self.placed.rate(now)
    }

    /// How a request of `line` stands to the others of it.
    pub(crate) fn standing(
        &mut self,
        now: Timestamp,
        (request, line): (&Request, u64),
        arrived: Timestamp,
    ) -> Standing {
        let is_over_share = self.lines.is_over(now, line, request.tenant, request.priority);
        // Who was turned away before has lost of its time what those who come for the first time still
        // have; were it let in as they are, a storm of retries would crowd them out.
        let gives_way = is_over_share || request.came_again > 0;
        let own = if gives_way { self.config.reserve } else { 1.0 };
        let (class, is_for_later) = self.class_reserve(now, (request, line), arrived);
        let is_urgent =
            request.priority > Priority::Batch && self.lines.is_there(now, line, Priority::Batch);
        Standing { reserve: own * class, is_over_share, is_for_later, is_urgent }
    }

    /// The factor for its class, and whether it is work for later that others must not feel.
    fn class_reserve(
        &self,
        now: Timestamp,
        (request, line): (&Request, u64),
        arrived: Timestamp,
    ) -> (f64, bool) {
        let mut above = Priority::ALL.into_iter().filter(|it| *it > request.priority);
        if !above.any(|it| self.lines.is_there(now, line, it)) {
            return (1.0, false);
        }
        let reserve = self.config.reserve;
        let Some(window) = request.slo.completion else { return (reserve, false) };
        if is_late(now, arrived, window) { (1.0, false) } else { (later_reserve(reserve), true) }
    }

    /// When a request that needs `alone_s` for its first token, were nobody before it, and `answer_s`
    /// for the rest must have been sent.
    pub(crate) fn latest(
        &self,
        request: &Request,
        arrived: Timestamp,
        alone_s: f64,
        answer_s: f64,
    ) -> Timestamp {
        let wait = |most: Duration, needed_s: f64| {
            let spare = most.as_secs_f64() - needed_s;
            spare.min(most.as_secs_f64() * self.config.wait_share)
        };
        let slo = &request.slo;
        let wait_s = match (slo.completion, slo.ttft, slo.e2e) {
            (Some(window), _, _) => window.as_secs_f64() - 2.0 * (alone_s + answer_s),
            (None, Some(ttft), None) => wait(ttft, alone_s),
            (None, None, Some(e2e)) => wait(e2e, alone_s + answer_s),
            (None, Some(ttft), Some(e2e)) => wait(ttft, alone_s).min(wait(e2e, alone_s + answer_s)),
            (None, None, None) => UNPROMISED_WAIT.as_secs_f64() * self.config.wait_share,
        };
        let wait_max_s = slo.completion.map_or(WAIT_MAX.as_secs_f64(), |_| f64::INFINITY);
        // Sent any later, it would be given up before its answer begins.
        let patience_s = request.patience_ms.map_or(f64::INFINITY, |it| f64::from(it.get()) * 1e-3);
        let wait_s = wait_s.min(patience_s - alone_s).clamp(0.0, wait_max_s);
        arrived + Duration::try_from_secs_f64(wait_s).unwrap_or_default()
    }

    /// When a request that might go, with a first token after `ready_s`, must have gone for its client to see that.
    pub(crate) fn latest_choice(request: &Request, arrived: Timestamp, ready_s: f64) -> Timestamp {
        let Some(patience_ms) = request.patience_ms else {
            return Timestamp::from_elapsed(Duration::MAX);
        };
        let patience = Duration::from_millis(patience_ms.get().into());
        let needed = Duration::try_from_secs_f64(ready_s).unwrap_or(Duration::MAX);
        arrived + patience.saturating_sub(needed.saturating_add(LOOK_EVERY))
    }

    /// How long a request of `line` that must go by `latest` would wait, as far as the rate of late tells.
    pub(crate) fn expected_wait_s(
        &self,
        now: Timestamp,
        line: u64,
        rank: (Priority, bool),
        latest: Timestamp,
    ) -> f64 {
        let before = self.queue.before(line, rank, latest) as f64;
        let rate = self.line_rate_per_s(now, line);
        if rate <= 0.0 { 0.0 } else { before / rate }
    }

    /// Requests of `line` placed in a second, of late.
    pub(crate) fn line_rate_per_s(&self, now: Timestamp, line: u64) -> f64 {
        self.lines.rate_per_s(now, line)
    }

    /// When those who wait should be looked at again.
    pub(crate) fn next_look(&self) -> Option<Timestamp> {
        let expires = self.queue.expires()?;
        if expires < self.looked {
            // More than one event may deal with were too late at once.
            return Some(self.looked + REST_AFTER);
        }
        // One nanosecond later, it is too late.
        Some((self.looked + LOOK_EVERY).min(expires + Duration::from_nanos(1)))
    }
}

/// Whether the `window` of work that came at `arrived` is about to end.
fn is_late(now: Timestamp, arrived: Timestamp, window: Duration) -> bool {
    now.since(arrived) > window.saturating_sub(window / LAST_PART)
}

/// The reserve by which work for later gives way, its power 3.5: answers for later make each step longer, and with it every
/// prompt that is computed beside them. A root is rounded alike on every machine, which `powf` need not be: what was
/// recorded on one must replay on another.
fn later_reserve(reserve: f64) -> f64 {
    reserve * reserve * reserve * reserve.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_for_later_gives_way_by_the_same_bits_everywhere() {
        assert_eq!(later_reserve(4.0).to_bits(), 128.0_f64.to_bits());
        assert_eq!(later_reserve(1.1).to_bits(), (1.1_f64 * 1.1 * 1.1 * 1.1_f64.sqrt()).to_bits());
    }
}
