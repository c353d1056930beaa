//! What a run is made of, besides the requests.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use engine::Profile;
use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as friendly_optional, required as friendly,
};
use policy::config::DispatcherConfig;
use report::Terms;
use serde::{Deserialize, Serialize};

use types::{quantity::Tokens, request::Priority, slo::Slo};
use workload::Arrival;

use crate::fault::Fault;

/// What a run is made of, besides the requests.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What every random draw follows from, the requests' apart.
    pub seed: u64,
    /// Replicas at the start, all ready.
    pub replicas: u32,
    /// What a replica is.
    pub kind: Kind,
    /// Routers over the fleet, each with a dispatcher of its own; at least one.
    pub routers: u32,
    /// How each router decides; the seed is replaced by one of the run's.
    pub dispatcher: DispatcherConfig,
    /// Times that a client comes again after it was turned away, each after the time it was told.
    pub comes_again: u32,
    /// Replicas that one request may be sent to, the first included; at least one.
    pub attempts_max: u32,
    /// Whether a conversation's next turn leaves when the answer has come and the user has thought,
    /// instead of at its scheduled time.
    pub closed_conversations: bool,
    /// Whether engines find what they generated when a later prompt quotes it.
    pub quoted_answers: bool,
    /// Share of the requests whose answers come in one piece, 0 to 1: their routers see no first token.
    pub unstreamed: f64,
    /// Of how many refusals one is followed until there would have been room; none when absent.
    pub follow_refusals: Option<u32>,
    /// When clients give up, from the scheduled send.
    pub patience: Option<Duration>,
    /// Start of the run that does not count; its gaps between tokens are left out.
    pub warm_up: Duration,
    /// How the routers learn of the replicas.
    pub signals: Signals,
    /// What goes wrong, and when.
    pub faults: Vec<Fault>,
    /// The terms on which requests are judged.
    pub terms: Terms,
    /// The terms of each SLO class, in place of `terms`.
    pub classes: BTreeMap<String, Terms>,
    /// Tenants whose requests are more or less urgent than others', or of a class of their own.
    pub ranks: BTreeMap<u32, Rank>,
}

/// How urgent a tenant's requests are, and what they are promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rank {
    /// How urgent they are; as their class is called when absent.
    pub priority: Option<Priority>,
    /// The class of those that name none.
    pub slo_class: Option<Arc<str>>,
}

/// What a replica is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// A modelled inference engine.
    Engine(Box<Profile>),
    /// A queue before servers of equal speed, first come first served: what textbooks have answers
    /// for. A request's first token and last token come at once, when its service ends.
    Fcfs {
        /// Servers at each replica, at least one.
        servers: u32,
        /// How long requests take.
        service: ServiceTime,
    },
}

/// How long requests take at a queueing station.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ServiceTime {
    /// The times themselves, by the requests' place in the order of arrival; none beyond the end.
    #[serde(skip)]
    Listed(Arc<[Duration]>),
    /// All equal.
    Constant {
        /// The time.
        #[serde(with = "friendly")]
        mean: Duration,
    },
    /// Exponential.
    Exponential {
        /// Mean.
        #[serde(with = "friendly")]
        mean: Duration,
    },
    /// Sum of `shape` exponential stages.
    Erlang {
        /// Mean of the sum.
        #[serde(with = "friendly")]
        mean: Duration,
        /// Stages, at least one.
        shape: u32,
    },
    /// Log-normal.
    LogNormal {
        /// Mean.
        #[serde(with = "friendly")]
        mean: Duration,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
}

/// How routers learn of the replicas: late, and not always.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Signals {
    /// Time between two readings of a replica's load; never when absent.
    #[serde(with = "friendly_optional")]
    pub scrape_interval: Option<Duration>,
    /// Time from a reading until the dispatcher has it.
    #[serde(with = "friendly")]
    pub scrape_delay: Duration,
    /// Share of readings that are lost, 0 to 1.
    pub scrape_loss: f64,
    /// What engines state of the size of their caches, in times of what it is.
    pub cache_stated: f64,
    /// Whether readings say how full caches are.
    pub kv_usage_told: bool,
    /// Whether readings say how often requests had to give up their memory.
    pub preemptions_told: bool,
    /// Time from a change of an engine's cache until the routers know; engines tell nothing when absent.
    /// Routers then name blocks of the engine's size.
    #[serde(with = "friendly_optional")]
    pub event_lag: Option<Duration>,
    /// Share of such messages that are noticed to be missing, and asked for, with the next one only.
    pub event_loss: f64,
    /// Time until what one router places is known to the others; routers tell each other nothing when
    /// absent.
    #[serde(with = "friendly_optional")]
    pub placements_lag: Option<Duration>,
    /// Whether the work of such a placement counts until it has left, and not its blocks alone.
    pub placements_work: bool,
    /// Whether routers are told how fast each replica is, and learn nothing: an oracle, to compare with.
    pub speeds_known: bool,
    /// Time until a router knows that a replica is gone or back, unless a request finds out.
    #[serde(with = "friendly")]
    pub health_delay: Duration,
    /// Time until an attempt at an unreachable replica is given up. One at a replica that is down is
    /// refused at once.
    #[serde(with = "friendly")]
    pub connect_timeout: Duration,
}

