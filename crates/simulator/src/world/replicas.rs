//! The replicas: what they run, when they step, and whether they can be reached.

use std::time::Duration;

use engine::Engine;
use policy::event::Event as Learned;
use rand::{RngExt as _, rngs::Xoshiro256PlusPlus};
use rand_distr::{Distribution as _, Exp1, Gamma, LogNormal};
use types::{
    quantity::Tokens,
    replica::{Health, ReplicaId},
    request::RequestId,
    time::Timestamp,
};

use super::{Event, Violation, World, kv_events::Feed};
use crate::{
    seed::{Subsystem, generator, seed_of},
    server::{Fcfs, Server},
    setup::{Kind, ServiceTime, Setup},
};

/// A replica as it is, whatever the routers believe of it.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(super) server: Server,
    /// Counts its incarnations: what was meant for an earlier one is void.
    pub(super) generation: u32,
    pub(super) is_up: bool,
    /// Whether it left for good.
    pub(super) is_gone: bool,
    pub(super) after_drain: Option<AfterDrain>,
    /// Whether a step or a service of it is in the calendar.
    stepping: bool,
    /// When each of its steps ended or will end, over all its incarnations.
    pub(super) step_ends: Vec<Timestamp>,
    /// Which of them is the first of the steps under way.
    plan_first: usize,
    /// When that one began.
    plan_began: Timestamp,
    /// Counts plans, and changes of one: an end that was entered before is void.
    plan: u32,
    /// How many times longer everything takes.
    pub(super) slowness: f64,
    /// Until when it begins nothing.
    pub(super) stalled_until: Timestamp,
    /// Time from the router's decision until its engine has the request.
    pub(super) intake: Duration,
    /// Requests that were sent to it and have not left.
    pub(super) held: usize,
    /// Partitions between each router and it.
    pub(super) partitions: Vec<u32>,
    /// What its streams brought since routers last took stock.
    tokens: Tokens,
    /// How long they waited for that, added up.
    waited: Duration,
    /// When routers last took stock.
    counted: Timestamp,
    /// What it publishes of its cache.
    pub(super) feed: Feed,
}

/// What follows when a replica has drained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterDrain {
    /// It leaves.
    Leave,
    /// It restarts, which takes so long.
    Restart(Duration),
}

/// Time between two occasions at which a router takes stock of the tokens that came.
const TOKENS_TOLD_EVERY: Duration = Duration::from_millis(100);

impl Replica {
    /// Counts the tokens that the steps under way bring.
    fn count_tokens(&mut self) {
        let Server::Engine(engine) = &self.server else { return };
        let (mut began, decoding) = (self.plan_began, engine.decoding());
        for end in self.step_ends.get(self.plan_first..).unwrap_or_default() {
            self.tokens += Tokens(decoding);
            self.waited = self.waited.saturating_add(end.since(began).saturating_mul(decoding));
            began = *end;
        }
    }

    pub(super) fn is_reachable_from(&self, router: u32) -> bool {
        self.partitions.get(router as usize).is_none_or(|it| *it == 0)
    }

    pub(super) const fn is_draining(&self) -> bool {
        self.after_drain.is_some()
    }

    /// The time since the steps under way began.
    pub(super) const fn elapsed(&self, now: Timestamp) -> Duration {
        now.since(self.plan_began)
    }
}

