//! By how much what is predicted of one replica is raised, and what its answers and others' teach of that.

use std::time::Duration;

use types::time::Timestamp;

use super::Forecast;
use crate::estimate::margin::Margin;

/// Share of requests that may come later, and of answers that may run slower, than predicted with
/// the margin.
const TTFT_MISSES: f64 = 0.05;
const TPOT_MISSES: f64 = 0.01;

/// Largest margins. Whose first tokens come later than twice what was predicted is not predicted at all. An answer of three
/// tokens that is promised 50 ms for each is broken by one prompt beside it: where answers are that short, promises
/// of a pace hold only with several times what is predicted for the mean.
const TTFT_MARGIN_MAX: f64 = 2.0;
const TPOT_MARGIN_MAX: f64 = 4.0;

/// How often an answer of another replica is learned from at most: where answers are many each replica learns soon enough
/// by itself, and an interruption that all share, as of a router that stood still, has hundreds missed for one reason.
const HEARD_EVERY: Duration = Duration::from_millis(125);

/// Factors on what is predicted.
#[derive(Clone, Debug)]
pub(super) struct Margins {
    /// On the time to first token.
    pub(super) ttft: Margin,
    /// The same for requests that must wait for room.
    room: Margin,
    /// On the time per token.
    pub(super) tpot: Margin,
    /// When an answer of another replica was last learned from.
    heard: Option<Timestamp>,
}

impl Margins {
    pub(super) const fn new() -> Self {
        Self {
            ttft: Margin::new(TTFT_MISSES, TTFT_MARGIN_MAX),
            room: Margin::new(TTFT_MISSES, TTFT_MARGIN_MAX),
            tpot: Margin::new(TPOT_MISSES, TPOT_MARGIN_MAX),
            heard: None,
        }
    }

    /// The factor on the time to first token of `forecast`.
    pub(super) const fn of_ttft(&self, forecast: &Forecast) -> &Margin {
        if 0.0 < forecast.room_s { &self.room } else { &self.ttft }
    }

    /// Learns that a first token took `took_s`.
    pub(super) fn learn_ttft(&mut self, forecast: &Forecast, took_s: f64) {
        let margin = if 0.0 < forecast.room_s { &mut self.room } else { &mut self.ttft };
        margin.observe(margin.value() * forecast.ttft_s < took_s);
    }

    /// Learns how fast an answer ran that was promised `tpot_max_s` per token. Not the prediction counts
    /// but the promise: what came after a request slows it as well, so that a prediction made on a quiet
    /// replica is always broken once it is busy. Far from the promise nothing is learned.
    pub(super) fn learn_tpot(&mut self, forecast: &Forecast, took_s: f64, tpot_max_s: f64) {
        if self.is_near_promise(forecast, took_s, tpot_max_s) {
            self.tpot.observe(tpot_max_s < took_s);
        }
    }

    /// Whether it is time to learn from an answer of another replica.
    pub(super) fn hears(&self, now: Timestamp) -> bool {
        self.heard.is_none_or(|it| HEARD_EVERY <= now.since(it))
    }

    /// Learns how fast an answer ran on another replica that serves the same, as [`learn_tpot`](Self::learn_tpot) does.
    pub(super) fn hear_tpot(
        &mut self,
        now: Timestamp,
        forecast: &Forecast,
        took_s: f64,
        tpot_max_s: f64,
    ) {
        if self.hears(now) && self.is_near_promise(forecast, took_s, tpot_max_s) {
            self.heard = Some(now);
            self.tpot.hear(tpot_max_s < took_s);
        }
    }

    fn is_near_promise(&self, forecast: &Forecast, took_s: f64, tpot_max_s: f64) -> bool {
        let raised_s = self.tpot.value() * forecast.tpot_s;
        tpot_max_s / 2.0 <= raised_s.max(took_s)
    }
}
