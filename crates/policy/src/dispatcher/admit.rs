//! Letting requests in: where one can go now, who waits, and who is turned away.

mod full;
#[cfg(test)]
mod tests;
mod turn_away;
mod view;

use std::time::Duration;

use smallvec::SmallVec;
use types::{
    request::{Request, RequestId},
    time::Timestamp,
};

pub(super) use self::full::Full;
pub use self::view::AdmissionView;
use super::{
    Dispatcher, InFlight, Tried,
    later::{Later, MORE_WORK, NOT_YET},
};
use crate::{
    admission::{Admission, Gate, Kept, Standing, gate::Pass},
    estimate::Asked,
    event::{Decision, Reject},
    strategy::{Candidate, Cost},
    wait_queue::{Place, Waiting},
};

/// Requests that are looked at in vain, of those who wait in one line, before the look at that line ends; and the lines
/// that are looked at, at once: where there are more, they take turns.
const LOOKS_IN_VAIN_MAX: u32 = 3;
const LINES_MAX: usize = 4;

/// Requests whose time is over that one event deals with, at most, and the replicas that take as long to look at for one
/// that may still go.
const EXPIRED_MAX: usize = 256;
const EXPIRED_REPLICAS: usize = 8;

/// Factor on what is predicted for a request whose replica failed it.
const AGAIN: f64 = 0.8;

/// How much longer than on the quickest replica an urgent request may wait for its first token: a factor,
/// and seconds.
const QUICK: (f64, f64) = (1.25, 0.005);

/// The replica on which a request would cost least, were its gate not closed.
#[derive(Clone, Copy, Debug)]
struct Holder {
    cost_s: f64,
    /// For how long, as far as is known.
    after_s: f64,
    work_s: f64,
    gate: Gate,
}

/// How far those who wait for the same replicas have been looked at.
#[derive(Clone, Copy, Debug)]
struct Line {
    id: u64,
    /// Whoever is next, if anybody is to be.
    next: Option<Place>,
    in_vain: u32,
}

/// How a request comes to be looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comes {
    /// It came then, and has not been placed.
    At(Timestamp),
    /// The same, and it can't wait any longer for a replica that is better than one to which it might go.
    AtLast(Timestamp),
    /// It came then, was placed, and the replica failed it.
    Again(Timestamp),
}

impl Comes {
    /// When it came.
    pub(super) const fn arrived(self) -> Timestamp {
        match self {
            Self::At(arrived) | Self::AtLast(arrived) | Self::Again(arrived) => arrived,
        }
    }
}

