//! What makes a request good.
//!
//! A request is *good* when it succeeded, every SLO that is set holds, nobody labelled its quality
//! as unacceptable, and its retries stayed within their budget.

use types::slo::Slo;

use crate::record::{Ending, RequestRecord, Verdicts};

/// The terms on which requests are judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Bounds on latency.
    pub slo: Slo,
    /// Most times that a router may send a request again; absent, any number.
    pub retries_max: Option<u32>,
}

impl Terms {
    /// Judges `record`.
    ///
    /// A promise is broken where what it bounds never came: a request without a first token misses
    /// its TTFT. An answer of a single token has no time per output token and keeps that promise.
    #[must_use]
    pub fn judge(&self, record: &RequestRecord) -> Verdicts {
        let completed = record.ending == Ending::Completed;
        let one_token = completed && record.output_tokens.0 <= 1;
        let within = |max, actual: Option<_>| actual.is_some_and(|it| it <= max);
        let ttft = self.slo.ttft.map(|max| within(max, record.ttft()));
        let tpot = self.slo.tpot.map(|max| one_token || within(max, record.tpot()));
        let e2e = self.slo.e2e.map(|max| within(max, record.e2e()));
        let promises_kept = [ttft, tpot, e2e].into_iter().flatten().all(|kept| kept);
        let retries = record.attempts.unwrap_or(1).saturating_sub(1);
        let good = completed
            && promises_kept
            && record.accepted != Some(false)
            && self.retries_max.is_none_or(|max| retries <= max);
        Verdicts { ttft, tpot, e2e, good }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::{quantity::Tokens, time::Timestamp};

    use super::*;

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(millis))
    }

    /// TTFT 500 ms, TPOT 50 ms, E2E 1 s.
    fn completed() -> RequestRecord {
        RequestRecord {
            first_token: Some(at(500)),
            last_token: Some(at(1_000)),
            output_tokens: Tokens(11),
            ending: Ending::Completed,
            ..RequestRecord::default()
        }
    }

    fn terms(ttft: Option<u64>, tpot: Option<u64>, e2e: Option<u64>) -> Terms {
        let [ttft, tpot, e2e] = [ttft, tpot, e2e].map(|it| it.map(Duration::from_millis));
        Terms { slo: Slo { ttft, tpot, e2e }, retries_max: None }
    }

    #[test]
    fn every_bound_that_is_set_must_hold() {
        let good = |terms: Terms| terms.judge(&completed()).good;
        assert!(good(terms(None, None, None)));
        assert!(good(terms(Some(500), Some(50), Some(1_000))));
        assert!(!good(terms(Some(499), Some(50), Some(1_000))));
        assert!(!good(terms(Some(500), Some(49), Some(1_000))));
        assert!(!good(terms(Some(500), Some(50), Some(999))));
    }

    #[test]
    fn only_bounds_that_are_set_have_a_verdict() {
        let verdicts = terms(Some(499), None, None).judge(&completed());
        assert_eq!((verdicts.ttft, verdicts.tpot, verdicts.e2e), (Some(false), None, None));
    }

    #[test]
    fn a_refusal_or_failure_is_never_good() {
        for ending in [Ending::Rejected, Ending::Failed] {
            let record = RequestRecord { ending, ..completed() };
            assert!(!Terms::default().judge(&record).good);
        }
    }

    #[test]
    fn a_single_token_keeps_the_promise_per_token() {
        let record = RequestRecord { output_tokens: Tokens(1), ..completed() };
        assert_eq!(terms(None, Some(1), None).judge(&record).tpot, Some(true));
    }

    #[test]
    fn labels_and_retries_count() {
        let rejected_answer = RequestRecord { accepted: Some(false), ..completed() };
        assert!(!Terms::default().judge(&rejected_answer).good);
        let retried = RequestRecord { attempts: Some(3), ..completed() };
        assert!(Terms::default().judge(&retried).good);
        assert!(Terms { retries_max: Some(2), ..Terms::default() }.judge(&retried).good);
        assert!(!Terms { retries_max: Some(1), ..Terms::default() }.judge(&retried).good);
    }
}
