//! One replica: what it has to do, how fast it does it, and what a request would meet there.

mod brief;
pub(crate) mod floor;
mod learn;
mod lessons;
mod margins;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use types::{quantity::Tokens, request::RequestId, time::Timestamp};

use self::{brief::Brief, lessons::Lessons, margins::Margins};
use super::{
    Asked, EstimateConfig,
    coefficients::Coefficients,
    decay::Decayed,
    fleet_speed::{FleetSpeed, Mean, Observed},
    margin::Margin,
};
use crate::estimate::scale::Scale;

/// Over how long the share of time that goes to prefill is averaged.
const DUTY_TIME: Duration = Duration::from_secs(4);

/// Over how long the time between tokens is averaged: with less, the price of work follows the noise.
const GAP_TIME: Duration = Duration::from_secs(5);

/// Age at which observed gaps between tokens no longer say anything.
const GAP_AGE_MAX: Duration = Duration::from_secs(10);

/// Utilisation from which nothing is learned but margins: what is observed then is queueing, and
/// a learner that keeps learning takes it for a slow machine.
const LEARN_BELOW: f64 = 0.6;

/// Most of the time that prefill is taken to use: the rest is what decoding gets at the worst.
const DUTY_MAX: f64 = 0.95;

/// Time per output token at which a replica counts as full where nothing was promised, seconds; and
/// at least this many times its quickest.
const TPOT_FULL_S: f64 = 0.05;
const TPOT_FULL_STEPS: f64 = 4.0;

/// Part by which an observation moves the overhead of a request.
const REQUEST_WEIGHT: f64 = 0.05;

/// Longest overhead of a request, seconds: more is a queue that others made.
const REQUEST_S_MAX: f64 = 2.0;

/// Overheads of replicas differ by so much for no reason, seconds, and by half of what they are.
const REQUEST_CHANCE_S: f64 = 0.003;

/// Routers that share a replica, at most, as far as their share is guessed from its reports.
const SHARERS_MAX: f64 = 16.0;

/// What is known of one replica's speed and of the work placed on it.
#[derive(Clone, Debug)]
pub struct ReplicaEstimate {
    form: Coefficients,
    frozen: bool,
    /// Requests whose first token has not come, in the order in which they were placed.
    waiting: VecDeque<Waiting>,
    /// Seconds of prefill they need, by the form.
    waiting_s: f64,
    /// When the last first token came: since then the head of the queue is computed.
    head_since: Timestamp,
    /// Prompt and expected answer tokens of all requests on it.
    context: f64,
    /// Seconds of prefill placed, by the form.
    placed: Decayed,
    /// The same over shorter times.
    brief: Brief,
    /// Tokens that came, and the time that streams waited for them.
    tokens: Decayed,
    token_time: Decayed,
    gaps_seen: Option<Timestamp>,
    /// When it was last known to have prefill to do.
    prefilling: Timestamp,
    prefill: Scale,
    decode: Scale,
    request_s: f64,
    /// Whether the overhead of a request was observed.
    knows_request: bool,
    /// What predictions are made with: the three above, as far as they differ from the fleet's.
    speed: Speed,
    /// When answers that are not at their end began, in that order.
    begun: VecDeque<Timestamp>,
    /// When the last of all did, or an answer came to its end: those that come in one piece show nothing before.
    moved: Timestamp,
    margins: Margins,
    /// What was observed and may turn out to be of work that was not told of yet.
    lessons: Lessons,
}

/// How fast a replica is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Speed {
    /// Times that prefill takes what the form says.
    prefill: f64,
    /// Times that decoding does.
    decode: f64,
    /// Overhead of a request, seconds.
    request_s: f64,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    request: RequestId,
    placed: Timestamp,
    prefill_s: f64,
    /// Whether it can be done later.
    is_for_later: bool,
}

/// What a request is expected to meet on a replica, and to do there. Seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Time to its first token.
    pub ttft_s: f64,
    /// The part of that in which it waits for a seat or for memory.
    pub room_s: f64,
    /// The part of that in which prompts are computed, those before it included.
    pub prefilling_s: f64,
    /// The part of that for the request's own prompt.
    pub own_prefill_s: f64,
    /// Time to its first token, had the replica nothing else to do.
    pub alone_s: f64,
    /// Time to each later token.
    pub tpot_s: f64,
    /// The same for a short answer; nothing where answers are long.
    pub brief_tpot_s: f64,
    /// The same before it came.
    pub tpot_before_s: f64,
    /// The time between tokens of late, longer by what the request is predicted to add.
    pub pace_s: f64,
    /// Time of a step, with it, in which nothing but answers is computed.
    pub step_s: f64,
    /// Work that it adds: its prefill, and the part of each decode step that is there for it.
    pub work_s: f64,
    /// Requests there whose answers are so young, or yet to begin, that waiting for its prefill breaks
    /// what they were promised if they turn out short.
    pub exposed: f64,
    /// Time between tokens of late, over the time promised: at 1 one more request breaks promises. As it will be
    /// while the request's work [lasts](crate::estimate::Lasting).
    pub utilisation: f64,
    /// Whether the replica is so quiet that what is observed of the request tells of its speed, and not
    /// of its queue.
    pub is_quiet: bool,
    /// Prefill that it adds, by the form, unscaled.
    pub prefill_form_s: f64,
    /// Tokens of context that it adds.
    pub context: f64,
    /// Whether its first token would come later than promised, unless the prediction errs as rarely.
    pub is_late: bool,
}