impl Dispatcher {
    /// Leaves those of `candidates` that can take the request now; where there is none, says why.
    pub(super) fn admit(
        &mut self,
        now: Timestamp,
        request: &Request,
        comes: Comes,
        asked: &Asked,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), Full> {
        if !self.admission.is_on() {
            return Ok(());
        }
        // What was let in before goes before those who come, into the room that is kept for answers that turn
        // out longer, but not beyond it: others' promises count as much. The time that it lost is nobody's to
        // give back: its first token may take as long from now as it was promised.
        let (arrived, again) = match comes {
            Comes::At(arrived) | Comes::AtLast(arrived) => (arrived, 1.0),
            Comes::Again(_) => (now, AGAIN),
        };
        let line = self.fleet.line_of(request.model, request.prompt);
        let standing = self.admission.standing(now, (request, line), arrived);
        let Standing { reserve, is_over_share, is_for_later, is_urgent } = standing;
        // Kept for it, or for somebody whom it may not pass there.
        let kept = self.admission.kept.filter(|_| !matches!(comes, Comes::Again(_)));
        let kept_for = |itself| kept.filter(|it| (it.request == request.id) == itself);
        let pass = Pass {
            now,
            mode: self.admission.config.mode,
            in_flight_max: self.admission.config.in_flight_max,
            slo: &request.slo,
            output: asked.output,
            waited: now.since(arrived),
            reserve: reserve * again,
            is_sized: request.prompt.0 > 0,
            wait_share: self.admission.config.wait_share,
            is_for_later,
            kept: kept_for(true).map(|it| it.replica),
            ease: self.admission.ease.times(now),
        };
        let mut full = Full::nowhere(is_over_share);
        let (fleet, turn_s) = (&self.fleet, self.turn_s(now, line, candidates.len()));
        let has_time = matches!(comes, Comes::At(_));
        let barred = kept_for(false).filter(|it| request.priority <= it.priority);
        let drafts = self.book.drafts(request.id);
        let book = &mut self.book;
        let later = is_for_later.then(|| Later::beside(fleet, candidates));
        let weights = self.strategy.cost_weights().unwrap_or_default();
        // The cheapest of those that are closed.
        let mut holder: Option<Holder> = None;
        candidates.retain(|it| {
            let Some(replica) = fleet.get(it.id) else { return false };
            let is_felt = later.is_some_and(|of| of.is_felt_on(it, replica.estimate.chunk_s()));
            let is_kept = barred.is_some_and(|kept| kept.replica == it.id);
            let not_yet = (is_felt || is_kept).then_some(NOT_YET);
            let Some(closed) = pass.closed(replica, it).or(not_yet) else { return true };
            let after_s = full.note(it, &closed, asked.output, turn_s);
            full.note_pace(pass.pace_margin(replica), fleet.step_alone_s(replica));
            let cost_s = Cost::of(it, &weights).total_s();
            if holder.is_none_or(|other| cost_s < other.cost_s) {
                let (gate, work_s) = (closed.gate, it.forecast.work_s);
                holder = Some(Holder { cost_s, after_s, work_s, gate });
            }
            if drafts {
                book.closed(it.id, closed.gate);
            }
            false
        });
        let open = candidates.iter().map(|it| it.forecast.ttft_s);
        full.ready_s = open.fold(f64::INFINITY, f64::min);
        let may_wait = has_time && !is_for_later && full.in_vain(&request.slo).is_none();
        if let Some(holder) = holder.filter(|_| may_wait)
            && self.waits_for(now, (request, arrived, line), &holder, &full, candidates)
        {
            return Err(Full { has_choice: true, ..full });
        }
        if is_urgent {
            keep_quickest(candidates);
        }
        if candidates.is_empty() { Err(full) } else { Ok(()) }
    }

    /// Whether a request does better to wait for the replica that is cheapest with it than to go to one of the
    /// `open`.
    fn waits_for(
        &self,
        now: Timestamp,
        (request, arrived, line): (&Request, Timestamp, u64),
        holder: &Holder,
        full: &Full,
        open: &[Candidate],
    ) -> bool {
        let config = &self.admission.config;
        let is_kept = config.mode.predicts() && request.came_again == 0 && !full.is_over_share;
        // A seat is sure to be left. A pace may take longer to change, and is waited for only by who would have to be
        // computed anew elsewhere, which slows others there; where memory is lacking it may be for long.
        let is_held = |it: &Candidate| MORE_WORK * holder.work_s < it.forecast.work_s;
        let passes = match holder.gate {
            Gate::Seats => true,
            Gate::Tpot => open.iter().all(is_held),
            Gate::Ttft | Gate::E2e | Gate::KvCache | Gate::Count => false,
        };
        if open.is_empty() || !passes || !is_kept {
            return false;
        }
        let weights = self.strategy.cost_weights().unwrap_or_default();
        let best_s = open.iter().map(|it| Cost::of(it, &weights).total_s());
        let best_s = best_s.fold(f64::INFINITY, f64::min);
        let latest = self.admission.latest(request, arrived, full.alone_s, full.answer_s);
        let choice = Admission::latest_choice(request, arrived, full.ready_s);
        let latest = latest.min(choice);
        // Those who go after it make way.
        let rank = (request.priority, full.is_over_share);
        let most = config.queue_max as usize;
        let has_place = self.admission.queue.has_place_for(line, rank, latest, most);
        let left_s = latest.since(now).as_secs_f64();
        has_place && holder.after_s < left_s && holder.cost_s + holder.after_s < best_s
    }

    /// Seconds between two placements on one of the `replicas` that those of `line` ask, of late.
    fn turn_s(&self, now: Timestamp, line: u64, replicas: usize) -> f64 {
        replicas as f64 / self.admission.line_rate_per_s(now, line).max(0.1)
    }

