//! Several kinds of traffic at once.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use types::work::WorkloadClass;

use crate::{
    arrival::Arrival,
    documents::Documents,
    independent::Independent,
    schedule::Schedule,
    seed::{Kind, segment_id},
    support_chat::SupportChat,
};

/// Most kinds that a mix may have.
const PARTS_MAX: usize = 16;

/// One kind of traffic of a mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Part {
    /// Its share of the requests, in proportion to the sum of all shares.
    pub share: f64,
    /// The promise that its requests are under, by name.
    #[serde(default, rename = "slo_class", skip_serializing_if = "Option::is_none")]
    pub slo_class: Option<String>,
    /// The kind of work that they are.
    #[serde(default, rename = "workload_class", skip_serializing_if = "Option::is_none")]
    pub workload_class: Option<WorkloadClass>,
    /// Conversations of many tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub support_chat: Option<SupportChat>,
    /// Questions about documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub documents: Option<Documents>,
    /// Requests that share nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub independent: Option<Independent>,
}

/// Several kinds of traffic at once, each with a schedule and texts of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mix(pub Vec<Part>);

impl Mix {
    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.0.is_empty() || self.0.len() > PARTS_MAX {
            problems.push(format!("mix: needs 1 to {PARTS_MAX} kinds, has {}", self.0.len()));
        }
        for (index, part) in self.0.iter().enumerate() {
            let of_part = part.problems().into_iter();
            problems.extend(of_part.map(|it| format!("mix[{index}].{it}")));
        }
        problems
    }

    /// The requests of a run, by time; none where the schedule is a trace's.
    pub(crate) fn arrivals(
        &self,
        schedule: &Schedule,
        duration: Duration,
        seed: u64,
    ) -> Vec<Arrival> {
        let total: f64 = self.0.iter().map(|it| it.share).sum();
        let mut all = Vec::new();
        for (index, part) in (0_u32..).zip(&self.0) {
            let seed = segment_id(seed, Kind::Part, index.into());
            let mut arrivals = part.arrivals(&schedule.scaled(part.share / total), duration, seed);
            let class: Option<Arc<str>> = part.slo_class.as_deref().map(Into::into);
            for arrival in &mut arrivals {
                arrival.slo_class.clone_from(&class);
                arrival.workload_class = part.workload_class;
                // Sessions and tenants of different kinds are different ones.
                let apart = u64::from(index) << 56;
                arrival.session = arrival.session.map(|it| it | apart);
                arrival.tenant = arrival.tenant.map(|it| it | index << 24);
            }
            all.append(&mut arrivals);
        }
        all.sort_by_key(|it| it.at);
        all
    }
}

impl Part {
    fn problems(&self) -> Vec<String> {
        let kinds = [
            self.support_chat.as_ref().map(SupportChat::problems),
            self.documents.as_ref().map(Documents::problems),
            self.independent.as_ref().map(Independent::problems),
        ];
        let mut problems = Vec::new();
        if !(self.share > 0.0 && self.share.is_finite()) {
            problems.push(format!("share: needs a number above 0, has {}", self.share));
        }
        if kinds.iter().flatten().count() != 1 {
            problems.push(
                "needs exactly one of the keys support-chat, documents and independent".to_owned(),
            );
        }
        problems.extend(kinds.into_iter().flatten().flatten());
        problems
    }

    fn arrivals(&self, schedule: &Schedule, duration: Duration, seed: u64) -> Vec<Arrival> {
        if let Some(chat) = &self.support_chat {
            chat.arrivals(schedule, duration, seed)
        } else if let Some(documents) = &self.documents {
            documents.arrivals(schedule, duration, seed)
        } else if let Some(independent) = &self.independent {
            independent.arrivals(schedule, duration, seed)
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix() -> Mix {
        let none = Part {
            share: 1.0,
            slo_class: None,
            workload_class: None,
            support_chat: None,
            documents: None,
            independent: None,
        };
        Mix(vec![
            Part { share: 3.0, support_chat: Some(SupportChat::default()), ..none.clone() },
            Part { support_chat: Some(SupportChat::default()), ..none.clone() },
            Part {
                share: 6.0,
                slo_class: Some("batch".to_owned()),
                workload_class: Some(WorkloadClass::Batch),
                documents: Some(Documents::default()),
                ..none
            },
        ])
    }

    #[test]
    fn kinds_come_in_their_shares_and_in_order() {
        let schedule = Schedule::Poisson { rate_per_s: 50.0 };
        let all = mix().arrivals(&schedule, Duration::from_secs(200), 1);
        assert!((9_600..10_400).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted_by_key(|it| it.at));
        let documents = all.iter().filter(|it| it.session.is_none()).count();
        let batch = all.iter().filter(|it| it.slo_class.as_deref() == Some("batch")).count();
        assert_eq!(batch, documents);
        let work = |it: &&Arrival| it.workload_class == Some(WorkloadClass::Batch);
        assert_eq!(all.iter().filter(work).count(), documents);
        assert!(all.iter().filter(|it| it.session.is_some()).all(|it| it.workload_class.is_none()));
        let share = documents as f64 / all.len() as f64;
        assert!((share - 0.6).abs() < 0.03, "{share}");
    }

    #[test]
    fn kinds_share_neither_texts_nor_sessions() {
        let schedule = Schedule::Poisson { rate_per_s: 50.0 };
        let all = mix().arrivals(&schedule, Duration::from_secs(20), 1);
        let of = |second: bool| {
            let part = all
                .iter()
                .filter(move |it| it.session.is_some_and(|session| (session >> 56 == 1) == second));
            part.map(|it| it.prompt.messages[0].segments[0].id)
        };
        assert!(of(false).count() > 20 && of(true).count() > 20);
        assert!(of(false).all(|id| of(true).all(|other| id != other)));
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let mut mix = mix();
        mix.0[0].share = 0.0;
        mix.0[1].documents = Some(Documents { skew: f64::NAN, ..Documents::default() });
        assert_eq!(mix.problems().len(), 3, "{:?}", mix.problems());
        assert_eq!(Mix(Vec::new()).problems().len(), 1);
    }
}