/// The load of a replica as the fleet's books have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Requests of which it is known what they are: those placed here, and those that other routers told of.
    pub own: u32,
    /// Requests on the replica, others' included.
    pub all: u32,
}

impl ReplicaEstimate {
    /// A replica of which nothing was observed.
    #[must_use]
    pub fn new(config: &EstimateConfig) -> Self {
        Self {
            form: config.coefficients,
            frozen: config.frozen,
            waiting: VecDeque::new(),
            waiting_s: 0.0,
            head_since: Timestamp::ZERO,
            context: 0.0,
            placed: Decayed::new(DUTY_TIME),
            brief: Brief::new(),
            tokens: Decayed::new(GAP_TIME),
            token_time: Decayed::new(GAP_TIME),
            gaps_seen: None,
            prefilling: Timestamp::ZERO,
            prefill: Scale::default(),
            decode: Scale::default(),
            request_s: config.coefficients.request_ms * 1e-3,
            knows_request: false,
            speed: Speed {
                prefill: 1.0,
                decode: 1.0,
                request_s: config.coefficients.request_ms * 1e-3,
            },
            begun: VecDeque::new(),
            moved: Timestamp::ZERO,
            margins: Margins::new(),
            lessons: Lessons::default(),
        }
    }

    /// Takes over the speed of others of the fleet, where nothing was observed of its own.
    pub fn start_like(&mut self, prefill: f64, decode: f64) {
        self.prefill = Scale::starting_at(prefill);
        self.decode = Scale::starting_at(decode);
        self.believe_own();
    }

    /// Predicts with what was observed here alone.
    fn believe_own(&mut self) {
        let (prefill, decode) = (self.prefill.value(), self.decode.value());
        self.speed = Speed { prefill, decode, request_s: self.request_s };
    }

    /// Predicts with what was observed here as far as it differs from the `fleet`'s by more than chance.
    pub(crate) fn settle(&mut self, fleet: &FleetSpeed) {
        if self.frozen {
            return;
        }
        let mean = |it: &Mean, own: f64| it.value().unwrap_or(own);
        let request_s = mean(&fleet.request_s, self.request_s);
        let apart = (self.request_s - request_s).powi(2);
        let chance = (REQUEST_CHANCE_S + request_s / 2.0).powi(2);
        self.speed = Speed {
            prefill: self.prefill.among(mean(&fleet.prefill, self.prefill.value())),
            decode: self.decode.among(mean(&fleet.decode, self.decode.value())),
            request_s: request_s + (self.request_s - request_s) * apart / (apart + chance),
        };
    }

    /// Takes its speed for known: nothing is learned any more.
    pub fn know(&mut self, prefill: f64, decode: f64) {
        self.start_like(prefill, decode);
        self.frozen = true;
    }

    /// The speed that it is predicted with.
    pub(crate) const fn believed(&self) -> Speed {
        self.speed
    }

    /// What was observed of its speed.
    pub(crate) fn observed(&self) -> Observed {
        let of = |it: &Scale| it.is_learned().then(|| it.value());
        Observed {
            prefill: of(&self.prefill),
            decode: of(&self.decode),
            request_s: self.knows_request.then_some(self.request_s),
        }
    }

    /// Learns margins anew.
    pub(crate) const fn forget_margins(&mut self) {
        self.margins = Margins::new();
    }

    /// Factors on predicted TTFT and TPOT that few requests exceed.
    #[must_use]
    pub const fn margins(&self) -> (&Margin, &Margin) {
        (&self.margins.ttft, &self.margins.tpot)
    }

    /// The factor on the time to first token of `forecast`.
    #[must_use]
    pub const fn ttft_margin(&self, forecast: &Forecast) -> &Margin {
        self.margins.of_ttft(forecast)
    }

    /// Share of its time that goes to prefill, as placed of late.
    #[must_use]
    pub fn duty(&self, now: Timestamp) -> f64 {
        self.placed.rate(now) * self.speed.prefill
    }