impl Setup {
    /// The class of a request: what it names, else its tenant's.
    pub(crate) fn class_of(&self, arrival: &Arrival) -> Option<Arc<str>> {
        arrival.slo_class.clone().or_else(|| self.rank(arrival.tenant)?.slo_class.clone())
    }

    /// How urgent a request is: as its tenant is, or as its class is called.
    pub(crate) fn priority(&self, tenant: Option<u32>, slo_class: Option<&str>) -> Priority {
        let ranked = self.rank(tenant).and_then(|it| it.priority);
        ranked.or_else(|| Priority::named(slo_class?)).unwrap_or_default()
    }

    /// What a request of a class is judged on.
    pub(crate) fn terms_of(&self, slo_class: Option<&str>) -> Terms {
        slo_class.and_then(|it| self.classes.get(it)).copied().unwrap_or(self.terms)
    }

    fn rank(&self, tenant: Option<u32>) -> Option<&Rank> {
        self.ranks.get(&tenant?)
    }

    /// The promise that is no tighter than any: what limits may assume of every request.
    pub(crate) fn loosest(&self) -> Slo {
        let loosest = |slo: Slo, other: Slo| {
            let longer = |one: Option<Duration>, other: Option<Duration>| Some(one?.max(other?));
            Slo {
                ttft: longer(slo.ttft, other.ttft),
                tpot: longer(slo.tpot, other.tpot),
                itl_p95: longer(slo.itl_p95, other.itl_p95),
                jitter: longer(slo.jitter, other.jitter),
                e2e: longer(slo.e2e, other.e2e),
                completion: longer(slo.completion, other.completion),
            }
        };
        self.classes.values().map(|it| it.slo).fold(self.terms.slo, loosest)
    }
}

impl ServiceTime {
    /// What is wrong with the values.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Listed(_) | Self::Constant { .. } | Self::Exponential { .. } => None,
            Self::Erlang { shape, .. } => {
                (*shape == 0).then(|| "shape: needs at least 1 stage".to_owned())
            }
            Self::LogNormal { sigma, .. } => (!(0.0..=10.0).contains(sigma))
                .then(|| format!("sigma: needs 0 to 10, has {sigma}")),
        }
    }
}

impl Signals {
    /// What an engine states that its cache has room for, which has room for `tokens`.
    pub(crate) fn stated(&self, tokens: Tokens) -> Tokens {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from a float saturates"
        )]
        let stated = (f64::from(tokens.0) * self.cache_stated) as u32;
        Tokens(stated)
    }

    /// Everything wrong with the values.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.scrape_interval.is_some_and(|it| it < Duration::from_millis(1)) {
            problems
                .push("scrape_interval: needs a millisecond or more; null for never".to_owned());
        }
        if !(0.0..=1.0).contains(&self.scrape_loss) {
            let loss = self.scrape_loss;
            problems.push(format!("scrape_loss: needs a share from 0 to 1, has {loss}"));
        }
        if !(0.01..=100.0).contains(&self.cache_stated) {
            let stated = self.cache_stated;
            problems.push(format!("cache_stated: needs a factor from 0.01 to 100, has {stated}"));
        }
        if !(0.0..1.0).contains(&self.event_loss) {
            let loss = self.event_loss;
            problems.push(format!("event_loss: needs a share from 0 to below 1, has {loss}"));
        }
        problems
    }
}

impl Default for Signals {
    /// Those of the router's default configuration, over a network without delay.
    fn default() -> Self {
        Self {
            scrape_interval: Some(Duration::from_secs(1)),
            scrape_delay: Duration::ZERO,
            scrape_loss: 0.0,
            cache_stated: 1.0,
            kv_usage_told: true,
            preemptions_told: true,
            event_lag: None,
            event_loss: 0.0,
            placements_lag: None,
            placements_work: true,
            speeds_known: false,
            health_delay: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
        }
    }
}
