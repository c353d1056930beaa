//! What is believed of one replica.

#[cfg(test)]
mod tests;

use std::time::Duration;

use types::{
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::ModelId,
    time::Timestamp,
};

use crate::{
    adapters::Adapters,
    admission::{Limit, PeerLimit, Promises},
    estimate::{Asked, Evictions, Forecast, Overrun, ReplicaEstimate, Seats, replica::Sharing},
    prefix_index::Slot,
    slow_start::{HEAD_START, SlowStart, Warming},
    strategy::Candidate,
};

/// Age at which a load report no longer counts; several scrapes must have failed by then.
pub(super) const REPORT_AGE_MAX: Duration = Duration::from_secs(10);

/// Share of a KV cache in use from which one more request would have to wait, or make others compute
/// anew.
const KV_USAGE_MAX: f32 = 0.97;

/// Share of a KV cache in use from which its size is told by what is there.
const KV_TELLING: f64 = 0.3;

/// Part by which a reading moves what is known of that size.
const KV_WEIGHT: f64 = 0.2;

/// Share of a KV cache in use, and share of time that goes to prefill, below which requests that wait in an
/// engine lack a seat.
const KV_AMPLE: f32 = 0.9;
const DUTY_LITTLE: f64 = 0.5;

/// How much later than predicted a first token comes for which nothing explains the wait but that all seats were
/// taken: a factor, and seconds.
const UNEXPLAINED: (f64, f64) = (2.0, 0.05);

/// Longer than any prompt.
pub(super) const ANY_LENGTH: Tokens = Tokens(u32::MAX);

/// Work placed on a replica and not yet given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests whose last byte has not come.
    pub in_flight: u32,
    /// Prompt tokens to be computed for requests whose first token has not come.
    pub queued_prefill: Tokens,
}

/// Part by which a request moves what is known of the accuracy of predictions.
const ACCURACY_WEIGHT: f64 = 0.02;

/// What was predicted of late, and what came of it: means, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Accuracy {
    /// Time to first token, predicted and observed.
    pub ttft: (f64, f64),
    /// Time per token, predicted and observed.
    pub tpot: (f64, f64),
}

impl Accuracy {
    /// Moves a pair of means towards a pair of values.
    pub(crate) fn move_to(means: &mut (f64, f64), predicted_s: f64, observed_s: f64) {
        if means.1 <= 0.0 {
            *means = (predicted_s, observed_s);
        }
        means.0 += ACCURACY_WEIGHT * (predicted_s - means.0);
        means.1 += ACCURACY_WEIGHT * (observed_s - means.1);
    }
}

/// One replica.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Which replica.
    pub id: ReplicaId,
    /// Where the prefix index files it.
    pub slot: Slot,
    /// Whether it may be sent requests.
    pub health: Health,
    /// Models it serves; empty means any.
    pub models: Box<[ModelId]>,
    /// The longest prompt it is meant for; none where any is.
    pub prompt_max: Option<Tokens>,
    /// The adapters it serves beside its model.
    pub adapters: Adapters,
    /// Work placed here.
    pub load: Load,
    /// Work that other routers say they placed here.
    pub told: Load,
    /// How fast it is, and what it has to do.
    pub estimate: ReplicaEstimate,
    /// What its cache has lost of late.
    pub evictions: Evictions,
    /// What was promised to the requests placed here.
    pub promises: Promises,
    /// Requests that it serves as promised, whatever they cost.
    pub limit: Limit,
    /// The same by the rule of a peer.
    pub peer_limit: PeerLimit,
    /// How far predictions were off of late.
    pub accuracy: Accuracy,
    /// How many requests its engine runs at once.
    pub seats: Seats,
    /// Tokens that its KV cache holds, as far as its reports tell.
    kv_tokens: Option<f64>,
    /// How far more was placed than its memory holds.
    pub overrun: Overrun,
    /// Whether its last report said that requests wait because memory was taken from them.
    gave_way: bool,
    /// Requests that others placed here who do not tell, when that was seen.
    pub(super) foreign: Option<(Timestamp, u32)>,
    /// What its engine last said of its load, and when.
    pub(super) report: Option<(Timestamp, LoadReport)>,
    /// Whether its cache is empty, or was lost since it last took requests.
    pub(super) is_cold: bool,
    /// Since when it takes requests, having come cold.
    warming: Option<Warming>,
}