impl World<'_> {
    /// A server for the replica of that number.
    fn new_server(&self, replica: u32) -> Result<Server, Violation> {
        Ok(match &self.setup.kind {
            Kind::Engine(profile) => {
                let mut engine = Engine::new((**profile).clone())?;
                engine.reseed(seed_of(self.setup.seed, Subsystem::Steps(replica)));
                if self.publishes() {
                    engine.record_kv_events();
                }
                Server::Engine(Box::new(engine))
            }
            Kind::Fcfs { servers, .. } => Server::Fcfs(Fcfs::new(*servers)),
        })
    }

    /// Adds a replica that routers see as `health`.
    pub(super) fn join(&mut self, health: Health) -> Result<u32, Violation> {
        let number = u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
        let intake = match &self.setup.kind {
            Kind::Engine(profile) => profile.api_overhead(),
            Kind::Fcfs { .. } => Duration::ZERO,
        };
        let server = self.new_server(number)?;
        self.replicas.push(Replica {
            server,
            generation: 0,
            is_up: true,
            is_gone: false,
            after_drain: None,
            stepping: false,
            step_ends: Vec::new(),
            plan_first: 0,
            plan_began: Timestamp::ZERO,
            plan: 0,
            slowness: 1.0,
            stalled_until: Timestamp::ZERO,
            intake,
            held: 0,
            partitions: vec![0; self.routers.len()],
            tokens: Tokens::ZERO,
            waited: Duration::ZERO,
            counted: Timestamp::ZERO,
            feed: Feed::default(),
        });
        for router in self.router_numbers() {
            if let Some(it) = self.routers.get_mut(router as usize) {
                it.seen.push(Health::Starting);
            }
            self.tell(router, Learned::ReplicaJoined(ReplicaId(number)));
            // Engines state the size of their caches with their metrics.
            if let Kind::Engine(profile) = &self.setup.kind {
                let tokens = profile.kv_blocks().tokens(profile.block_size);
                let tokens = self.setup.signals.stated(tokens);
                self.tell(router, Learned::CacheSized { replica: ReplicaId(number), tokens });
            }
            self.see(router, number, health);
        }
        self.tell_speed(number);
        self.follow(number);
        Ok(number)
    }

    /// Replaces a replica's server by a new one with a cold cache, which listens or does not.
    pub(super) fn reset(&mut self, replica: u32, is_up: bool) {
        match self.new_server(replica) {
            Ok(server) => {
                if let Some(it) = self.replicas.get_mut(replica as usize) {
                    // What was under way never ends.
                    it.step_ends.truncate(it.step_ends.partition_point(|end| *end <= self.now));
                    it.plan_first = it.step_ends.len();
                    it.server = server;
                    it.generation = it.generation.saturating_add(1);
                    it.stepping = false;
                    it.stalled_until = Timestamp::ZERO;
                    it.is_up = is_up;
                    it.feed = Feed { generation: it.feed.generation, ..Feed::default() };
                }
            }
            Err(violation) => {
                self.violation.get_or_insert(violation);
            }
        }
    }

    /// Lets an idle replica look for work, once all that comes at this moment has come.
    pub(super) fn wake_if_idle(&mut self, replica: u32) {
        let Some(it) = self.replicas.get_mut(replica as usize) else { return };
        let at = (replica, it.generation);
        match &it.server {
            Server::Engine(_) if it.stepping => {}
            Server::Engine(_) => {
                it.stepping = true;
                self.calendar.enter(self.now, Event::Wake { at });
            }
            Server::Fcfs(_) => self.start_services(at),
        }
    }

    /// Begins the next step of a replica, and those after it that change nothing but lengths.
    pub(super) fn wake(&mut self, at: (u32, u32)) {
        let single_steps = self.single_steps;
        let Some(it) = self.replicas.get_mut(at.0 as usize) else { return };
        if it.generation != at.1 {
            return;
        }
        let Server::Engine(engine) = &mut it.server else { return };
        if it.stalled_until > self.now {
            it.stepping = true;
            self.calendar.enter(it.stalled_until, Event::Wake { at });
            return;
        }
        if single_steps {
            engine.begin_step();
        } else {
            engine.begin_steps();
        }
        let (began, slowness) = (self.now, it.slowness);
        it.plan_began = began;
        it.plan_first = it.step_ends.len();
        it.step_ends.extend(engine.planned().iter().map(|end| began + scaled(*end, slowness)));
        it.stepping = !engine.planned().is_empty();
        if it.stepping {
            self.enter_plan_end(at);
        }
        self.publish(at);
        self.check_kv(at.0);
    }

    fn enter_plan_end(&mut self, at: (u32, u32)) {
        let Some(it) = self.replicas.get_mut(at.0 as usize) else { return };
        it.plan = it.plan.wrapping_add(1);
        let (end, plan) = (it.step_ends.last().copied().unwrap_or_default(), it.plan);
        self.calendar.enter(end, Event::PlanEnd { at, plan });
    }

    /// Ends a plan earlier, where something that happened made the engine take steps back.
    pub(super) fn replan(&mut self, at: (u32, u32)) {
        let replica = self.replicas.get_mut(at.0 as usize).filter(|it| it.generation == at.1);
        let Some(it) = replica.filter(|it| it.stepping) else { return };
        let Server::Engine(engine) = &it.server else { return };
        let length = it.plan_first.saturating_add(engine.planned().len());
        if length > it.plan_first && length < it.step_ends.len() {
            it.step_ends.truncate(length);
            self.enter_plan_end(at);
        }
    }

    pub(super) fn plan_end(&mut self, at: (u32, u32), plan: u32) {
        let mut progress = std::mem::take(&mut self.progress);
        let replica = self.replicas.get_mut(at.0 as usize);
        let replica = replica.filter(|it| (it.generation, it.plan) == (at.1, plan));
        if let Some(it) = replica {
            it.count_tokens();
            let Replica { server: Server::Engine(engine), step_ends, .. } = it else { return };
            // Of several steps only first and last tokens are told: the others came one each.
            match engine.planned().len() {
                0 | 1 => engine.finish_step(&mut progress),
                _ => engine.finish_steps(&mut progress),
            }
            let step = u32::try_from(step_ends.len().saturating_sub(1)).unwrap_or(u32::MAX);
            for token in progress.drain(..) {
                self.token(token, at, step);
            }
            self.tell_tokens(at.0);
            self.wake(at);
        }
        self.progress = progress;
    }

    /// Tells routers what the streams of a replica brought, as often as live ones take stock. The
    /// streams of each are a fair sample of all.
    fn tell_tokens(&mut self, replica: u32) {
        let now = self.now;
        let Some(it) = self.replicas.get_mut(replica as usize) else { return };
        if it.tokens == Tokens::ZERO || now.since(it.counted) < TOKENS_TOLD_EVERY {
            return;
        }
        it.counted = now;
        let (tokens, waited) = (std::mem::take(&mut it.tokens), std::mem::take(&mut it.waited));
        let routers = self.router_numbers();
        // Those that come in one piece tell nothing of when.
        let streamed = (1.0 - self.setup.unstreamed) / f64::from(routers.end);
        let tokens = part(tokens.0, streamed);
        let waited = scaled(waited, streamed);
        if tokens == 0 {
            return;
        }
        for router in routers {
            let replica = ReplicaId(replica);
            self.tell(router, Learned::TokensCame { replica, tokens, waited });
        }
    }

    pub(super) fn start_services(&mut self, at: (u32, u32)) {
        let Some(it) = self.replicas.get_mut(at.0 as usize) else { return };
        let Server::Fcfs(station) = &mut it.server else { return };
        if it.stalled_until > self.now {
            return;
        }
        while let Some((id, service)) = station.start() {
            let end = self.now + scaled(service, it.slowness);
            self.calendar.enter(end, Event::Served { number: id.0, at });
        }
    }

    pub(super) fn served(&mut self, id: RequestId, at: (u32, u32)) {
        let replica = self.replicas.get_mut(at.0 as usize).filter(|it| it.generation == at.1);
        let Some(Replica { server: Server::Fcfs(station), .. }) = replica else { return };
        if let Some(token) = station.finish(id) {
            self.start_services(at);
            self.token(token, at, 0);
        }
    }
}