    /// Lets those who wait go where they can, and turns away those who waited too long.
    pub(super) fn let_in(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) {
        if self.admission.queue.is_empty() {
            return;
        }
        self.admission.looked = now;
        // As long as somebody's time is over, nobody is looked at: those would be among them.
        if self.expire(now, decisions) {
            let held = self.look_at_starved(now, decisions);
            self.look_at_lines(now, held, decisions);
            self.let_in_later(now, decisions);
        }
        if let Some(kept) = self.admission.kept
            && !self.admission.queue.contains(kept.request)
        {
            self.admission.kept = None;
        }
    }

    /// Turns those away who waited too long, as many as one event may; says whether these were all.
    fn expire(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) -> bool {
        let mut left = EXPIRED_MAX;
        while 0 < left {
            let Some(it) = self.admission.queue.expired(now) else { return true };
            left = left.saturating_sub(1);
            if it.has_choice {
                left = left.saturating_sub(self.fleet.replicas().len() / EXPIRED_REPLICAS);
                let comes = Comes::AtLast(it.arrived);
                if let Ok(Some(found)) = self.seek(now, &it.request, comes, &Tried::new())
                    && is_patient(now, &it, found.chosen.forecast.alone_s)
                {
                    self.commit(now, it.request, it.arrived, &found, Tried::new(), decisions);
                    continue;
                }
            }
            let is_full = !it.is_over_share;
            let retry_after = self.turn_away(now, &it.request, (it.after_s, it.work_s), is_full);
            let gate = it.gate;
            let reject = if it.is_over_share {
                Reject::OverShare { gate, retry_after }
            } else {
                Reject::Expired { gate, retry_after }
            };
            self.decide(now, &it.request, Err(reject), decisions);
        }
        self.admission.queue.expires().is_none_or(|it| now <= it)
    }

    /// Looks at those who wait in their order, but for the one at `held`. Who finds nothing tells that those after it in
    /// its line are as good as sure to find nothing, and nothing of the other lines.
    fn look_at_lines(
        &mut self,
        now: Timestamp,
        held: Option<Place>,
        decisions: &mut Vec<Decision>,
    ) {
        let mut lines = SmallVec::<[Line; LINES_MAX]>::new();
        while lines.len() < LINES_MAX
            && let Some(id) = self.admission.queue.line_after(self.admission.line)
            && lines.iter().all(|it| it.id != id)
        {
            self.admission.line = id;
            lines.push(Line { id, next: self.admission.queue.next_in(id, None), in_vain: 0 });
        }
        let first = |lines: &[Line]| lines.iter().filter_map(|it| Some((it.next?, it.id))).min();
        while let Some((place, id)) = first(&lines) {
            let is_in_vain =
                held != Some(place) && self.look_again(now, place, decisions).is_some();
            let next = self.admission.queue.next_in(id, Some(place));
            if let Some(line) = lines.iter_mut().find(|it| it.id == id) {
                line.in_vain += u32::from(is_in_vain);
                line.next = next.filter(|_| line.in_vain < LOOKS_IN_VAIN_MAX);
            }
        }
    }

    /// Looks first at one that is starved. Where it finds no room, the replica that would have some soonest is kept for
    /// it, unless none would have any however little else there is, and its place is returned.
    fn look_at_starved(&mut self, now: Timestamp, decisions: &mut Vec<Decision>) -> Option<Place> {
        let kept = self.admission.kept.take().map(|it| it.replica);
        let (place, priority) = self.admission.starved(now)?;
        let request = self.admission.queue.get(&place)?.request.id;
        // The one that was kept so far stays, for whomever it was: two that are half empty are of no use.
        let kept = kept.filter(|it| self.fleet.get(*it).is_some());
        let keep = |replica| Kept { request, priority, replica };
        self.admission.kept = kept.map(keep);
        let nearest = self.look_again(now, place, decisions);
        self.admission.kept = nearest.flatten().map(|it| keep(kept.unwrap_or(it)));
        nearest?;
        Some(place)
    }

