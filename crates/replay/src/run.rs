//! A replay from its first request to its last record.

use std::sync::Arc;

use report::{Histogram, RequestRecord, record::Gaps};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use workload::Arrival;

use crate::{
    options::{Invalid, ReplayOptions},
    schedule::{self, Plan},
    send::{Ended, Sender},
};

/// What a replay saw.
#[derive(Debug)]
pub struct Recording {
    /// One for each arrival, in the order of their schedule.
    pub records: Vec<RequestRecord>,
    /// Gaps between the chunks of whole answers.
    pub gaps: Histogram,
}

/// Sends `arrivals`, each at its time, and waits for every answer or its deadline; `on_record` sees
/// each record as its request ends.
///
/// Cancelling `stop` ends the replay early: what was not sent leaves no record, what is open is
/// recorded as failed. Dropping the future stops it too.
///
/// # Errors
/// Options that make no sense, before anything is sent.
pub async fn run(
    options: &ReplayOptions,
    arrivals: Vec<Arrival>,
    stop: CancellationToken,
    mut on_record: impl FnMut(&RequestRecord),
) -> Result<Recording, Invalid> {
    let problems = options.problems(&arrivals);
    if !problems.is_empty() {
        return Err(Invalid(problems));
    }
    let stop = stop.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let (ended, mut endings) = mpsc::channel(options.open_requests_max);
    let plan = Plan::new(options, &arrivals, stop);
    let sender = Arc::new(Sender::new(options, plan.clone(), ended));
    let mut records = Vec::with_capacity(arrivals.len());
    let mut gaps = Histogram::new();
    schedule::start(plan, arrivals, sender);
    // The channel closes when the schedule is through and the last request has ended.
    while let Some(Ended { mut record, gaps: own }) = endings.recv().await {
        record.itl = Gaps::of(&own);
        record.slo = options.terms.judge(&record);
        if record.e2e().is_some() {
            own.iter().for_each(|gap| gaps.record(*gap));
        }
        on_record(&record);
        records.push(record);
    }
    records.sort_by(|a, b| (a.scheduled, &a.request_id).cmp(&(b.scheduled, &b.request_id)));
    Ok(Recording { records, gaps })
}
