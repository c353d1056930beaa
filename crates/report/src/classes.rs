//! The figures of each SLO class by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    record::{Ending, RequestRecord},
    stats::{Stats, count, ratio},
    summary::{judged, stats_ms},
};

/// The figures of one SLO class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SloClass {
    /// Its name; empty for what belongs to none.
    pub name: String,
    /// Requests scheduled.
    pub requests: u64,
    /// Requests whose whole answer came.
    pub completed: u64,
    /// Good requests.
    pub good: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Good requests per second of the window.
    pub request_goodput: f64,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// Output tokens of good requests per second of the window.
    pub output_token_goodput: f64,
    /// For a batch: rows accepted within its completion window, over all rows.
    pub accepted_row_rate: Option<f64>,
    /// Time to first token of completed requests; none for a batch, where nobody waits for it.
    pub ttft_ms: Option<Stats>,
    /// Time per output token of the same.
    pub tpot_ms: Option<Stats>,
    /// Time to the last token.
    pub e2e_ms: Option<Stats>,
}

/// The figures of each class among `records`, over a window of `length_s` seconds; none where all are
/// of no class.
#[must_use]
pub fn by_slo_class(records: &[&RequestRecord], length_s: f64) -> Vec<SloClass> {
    if records.iter().all(|it| it.slo_class.is_none()) {
        return Vec::new();
    }
    let mut classes: BTreeMap<&str, Vec<&RequestRecord>> = BTreeMap::new();
    for record in records {
        let name = record.slo_class.as_deref().unwrap_or_default();
        classes.entry(name).or_default().push(record);
    }
    classes.into_iter().map(|(name, records)| figures(name, &records, length_s)).collect()
}

fn figures(name: &str, records: &[&RequestRecord], length_s: f64) -> SloClass {
    let of = |ending| records.iter().filter(move |it| it.ending == ending).copied();
    let good = || records.iter().filter(|it| it.slo.good);
    let is_batch = records.iter().any(|it| it.slo.completion.is_some());
    let fraction = ratio(count(good().count()), count(judged(records)));
    let interactive = |stats: Option<Stats>| stats.filter(|_| !is_batch);
    let tokens: f64 = good().map(|it| f64::from(it.output_tokens.0)).sum();
    SloClass {
        name: name.to_owned(),
        requests: records.len() as u64,
        completed: of(Ending::Completed).count() as u64,
        good: good().count() as u64,
        rejected: of(Ending::Rejected).count() as u64,
        request_goodput: ratio(count(good().count()), length_s).unwrap_or_default(),
        good_request_fraction: fraction,
        output_token_goodput: ratio(tokens, length_s).unwrap_or_default(),
        accepted_row_rate: fraction.filter(|_| is_batch),
        ttft_ms: interactive(stats_ms(of(Ending::Completed).map(RequestRecord::ttft))),
        tpot_ms: interactive(stats_ms(of(Ending::Completed).map(RequestRecord::tpot))),
        e2e_ms: stats_ms(of(Ending::Completed).map(RequestRecord::e2e)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::slo::Slo;

    use super::*;
    use crate::{Terms, summary::tests::answered};

    #[test]
    fn a_batch_has_an_accepted_row_rate_and_no_first_token() {
        let completion = Some(Duration::from_millis(1_200));
        let batch = Terms { slo: Slo { completion, ..Slo::default() }, retries_max: None };
        let mut records = [answered(0, 200, None), answered(0, 400, None), answered(0, 900, None)];
        for record in &mut records[..2] {
            record.slo_class = Some("batch".to_owned());
            record.slo = batch.judge(record);
        }
        let records: Vec<&RequestRecord> = records.iter().collect();
        let classes = by_slo_class(&records, 10.0);
        let names: Vec<&str> = classes.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["", "batch"]);
        assert_eq!((classes[0].accepted_row_rate, classes[0].good), (None, 0));
        assert_eq!((classes[1].accepted_row_rate, classes[1].ttft_ms), (Some(0.5), None));
        assert!(classes[0].ttft_ms.is_some() && classes[1].e2e_ms.is_some());
    }

    #[test]
    fn one_promise_for_all_needs_no_classes() {
        assert_eq!(by_slo_class(&[&answered(0, 200, None)], 10.0), []);
    }
}
