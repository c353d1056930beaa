//! A simulation as a file states it: fleet, policy, traffic, promises, and what goes wrong.
//!
//! The file is YAML and its keys are these types' fields; a key that none has is an error.
//! [`Scenario::problems`] says everything that is wrong with the values.

mod block;
#[cfg(test)]
mod tests;

use std::{io, time::Duration};

use engine::Profile;
use jiff::fmt::serde::unsigned_duration::friendly::compact::{
    optional as friendly_optional, required as friendly,
};
use policy::config::StrategyName;
use report::Terms;
use serde::{Deserialize, Serialize};
use types::slo::Slo;
use workload::{Load, Planned, Schedule, Workload, WorkloadError};

pub use self::block::{Fleet, Overrides, Policy, Prefix, Session, Station};
use crate::{
    fault::Fault,
    setup::{Kind, Setup, Signals},
};

/// Most replicas a scenario may start with.
const REPLICAS_MAX: u32 = 100_000;

/// A simulation as a file states it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What results call it.
    pub name: String,
    /// What it is about, in a sentence.
    #[serde(default)]
    pub about: String,
    /// The replicas.
    pub fleet: Fleet,
    /// Routers over the fleet, each with a dispatcher of its own; requests spread evenly.
    #[serde(default = "one")]
    pub routers: u32,
    /// How each router decides; the strategy is what a run without `--policy` compares.
    #[serde(default)]
    pub policy: Policy,
    /// Replicas that one request may be sent to, the first included.
    #[serde(default = "two")]
    pub attempts_max: u32,
    /// What is asked.
    pub workload: Workload,
    /// When.
    pub load: LoadBlock,
    /// Whether conversations wait for answers.
    #[serde(default)]
    pub conversations: Conversations,
    /// Whether engines find what they generated when a later prompt quotes it.
    #[serde(default = "yes")]
    pub quoted_answers: bool,
    /// When clients give up, from the scheduled send; never when absent.
    #[serde(default, with = "friendly_optional")]
    pub patience: Option<Duration>,
    /// The promises.
    #[serde(default)]
    pub slo: SloBlock,
    /// How routers learn of the replicas.
    #[serde(default)]
    pub signals: Signals,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// When requests come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBlock {
    /// Requests per second, each rate a run of its own; a trace keeps its times where there is none.
    #[serde(default)]
    pub rates_per_s: Vec<f64>,
    /// Whether a rate means random or equal distances.
    #[serde(default)]
    pub arrivals: Arrivals,
    /// How many times faster than recorded a trace is sent.
    #[serde(default = "unit")]
    pub speedup: f64,
    /// How long requests come; a trace otherwise goes to its end.
    #[serde(default, with = "friendly_optional")]
    pub duration: Option<Duration>,
    /// Start of the run that does not count.
    #[serde(default, with = "friendly")]
    pub warm_up: Duration,
}

/// What a rate means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arrivals {
    /// Random, independent of each other.
    #[default]
    Poisson,
    /// At equal distances.
    Constant,
}

/// When a conversation's next turn leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conversations {
    /// At its scheduled time, whether or not the answer has come: a slow fleet is offered no less
    /// than a fast one.
    #[default]
    Open,
    /// When the answer has come and the user has thought.
    Closed,
}

/// The promises; a bound that is absent always holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SloBlock {
    /// Longest time to first token.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub ttft: Option<Duration>,
    /// Longest time per output token, averaged over the answer.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub tpot: Option<Duration>,
    /// Longest time to the last token.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub e2e: Option<Duration>,
}

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

const fn yes() -> bool {
    true
}

const fn unit() -> f64 {
    1.0
}

