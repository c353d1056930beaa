//! The least that a request can be predicted to meet on a replica, told at a glance.
//!
//! A prediction takes a dozen divisions and reads as many cache lines. Nearly all replicas can be seen
//! not to be the choice from much less: what stands there until something happens, and what the request
//! adds to it. Each figure is no more than the one that [`ReplicaEstimate::forecast`] predicts but for
//! rounding: whoever changes the one looks after the other.

use std::time::Duration;

use types::time::Timestamp;

use super::{DUTY_MAX, DUTY_TIME, GAP_AGE_MAX, ReplicaEstimate, Sharing, Speed};
use crate::estimate::{Asked, Coefficients, Lasting};

/// A quarter of the inverse of the time constant with which prefill fades.
const QUARTER_PER_S: f64 = 0.25 / 4.0;

const _: () = assert!(DUTY_TIME.as_secs() == 4, "the constant above is of another time");

/// How long after it was placed prefill counts for what it is at the end of that time.
const SOON: Duration = Duration::from_secs(1);

/// What predictions for one replica can't go below, whatever is asked, until something happens there or
/// what was observed is too old.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Floor {
    prefill: f64,
    decode: f64,
    request_s: f64,
    /// Prefill that waits, the head of the queue taken to be computed.
    ahead_s: f64,
    /// A step of decoding.
    step_s: f64,
    /// Time between tokens, where it was measured.
    gap_s: Option<f64>,
    /// Share of its time that went to prefill when some was last placed.
    duty: f64,
    placed: Timestamp,
    /// Time between tokens at the least until [`SOON`] after that, and later.
    soon_s: f64,
    later_s: f64,
    /// One over the time of a chunk.
    chunks_per_s: f64,
    /// One over the time per token at which it counts as full, where nothing was promised.
    per_full: f64,
}

/// What a request adds, by the form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Added {
    answer_s: f64,
    foresight: f64,
    /// One over the time per token that was promised.
    per_promised: Option<f64>,
    lasting: Lasting,
}

/// The least that a request may meet and add. Seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Least {
    pub(crate) ttft_s: f64,
    pub(crate) work_s: f64,
}

impl Added {
    pub(crate) fn new(form: &Coefficients, asked: &Asked) -> Self {
        let context = f64::from(asked.prompt.0) + asked.output / 2.0;
        Self {
            answer_s: asked.output * form.decode_token_s(1.0, context),
            foresight: asked.foresight,
            per_promised: asked.tpot_max_s.map(|it| 1.0 / it),
            lasting: asked.lasting,
        }
    }
}

impl ReplicaEstimate {
    /// What predictions can't go below at `now`, beside those that `sharing` counts.
    pub(crate) fn floor(&self, now: Timestamp, sharing: Sharing) -> Floor {
        let Speed { prefill, decode, request_s } = self.speed;
        let context = self.context * sharing.share();
        let step_s = decode * self.form.decode_step_s(f64::from(sharing.all), context);
        let head_s = self.waiting.front().map_or(0.0, |it| it.prefill_s * prefill);
        let (gap_s, placed) = (self.gap_s(now), self.placed.at());
        let duty = self.placed.rate(placed) * prefill * sharing.share();
        let soon = (duty * least_left(SOON.as_secs_f64())).min(DUTY_MAX);
        let at_least = |follows_s: f64| gap_s.map_or(follows_s, |it| it.min(follows_s));
        Floor {
            prefill,
            decode,
            request_s,
            ahead_s: self.queued_s() - head_s,
            step_s,
            gap_s,
            duty,
            placed,
            soon_s: at_least(step_s / (1.0 - soon)),
            later_s: at_least(step_s),
            chunks_per_s: 1.0 / (self.form.chunk_s() * prefill),
            per_full: 1.0 / self.full_s(),
        }
    }

    /// Until when measured gaps between tokens count.
    pub(crate) fn gaps_count_until(&self) -> Option<Timestamp> {
        self.gaps_seen.map(|it| it + GAP_AGE_MAX)
    }
}

impl Floor {
    /// The least that a request meets which adds `added`, and prefill of `prefill_s` by the form, of which `own` is
    /// its share; what is not counts for nothing.
    pub(crate) fn under(&self, added: &Added, prefill_s: f64, own: f64) -> Least {
        let own_s = prefill_s * self.prefill;
        let shared_s = (1.0 - own) * own_s;
        let prefilling_s = self.ahead_s + own_s;
        let steps = 0.5 + (prefilling_s * self.chunks_per_s).max(1.0);
        Least {
            ttft_s: self.request_s + prefilling_s + steps * self.step_s - shared_s,
            work_s: own_s + added.answer_s * self.decode - shared_s,
        }
    }

    /// How full it is at `now` for a request that adds `added`, at the least; told without a division.
    pub(crate) fn fullness(&self, now: Timestamp, added: &Added) -> f64 {
        let gap_s = if now <= self.placed + SOON { self.soon_s } else { self.later_s };
        added.lasting.of(gap_s * added.per_promised.unwrap_or(self.per_full))
    }

    /// The same, nearer to what is predicted.
    pub(crate) fn utilisation(&self, now: Timestamp, added: &Added) -> f64 {
        let duty = (self.duty * least_left(now.seconds_since(self.placed))).min(DUTY_MAX);
        let follows_s = self.step_s / (1.0 - duty);
        let measured_s = self.gap_s.unwrap_or(follows_s);
        let gap_s = measured_s + added.foresight * (follows_s - measured_s);
        added.lasting.of(gap_s * added.per_promised.unwrap_or(self.per_full))
    }