/// `duration` that takes `slowness` times longer; untouched at 1, so that no rounding creeps in.
fn scaled(duration: Duration, slowness: f64) -> Duration {
    if (slowness - 1.0).abs() < f64::EPSILON {
        return duration;
    }
    Duration::try_from_secs_f64(duration.as_secs_f64() * slowness).unwrap_or(Duration::MAX)
}

/// That share of `count`, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a count")]
fn part(count: u32, share: f64) -> u32 {
    (f64::from(count) * share).ceil() as u32
}

/// Draws service times for queueing stations.
#[derive(Debug)]
pub(crate) struct Services {
    draws: Xoshiro256PlusPlus,
}

impl Services {
    pub(crate) fn new(setup: &Setup) -> Self {
        Self { draws: generator(setup.seed, Subsystem::Service) }
    }

    /// The service time of the `number`-th request.
    pub(crate) fn draw(&mut self, service: &ServiceTime, number: u64) -> Duration {
        let (mean, share) = match service {
            ServiceTime::Listed(times) => {
                let place = usize::try_from(number).unwrap_or(usize::MAX);
                return times.get(place).copied().unwrap_or_default();
            }
            ServiceTime::Constant { mean } => return *mean,
            ServiceTime::Exponential { mean } => (mean, self.draws.sample(Exp1)),
            ServiceTime::Erlang { mean, shape } => {
                let shape = f64::from((*shape).max(1));
                (mean, Gamma::new(shape, 1.0 / shape).map_or(1.0, |it| it.sample(&mut self.draws)))
            }
            ServiceTime::LogNormal { mean, sigma } => {
                // The mean of a log-normal is exp(μ + σ²/2).
                let drawn = LogNormal::new(-sigma * sigma / 2.0, *sigma);
                (mean, drawn.map_or(1.0, |it| it.sample(&mut self.draws)))
            }
        };
        scaled(*mean, share)
    }
}