impl Replica {
    /// A replica that is not ready yet, and of which nothing is known but how fast it may be.
    pub(super) fn new(id: ReplicaId, slot: Slot, estimate: ReplicaEstimate, seats: Seats) -> Self {
        Self {
            id,
            slot,
            health: Health::Starting,
            models: Box::default(),
            prompt_max: None,
            adapters: Adapters::default(),
            load: Load::default(),
            told: Load::default(),
            estimate,
            evictions: Evictions::default(),
            promises: Promises::default(),
            limit: Limit::default(),
            accuracy: Accuracy::default(),
            peer_limit: PeerLimit::default(),
            seats,
            kv_tokens: None,
            overrun: Overrun::default(),
            gave_way: false,
            foreign: None,
            report: None,
            is_cold: true,
            warming: None,
        }
    }

    /// Requests on the replica at `now`: those placed here and those that others placed.
    #[must_use]
    pub fn requests(&self, now: Timestamp) -> u32 {
        let foreign = match self.foreign {
            Some((seen, requests)) if now.since(seen) <= REPORT_AGE_MAX => requests,
            Some(_) | None => 0,
        };
        self.known().saturating_add(foreign)
    }

    /// Requests on it of which it is known what they are: those placed here, and those that other routers
    /// told of.
    pub(crate) const fn known(&self) -> u32 {
        self.load.in_flight.saturating_add(self.told.in_flight)
    }

    /// The requests on it at `now`, and how many of them are known.
    #[must_use]
    pub fn sharing(&self, now: Timestamp) -> Sharing {
        Sharing { own: self.known(), all: self.requests(now) }
    }

    /// Whether one more request has a seat in its batch beside those that `sharing` counts at `now`, and
    /// finds memory there, as far as is known.
    #[must_use]
    pub fn has_room(&self, now: Timestamp, sharing: Sharing) -> bool {
        sharing.all < self.seats.count() && !self.lacks_memory(now)
    }

    /// Whether requests wait for memory there, as far as is known.
    #[must_use]
    pub fn lacks_memory(&self, now: Timestamp) -> bool {
        let Some((seen, report)) = self.report else { return false };
        let is_full = self.gave_way || KV_USAGE_MAX <= report.kv_usage;
        0 < report.waiting && is_full && now.since(seen) <= REPORT_AGE_MAX
    }

    /// Predicts what a request would meet here beside those that `sharing` counts at `now`, with `cached`
    /// tokens of its prompt found.
    #[must_use]
    pub fn forecast(
        &self,
        now: Timestamp,
        asked: &Asked,
        cached: Tokens,
        sharing: Sharing,
    ) -> Forecast {
        let recomputing = if asked.memory { self.evictions.factor() } else { 1.0 };
        let mut forecast = self.estimate.forecast(now, asked, cached, recomputing, sharing);
        // The wait for room makes nobody late: where one replica is full the others are about to be,
        // and a conversation that is moved for it takes twice the memory.
        let raised_s = self.estimate.margins().0.value() * forecast.ttft_s;
        forecast.is_late = asked.ttft_max_s.is_some_and(|most_s| most_s < raised_s);
        forecast.room_s = self.room_wait_s(now, asked.output * forecast.tpot_s, sharing.all);
        forecast.ttft_s += forecast.room_s;
        forecast.is_quiet &= forecast.room_s <= 0.0 && !self.has_waiting(now);
        forecast
    }

