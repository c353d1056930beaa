//! A replay from its first request to its last record.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use report::{Ending, Histogram, RequestRecord, goodput::Promises, record::Gaps};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use types::time::Timestamp;
use workload::Arrival;

use crate::{
    client::BadTrust,
    options::{Conversations, Invalid, ReplayOptions},
    schedule::{self, Plan},
    send::{Ended, Sender},
    sessions::{Followers, Numbered},
};

/// What a replay saw.
#[derive(Debug)]
pub struct Recording {
    /// One for each request that was due, in the order of their schedule.
    pub records: Vec<RequestRecord>,
    /// Gaps between the chunks of whole answers.
    pub gaps: Histogram,
    /// Requests that were due and did not leave, because the generator could open no more.
    pub unsent: u64,
    /// Answers whose engine counted more tokens than their chunks can have held; the chunks were counted
    /// in its place.
    pub miscounted: u64,
    /// The policy that every whole answer names, if all name the same one.
    pub policy: Option<String>,
    /// Turns of closed conversations that would have come after the run's end.
    pub left_out: u64,
}

/// Why a replay does not start.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// Options that make no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// No encrypted connection can be made.
    #[error(transparent)]
    Trust(#[from] BadTrust),
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
) -> Result<Recording, NotStarted> {
    let problems = options.problems(&arrivals);
    if !problems.is_empty() {
        return Err(Invalid(problems).into());
    }
    let stop = stop.child_token();
    let _stop_when_dropped = stop.clone().drop_guard();
    let (ended, mut endings) = mpsc::channel(options.open_requests_max);
    let mut records = Vec::with_capacity(arrivals.len());
    let (timeline, last, mut followers) = schedule_of(options, arrivals);
    let plan = Plan::new(options, last, stop);
    let sender = Arc::new(Sender::new(options, plan.clone(), ended)?);
    let promises = Promises { default: options.terms, classes: options.classes.clone() };
    let mut gaps = Histogram::new();
    let warm = Timestamp::from_elapsed(options.warm_up);
    let (mut unsent, mut miscounted) = (0_u64, 0_u64);
    let mut policies = BTreeSet::new();
    let turns = schedule::start(plan, timeline, sender, options.wake);
    let mut turns = Some(turns).filter(|_| !followers.is_empty());
    // The channel closes when the schedule is through and the last request has ended.
    while let Some(ended) = endings.recv().await {
        let Ended { mut record, gaps_us, is_unsent, is_miscounted, policy } = ended;
        miscounted = miscounted.saturating_add(is_miscounted.into());
        if let Some(next) = record.session.and_then(|it| followers.next(it, record.ended))
            && let Some(turns) = &turns
        {
            // The clock's thread is gone only when the run is stopped.
            let _ = turns.send(next);
        }
        if followers.is_empty() {
            turns = None;
        }
        let own: Vec<Duration> =
            gaps_us.iter().map(|it| Duration::from_micros((*it).into())).collect();
        record.itl = Gaps::of(&own);
        record.slo = promises.terms(&record).judge(&record);
        if record.e2e().is_some() && record.scheduled >= warm {
            own.iter().for_each(|gap| gaps.record(*gap));
        }
        unsent = unsent.saturating_add(is_unsent.into());
        if record.ending == Ending::Completed {
            policies.insert(policy);
        }
        on_record(&record);
        records.push(record);
    }
    records.sort_by(|a, b| (a.scheduled, &a.request_id).cmp(&(b.scheduled, &b.request_id)));
    let policy = policies.pop_first().flatten().filter(|_| policies.is_empty());
    let left_out = followers.left_out();
    Ok(Recording { records, gaps, unsent, miscounted, policy, left_out })
}

/// What has a time of its own, when the last request may be due, and the turns that follow answers.
fn schedule_of(
    options: &ReplayOptions,
    mut arrivals: Vec<Arrival>,
) -> (Vec<Numbered>, Timestamp, Followers) {
    arrivals.sort_by_key(|it| it.at);
    let last = arrivals.last().map(|it| it.at).unwrap_or_default();
    let arrivals: Vec<Numbered> = arrivals.into_iter().enumerate().collect();
    let end = options.send_for.map(Timestamp::from_elapsed);
    match options.conversations {
        Conversations::Open => (arrivals, last, Followers::default()),
        Conversations::Closed => {
            let (timeline, followers) = Followers::split(arrivals, end);
            // Without an end, nobody knows when the last answer before the last turn will come.
            let never = Timestamp::from_elapsed(Duration::MAX);
            let last = if followers.is_empty() { last } else { end.unwrap_or(never) };
            (timeline, last, followers)
        }
    }
}
