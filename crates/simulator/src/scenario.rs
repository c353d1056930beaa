//! A simulation as a file states it: fleet, policy, traffic, promises, and what goes wrong.
//!
//! The file is YAML and its keys are these types' fields; a key that none has is an error.
//! [`Scenario::problems`] says everything that is wrong with the values.

mod block;
mod load;
mod promises;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, io, time::Duration};

use engine::Profile;
use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly_optional;
use policy::{
    admission::{AdmissionConfig, AdmissionMode},
    config::StrategyName,
};
use report::{
    Terms,
    cost::{Prices, WorkloadClass},
};
use serde::{Deserialize, Serialize};
use workload::{Load, Planned, Workload, WorkloadError};

pub use self::{
    block::{Fleet, Overrides, Policy, Prefix, Session, Station},
    load::{Arrivals, LoadBlock, Ramp},
    promises::{Promises, RankBlock, SloBlock},
};
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
    /// How each router lets requests in; everybody is when absent. The mode is what a run without
    /// `--admission` has.
    #[serde(default = "AdmissionConfig::off")]
    pub admission: AdmissionConfig,
    /// Times that a client comes again after it was turned away, each after the time it was told.
    #[serde(default)]
    pub comes_again: u32,
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
    /// Share of the requests whose answers come in one piece, 0 to 1.
    #[serde(default)]
    pub unstreamed: f64,
    /// When clients give up, from the scheduled send; never when absent.
    #[serde(default, with = "friendly_optional")]
    pub patience: Option<Duration>,
    /// The promises, to everybody and to those of each class.
    #[serde(default)]
    pub slo: Promises,
    /// Most times that a good request may have been sent again; any number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries_max: Option<u32>,
    /// Tenants, by number, whose requests are more or less urgent than others', or were promised
    /// something else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ranks: BTreeMap<u32, RankBlock>,
    /// The kind of work, which says what counts as a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_class: Option<WorkloadClass>,
    /// What is paid; nothing is said of costs when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub costs: Option<Prices>,
    /// How routers learn of the replicas.
    #[serde(default)]
    pub signals: Signals,
    /// What goes wrong.
    #[serde(default)]
    pub faults: Vec<Fault>,
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

const fn one() -> u32 {
    1
}

const fn two() -> u32 {
    2
}

const fn yes() -> bool {
    true
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
        if !(0.0..=1.0).contains(&self.unstreamed) {
            problems
                .push(format!("unstreamed: needs a share from 0 to 1, has {}", self.unstreamed));
        }
        let within = |block: &str, of: Vec<String>| -> Vec<String> {
            of.into_iter().map(|it| format!("{block}.{it}")).collect()
        };
        problems.extend(within("fleet", self.fleet.problems()));
        problems.extend(within("policy", self.policy.problems()));
        problems.extend(within("admission", self.admission.problems()));
        problems.extend(within("workload", self.workload.problems()));
        problems.extend(within(
            "load",
            self.load.problems(matches!(self.workload, Workload::Trace(_))),
        ));
        problems.extend(promises::problems(self));
        problems.extend(within("signals", self.signals.problems()));
        problems.extend(within("costs", self.costs.iter().flat_map(Prices::problems).collect()));
        for (index, fault) in self.faults.iter().enumerate() {
            let problem = fault.problem(self.fleet.replicas, self.routers.max(1));
            problems.extend(problem.map(|it| format!("faults[{index}].{it}")));
        }
        problems
    }

    /// The rates to run at, each with its load; none stands for times that are not one rate's: a
    /// series', or a trace's own.
    #[must_use]
    pub fn loads(&self, seed: u64) -> Vec<(Option<f64>, Load)> {
        self.load.loads(seed)
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

    /// What requests are judged on.
    #[must_use]
    pub fn terms(&self) -> Terms {
        Terms { slo: self.slo.default.into(), retries_max: self.retries_max }
    }

    /// What requests of each class are judged on instead, and those of tenants with a promise of their own.
    #[must_use]
    pub fn classes(&self) -> BTreeMap<String, Terms> {
        promises::classes(self)
    }

    /// The setup of a run under `strategy` and `admission`, seeded with `seed`; `profile` is what
    /// [`Fleet::profile`] names, before the overrides.
    #[must_use]
    pub fn setup(
        &self,
        strategy: StrategyName,
        admission: AdmissionMode,
        seed: u64,
        profile: Profile,
    ) -> Setup {
        let kind = match &self.fleet.station {
            Some(Station { servers, service }) => {
                Kind::Fcfs { servers: *servers, service: service.clone() }
            }
            None => Kind::Engine(Box::new(self.fleet.overrides.applied_to(profile))),
        };
        let mut dispatcher = self.policy.dispatcher(strategy);
        dispatcher.admission = AdmissionConfig { mode: admission, ..self.admission };
        // What an engine publishes can be followed in blocks of its own size.
        if let (Some(_), Kind::Engine(profile)) = (self.signals.event_lag, &kind) {
            dispatcher.prefix.block = profile.block_size;
        }
        Setup {
            seed,
            replicas: self.fleet.replicas,
            kind,
            routers: self.routers,
            comes_again: self.comes_again,
            dispatcher,
            attempts_max: self.attempts_max,
            closed_conversations: self.conversations == Conversations::Closed,
            quoted_answers: self.quoted_answers,
            unstreamed: self.unstreamed,
            follow_refusals: None,
            patience: self.patience,
            warm_up: self.load.warm_up,
            signals: self.signals,
            faults: self.faults.clone(),
            terms: self.terms(),
            classes: self.classes(),
            ranks: promises::ranks(self),
        }
    }
}