    /// Seconds until one more request than the `requests` here finds a seat and memory, as far as is
    /// known, where an answer takes `answer_s`: as long as those before it take to be replaced one by one.
    fn room_wait_s(&self, now: Timestamp, answer_s: f64, requests: u32) -> f64 {
        let seats = self.seats.count();
        let for_seats = requests.saturating_add(1).saturating_sub(seats);
        let for_memory = match self.report {
            Some((_, report)) if self.lacks_memory(now) => report.waiting.saturating_add(1),
            Some(_) | None => 0,
        };
        let before = for_seats.max(for_memory);
        if before == 0 {
            return 0.0;
        }
        f64::from(before) * answer_s / f64::from(requests.min(seats).max(1))
    }

    /// Whether requests wait in its engine, as far as is known.
    fn has_waiting(&self, now: Timestamp) -> bool {
        self.report.is_some_and(|it| 0 < it.1.waiting && now.since(it.0) <= REPORT_AGE_MAX)
    }

    /// What its engine last said of its load, however long ago; nothing where it never did.
    #[must_use]
    pub fn reported(&self) -> LoadReport {
        self.report.map(|it| it.1).unwrap_or_default()
    }

    /// Whether what requests meet here follows from what is known of them.
    #[must_use]
    pub fn is_predictable(&self) -> bool {
        !self.estimate.margins().0.is_at_its_end()
    }

    /// Share of its KV cache in use if the candidate's request were added, raised by how far more was placed before
    /// than fitted; nothing where the replica says neither how large nor how full it is.
    #[must_use]
    pub fn kv_usage_with(&self, now: Timestamp, candidate: &Candidate) -> f64 {
        let Some(tokens) = self.kv_tokens else { return 0.0 };
        let is_fresh = self.report.is_some_and(|it| now.since(it.0) <= REPORT_AGE_MAX);
        let new = candidate.forecast.context - f64::from(candidate.cached.0);
        let usage = (self.estimate.context() + new.max(0.0)) / tokens;
        if is_fresh { self.overrun.factor() * usage } else { 0.0 }
    }

    /// Learns what its engine says of its load: whatever exceeds what was placed here, and what others told
    /// of, is the work of others who do not tell.
    pub(super) fn report(&mut self, now: Timestamp, report: LoadReport) {
        let requests = report.running.saturating_add(report.waiting);
        let foreign = requests.saturating_sub(self.known());
        self.foreign = Some((now, foreign));
        self.report = Some((now, report));
        self.learn_preemptions(&report);
        let lacks_a_seat = 0 < report.waiting
            && !self.gave_way
            && report.kv_usage < KV_AMPLE
            && self.estimate.duty(now) < DUTY_LITTLE;
        if lacks_a_seat {
            // An engine that stands still has everybody wait, however many run.
            self.seats.were_taken(now, self.estimate.moved(), report.running);
        } else {
            self.seats.ran(report.running);
        }
        self.learn_kv(&report);
    }

    /// Learns how many requests lost their memory, where that is told. Who waits now does so for what just happened, not
    /// for what is told of requests that are over.
    fn learn_preemptions(&mut self, report: &LoadReport) {
        let told = report.preemptions.or(report.preemptions_of_ended);
        let counted = told.map(|it| self.overrun.count(it)).unwrap_or_default();
        self.gave_way = report.preemptions.is_some() && 0 < counted.new;
        if counted.is_anew {
            self.seats.forget();
        }
    }

