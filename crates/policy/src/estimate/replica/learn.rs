//! What one replica's first tokens, gaps and answers teach of its speed, and of how far predictions are off.

use std::time::Duration;

use types::time::Timestamp;

use super::{Forecast, HEARD_EVERY, LEARN_BELOW, ReplicaEstimate, Sharing, lessons::Lesson};

impl ReplicaEstimate {
    /// Learns from a first token that came `now`, the request having been placed at `placed`.
    pub fn learn_ttft(&mut self, now: Timestamp, placed: Timestamp, forecast: &Forecast) {
        let took_s = now.since(placed).as_secs_f64();
        let had_room = forecast.room_s <= 0.0;
        let margin = if had_room { &mut self.ttft_margin } else { &mut self.room_margin };
        margin.observe(margin.value() * forecast.ttft_s < took_s);
        if self.frozen || !forecast.is_quiet {
            return;
        }
        let fixed_s = forecast.ttft_s - forecast.prefilling_s;
        let share = forecast.prefilling_s / forecast.ttft_s;
        if 0.6 <= share {
            // Predicted was with what is believed, not with what was observed here.
            let believed = self.speed.prefill / self.prefill.value();
            let ratio = (took_s - fixed_s).max(0.0) / forecast.prefilling_s * believed;
            self.learn(now, placed, Lesson::Prefill { ratio, of: self.prefill.value() });
        } else if share < 0.25 {
            let believed_s = self.speed.request_s - self.request_s;
            let late_s = took_s - forecast.ttft_s + believed_s;
            self.learn(now, placed, Lesson::Request { late_s, of_s: self.request_s });
        }
        self.believe_own();
    }

    /// Learns that `tokens` came, for which their streams waited `time` between them.
    pub fn learn_gaps(&mut self, now: Timestamp, tokens: u32, time: Duration, sharing: Sharing) {
        if tokens == 0 {
            return;
        }
        let (tokens, time_s) = (f64::from(tokens), time.as_secs_f64());
        let since = self.gaps_seen.replace(now);
        self.tokens.add(now, tokens);
        self.token_time.add(now, time_s);
        // Where no prompt was computed meanwhile, a gap is a step of decoding.
        let undisturbed =
            self.waiting.is_empty() && since.is_some_and(|since| self.prefilling < since);
        let duty = self.placed.rate(now) * self.speed.prefill;
        let share = sharing.share();
        let step_s = self.speed.decode
            * self.form.decode_step_s(f64::from(sharing.all), self.context * share);
        let is_quiet = duty.max(step_s / self.full_s()) < LEARN_BELOW;
        let may_learn = is_quiet || !self.decode.is_learned();
        if self.frozen || !undisturbed || !may_learn {
            return;
        }
        let believed = self.speed.decode / self.decode.value();
        let ratio = time_s / tokens / step_s * believed;
        let lesson = Lesson::Decode { ratio, of: self.decode.value() };
        self.learn(now, since.unwrap_or(now), lesson);
        self.believe_own();
    }

    /// Learns how fast an answer ran that was promised `tpot_max_s` per token. Not the prediction counts
    /// but the promise: what came after a request slows it as well, so that a prediction made on a quiet
    /// replica is always broken once it is busy. Far from the promise nothing is learned.
    pub fn learn_tpot(&mut self, forecast: &Forecast, took_s: f64, tpot_max_s: f64) {
        if self.is_near_promise(forecast, took_s, tpot_max_s) {
            self.tpot_margin.observe(tpot_max_s < took_s);
        }
    }

    /// Learns how fast an answer ran on another replica that serves the same, as [`learn_tpot`](Self::learn_tpot) does.
    pub(crate) fn hear_tpot(
        &mut self,
        now: Timestamp,
        forecast: &Forecast,
        took_s: f64,
        tpot_max_s: f64,
    ) {
        let is_one_of_many = self.heard.is_some_and(|it| now.since(it) < HEARD_EVERY);
        if !is_one_of_many && self.is_near_promise(forecast, took_s, tpot_max_s) {
            self.heard = Some(now);
            self.tpot_margin.hear(tpot_max_s < took_s);
        }
    }

    fn is_near_promise(&self, forecast: &Forecast, took_s: f64, tpot_max_s: f64) -> bool {
        let raised_s = self.tpot_margin.value() * forecast.tpot_s;
        tpot_max_s / 2.0 <= raised_s.max(took_s)
    }
}
