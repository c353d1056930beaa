//! How far a replay is and how good it goes, for a person who waits.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use report::RequestRecord;

/// Time between two looks at the figures.
const EVERY: Duration = Duration::from_millis(200);

/// Time that the live goodput is taken over.
const WINDOW: Duration = Duration::from_secs(10);

/// A bar on the terminal; nothing where there is none.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    shown: Instant,
    tally: Tally,
}

/// What has ended so far.
#[derive(Debug, Default)]
struct Tally {
    ended: u64,
    good: u64,
    refused: u64,
    failed: u64,
    /// When looks were taken lately, and how many were good by then.
    lately: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// Of a run of `requests`; `rate` tells it from the others of a sweep.
    pub(super) fn new(requests: usize, rate: Option<f64>) -> Self {
        let is_seen = io::stderr().is_terminal();
        let target = if is_seen {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(requests as u64), target);
        let style =
            ProgressStyle::with_template("{prefix}{elapsed} {bar:24} {pos}/{len} ended  {msg}");
        if let Some(rate) = rate {
            bar.set_prefix(format!("{rate}/s  "));
        }
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        let now = Instant::now();
        Self { bar, started: now, shown: now, tally: Tally::default() }
    }

    /// Takes in a request that has ended.
    pub(super) fn ended(&mut self, record: &RequestRecord) {
        self.tally.count(record);
        if !self.bar.is_hidden() && self.shown.elapsed() >= EVERY {
            self.shown = Instant::now();
            self.bar.set_position(self.tally.ended);
            self.bar.set_message(self.tally.told(self.started.elapsed()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Tally {
    fn count(&mut self, record: &RequestRecord) {
        self.ended = self.ended.saturating_add(1);
        match record.ending {
            report::Ending::Completed | report::Ending::Cancelled => {}
            report::Ending::Rejected => self.refused = self.refused.saturating_add(1),
            report::Ending::Failed => self.failed = self.failed.saturating_add(1),
        }
        self.good = self.good.saturating_add(record.slo.good.into());
    }

    /// The goodput of the last seconds and the counts, `now` into the run.
    fn told(&mut self, now: Duration) -> String {
        self.lately.push_back((now, self.good));
        while self.lately.len() > 2
            && self.lately.front().is_some_and(|it| now.saturating_sub(it.0) > WINDOW)
        {
            self.lately.pop_front();
        }
        let (since, before) = self.lately.front().copied().unwrap_or((now, self.good));
        let seconds = now.saturating_sub(since).as_secs_f64();
        let goods = self.good.saturating_sub(before) as f64;
        let rate = if seconds > 0.0 { goods / seconds } else { 0.0 };
        let share = if self.ended > 0 { self.good as f64 / self.ended as f64 } else { 0.0 };
        let (refused, failed) = (self.refused, self.failed);
        format!("{rate:.1} good/s, {:.1} % good, {refused} refused, {failed} failed", share * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use report::{Ending, record::Verdicts};

    use super::*;

    #[test]
    fn the_live_goodput_is_that_of_the_last_seconds() {
        let record = |good, ending| {
            let slo = Verdicts { good, ..Verdicts::default() };
            RequestRecord { slo, ending, ..RequestRecord::default() }
        };
        let mut tally = Tally::default();
        assert_eq!(tally.told(Duration::ZERO), "0.0 good/s, 0.0 % good, 0 refused, 0 failed");
        for _ in 0..100 {
            tally.count(&record(true, Ending::Completed));
        }
        tally.told(Duration::from_secs(20));
        for _ in 0..50 {
            tally.count(&record(true, Ending::Completed));
            tally.count(&record(false, Ending::Rejected));
        }
        let told = tally.told(Duration::from_secs(25));
        assert_eq!(told, "10.0 good/s, 75.0 % good, 50 refused, 0 failed");
    }
}