    /// A step of decoding, over the time per token that was promised, and the share of its time that prefill
    /// takes at `now`, by and large.
    pub(crate) fn load(&self, now: Timestamp, tpot_max_s: Option<f64>) -> (f64, f64) {
        let per_full = tpot_max_s.map_or(self.per_full, |it| 1.0 / it);
        let age_s = now.seconds_since(self.placed);
        let left = least_left(age_s / 4.0).powi(4);
        (self.step_s * per_full, self.duty * left)
    }
}

/// Utilisation of a fleet whose replicas have such [loads](Floor::load): that of one with their mean load, since the
/// mean of theirs would be that of the few that are just now computing a long prompt.
pub(crate) fn of_fleet(loads: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (mut steps, mut duties, mut count) = (0.0, 0.0, 0.0_f64);
    for (step, duty) in loads {
        steps += step;
        duties += duty;
        count += 1.0;
    }
    let count = count.max(1.0);
    steps / count / (1.0 - (duties / count).min(DUTY_MAX))
}

/// The least that is left, `age_s` later, of what fades as prefill does: `(1 − x/4)⁴ ≤ e⁻ˣ`.
fn least_left(age_s: f64) -> f64 {
    let left = (1.0 - age_s * QUARTER_PER_S).max(0.0);
    (left * left) * (left * left)
}

#[cfg(test)]
mod tests {
    use types::{quantity::Tokens, request::RequestId};

    use super::*;
    use crate::estimate::EstimateConfig;

    #[test]
    fn a_fleet_in_which_few_compute_is_not_full() {
        let loads = [(0.2, 0.95), (0.2, 0.0), (0.2, 0.0), (0.2, 0.0)];
        let all = of_fleet(loads.into_iter());
        assert!((0.25..0.28).contains(&all), "{all}");
        assert!(of_fleet([(0.2, 3.0)].into_iter()).is_finite());
        assert!(of_fleet(std::iter::empty()).abs() < 1e-12, "nobody is full of nothing");
    }

    /// Histories of one replica, of a generator's making.
    fn histories(mut check: impl FnMut(Timestamp, &ReplicaEstimate, Sharing)) {
        let mut state = 7_u64;
        let mut draw = |below: u32| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            u32::try_from(state >> 33).unwrap() % below
        };
        for _ in 0..40 {
            let mut estimate = ReplicaEstimate::new(&EstimateConfig::default());
            estimate.start_like(0.3 + f64::from(draw(30)) / 10.0, 0.3 + f64::from(draw(30)) / 10.0);
            let (mut now, mut own) = (Timestamp::ZERO, 0);
            for id in 0..60 {
                now = now + Duration::from_millis(draw(2_000).into());
                let sharing = Sharing { own, all: own + draw(4) };
                let asked = Asked { prompt: Tokens(draw(9_000)), output: 80.0, ..Asked::default() };
                match draw(5) {
                    0 | 1 => {
                        let forecast = estimate.forecast(now, &asked, Tokens(0), 1.0, sharing);
                        estimate.place(now, RequestId(id), &forecast);
                        own += 1;
                    }
                    2 => estimate.learn_gaps(
                        now,
                        9,
                        Duration::from_millis(draw(900).into()),
                        sharing,
                    ),
                    _ => estimate.computed(now, RequestId(draw(60).into())),
                }
                check(now + Duration::from_millis(draw(4_000).into()), &estimate, sharing);
            }
        }
    }

    #[test]
    fn no_prediction_is_below_its_floor_and_the_floor_is_near() {
        let (mut checks, mut near) = (0, 0);
        histories(|now, estimate, sharing| {
            for (prompt, cached, tpot_max_s) in
                [(10, 0, None), (6_000, 0, None), (9_000, 8_960, Some(0.03)), (20_000, 64, None)]
            {
                let (prompt, cached) = (Tokens(prompt), Tokens(cached));
                let foresight = 0.5;
                let lasting = Lasting::new(f64::from(prompt.0) / 2_000.0, 0.7);
                let asked = Asked {
                    prompt,
                    output: 100.0,
                    tpot_max_s,
                    foresight,
                    lasting,
                    ..Asked::default()
                };
                let forecast = estimate.forecast(now, &asked, cached, 1.0, sharing);
                let form = Coefficients::default();
                let prefill_s = form.prefill_s(cached, prompt.saturating_sub(cached));
                let floor = estimate.floor(now, sharing);
                let added = Added::new(&form, &asked);
                let (least, utilisation) =
                    (floor.under(&added, prefill_s, 1.0), floor.utilisation(now, &added));
                let fullness = floor.fullness(now, &added);
                assert!(fullness * (1.0 - 1e-9) <= utilisation, "{fullness} {utilisation}");
                let holds = |least: f64, value: f64| least * (1.0 - 1e-9) <= value;
                assert!(holds(least.ttft_s, forecast.ttft_s), "{least:?} {forecast:?}");
                assert!(holds(least.work_s, forecast.work_s), "{least:?} {forecast:?}");
                assert!(holds(utilisation, forecast.utilisation), "{utilisation} {forecast:?}");
                checks += 1;
                let is_near = |least: f64, value: f64| 0.7 * value <= least;
                near += i32::from(
                    is_near(least.ttft_s, forecast.ttft_s)
                        && is_near(utilisation, forecast.utilisation),
                );
            }
        });
        assert!(checks / 2 < near, "{near} of {checks}");
    }
}
