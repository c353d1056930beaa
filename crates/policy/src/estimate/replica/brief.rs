//! The pace of answers that are short.
//!
//! An answer of twenty tokens is over before what was placed in four seconds says anything of it: two prompts that are
//! computed beside it may take all of the time that it was promised, though they are a small share of four seconds. So
//! the share of time that goes to prefill is counted over shorter times as well, and that one counts which is about as
//! long as an answer may last.

use std::time::Duration;

use types::time::Timestamp;

use super::{DUTY_MAX, DUTY_TIME};
use crate::estimate::{Asked, decay::Decayed};

/// Part of the mean length of answers that nearly all of them have: lengths are skewed, and no answer tells its own.
const NEARLY_ALL_HAVE: f64 = 0.25;

/// How far the time over which a prompt's own computing counts lies towards the shorter one.
const OWN_PART: f64 = 0.4;

/// Shorter times over which prefill is counted.
const TIMES: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Seconds of prefill placed of late, by the form, over each of the shorter times.
#[derive(Clone, Debug)]
pub(super) struct Brief([Decayed; TIMES.len()]);

impl Brief {
    pub(super) fn new() -> Self {
        Self(TIMES.map(Decayed::new))
    }

    /// Adds a prompt that was placed.
    pub(super) fn add(&mut self, now: Timestamp, prefill_s: f64) {
        self.0.iter_mut().for_each(|it| it.add(now, prefill_s));
    }

    /// Share of the time of a short answer that goes to prefill which takes `scale` times what the form says: of the
    /// longest time that the answer may last at its promised pace, or of the shortest. A prompt of `own_s` that is placed
    /// now is over before its own answer begins, and delays those that run, short or long: it counts over a time between.
    /// Nothing where the answer may last for as long as is counted otherwise, or was promised no pace.
    pub(super) fn duty(
        &self,
        now: Timestamp,
        asked: &Asked,
        scale: f64,
        own_s: f64,
    ) -> Option<f64> {
        let lasts_s = NEARLY_ALL_HAVE * asked.output * asked.tpot_max_s?;
        if DUTY_TIME.as_secs_f64() <= lasts_s {
            return None;
        }
        let counted = TIMES.iter().map(Duration::as_secs_f64).zip(&self.0);
        let (mut fitting, mut shortest) = (None, None);
        for (time_s, placed) in counted {
            shortest = shortest.or(Some((time_s, placed)));
            if time_s <= lasts_s {
                fitting = Some((time_s, placed));
            }
        }
        let (time_s, placed) = fitting.or(shortest)?;
        let own_time_s = OWN_PART * time_s + (1.0 - OWN_PART) * DUTY_TIME.as_secs_f64();
        Some((placed.rate(now) * scale + own_s / own_time_s).min(DUTY_MAX))
    }
}
