//! What a scenario promises to whom.
//!
//! ```yaml
//! slo: { ttft: 2s, tpot: 50ms }
//! # or, where there are classes, as the router's configuration has it:
//! slo:
//!   default: { ttft: 2s, tpot: 50ms }
//!   classes: { batch: { completion: 4h } }
//! ```

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::fmt::serde::unsigned_duration::friendly::compact::optional as friendly_optional;
use report::Terms;
use serde::{Deserialize, Serialize};
use types::{request::Priority, slo::Slo};
use workload::Workload;

use super::Scenario;
use crate::setup::Rank;

/// What is promised, to everybody and to those of each class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "File", into = "File")]
pub struct Promises {
    /// To those of no class, or of one that is not listed.
    pub default: SloBlock,
    /// To those of each class.
    pub classes: BTreeMap<String, SloBlock>,
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
    /// The gap between tokens that 95 % of an answer's gaps may not exceed.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub itl_p95: Option<Duration>,
    /// Largest difference between the longest and the shortest gap of one answer.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// Longest time to the last token.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub e2e: Option<Duration>,
    /// Window in which work that nobody waits for is to be done.
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    pub completion: Option<Duration>,
}

/// How urgent a tenant's requests are, and what they are promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RankBlock {
    /// How urgent they are; as their class is called when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
    /// The class of those that name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// A promise of their own, in place of a class's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slo: Option<SloBlock>,
}

/// The block as it is written: bounds, or bounds by class.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    ttft: Option<Duration>,
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    tpot: Option<Duration>,
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    itl_p95: Option<Duration>,
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    jitter: Option<Duration>,
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    e2e: Option<Duration>,
    #[serde(with = "friendly_optional", skip_serializing_if = "Option::is_none")]
    completion: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<SloBlock>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    classes: BTreeMap<String, SloBlock>,
}

impl TryFrom<File> for Promises {
    type Error = &'static str;

    fn try_from(file: File) -> Result<Self, Self::Error> {
        let File { ttft, tpot, itl_p95, jitter, e2e, completion, default, classes } = file;
        let flat = SloBlock { ttft, tpot, itl_p95, jitter, e2e, completion };
        match default {
            Some(_) if flat != SloBlock::default() => {
                Err("slo: write bounds either at the top or below `default`, not both")
            }
            Some(default) => Ok(Self { default, classes }),
            None => Ok(Self { default: flat, classes }),
        }
    }
}

impl From<Promises> for File {
    fn from(Promises { default, classes }: Promises) -> Self {
        if !classes.is_empty() {
            return Self { default: Some(default), classes, ..Self::default() };
        }
        let SloBlock { ttft, tpot, itl_p95, jitter, e2e, completion } = default;
        Self { ttft, tpot, itl_p95, jitter, e2e, completion, default: None, classes }
    }
}

impl From<SloBlock> for Slo {
    fn from(SloBlock { ttft, tpot, itl_p95, jitter, e2e, completion }: SloBlock) -> Self {
        Self { ttft, tpot, itl_p95, jitter, e2e, completion }
    }
}

impl SloBlock {
    fn problems(self, name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let bounds = [self.ttft, self.tpot, self.itl_p95, self.jitter, self.e2e, self.completion];
        if bounds.into_iter().flatten().any(|it| it.is_zero()) {
            problems.push(format!("{name}: a bound of zero can't be kept; leave it out"));
        }
        if self.completion.is_some() && bounds.into_iter().flatten().count() > 1 {
            problems.push(format!("{name}: completion is for work that nobody waits for"));
        }
        problems
    }
}

/// Everything wrong with what is promised, and with who names a promise that there is not.
pub(super) fn problems(scenario: &Scenario) -> Vec<String> {
    let Promises { default, classes } = &scenario.slo;
    let mut problems = default.problems("slo");
    for (name, bounds) in classes {
        problems.extend(bounds.problems(&format!("slo.classes.{name}")));
    }
    let known = || classes.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let unknown = |what: String, class: &str| {
        format!("{what}: {class} is not among slo.classes ({})", known())
    };
    for (tenant, RankBlock { class, slo, .. }) in &scenario.ranks {
        problems.extend(slo.iter().flat_map(|it| it.problems(&format!("ranks.{tenant}.slo"))));
        if class.is_some() && slo.is_some() {
            problems.push(format!("ranks.{tenant}: has either a class or an slo of its own"));
        }
        if let Some(class) = class.as_deref().filter(|it| !classes.contains_key(*it)) {
            problems.push(unknown(format!("ranks.{tenant}.class"), class));
        }
    }
    if let Workload::Mix(mix) = &scenario.workload {
        for (index, part) in mix.0.iter().enumerate() {
            if let Some(class) = part.slo_class.as_deref().filter(|it| !classes.contains_key(*it)) {
                problems.push(unknown(format!("workload.mix[{index}].slo_class"), class));
            }
        }
    }
    problems
}

/// The class of a tenant with a promise of its own.
fn own_class(tenant: u32) -> String {
    format!("tenant-{tenant}")
}

/// What requests of each class are judged on.
pub(super) fn classes(scenario: &Scenario) -> BTreeMap<String, Terms> {
    let terms = |slo: SloBlock| Terms { slo: slo.into(), retries_max: scenario.retries_max };
    let named = scenario.slo.classes.iter().map(|(name, slo)| (name.clone(), terms(*slo)));
    let own = scenario.ranks.iter().filter_map(|(tenant, it)| Some((tenant, it.slo?)));
    named.chain(own.map(|(tenant, slo)| (own_class(*tenant), terms(slo)))).collect()
}

/// The ranks, each promise of a tenant's own as a class.
pub(super) fn ranks(scenario: &Scenario) -> BTreeMap<u32, Rank> {
    let rank = |(tenant, it): (&u32, &RankBlock)| {
        let own = it.slo.map(|_| own_class(*tenant));
        let slo_class: Option<Arc<str>> = own.or_else(|| it.class.clone()).map(Into::into);
        (*tenant, Rank { priority: it.priority, slo_class })
    };
    scenario.ranks.iter().map(rank).collect()
}