    /// Seconds in which its engine computes a full chunk of a prompt.
    #[must_use]
    pub fn chunk_s(&self) -> f64 {
        self.form.chunk_s() * self.prefill.value()
    }

    /// Predicts what the request would meet here with `cached` tokens of its prompt found; prefill costs
    /// `recomputing` times its own time in the end.
    #[must_use]
    pub fn forecast(
        &self,
        now: Timestamp,
        asked: &Asked,
        cached: Tokens,
        recomputing: f64,
        sharing: Sharing,
    ) -> Forecast {
        let form = &self.form;
        let Speed { prefill, decode, request_s } = self.speed;
        let uncached = asked.prompt.saturating_sub(cached);
        let prefill_form_s = form.prefill_s(cached, uncached);
        let own_prefill_s = prefill_form_s * prefill;
        let context = f64::from(asked.prompt.0) + asked.output / 2.0;
        let token_s = decode * form.decode_token_s(1.0, context);
        let work_s = own_prefill_s * recomputing + asked.output * token_s;

        let share = sharing.share();
        let step_s = decode * form.decode_step_s(f64::from(sharing.all), self.context * share);
        let ahead_s = self.ahead_s(now, step_s);
        let prefilling_s = ahead_s + own_prefill_s;
        // Everyone who decodes takes part in each step that computes a chunk.
        let steps = 0.5 + (prefilling_s / (form.chunk_s() * prefill)).max(1.0);
        let ttft_s = request_s + prefilling_s + steps * step_s;
        let own_steps = 0.5 + (own_prefill_s / (form.chunk_s() * prefill)).max(1.0);
        let alone_s = request_s + own_prefill_s + own_steps * decode * form.step_ms * 1e-3;

        let duty = (self.placed.rate(now) * prefill * share).min(DUTY_MAX);
        let duty_then = (duty + own_prefill_s / DUTY_TIME.as_secs_f64()).min(DUTY_MAX);
        let tpot_s = (step_s + token_s) / (1.0 - duty_then);
        let tpot_before_s = step_s / (1.0 - duty);
        let brief = self.brief.duty(now, asked, prefill * share, own_prefill_s);
        let full_s = asked.tpot_max_s.unwrap_or_else(|| self.full_s());
        // What is measured lags behind what was placed; what follows from that is only as good as the
        // form. Each keeps the other's errors small.
        let measured_s = self.gap_s(now).unwrap_or(tpot_before_s);
        let gap_s = measured_s + asked.foresight * (tpot_before_s - measured_s);
        let utilisation = gap_s / full_s;
        Forecast {
            ttft_s,
            room_s: 0.0,
            prefilling_s,
            own_prefill_s,
            alone_s,
            tpot_s,
            brief_tpot_s: brief.map_or(0.0, |it| (step_s + token_s) / (1.0 - it)),
            tpot_before_s,
            pace_s: measured_s * tpot_s / tpot_before_s,
            step_s: step_s + token_s,
            work_s,
            exposed: self.exposed(now, own_prefill_s, full_s / gap_s) * share,
            utilisation: asked.lasting.of(utilisation),
            is_quiet: utilisation.max(duty) < LEARN_BELOW && ahead_s < 0.1 * own_prefill_s,
            prefill_form_s,
            context,
            is_late: false,
        }
    }

    /// Share of what it can do in a second that is taken, where a forecast found it utilised so far at a promised
    /// `tpot_max_s`: it grows in proportion to what is asked, up to 1 at the knee.
    ///
    /// ```text
    /// u = (1 − s/g)/(1 − s/f)      s: an empty step, g: the time per token now, f: when full
    /// ```
    ///
    /// Prefill that takes a share `φ` of the time makes `g = s/(1 − φ)`, and so do answers, for as many of them
    /// are there as come while one lasts: in both `1 − s/g` is proportional to the rate.
    #[must_use]
    pub fn taken(&self, utilisation: f64, tpot_max_s: Option<f64>) -> f64 {
        let full_s = tpot_max_s.unwrap_or_else(|| self.full_s());
        let empty = (self.speed.decode * self.form.step_ms * 1e-3 / full_s).min(0.95);
        let now = (empty / utilisation.max(1e-9)).min(1.0);
        (1.0 - now) / (1.0 - empty)
    }

    /// Answers that a pause of `pause_s` takes beyond the promised time per token if they end soon after:
    /// an answer has saved what it ran ahead, `ahead` times as fast as promised, since it began.
    fn exposed(&self, now: Timestamp, pause_s: f64, ahead: f64) -> f64 {
        let requests = self.waiting.len().saturating_add(self.begun.len());
        let saving = ahead - 1.0;
        let age = Duration::try_from_secs_f64(pause_s / saving).ok().filter(|_| saving > 0.0);
        let since = age.and_then(|age| now.elapsed().checked_sub(age));
        let old = since.map_or(0, |since| self.begun.partition_point(|it| it.elapsed() < since));
        f64::from(u32::try_from(requests.saturating_sub(old)).unwrap_or(u32::MAX))
    }

