//! A run in slices of a second: `windows.csv`.

use types::time::Timestamp;

use crate::{
    record::{Ending, RequestRecord},
    stats::{quantiles, ratio},
};

/// Most slices that are made: a day of seconds. What ends later counts in the last slice.
const WINDOWS_MAX: u64 = 86_400;

/// One second of a run, or a longer slice.
///
/// What was asked counts in the second it was scheduled, what was answered in the second it ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Second that it begins with, from the run's start.
    pub second: u64,
    /// Requests scheduled.
    pub offered: u64,
    /// Whole answers.
    pub completed: u64,
    /// Good ones among them.
    pub good: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Requests that ended in any other way.
    pub failed: u64,
    /// Requests sent and not ended at the end of the second.
    pub in_flight: u64,
    /// Output tokens of the whole answers.
    pub output_tokens: u64,
    /// Median time to first token of the requests scheduled in it, in milliseconds.
    pub ttft_ms_p50: Option<f64>,
    /// 99th percentile of the same.
    pub ttft_ms_p99: Option<f64>,
    /// Cached over all prompt tokens of the whole answers whose engine says.
    pub cache_hit_rate: Option<f64>,
}

/// What a slice gathers before it becomes a [`Window`].
#[derive(Default)]
struct Slice {
    window: Window,
    sent: u64,
    ended: u64,
    ttfts_ms: Vec<f64>,
    cached_tokens: u64,
    /// Prompt tokens of those whose engine says how many were cached.
    prompt_tokens: u64,
}

/// Slices by their number, as many as were asked for.
#[derive(Default)]
struct Slices(Vec<Slice>);

impl Slices {
    fn at(&mut self, number: u64) -> &mut Slice {
        let number = usize::try_from(number.min(WINDOWS_MAX)).unwrap_or(0);
        if number >= self.0.len() {
            self.0.resize_with(number.saturating_add(1), Slice::default);
        }
        #[expect(clippy::indexing_slicing, reason = "made just now where it was not there")]
        &mut self.0[number]
    }
}

/// Cuts a run into seconds, the quiet ones included.
#[must_use]
pub fn windows(records: &[RequestRecord]) -> Vec<Window> {
    slices(records, 1)
}

/// Cuts a run into slices of `slice_s` seconds (at least 1), the quiet ones included. Counts are of the
/// whole slice.
#[must_use]
pub fn slices(records: &[RequestRecord], slice_s: u64) -> Vec<Window> {
    let slice_s = slice_s.max(1);
    let number = |at: Timestamp| at.elapsed().as_secs().checked_div(slice_s).unwrap_or_default();
    let mut slices = Slices::default();
    for record in records {
        let offered = slices.at(number(record.scheduled));
        offered.window.offered += 1;
        offered.ttfts_ms.extend(record.ttft().map(|it| it.as_secs_f64() * 1_000.0));
        if let Some(sent) = record.sent {
            slices.at(number(sent)).sent += 1;
        }
        slices.at(number(record.ended)).end(record);
    }
    let mut in_flight = 0_u64;
    (0..)
        .zip(slices.0)
        .map(|(number, slice): (u64, Slice)| {
            in_flight = in_flight.saturating_add(slice.sent).saturating_sub(slice.ended);
            slice.into_window(number.saturating_mul(slice_s), in_flight)
        })
        .collect()
}

impl Slice {
    /// Counts a request that ended in it.
    fn end(&mut self, record: &RequestRecord) {
        self.ended += u64::from(record.sent.is_some());
        self.window.good += u64::from(record.slo.good);
        match record.ending {
            Ending::Completed => {
                self.window.completed += 1;
                self.window.output_tokens += u64::from(record.output_tokens.0);
                if let Some(cached) = record.cached_tokens {
                    self.cached_tokens += u64::from(cached.0);
                    self.prompt_tokens += u64::from(record.input_tokens.0);
                }
            }
            Ending::Rejected => self.window.rejected += 1,
            Ending::Failed => self.window.failed += 1,
            Ending::Cancelled => {}
        }
    }

    fn into_window(mut self, second: u64, in_flight: u64) -> Window {
        let [ttft_ms_p50, ttft_ms_p99] = quantiles(&mut self.ttfts_ms, [0.50, 0.99]);
        Window {
            second,
            in_flight,
            ttft_ms_p50,
            ttft_ms_p99,
            cache_hit_rate: ratio(self.cached_tokens as f64, self.prompt_tokens as f64),
            ..self.window
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{answered, ended};

    #[test]
    fn requests_count_where_they_were_asked_and_answers_where_they_ended() {
        let all = windows(&[answered(100, 200, Some(50)), answered(900, 1_400, Some(100))]);
        assert_eq!(all.iter().map(|it| it.offered).collect::<Vec<_>>(), [2, 0, 0, 0]);
        assert_eq!(all.iter().map(|it| it.completed).collect::<Vec<_>>(), [0, 1, 0, 1]);
        assert_eq!(all.iter().map(|it| it.good).collect::<Vec<_>>(), [0, 1, 0, 0]);
        assert_eq!(all.iter().map(|it| it.in_flight).collect::<Vec<_>>(), [2, 1, 1, 0]);
        assert_eq!(all[0].ttft_ms_p50, Some(800.0));
        assert_eq!((all[1].cache_hit_rate, all[2].cache_hit_rate), (Some(0.5), None));
    }

    #[test]
    fn what_was_never_sent_is_never_in_flight() {
        let all = windows(&[ended(0, Ending::Failed)]);
        assert!(all.iter().all(|it| it.in_flight == 0));
        assert_eq!((all.len(), all[60].failed), (61, 1));
    }
}
