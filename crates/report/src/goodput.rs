//! What makes a request good.
//!
//! A request is *good* when it succeeded, every SLO that is set holds, nobody labelled its quality
//! as unacceptable, and its retries stayed within their budget. A *session* is good when all its turns
//! are. Work for later (a batch) is held to its completion window and to no interactive SLO.
//!
//! Goodput is good work per second of the window, in three units: requests, sessions and output
//! tokens; [`crate::summary`] states the window.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::slo::Slo;

use crate::record::{Ending, RequestRecord, Verdicts};

/// The terms on which requests are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Terms {
    /// Bounds on latency.
    #[serde(with = "crate::millis::slo")]
    pub slo: Slo,
    /// Most times that a router may send a request again; absent, any number.
    pub retries_max: Option<u32>,
}

impl Terms {
    /// Judges `record`.
    ///
    /// A promise is broken where what it bounds never came: a request without a first token misses
    /// its TTFT. An answer of a single token has no time per output token and keeps that promise, and
    /// an answer that came in one piece has no gaps and keeps those on gaps.
    #[must_use]
    pub fn judge(&self, record: &RequestRecord) -> Verdicts {
        let completed = record.ending == Ending::Completed;
        let one_token = completed && record.output_tokens.0 <= 1;
        let one_piece = completed && record.itl.is_none();
        let within = |max, actual: Option<_>| actual.is_some_and(|it| it <= max);
        let slo = self.slo;
        let completion = slo.completion.map(|max| within(max, record.e2e()));
        // Nobody waits for a batch: its interactive bounds, if it has any, are not looked at.
        let asked = |bound: Option<_>| bound.filter(|_| !slo.is_batch());
        let ttft = asked(slo.ttft).map(|max| within(max, record.ttft()));
        let tpot = asked(slo.tpot).map(|max| one_token || within(max, record.tpot()));
        let itl_p95 = asked(slo.itl_p95).map(|max| one_piece || within(max, record.itl_p95()));
        let jitter = asked(slo.jitter).map(|max| one_piece || within(max, record.jitter()));
        let e2e = asked(slo.e2e).map(|max| within(max, record.e2e()));
        let promises = [ttft, tpot, itl_p95, jitter, e2e, completion];
        let good = completed
            && promises.into_iter().flatten().all(|kept| kept)
            && record.accepted != Some(false)
            && self.retries_max.is_none_or(|max| record.retries() <= max);
        Verdicts { ttft, tpot, itl_p95, jitter, e2e, completion, good }
    }
}

/// The terms of each SLO class, and those of what belongs to none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises {
    /// What holds for requests without a class, or of one that is not listed.
    pub default: Terms,
    /// What holds for each class.
    pub classes: BTreeMap<String, Terms>,
}

impl Promises {
    /// The terms that `record` is judged on.
    #[must_use]
    pub fn terms(&self, record: &RequestRecord) -> Terms {
        let of_class = record.slo_class.as_ref().and_then(|it| self.classes.get(it));
        of_class.copied().unwrap_or(self.default)
    }

    /// Judges every record anew, as after labels came late.
    pub fn judge_all(&self, records: &mut [RequestRecord]) {
        for record in records {
            record.slo = self.terms(record).judge(record);
        }
    }
}

#[cfg(test)]
mod tests;
