//! What stands behind a router: a modelled engine, or a queueing station.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use engine::{Engine, Job, Progress, Refusal};
use types::{
    quantity::{Blocks, Tokens},
    replica::LoadReport,
    request::RequestId,
};

/// What a request is to a server.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A prompt to answer.
    Job(Job),
    /// A time to serve for.
    Service(Duration),
}

/// A server of one of the kinds.
#[derive(Debug)]
pub(crate) enum Server {
    Engine(Box<Engine>),
    Fcfs(Fcfs),
}

/// A queue before servers of equal speed, first come first served.
#[derive(Debug)]
pub(crate) struct Fcfs {
    servers: usize,
    serving: BTreeSet<RequestId>,
    waiting: VecDeque<(RequestId, Duration)>,
}

impl Fcfs {
    pub(crate) fn new(servers: u32) -> Self {
        Self {
            servers: servers.max(1) as usize,
            serving: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn push(&mut self, id: RequestId, service: Duration) {
        self.waiting.push_back((id, service));
    }

    /// Takes the next request into service, where a server is free and a request waits.
    pub(crate) fn start(&mut self) -> Option<(RequestId, Duration)> {
        if self.serving.len() >= self.servers {
            return None;
        }
        let (id, service) = self.waiting.pop_front()?;
        self.serving.insert(id);
        Some((id, service))
    }

    /// Ends a service; `None` when the request is gone already.
    pub(crate) fn finish(&mut self, id: RequestId) -> Option<Progress> {
        let generated = Tokens(1);
        let token = Progress { id, generated, cached: Tokens::ZERO, last: true };
        self.serving.remove(&id).then_some(token)
    }

    fn abort(&mut self, id: RequestId) {
        self.serving.remove(&id);
        self.waiting.retain(|it| it.0 != id);
    }
}

impl Server {
    /// Queues a request, `elapsed` after the steps under way began.
    pub(crate) fn submit(
        &mut self,
        id: RequestId,
        work: Work,
        elapsed: Duration,
    ) -> Result<(), Refusal> {
        match (self, work) {
            (Self::Engine(engine), Work::Job(job)) => engine.submit_during(job, elapsed),
            (Self::Fcfs(station), Work::Service(service)) => {
                station.push(id, service);
                Ok(())
            }
            (Self::Engine(_), Work::Service(_)) | (Self::Fcfs(_), Work::Job(_)) => {
                Err(Refusal::EmptyPrompt)
            }
        }
    }

    /// Drops a request, `elapsed` after the steps under way began; an unknown one is ignored.
    pub(crate) fn abort(&mut self, id: RequestId, elapsed: Duration) {
        match self {
            Self::Engine(engine) => engine.abort_during(id, elapsed),
            Self::Fcfs(station) => station.abort(id),
        }
    }

    /// What the server says of its load, `elapsed` after the steps under way began.
    pub(crate) fn load(&self, elapsed: Duration) -> LoadReport {
        match self {
            Self::Engine(engine) => engine.load_during(elapsed),
            Self::Fcfs(station) => LoadReport {
                running: count(station.serving.len()),
                waiting: count(station.waiting.len()),
                ..LoadReport::default()
            },
        }
    }

    /// Free KV blocks and all of them.
    pub(crate) fn kv(&self) -> (Blocks, Blocks) {
        match self {
            Self::Engine(engine) => (engine.kv_free(), engine.profile().kv_blocks()),
            Self::Fcfs(_) => (Blocks(0), Blocks(0)),
        }
    }

    /// Whether nothing runs and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        let load = self.load(Duration::ZERO);
        load.running == 0 && load.waiting == 0
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