    /// Learns from a first token that came `now`, of a request placed at `placed`, how many requests run at once, where
    /// the engine does not say: as many as had theirs when others waited for longer than what was computed before them
    /// explains.
    pub(crate) fn learn_seats(&mut self, now: Timestamp, placed: Timestamp, forecast: &Forecast) {
        if self.report.is_some_and(|it| now.since(it.0) <= REPORT_AGE_MAX) {
            return;
        }
        // Predictions that are too short as a rule are no reason to look for another.
        let raised = self.estimate.margins().0.value().max(1.0);
        let explained_s = raised * (forecast.ttft_s - forecast.room_s);
        let took_s = now.since(placed).as_secs_f64();
        let lacked_a_seat = UNEXPLAINED.0 * explained_s + UNEXPLAINED.1 < took_s
            && self.estimate.duty(now) < DUTY_LITTLE;
        let waiting = u32::try_from(self.estimate.waiting()).unwrap_or(u32::MAX);
        let running = self.load.in_flight.saturating_sub(waiting);
        if lacked_a_seat {
            self.seats.were_taken(now, placed, running);
        } else {
            self.seats.ran(running);
        }
    }

    /// Learns how many tokens the KV cache holds from how full it is, once that is telling.
    fn learn_kv(&mut self, report: &LoadReport) {
        let requests = report.running.saturating_add(report.waiting);
        // Those who wait hold no memory.
        let running = f64::from(report.running) / f64::from(requests.max(1));
        let context = running * self.estimate.context();
        // Who takes memory from a request has none left, whatever it has a moment later.
        let usage = if self.gave_way { 1.0 } else { f64::from(report.kv_usage) };
        let is_shared = self.foreign.is_some_and(|it| it.1 > 0);
        // Where it is thought to be fuller than it says, that tells as well.
        let thought = self.kv_tokens.map_or(0.0, |it| context / it);
        let is_telling = KV_TELLING <= usage.max(thought) && 0.0 < usage && usage <= 1.0;
        if !is_telling || context <= 0.0 || is_shared {
            return;
        }
        let tokens = context / usage;
        let before = self.kv_tokens.unwrap_or(tokens);
        self.kv_tokens = Some(before + KV_WEIGHT * (tokens - before));
    }

    /// Learns how many tokens its KV cache has room for, which counts until its reports tell how many fit into it:
    /// more where requests share their beginnings.
    pub(crate) fn cache_sized(&mut self, tokens: Tokens) {
        if self.kv_tokens.is_none() && Tokens::ZERO < tokens {
            self.kv_tokens = Some(f64::from(tokens.0));
        }
    }

    /// The longest prompt it is meant for.
    pub(crate) fn longest(&self) -> Tokens {
        self.prompt_max.unwrap_or(ANY_LENGTH)
    }

    /// Whether it takes requests, and did before any that came just now.
    pub(super) fn is_warmer(&self, now: Timestamp) -> bool {
        self.is_ready() && self.warming.is_none_or(|it| HEAD_START < it.age(now))
    }

    /// Learns that its cache is empty, as that of an engine that started anew; `is_held_back` where its share is to grow
    /// little by little.
    pub(super) fn warm(&mut self, now: Timestamp, is_held_back: bool) {
        self.is_cold = false;
        self.adapters.lost();
        self.seats.forget();
        self.warming = is_held_back.then(|| Warming::from(now));
    }

    /// The part of its share that it gets, above 0 to 1.
    pub(super) fn weight(&self, now: Timestamp, slow_start: &SlowStart) -> f64 {
        self.warming.map_or(1.0, |it| slow_start.weight(it.age(now)))
    }

    /// Whether it may take one more request, if it is not warm yet.
    pub(crate) fn may_warm(&self) -> bool {
        self.warming.is_none_or(|it| it.may_take_one())
    }

    /// Learns that a request came of which `share` is this replica's, and whether it went here.
    pub(crate) fn count_share(&mut self, share: f64, went_here: bool) {
        if let Some(warming) = &mut self.warming {
            warming.count(share, went_here);
        }
    }

    /// Whether the replica takes requests.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health == Health::Ready
    }

    pub(super) fn serves(&self, model: ModelId) -> bool {
        self.models.is_empty() || model == ModelId::ANY || self.models.contains(&model)
    }
}