    /// What `request` would meet now, if nobody waited before it. Nothing is placed.
    pub fn outlook(&mut self, now: Timestamp, request: &Request) -> Outlook {
        let asked = self.asked(now, request, now);
        let mut candidates = std::mem::take(&mut self.candidates);
        // Looking up its conversation would count as use of it.
        self.look_up(now, request);
        let there = self.what_is_held(request, None);
        self.find_candidates(now, &asked, &there, &Tried::new(), &mut candidates);
        let work_s = candidates.iter().map(|it| it.forecast.work_s).fold(f64::INFINITY, f64::min);
        let kept = self.admission.kept.take();
        // Who would rather wait for another replica has room all the same.
        let is_open = !candidates.is_empty()
            && self
                .admit(now, request, Comes::At(now), &asked, &mut candidates)
                .map_or_else(|full| full.has_choice, |()| true);
        self.admission.kept = kept;
        self.candidates = candidates;
        Outlook { is_open, work_s }
    }

    /// Seconds of GPU time that a request on a replica was expected to take.
    #[must_use]
    pub fn work_s(&self, id: RequestId) -> Option<f64> {
        self.in_flight.get(&id).map(|it| it.forecast.work_s)
    }

    /// Takes a request that left off those who wait.
    pub(super) fn stop_waiting(&mut self, id: RequestId) {
        self.admission.queue.remove(id);
        self.admission.kept = self.admission.kept.filter(|it| it.request != id);
    }

    /// Learns from an answer that came to its end what share of its promises it took, of those that its replica could
    /// have kept alone: the others say nothing of how many it serves in time.
    pub(super) fn learn_limits(&mut self, now: Timestamp, it: &InFlight, tpot_s: Option<f64>) {
        let slo = &it.request.slo;
        let took_s = now.since(it.arrived).as_secs_f64();
        let ttft_s = it.first_token.map_or(took_s, |at| at.since(it.arrived).as_secs_f64());
        let share = |took_s: f64, most: Option<Duration>| {
            most.map_or(0.0, |most| took_s / most.as_secs_f64().max(1e-9))
        };
        let ttft_max = slo.ttft.filter(|most| it.forecast.alone_s <= most.as_secs_f64());
        let ttft = if it.request.streamed { share(ttft_s, ttft_max) } else { 0.0 };
        let share = ttft
            .max(share(tpot_s.unwrap_or(0.0), it.promised))
            .max(share(took_s, slo.e2e))
            .max(share(took_s, slo.completion));
        let mode = self.admission.config.mode;
        if let Some(replica) = self.fleet.get_mut(it.replica) {
            let beside = replica.load.in_flight;
            replica.limit.observe(now, it.placed, beside, share);
            if mode.learns_a_limit() {
                replica.peer_limit.observe(mode, beside, ttft_s, 1.0 < share);
            }
        }
    }

    /// When [`Event::TimePassed`](crate::event::Event::TimePassed) should be told, if nothing else
    /// happens before; absent while nobody waits.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Timestamp> {
        self.admission.next_look()
    }

    /// How requests are let in now.
    #[must_use]
    pub const fn admission(&self) -> crate::admission::AdmissionConfig {
        self.admission.config
    }

    /// Requests that wait for a replica, by urgency, the least urgent first.
    #[must_use]
    pub fn waiting(&self) -> [usize; types::request::Priority::ALL.len()] {
        self.admission.queue.by_priority()
    }

    /// Whether the strategy or admission looks at forecasts.
    pub(super) const fn forecasts(&self) -> bool {
        self.strategy.forecasts() || self.admission.config.mode.predicts()
    }
}

/// What a request would meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// Whether some replica would take it.
    pub is_open: bool,
    /// Seconds of GPU time that it would take where it takes least.
    pub work_s: f64,
}

/// Whether the client of one who waits would still be there for an answer that begins after `alone_s`.
fn is_patient(now: Timestamp, it: &Waiting, alone_s: f64) -> bool {
    let waited_s = now.since(it.arrived).as_secs_f64();
    it.request.patience_ms.is_none_or(|most| waited_s + alone_s <= f64::from(most.get()) * 1e-3)
}

/// Leaves those on which the first token comes about as soon as anywhere.
fn keep_quickest(candidates: &mut Vec<Candidate>) {
    let least = candidates.iter().map(|it| it.forecast.ttft_s).fold(f64::INFINITY, f64::min);
    candidates.retain(|it| it.forecast.ttft_s <= QUICK.0 * least + QUICK.1);
}
