//! What one replica's first tokens, gaps and answers teach of its speed, and of how far predictions are off.

use std::time::Duration;

use types::time::Timestamp;

use super::{Forecast, LEARN_BELOW, ReplicaEstimate, Sharing, lessons::Lesson};

impl ReplicaEstimate {
    /// Learns from a first token that came `now`, the request having been placed at `placed`.
    pub fn learn_ttft(&mut self, now: Timestamp, placed: Timestamp, forecast: &Forecast) {
        let took_s = now.since(placed).as_secs_f64();
        self.margins.learn_ttft(forecast, took_s);
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

    /// Learns how fast an answer ran that was promised `tpot_max_s` per token.
    pub fn learn_tpot(&mut self, forecast: &Forecast, took_s: f64, tpot_max_s: f64) {
        self.margins.learn_tpot(forecast, took_s, tpot_max_s);
    }

    /// Whether it is time to learn from an answer of another replica.
    pub(crate) fn hears(&self, now: Timestamp) -> bool {
        self.margins.hears(now)
    }

    /// Learns how fast an answer ran on another replica that serves the same.
    pub(crate) fn hear_tpot(
        &mut self,
        now: Timestamp,
        forecast: &Forecast,
        took_s: f64,
        tpot_max_s: f64,
    ) {
        self.margins.hear_tpot(now, forecast, took_s, tpot_max_s);
    }
}