impl Scenario {
    /// Everything wrong with the values, the profile's and the trace's apart.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.name.is_empty() {
            problems.push("name: needs one".to_owned());
        }
        if self.routers == 0 || self.routers > 1_000 {
            problems.push(format!("routers: needs 1 to 1000, has {}", self.routers));
        }
        if self.attempts_max == 0 {
            problems.push("attempts_max: needs at least 1".to_owned());
        }
        let within = |block: &str, of: Vec<String>| -> Vec<String> {
            of.into_iter().map(|it| format!("{block}.{it}")).collect()
        };
        problems.extend(within("fleet", self.fleet.problems()));
        problems.extend(within("policy", self.policy.problems()));
        problems.extend(within("workload", self.workload.problems()));
        problems.extend(within("load", self.load_problems()));
        problems.extend(within("signals", self.signals.problems()));
        for (index, fault) in self.faults.iter().enumerate() {
            let problem = fault.problem(self.fleet.replicas, self.routers.max(1));
            problems.extend(problem.map(|it| format!("faults[{index}].{it}")));
        }
        problems
    }

    fn load_problems(&self) -> Vec<String> {
        let load = &self.load;
        let is_trace = matches!(self.workload, Workload::Trace(_));
        let mut problems: Vec<String> =
            self.loads(0).iter().flat_map(|(_, load)| load.problems()).collect();
        if !is_trace && load.rates_per_s.is_empty() {
            problems.push(
                "rates_per_s: needs at least one rate; only a trace has its own times".to_owned(),
            );
        }
        if !is_trace && load.duration.is_none() {
            problems.push("duration: needs a time; only a trace has an end of its own".to_owned());
        }
        if load.duration.is_some_and(|it| it <= load.warm_up) {
            problems.push("warm_up: is not shorter than the duration".to_owned());
        }
        problems
    }

    /// The rates to run at, each with its load; none stands for a trace's own times.
    #[must_use]
    pub fn loads(&self, seed: u64) -> Vec<(Option<f64>, Load)> {
        let LoadBlock { arrivals, speedup, duration, .. } = self.load;
        let load = |schedule| Load { schedule, duration, seed };
        if self.load.rates_per_s.is_empty() {
            return vec![(None, load(Schedule::Trace { speedup }))];
        }
        let at = |rate_per_s: f64| match arrivals {
            Arrivals::Poisson => Schedule::Poisson { rate_per_s },
            Arrivals::Constant => Schedule::Constant { rate_per_s },
        };
        self.load.rates_per_s.iter().map(|rate| (Some(*rate), load(at(*rate)))).collect()
    }

    /// The requests of a run; `read` fetches the text of a trace that is a file.
    ///
    /// # Errors
    /// As [`Workload::plan`].
    pub fn plan(
        &self,
        load: &Load,
        read: impl FnOnce(&str) -> io::Result<String>,
    ) -> Result<Planned, WorkloadError> {
        self.workload.plan(load, read)
    }

    /// The setup of a run under `strategy`, seeded with `seed`; `profile` is what
    /// [`Fleet::profile`] names, before the overrides.
    #[must_use]
    pub fn setup(&self, strategy: StrategyName, seed: u64, profile: Profile) -> Setup {
        let kind = match &self.fleet.station {
            Some(Station { servers, service }) => {
                Kind::Fcfs { servers: *servers, service: service.clone() }
            }
            None => Kind::Engine(Box::new(self.fleet.overrides.applied_to(profile))),
        };
        let mut dispatcher = self.policy.dispatcher(strategy);
        // What an engine publishes can be followed in blocks of its own size.
        if let (Some(_), Kind::Engine(profile)) = (self.signals.event_lag, &kind) {
            dispatcher.prefix.block = profile.block_size;
        }
        Setup {
            seed,
            replicas: self.fleet.replicas,
            kind,
            routers: self.routers,
            dispatcher,
            attempts_max: self.attempts_max,
            closed_conversations: self.conversations == Conversations::Closed,
            quoted_answers: self.quoted_answers,
            patience: self.patience,
            warm_up: self.load.warm_up,
            step_noise: self.fleet.overrides.step_noise.unwrap_or_default(),
            signals: self.signals,
            faults: self.faults.clone(),
            terms: Terms { slo: self.slo.into(), ..Terms::default() },
        }
    }
}

impl From<SloBlock> for Slo {
    fn from(SloBlock { ttft, tpot, e2e }: SloBlock) -> Self {
        Self { ttft, tpot, e2e }
    }
}
