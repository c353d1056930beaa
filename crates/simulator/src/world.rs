//! The world: one loop over a calendar that drives every part of a run.
//!
//! An event happens at its time and enters those that follow from it. Arrivals are merged from the
//! workload as they come due, so the calendar holds only what is under way. A run ends when every
//! request has left and nothing is left to happen; then the books must balance.

mod check;
mod faults;
mod kv_events;
mod peers;
mod refusals;
mod replicas;
mod requests;
mod signals;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    iter::Peekable,
    time::Duration,
    vec,
};

use engine::{InvalidProfile, KvMessage, Progress};
use policy::{
    dispatcher::Dispatcher,
    event::{Decision, News},
    explanation::Explanation,
};
use rand::rngs::Xoshiro256PlusPlus;
use report::{Histogram, RequestRecord};
use types::{
    quantity::Tokens,
    replica::{Health, LoadReport},
    request::RequestId,
    time::Timestamp,
};
use workload::Arrival;

pub use self::refusals::Refusal;
pub(crate) use self::replicas::Services;
use self::{refusals::Followed, replicas::Replica};
use crate::{
    calendar::Calendar,
    content::Memo,
    fault::Fault,
    flight::Flight,
    seed::{Subsystem, generator, seed_of},
    setup::Setup,
};

/// What became of the requests of a run.
#[derive(Debug)]
pub struct Recording {
    /// One record for each request, by their order of arrival; judged.
    pub records: Vec<RequestRecord>,
    /// Gaps between the tokens of whole answers.
    pub gaps: Histogram,
    /// Refusals that were followed, in the order in which there was room, or the run ended.
    pub refusals: Vec<Refusal>,
    /// Events that happened.
    pub events: u64,
    /// Why requests went where they went, as far as [`Setup::dispatcher`] asks for it; by router, the
    /// newest first.
    pub explanations: Vec<Explanation>,
}

/// Why a run has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Something happened that never may: a fault of the program, not of its input.
    #[error("seed {seed}, at {at}: {what}; please report it with the scenario")]
    Invariant {
        /// The run's seed.
        seed: u64,
        /// Virtual time.
        at: Timestamp,
        /// What happened.
        what: String,
    },
    /// The engine cannot run.
    #[error(transparent)]
    Profile(#[from] InvalidProfile),
}

/// Runs `arrivals`, by time, through `setup`.
///
/// The same arguments always give the same recording.
///
/// # Errors
/// A profile that no engine can run with, or the first invariant that was broken.
pub fn run(setup: &Setup, arrivals: Vec<Arrival>) -> Result<Recording, Violation> {
    World::new(setup, arrivals)?.run()
}

/// Something that happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// A user sends the next turn of a conversation.
    Turn(Box<Arrival>),
    /// A request reaches the engine of replica `at.0`, in incarnation `at.1`.
    Submit { number: u64, at: (u32, u32) },
    /// An attempt could not be delivered.
    Undelivered { number: u64, at: (u32, u32) },
    /// An idle replica looks for work.
    Wake { at: (u32, u32) },
    /// The steps that an engine planned end.
    PlanEnd { at: (u32, u32), plan: u32 },
    /// A service at a queueing station ends.
    Served { number: u64, at: (u32, u32) },
    /// A client's patience ends.
    GaveUp { number: u64 },
    /// A client that was turned away comes again.
    CameAgain { number: u64 },
    /// A router looks at the requests that wait.
    Look { router: u32 },
    /// Refusals that are followed are looked at.
    Follow,
    /// A router reads the load of the replicas.
    Scrape { router: u32 },
    /// A reading reaches the dispatcher.
    Reported { router: u32, replica: u32, report: LoadReport },
    /// What an engine published reaches the routers.
    Told { at: (u32, u32), messages: Vec<KvMessage> },
    /// What one router tells the others reaches them.
    Heard { router: u32, news: Box<News> },
    /// A router's probe finds out how a replica is.
    Probed { router: u32, replica: u32 },
    /// A fault of the setup begins.
    Fault { index: usize },
    /// A fault that lasts ends; for a crash, the replica in incarnation `generation` is back.
    FaultEnds { index: usize, generation: u32 },
    /// A redeployed replica listens again.
    Redeployed { replica: u32, generation: u32 },
    /// A deployment goes on with the next replica.
    DeployNext,
}

