//! The path of a request: arrive, be decided on, be sent, be answered, leave.

use engine::{Answer, Job, Progress};
use policy::event::{Decision, Event as Learned, News, Placement, Reject};
use rand::RngExt as _;
use report::{
    RequestRecord,
    record::{Ending, Gaps},
};
use types::{
    block::{ChainSeed, HashKey, Scope},
    outcome::Outcome,
    quantity::Tokens,
    request::{ModelId, Request, RequestId, SessionKey, TenantId},
};
use workload::Arrival;

use super::{Event, World};
use crate::{
    content,
    flight::{Flight, Stage},
    server::Work,
    setup::Kind,
};

/// The one model that everything in a run asks for.
const MODEL: ModelId = ModelId(1);

impl World<'_> {
    pub(super) fn arrive(&mut self, arrival: &Arrival) {
        let number = self.flights.len() as u64;
        let routers = self.router_numbers();
        let router =
            if routers.end > 1 { self.router_draws.random_range(routers) } else { routers.start };
        let seed = self.chain_seed();
        let input = arrival.prompt.tokens();
        let slo_class = self.setup.class_of(arrival);
        let block = self.setup.dispatcher.prefix.block;
        let (blocks, _) = content::names(arrival, seed, block, false, &mut self.memos.0);
        let request = Request {
            session: arrival.session.map(|it| SessionKey(it.into())),
            // Zero is nobody's.
            tenant: TenantId(arrival.tenant.map_or(0, |it| u64::from(it).saturating_add(1))),
            priority: self.setup.priority(arrival.tenant, slo_class.as_deref()),
            slo: self.setup.terms_of(slo_class.as_deref()).slo,
            streamed: self.is_streamed(),
            ..Request::new(RequestId(number), MODEL, input, blocks.into())
        };
        let flight = Flight {
            scheduled: self.now,
            session: arrival.session,
            turn: arrival.turn,
            turns: arrival.turns,
            tenant: arrival.tenant,
            slo_class,
            workload_class: arrival.workload_class,
            input,
            router,
            work: self.work_of(number, arrival, seed),
            stage: Stage::Undecided,
            streamed: request.streamed,
            came: self.now,
            came_again: 0,
            request: self.may_ask_again().then(|| request.clone()),
            refused_with: 0,
            attempts: 0,
            decided: None,
            placement: None,
            replica: None,
            cached: None,
            first_token: None,
            first_step: 0,
            pauses: Vec::new(),
            last_token: None,
            generated: Tokens::ZERO,
        };
        self.flights.push(Some(Box::new(flight)));
        self.records.push(None);
        self.newest.push((0, Tokens::ZERO));
        if let Some(patience) = self.setup.patience {
            self.calendar.enter(self.now + patience, Event::GaveUp { number });
        }
        self.tell(router, Learned::Arrived(request));
    }

    /// Whether a request is kept, to be asked about once more after it was turned away.
    const fn may_ask_again(&self) -> bool {
        self.setup.comes_again > 0 || self.setup.follow_refusals.is_some()
    }

    fn is_streamed(&mut self) -> bool {
        let unstreamed = self.setup.unstreamed;
        unstreamed <= 0.0 || unstreamed <= self.stream_draws.random::<f64>()
    }

    fn chain_seed(&self) -> ChainSeed {
        let salt = self.salt.to_string();
        let cache_salt = (self.salt > 0).then_some(salt.as_str());
        ChainSeed::new(HashKey(0), &Scope { cache_salt, ..Scope::default() })
    }

    fn work_of(&mut self, number: u64, arrival: &Arrival, seed: ChainSeed) -> Work {
        let profile = match &self.setup.kind {
            Kind::Fcfs { service, .. } => {
                return Work::Service(self.services.draw(service, number));
            }
            Kind::Engine(profile) => profile,
        };
        let is_quoted = self.setup.quoted_answers;
        let (names, in_prompt) =
            content::names(arrival, seed, profile.block_size, is_quoted, &mut self.memos.1);
        let (prompt, beyond) = names.split_at(in_prompt.min(names.len()));
        Work::Job(Job {
            id: RequestId(number),
            prompt: arrival.prompt.tokens(),
            blocks: prompt.into(),
            output: arrival.output,
            answer: match arrival.answer.filter(|_| is_quoted) {
                Some(_) => Answer::Known(beyond.into()),
                None => Answer::Private,
            },
        })
    }

    /// Does what a dispatcher decided.
    pub(super) fn decide(&mut self, router: u32, decisions: &mut Vec<Decision>) {
        for Decision { request, verdict } in decisions.drain(..) {
            let number = request.0;
            let now = self.now;
            let flight = self.flight_mut(number).filter(|it| it.stage == Stage::Undecided);
            let Some(flight) = flight else {
                self.violated(format!("router {router} decides once more on request {number}"));
                continue;
            };
            flight.decided = Some(now);
            let came = flight.came;
            match verdict {
                Ok(placement) => {
                    self.let_in(number, router, came);
                    self.tell_placement(router, number, &placement);
                    self.send(number, router, placement);
                }
                Err(reject) => {
                    self.tell_left(router, number);
                    self.turned_away(number, &reject);
                }
            }
        }
    }

    fn turned_away(&mut self, number: u64, reject: &Reject) {
        self.follow_refusal(number, reject);
        if self.comes_again(number, reject) {
            return;
        }
        if let Some(flight) = self.flight_mut(number) {
            flight.refused_with = status_of(reject);
        }
        self.leave(number, Ending::Rejected, Some(reject.to_string()));
    }

    /// Has a client that was turned away come again, if it is one of those that do.
    fn comes_again(&mut self, number: u64, reject: &Reject) -> bool {
        let (now, most) = (self.now, self.setup.comes_again);
        let Some(retry_after) = reject.retry_after() else { return false };
        let Some(flight) = self.flight_mut(number) else { return false };
        let may = flight.came_again < most && flight.attempts == 0;
        if may {
            flight.came_again = flight.came_again.saturating_add(1);
            self.calendar.enter(now + retry_after, Event::CameAgain { number });
        }
        may
    }

    /// A client that was turned away comes again.
    pub(super) fn came_again(&mut self, number: u64) {
        let now = self.now;
        let Some(flight) = self.flight_mut(number) else { return };
        let (router, request) = (flight.router, flight.request.clone());
        flight.came = now;
        let came_again = flight.came_again;
        if let Some(request) = request {
            self.tell(router, Learned::Arrived(Request { came_again, ..request }));
        }
    }

    fn send(&mut self, number: u64, router: u32, placement: Placement) {
        let replica = placement.replica.0;
        let (now, timeout) = (self.now, self.setup.signals.connect_timeout);
        let Some(it) = self.replicas.get_mut(replica as usize) else {
            self.violated(format!("request {number} is sent to replica {replica}, of nobody"));
            return;
        };
        it.held = it.held.saturating_add(1);
        let at = (replica, it.generation);
        let (when, event) = if !it.is_reachable_from(router) {
            (now + timeout, Event::Undelivered { number, at })
        } else if it.is_up {
            (now + it.intake, Event::Submit { number, at })
        } else {
            (now, Event::Undelivered { number, at })
        };
        let Some(flight) = self.flight_mut(number) else { return };
        flight.stage = Stage::Sent { replica, generation: at.1 };
        flight.attempts = flight.attempts.saturating_add(1);
        flight.placement = Some(placement);
        flight.replica = Some(replica);
        if flight.attempts != placement.attempt {
            let (sent, told) = (flight.attempts, placement.attempt);
            self.violated(format!("request {number} is sent {sent} times, not {told}"));
        }
        self.calendar.enter(when, event);
    }

    /// The request reaches the engine, unless something came between.
    pub(super) fn submit(&mut self, number: u64, at: (u32, u32)) {
        if !self.is_sent_to(number, at) {
            return;
        }
        let Some(work) = self.flight_mut(number).map(|it| it.work.clone()) else { return };
        let now = self.now;
        let Some(replica) = self.replicas.get_mut(at.0 as usize) else { return };
        let elapsed = replica.elapsed(now);
        match replica.server.submit(RequestId(number), work, elapsed) {
            Ok(()) => {
                self.replan(at);
                self.wake_if_idle(at.0);
            }
            // A client's mistake: every engine would say the same.
            Err(refusal) => self.end(number, Outcome::Finished, Some(refusal.to_string())),
        }
    }

    /// The attempt found nobody: the router takes the replica out and asks for another.
    pub(super) fn undelivered(&mut self, number: u64, at: (u32, u32)) {
        let router = self.flight_mut(number).map(|it| it.router);
        if let Some(router) = router.filter(|_| self.is_sent_to(number, at)) {
            let is_down = self.replicas.get(at.0 as usize).is_some_and(|it| !it.is_up);
            self.eject(router, at.0, is_down);
            self.attempt_failed(number, "the replica cannot be reached");
        }
    }

    /// An attempt failed: another replica is asked for, unless the answer has begun or the attempts
    /// are used up.
    pub(super) fn attempt_failed(&mut self, number: u64, why: &str) {
        let attempts_max = self.setup.attempts_max;
        let Some(flight) = self.flight_mut(number) else { return };
        if flight.first_token.is_some() || flight.attempts >= attempts_max {
            self.end(number, Outcome::Failed, Some(why.to_owned()));
            return;
        }
        let router = flight.router;
        self.give_back(number);
        if let Some(flight) = self.flight_mut(number) {
            flight.stage = Stage::Undecided;
        }
        self.tell(router, Learned::AttemptFailed(RequestId(number)));
    }

    /// A token of an answer comes, in a step of its replica.
    pub(super) fn token(&mut self, token: Progress, at: (u32, u32), step: u32) {
        let slot = usize::try_from(token.id.0).ok().and_then(|it| self.newest.get_mut(it));
        let Some(newest) = slot else { return };
        let (before, had) = std::mem::replace(newest, (step, token.generated));
        // Steps of which nothing was told brought the request a token each, until it had to pause.
        let untold = token.generated.saturating_sub(had).0.saturating_sub(1);
        let paused_at = before.saturating_add(untold);
        let follows = paused_at.checked_add(1) == Some(step);
        let is_first = token.generated == Tokens(1);
        if is_first || token.last || !follows {
            let pause = (!follows && !is_first).then_some((paused_at, step));
            self.notable_token(token, at, step, pause);
        }
    }

    /// A token comes that is the first or last of its answer, or comes after a pause.
    fn notable_token(
        &mut self,
        token: Progress,
        at: (u32, u32),
        step: u32,
        pause: Option<(u32, u32)>,
    ) {
        let (number, now) = (token.id.0, self.now);
        let sent = Stage::Sent { replica: at.0, generation: at.1 };
        let Some(flight) = self.flight_mut(number).filter(|it| it.stage == sent) else {
            self.violated(format!("replica {} answers request {number}, which left it", at.0));
            return;
        };
        let (router, is_streamed) = (flight.router, flight.streamed);
        let is_first = token.generated == Tokens(1);
        if is_first {
            flight.first_token = Some(now);
            flight.first_step = step;
            flight.cached = Some(token.cached);
        }
        flight.pauses.extend(pause);
        if is_first && is_streamed {
            self.tell(router, Learned::FirstToken(token.id));
            self.tell_others(router, News::FirstToken(token.id));
        }
        if token.last {
            self.end(number, Outcome::Finished, None);
        }
    }

    /// A client hangs up: the router closes its connection to the replica, too.
    pub(super) fn gave_up(&mut self, number: u64) {
        self.abort(number);
        self.end(number, Outcome::Cancelled, Some("the client gave up".to_owned()));
    }

    /// Has the replica of a request drop it; one that restarted has done so.
    pub(super) fn abort(&mut self, number: u64) {
        let stage = self.flight_mut(number).map(|it| it.stage);
        let Some(Stage::Sent { replica, generation }) = stage else { return };
        let (server, now) = (self.replicas.get_mut(replica as usize), self.now);
        if let Some(it) = server.filter(|it| it.generation == generation) {
            let elapsed = it.elapsed(now);
            it.server.abort(RequestId(number), elapsed);
            self.replan((replica, generation));
        }
    }

    /// Ends a request that was placed.
    fn end(&mut self, number: u64, outcome: Outcome, error: Option<String>) {
        let Some(flight) = self.flight_mut(number) else { return };
        let (router, cached) = (flight.router, flight.cached);
        self.give_back(number);
        let request = RequestId(number);
        let ending = if error.is_none() { Ending::Completed } else { Ending::Failed };
        self.leave(number, ending, error);
        let record = usize::try_from(number).ok().and_then(|it| self.records.get(it));
        // A broken answer says nothing of what it cost.
        let is_whole = outcome == Outcome::Finished;
        let output = record.and_then(Option::as_ref).map(|it| it.output_tokens);
        let output = output.filter(|_| is_whole);
        let cached = cached.filter(|_| is_whole);
        self.tell(router, Learned::Ended { request, outcome, output, cached });
        self.tell_others(router, News::Ended { request, outcome, output, cached });
    }

    /// Takes a request off the replica it was sent to.
    fn give_back(&mut self, number: u64) {
        let Some(Stage::Sent { replica, .. }) = self.flight_mut(number).map(|it| it.stage) else {
            return;
        };
        if let Some(it) = self.replicas.get_mut(replica as usize) {
            it.held = it.held.saturating_sub(1);
        }
        self.maybe_drained(replica);
    }

    fn leave(&mut self, number: u64, ending: Ending, error: Option<String>) {
        let slot = usize::try_from(number).ok().and_then(|it| self.flights.get_mut(it));
        let Some(mut flight) = slot.and_then(Option::take) else {
            self.violated(format!("request {number} leaves twice"));
            return;
        };
        self.left = self.left.saturating_add(1);
        self.look_back(&mut flight);
        self.check_times(number, &flight);
        let is_warm = flight.scheduled.elapsed() >= self.setup.warm_up;
        if ending == Ending::Completed {
            self.check_answer(number, &flight);
        }
        if ending == Ending::Completed && is_warm {
            self.pauses.iter().for_each(|gap| self.gaps.record(*gap));
        }
        if let Some(session) = flight.session {
            self.send_next_turn(session);
        }
        let mut record = self.record(number, &flight, ending, error);
        record.slo = self.setup.terms_of(flight.slo_class.as_deref()).judge(&record);
        if let Some(slot) = usize::try_from(number).ok().and_then(|it| self.records.get_mut(it)) {
            *slot = Some(record);
        }
    }

    /// Finds out what tokens a request has had, and when: its replica's steps tell. An answer that
    /// broke off is taken to have had a token with each step since the last one that was told of.
    fn look_back(&mut self, flight: &mut Flight) {
        self.pauses.clear();
        let Some(first_token) = flight.first_token else { return };
        let replica = flight.replica.and_then(|it| self.replicas.get(it as usize));
        let ends = replica.map(|it| it.step_ends.as_slice()).unwrap_or_default();
        let ended = ends.partition_point(|end| *end <= self.now);
        let steps = ends.get(flight.first_step as usize..ended).unwrap_or_default();
        let mut previous = first_token;
        let mut pauses = flight.pauses.iter().peekable();
        let mut skipped_until = 0;
        for (step, end) in (flight.first_step..).zip(steps).skip(1) {
            if let Some((_, after)) = pauses.next_if(|it| it.0.checked_add(1) == Some(step)) {
                skipped_until = *after;
            }
            if step >= skipped_until {
                self.pauses.push(end.since(previous));
                previous = *end;
            }
        }
        flight.last_token = Some(previous);
        let tokens = u32::try_from(self.pauses.len()).unwrap_or(u32::MAX).saturating_add(1);
        flight.generated = Tokens(tokens);
    }

    fn record(
        &self,
        number: u64,
        flight: &Flight,
        ending: Ending,
        error: Option<String>,
    ) -> RequestRecord {
        let was_broken = flight.first_token.is_some();
        let status = match ending {
            // The head of an answer is out before the answer breaks.
            Ending::Completed => Some(200),
            Ending::Failed if was_broken => Some(200),
            Ending::Failed | Ending::Cancelled => None,
            Ending::Rejected => Some(flight.refused_with),
        };
        RequestRecord {
            request_id: number.to_string(),
            session: flight.session,
            turn: flight.turn,
            turns: flight.turns,
            tenant: flight.tenant,
            slo_class: flight.slo_class.as_deref().map(str::to_owned),
            workload_class: flight.workload_class,
            scheduled: flight.scheduled,
            sent: Some(flight.scheduled),
            first_token: flight.first_token,
            last_token: flight.last_token,
            ended: self.now,
            input_tokens: flight.input,
            output_tokens: flight.generated,
            cached_tokens: flight.cached,
            itl: Gaps::of(&self.pauses),
            replica: flight.replica.map(|it| format!("replica-{it}")),
            decision: flight.placement.map(|it| it.reason.as_str().to_owned()),
            attempts: Some(flight.attempts),
            ttft_error_ms: flight.ttft_error_ms(),
            recomputed_tokens: flight
                .placement
                .zip(flight.cached)
                .map(|(placement, found)| placement.recomputed(found)),
            ending,
            status,
            error,
            ..RequestRecord::default()
        }
    }

    /// Where conversations are closed, the user thinks about the answer and then goes on, also when
    /// there was none.
    fn send_next_turn(&mut self, session: u64) {
        let Some(turns) = self.later_turns.get_mut(&session) else { return };
        if let Some(mut next) = turns.pop_front() {
            next.at = self.now + next.think;
            self.calendar.enter(next.at, Event::Turn(Box::new(next)));
        }
        if self.later_turns.get(&session).is_some_and(std::collections::VecDeque::is_empty) {
            self.later_turns.remove(&session);
        }
    }

    pub(super) fn flight_mut(&mut self, number: u64) -> Option<&mut Flight> {
        self.flights.get_mut(usize::try_from(number).ok()?)?.as_deref_mut()
    }

    fn is_sent_to(&mut self, number: u64, (replica, generation): (u32, u32)) -> bool {
        let sent = Stage::Sent { replica, generation };
        self.flight_mut(number).is_some_and(|it| it.stage == sent)
    }
}

/// What a router answers to a request that it turns away.
const fn status_of(reject: &Reject) -> u16 {
    match reject {
        Reject::OverShare { .. } => 429,
        Reject::TooLong { .. } => 400,
        Reject::UnknownModel => 404,
        Reject::AllTried => 502,
        Reject::NoReplicas
        | Reject::RetriesUsedUp { .. }
        | Reject::Saturated { .. }
        | Reject::Infeasible { .. }
        | Reject::Expired { .. }
        | Reject::Evicted { .. } => 503,
    }
}
