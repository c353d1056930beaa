//! What a run was judged by, as `run.json` keeps it: enough to judge its records anew, as when labels
//! or prices come late.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{RequestRecord, RunInfo, Terms, disruption::Disruption, goodput::Promises};

/// What a run was judged by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// What it was.
    pub info: RunInfo,
    /// What its requests were promised.
    pub terms: Terms,
    /// What those of each SLO class were promised instead.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, Terms>,
    /// What went wrong meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disruptions: Vec<Disruption>,
}

/// What somebody found of an answer: a line of a file of labels, and the body of `POST /v1/feedback`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// The request's `x-request-id`.
    pub request_id: String,
    /// Whether the answer was acceptable.
    #[serde(default)]
    pub accepted: Option<bool>,
    /// Its grade, on whatever scale the grader has.
    #[serde(default)]
    pub quality: Option<f64>,
    /// The kind of work it was, where the grader knows.
    #[serde(default)]
    pub workload_class: Option<crate::cost::WorkloadClass>,
    /// The promise it was under, by name.
    #[serde(default)]
    pub slo_class: Option<String>,
}

/// What became of labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Labels that a request was found for.
    pub found: usize,
    /// Labels of requests that are not there.
    pub unknown: usize,
}

impl Judged {
    /// Gives `records` their labels and judges all of them anew. Of two labels for one request the later
    /// one counts, in what it says.
    pub fn judge_again(&self, records: &mut [RequestRecord], labels: &[Label]) -> Joined {
        let mut by_request: BTreeMap<&str, Vec<&Label>> = BTreeMap::new();
        for label in labels {
            by_request.entry(&label.request_id).or_default().push(label);
        }
        let mut found = 0_usize;
        if !by_request.is_empty() {
            for record in records.iter_mut() {
                let own = by_request.get(record.request_id.as_str());
                for label in own.into_iter().flatten() {
                    found = found.saturating_add(1);
                    label.put_on(record);
                }
            }
        }
        let promises = Promises { default: self.terms, classes: self.classes.clone() };
        promises.judge_all(records);
        Joined { found, unknown: labels.len().saturating_sub(found) }
    }
}

impl Label {
    /// Gives `record` what the label says.
    pub fn put_on(&self, record: &mut RequestRecord) {
        record.accepted = self.accepted.or(record.accepted);
        record.quality = self.quality.or(record.quality);
        record.workload_class = self.workload_class.or(record.workload_class);
        if self.slo_class.is_some() {
            record.slo_class.clone_from(&self.slo_class);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::answered;

    fn label(request_id: &str, accepted: Option<bool>) -> Label {
        Label {
            request_id: request_id.to_owned(),
            accepted,
            quality: Some(0.5),
            workload_class: None,
            slo_class: None,
        }
    }

    #[test]
    fn labels_that_come_late_change_the_verdict() {
        let named =
            |id: &str| RequestRecord { request_id: id.to_owned(), ..answered(0, 100, None) };
        let mut records = [named("a"), named("b"), named("c")];
        let labels = [
            label("a", Some(false)),
            label("b", Some(false)),
            label("b", Some(true)),
            label("z", None),
        ];
        let joined = Judged::default().judge_again(&mut records, &labels);
        assert_eq!(joined, Joined { found: 3, unknown: 1 });
        assert_eq!(
            records.map(|it| (it.accepted, it.slo.good)),
            [(Some(false), false), (Some(true), true), (None, true)]
        );
    }

    #[test]
    fn what_a_run_was_judged_by_survives_its_file() {
        let mut judged = Judged::default();
        judged.terms.retries_max = Some(1);
        judged.info.warm_up = std::time::Duration::from_millis(1_500);
        let text = serde_json::to_string(&judged).unwrap();
        assert_eq!(serde_json::from_str::<Judged>(&text).unwrap(), judged);
    }

    #[test]
    fn a_label_needs_no_more_than_a_request() {
        let label: Label = serde_json::from_str(r#"{"request_id":"r","accepted":true}"#).unwrap();
        assert_eq!((label.accepted, label.quality), (Some(true), None));
        assert!(serde_json::from_str::<Label>(r#"{"request_id":"r","acepted":true}"#).is_err());
    }
}