    /// Time per output token at which it counts as full, where nothing was promised.
    fn full_s(&self) -> f64 {
        TPOT_FULL_S.max(TPOT_FULL_STEPS * self.speed.decode * self.form.step_ms * 1e-3)
    }

    /// Seconds until what waits for its first token has it, one step of decoding taking `step_s`.
    fn ahead_s(&self, now: Timestamp, step_s: f64) -> f64 {
        let Some(head) = self.waiting.front() else { return 0.0 };
        let scale = self.speed.prefill;
        // The head has been computed since the one before it had its first token, as far as
        // decoding left time for it.
        let begun = self.head_since.max(head.placed);
        let left_to_it = 1.0 / (1.0 + step_s / (self.form.chunk_s() * scale));
        let computed_s = now.since(begun).as_secs_f64() * left_to_it - self.speed.request_s;
        let head_s = head.prefill_s * scale;
        self.waiting_s * scale - computed_s.clamp(0.0, head_s)
    }

    /// Mean time between tokens of late, seconds.
    fn gap_s(&self, now: Timestamp) -> Option<f64> {
        let seen = self.gaps_seen.filter(|it| now.since(*it) <= GAP_AGE_MAX)?;
        // Both fade alike, so that their quotient needs no fading.
        let (time, tokens) = (self.token_time.sum(seen), self.tokens.sum(seen));
        (tokens > 0.0).then(|| time / tokens)
    }

    /// Requests placed here whose first token has not come, or is not yet due where it can't be seen.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Seconds of prefill that wait here, scaled.
    #[must_use]
    pub fn queued_s(&self) -> f64 {
        self.waiting_s * self.speed.prefill
    }

    /// Prompt and expected answer tokens of the requests on it.
    #[must_use]
    pub const fn context(&self) -> f64 {
        self.context
    }

    /// Adds a request with its forecast.
    pub fn place(&mut self, now: Timestamp, request: RequestId, forecast: &Forecast) {
        let prefill_s = forecast.prefill_form_s;
        self.waiting.push_back(Waiting { request, placed: now, prefill_s, is_for_later: false });
        self.waiting_s += prefill_s;
        self.context += forecast.context;
        self.placed.add(now, prefill_s);
        self.brief.add(now, prefill_s);
        self.prefilling = now;
    }

    /// Takes the request that was added last for one that can be done later.
    pub(crate) fn last_is_for_later(&mut self) {
        if let Some(it) = self.waiting.back_mut() {
            it.is_for_later = true;
        }
    }

    /// Whether a prompt waits here, or is computed, that could be done later.
    pub(crate) fn computes_for_later(&self) -> bool {
        self.waiting.iter().any(|it| it.is_for_later)
    }

    /// Takes a request off the queue for prefill, because its first token came or because it left.
    pub fn computed(&mut self, now: Timestamp, request: RequestId) {
        let Some(at) = self.waiting.iter().position(|it| it.request == request) else { return };
        if let Some(it) = self.waiting.remove(at) {
            self.waiting_s -= it.prefill_s;
            self.prefilling = now;
        }
        if at == 0 {
            self.head_since = now;
        }
        if self.waiting.is_empty() {
            // Rounding must not add up.
            self.waiting_s = 0.0;
        }
    }

    /// Learns that an answer begins.
    pub fn begins(&mut self, now: Timestamp) {
        self.begun.push_back(now);
        self.moves(now);
    }

    /// Learns that something came at `at`.
    pub(crate) fn moves(&mut self, at: Timestamp) {
        self.moved = self.moved.max(at);
    }

    /// When a token last came, as far as is known by now.
    pub(crate) fn moved(&self) -> Timestamp {
        self.gaps_seen.map_or(self.moved, |it| it.max(self.moved))
    }

    /// Learns that an answer ends that began at `begun`.
    pub fn ends(&mut self, begun: Timestamp) {
        let at = self.begun.partition_point(|it| *it < begun);
        if self.begun.get(at) == Some(&begun) {
            self.begun.remove(at);
        }
    }

    /// Takes off what a request held besides its prefill.
    pub fn left(&mut self, forecast: &Forecast, last: bool) {
        self.context = if last { 0.0 } else { (self.context - forecast.context).max(0.0) };
    }
}

impl Sharing {
    /// How many times the work placed here is on the replica, as far as requests tell.
    fn share(self) -> f64 {
        if self.all <= self.own || self.own == 0 {
            return 1.0;
        }
        (f64::from(self.all) / f64::from(self.own)).min(SHARERS_MAX)
    }
}