/// A router as the world sees it.
#[derive(Debug)]
pub(crate) struct Router {
    dispatcher: Dispatcher,
    /// What it was told of each replica's health, by number.
    seen: Vec<Health>,
    /// When it next looks at the requests that wait.
    look: Option<Timestamp>,
}

pub(crate) struct World<'a> {
    setup: &'a Setup,
    now: Timestamp,
    calendar: Calendar<Event>,
    /// Events in the calendar that only carry news.
    news: usize,
    arrivals: Peekable<vec::IntoIter<Arrival>>,
    requests: usize,
    /// Turns that wait for the answer to the one before, by session.
    later_turns: BTreeMap<u64, VecDeque<Arrival>>,
    routers: Vec<Router>,
    replicas: Vec<Replica>,
    /// Requests by number, until they leave.
    flights: Vec<Option<Box<Flight>>>,
    /// The newest token of each request that its replica told of, by number: the step and how many
    /// there were with it. Apart from the requests, since most tokens touch nothing else, and requests
    /// under way have numbers near to each other.
    newest: Vec<(u32, Tokens)>,
    /// Whether engines take one step at a time, because the length of a step may change meanwhile.
    single_steps: bool,
    /// Faults under which no load is read.
    blind: u32,
    /// Cache salts used up so far.
    salt: u32,
    /// Names of blocks that were computed before, for routers and engines.
    memos: (Memo, Memo),
    services: Services,
    router_draws: Xoshiro256PlusPlus,
    signal_draws: Xoshiro256PlusPlus,
    stream_draws: Xoshiro256PlusPlus,
    followed: Followed,
    /// Replicas that a deployment has yet to restart, and how long each takes.
    deployment: VecDeque<(u32, Duration)>,
    /// Whether a replica is being redeployed.
    deploying: bool,
    records: Vec<Option<RequestRecord>>,
    left: usize,
    gaps: Histogram,
    events: u64,
    violation: Option<Violation>,
    decisions: Vec<Decision>,
    progress: Vec<Progress>,
    /// Gaps between the tokens of one answer.
    pauses: Vec<Duration>,
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup, arrivals: Vec<Arrival>) -> Result<Self, Violation> {
        let requests = arrivals.len();
        let (first_turns, later_turns) =
            if setup.closed_conversations { closed(arrivals) } else { (arrivals, BTreeMap::new()) };
        let routers = (0..setup.routers.max(1)).map(|router| {
            let seed = seed_of(setup.seed, Subsystem::Dispatcher(router));
            let config = policy::config::DispatcherConfig { seed, ..setup.dispatcher };
            Router { dispatcher: Dispatcher::new(config), seen: Vec::new(), look: None }
        });
        let mut world = Self {
            setup,
            now: Timestamp::ZERO,
            calendar: Calendar::new(),
            news: 0,
            arrivals: first_turns.into_iter().peekable(),
            requests,
            later_turns,
            routers: routers.collect(),
            replicas: Vec::new(),
            flights: Vec::with_capacity(requests),
            newest: Vec::with_capacity(requests),
            single_steps: setup
                .faults
                .iter()
                .any(|it| matches!(it, Fault::Slow { .. } | Fault::Stall { .. })),
            blind: 0,
            salt: 0,
            memos: (Memo::default(), Memo::default()),
            services: Services::new(setup),
            router_draws: generator(setup.seed, Subsystem::Routers),
            signal_draws: generator(setup.seed, Subsystem::Signals),
            stream_draws: generator(setup.seed, Subsystem::Streams),
            followed: Followed::default(),
            deployment: VecDeque::new(),
            deploying: false,
            records: Vec::with_capacity(requests),
            left: 0,
            gaps: Histogram::new(),
            events: 0,
            violation: None,
            decisions: Vec::new(),
            progress: Vec::new(),
            pauses: Vec::new(),
        };
        for _ in 0..setup.replicas {
            world.join(Health::Ready)?;
        }
        for (index, fault) in setup.faults.iter().enumerate() {
            world.calendar.enter(Timestamp::from_elapsed(fault.at()), Event::Fault { index });
        }
        world.start_scraping();
        Ok(world)
    }

    fn run(mut self) -> Result<Recording, Violation> {
        loop {
            let arrival = self.arrivals.peek().map(|it| it.at);
            let event = self.calendar.next_at();
            let is_arrival = match (arrival, event) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(arrival), Some(event)) => arrival <= event,
            };
            self.events = self.events.saturating_add(1);
            if is_arrival {
                if let Some(arrival) = self.arrivals.next() {
                    self.advance_to(arrival.at);
                    self.arrive(&arrival);
                }
            } else if let Some((at, event)) = self.calendar.pop() {
                self.advance_to(at);
                self.happen(event);
            }
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
        }
        self.check_end();
        match self.violation {
            Some(violation) => Err(violation),
            None => Ok(Recording {
                records: self.records.into_iter().flatten().collect(),
                gaps: self.gaps,
                refusals: self.followed.refusals(),
                events: self.events,
                explanations: self
                    .routers
                    .iter()
                    .flat_map(|it| it.dispatcher.explanations().newest().cloned())
                    .collect(),
            }),
        }
    }

    fn advance_to(&mut self, at: Timestamp) {
        if at < self.now {
            self.violated(format!("time goes back to {at}"));
        }
        self.now = self.now.max(at);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Turn(arrival) => self.arrive(&arrival),
            Event::Submit { number, at } => self.submit(number, at),
            Event::Undelivered { number, at } => self.undelivered(number, at),
            Event::Wake { at } => self.wake(at),
            Event::PlanEnd { at, plan } => self.plan_end(at, plan),
            Event::Served { number, at } => self.served(RequestId(number), at),
            Event::GaveUp { number } => self.gave_up(number),
            Event::CameAgain { number } => self.came_again(number),
            Event::Look { router } => self.look(router),
            Event::Follow => self.look_at_followed(),
            Event::Scrape { router } => self.scrape(router),
            Event::Reported { router, replica, report } => self.reported(router, replica, report),
            Event::Told { at, messages } => self.told(at, messages),
            Event::Heard { router, news } => self.heard(router, &news),
            Event::Probed { router, replica } => self.probed(router, replica),
            Event::Fault { index } => self.begin_fault(index),
            Event::FaultEnds { index, generation } => self.end_fault(index, generation),
            Event::Redeployed { replica, generation } => self.redeployed(replica, generation),
            Event::DeployNext => self.deploy_next(),
        }
    }
}

/// Splits conversations into first turns, by time, and the turns that follow answers.
fn closed(arrivals: Vec<Arrival>) -> (Vec<Arrival>, BTreeMap<u64, VecDeque<Arrival>>) {
    let mut later: BTreeMap<u64, VecDeque<Arrival>> = BTreeMap::new();
    let mut first = Vec::new();
    for arrival in arrivals {
        match arrival.session {
            None => first.push(arrival),
            Some(session) => match later.entry(session) {
                std::collections::btree_map::Entry::Vacant(vacant) => {
                    vacant.insert(VecDeque::new());
                    first.push(arrival);
                }
                std::collections::btree_map::Entry::Occupied(mut turns) => {
                    turns.get_mut().push_back(arrival);
                }
            },
        }
    }
    later.retain(|_, turns| !turns.is_empty());
    (first, later)
}
