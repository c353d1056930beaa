//! Several disrupted runs as one: inside of their windows and outside.

use std::time::Duration;

use report::{
    RequestRecord,
    cost::Costs,
    disruption::{Disruption, Split},
};
use types::time::Timestamp;

/// The requests of a run and what befell it meanwhile.
pub(super) type Disturbed = (Vec<RequestRecord>, Vec<Disruption>);

/// All `runs`, one after the other on one clock, split by whether a window was open. Each counts from
/// `warm_up` on until `length` is over, or its last request was due.
pub(super) fn split(
    runs: Vec<Disturbed>,
    warm_up: Duration,
    length: Option<Duration>,
    costs: Option<&Costs>,
) -> Split {
    let last = |records: &[RequestRecord]| records.iter().map(|it| it.scheduled).max();
    let mut start = Duration::ZERO;
    let (mut all, mut windows) = (Vec::new(), Vec::new());
    for (records, disruptions) in runs {
        let length = length.or_else(|| Some(last(&records)?.elapsed())).unwrap_or_default();
        let end = start.saturating_add(length.saturating_sub(warm_up));
        let moved = |at: Timestamp| {
            let counted = at.elapsed().saturating_sub(warm_up);
            Timestamp::from_elapsed(counted.saturating_add(start))
        };
        for it in disruptions {
            let (until, end) = (moved(it.until), Timestamp::from_elapsed(end));
            let recovered = it.recovered && until <= end;
            windows.push(Disruption {
                from: moved(it.from),
                until: until.min(end),
                recovered,
                ..it
            });
        }
        let counted = records.into_iter().filter(|it| it.scheduled.elapsed() >= warm_up);
        all.extend(counted.map(|it| RequestRecord {
            scheduled: moved(it.scheduled),
            sent: it.sent.map(moved),
            first_token: it.first_token.map(moved),
            last_token: it.last_token.map(moved),
            ended: moved(it.ended),
            ..it
        }));
        start = end;
    }
    Split::of(&all, windows, (Timestamp::ZERO, Timestamp::from_elapsed(start)), costs)
}
