//! What the dispatcher believes of each replica: health, models, load.
//!
//! Load has two parts. What this dispatcher placed is counted exactly and at once: it is reserved
//! at the pick, so that simultaneous requests never choose from one stale snapshot. What others
//! placed is read from the engine's own reports.

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
    estimate::{Asked, EstimateConfig, Evictions, Forecast, ReplicaEstimate, replica::Sharing},
    prefix_index::Slot,
    slow_start::{HEAD_START, KNOWS_NOBODY, SlowStart, Warming},
    strategy::Candidate,
};

/// Age at which a load report no longer counts; several scrapes must have failed by then.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);

/// Share of a KV cache in use from which one more request would have to wait, or make others compute
/// anew.
const KV_USAGE_MAX: f32 = 0.97;

/// Share of a KV cache in use from which its size is told by what is there.
const KV_TELLING: f64 = 0.3;

/// Part by which a reading moves what is known of that size.
const KV_WEIGHT: f64 = 0.2;

/// Longer than any prompt.
const ANY_LENGTH: Tokens = Tokens(u32::MAX);

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
    /// Tokens that its KV cache holds, as far as its reports tell.
    kv_tokens: Option<f64>,
    /// Requests that others placed here, when that was seen.
    foreign: Option<(Timestamp, u32)>,
    /// What its engine last said of its load, and when.
    report: Option<(Timestamp, LoadReport)>,
    /// Whether its cache is empty, or was lost since it last took requests.
    is_cold: bool,
    /// Since when it takes requests, having come cold.
    warming: Option<Warming>,
}

impl Replica {
    /// Requests on the replica at `now`: those placed here and those that others placed.
    #[must_use]
    pub fn requests(&self, now: Timestamp) -> u32 {
        let foreign = match self.foreign {
            Some((seen, requests)) if now.since(seen) <= REPORT_AGE_MAX => requests,
            Some(_) | None => 0,
        };
        self.load.in_flight.saturating_add(foreign)
    }

    /// The requests on it at `now`, and whose they are.
    #[must_use]
    pub fn sharing(&self, now: Timestamp) -> Sharing {
        Sharing { own: self.load.in_flight, all: self.requests(now) }
    }

    /// Whether one more request has a seat in its batch beside those that `sharing` counts at `now`, and
    /// finds memory there, as far as is known.
    #[must_use]
    pub fn has_room(&self, now: Timestamp, sharing: Sharing) -> bool {
        let is_full = self.report.is_some_and(|it| lacks_memory(now, it));
        sharing.all < self.estimate.sequences_max() && !is_full
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
        forecast.ttft_s += self.room_wait_s(now, asked.output * forecast.tpot_s, sharing.all);
        forecast
    }

    /// Seconds until one more request than the `requests` here finds a seat and memory, as far as is
    /// known, where an answer takes `answer_s`: as long as those before it take to be replaced one by one.
    fn room_wait_s(&self, now: Timestamp, answer_s: f64, requests: u32) -> f64 {
        let seats = self.estimate.sequences_max();
        let for_seats = requests.saturating_add(1).saturating_sub(seats);
        let for_memory = match self.report {
            Some(it) if lacks_memory(now, it) => it.1.waiting.saturating_add(1),
            Some(_) | None => 0,
        };
        let before = for_seats.max(for_memory);
        if before == 0 {
            return 0.0;
        }
        f64::from(before) * answer_s / f64::from(requests.min(seats).max(1))
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

    /// Share of its KV cache in use if the candidate's request were added; nothing where the replica
    /// does not say how full it is.
    #[must_use]
    pub fn kv_usage_with(&self, now: Timestamp, candidate: &Candidate) -> f64 {
        let Some(tokens) = self.kv_tokens else { return 0.0 };
        let is_fresh = self.report.is_some_and(|it| now.since(it.0) <= REPORT_AGE_MAX);
        let new = candidate.forecast.context - f64::from(candidate.cached.0);
        if is_fresh { (self.estimate.context() + new.max(0.0)) / tokens } else { 0.0 }
    }

    /// Learns how many tokens the KV cache holds from how full it is, once that is telling.
    fn learn_kv(&mut self, usage: f32) {
        let (usage, context) = (f64::from(usage), self.estimate.context());
        let is_shared = self.foreign.is_some_and(|it| it.1 > 0);
        if !(KV_TELLING..=1.0).contains(&usage) || context <= 0.0 || is_shared {
            return;
        }
        let tokens = context / usage;
        let before = self.kv_tokens.unwrap_or(tokens);
        self.kv_tokens = Some(before + KV_WEIGHT * (tokens - before));
    }

    /// The longest prompt it is meant for.
    fn longest(&self) -> Tokens {
        self.prompt_max.unwrap_or(ANY_LENGTH)
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

    fn serves(&self, model: ModelId) -> bool {
        self.models.is_empty() || self.models.contains(&model)
    }
}

/// Whether requests wait for memory, by a report that is not too old.
fn lacks_memory(now: Timestamp, (seen, report): (Timestamp, LoadReport)) -> bool {
    let waits_for_memory = report.waiting > 0 && KV_USAGE_MAX <= report.kv_usage;
    waits_for_memory && now.since(seen) <= REPORT_AGE_MAX
}

/// Every replica of the fleet, by number.
#[derive(Debug, Default)]
pub struct FleetView {
    replicas: Vec<Replica>,
    estimate: EstimateConfig,
    /// When a replica last came that was colder than others.
    warmed: Option<Timestamp>,
    /// Whether some replica is meant for short prompts.
    is_pooled: bool,
    /// Whether some replica lists adapters.
    has_adapters: bool,
}

impl FleetView {
    /// A fleet of nobody, whose replicas are estimated from `estimate`.
    #[must_use]
    pub const fn new(estimate: EstimateConfig) -> Self {
        Self { replicas: Vec::new(), estimate, warmed: None, is_pooled: false, has_adapters: false }
    }

    /// Adds a replica that is not ready yet; one that is already known stays as it is.
    pub fn join(&mut self, id: ReplicaId, slot: Slot) {
        let Err(at) = self.position(id) else { return };
        let mut estimate = ReplicaEstimate::new(&self.estimate);
        if !self.estimate.frozen {
            let (prefill, decode) = self.mean_scales();
            estimate.start_like(prefill, decode);
        }
        let replica = Replica {
            id,
            slot,
            health: Health::Starting,
            models: Box::default(),
            prompt_max: None,
            adapters: Adapters::default(),
            load: Load::default(),
            estimate,
            evictions: Evictions::default(),
            promises: Promises::default(),
            limit: Limit::default(),
            accuracy: Accuracy::default(),
            peer_limit: PeerLimit::default(),
            kv_tokens: None,
            foreign: None,
            report: None,
            is_cold: true,
            warming: None,
        };
        self.replicas.insert(at, replica);
    }

    /// Mean scales of the replicas whose own were observed; those of the form where none was.
    fn mean_scales(&self) -> (f64, f64) {
        let mean = |scales: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = scales.fold((0.0, 0.0), |(sum, count), it| (sum + it, count + 1.0));
            if count > 0.0 { sum / count } else { 1.0 }
        };
        let scales = || self.replicas.iter().map(|it| it.estimate.scales());
        (mean(&mut scales().filter_map(|it| it.0)), mean(&mut scales().filter_map(|it| it.1)))
    }

    fn position(&self, id: ReplicaId) -> Result<usize, usize> {
        self.replicas.binary_search_by_key(&id, |it| it.id)
    }

    /// Removes a replica and returns what was known of it.
    pub fn leave(&mut self, id: ReplicaId) -> Option<Replica> {
        let position = self.position(id).ok()?;
        Some(self.replicas.remove(position))
    }

    /// What is known of replica `id`.
    #[must_use]
    pub fn get(&self, id: ReplicaId) -> Option<&Replica> {
        self.replicas.get(self.position(id).ok()?)
    }

    /// What is known of replica `id`, to change it.
    pub fn get_mut(&mut self, id: ReplicaId) -> Option<&mut Replica> {
        let position = self.position(id).ok()?;
        self.replicas.get_mut(position)
    }

    /// Learns how replica `id` is. One that comes, or comes back, is cold.
    pub fn health_changed(&mut self, now: Timestamp, id: ReplicaId, health: Health) {
        let Some(it) = self.get_mut(id) else { return };
        let before = std::mem::replace(&mut it.health, health);
        // One that was only left alone for a while comes back as it went.
        let is_cold = it.is_cold || before == Health::Ejected;
        if is_cold && health == Health::Ready {
            self.warm(now, id);
        }
    }

    /// Learns that replica `id` lost its cache.
    pub fn cache_lost(&mut self, now: Timestamp, id: ReplicaId) {
        match self.get_mut(id) {
            Some(it) if it.is_ready() => self.warm(now, id),
            Some(it) => it.is_cold = true,
            None => {}
        }
    }

    /// Begins to give replica `id` its share little by little.
    fn warm(&mut self, now: Timestamp, id: ReplicaId) {
        let is_warmer =
            |it: &&Replica| it.is_ready() && it.warming.is_none_or(|it| HEAD_START < it.age(now));
        // Those that come together are not held back from each other.
        let knows_who_was_there = KNOWS_NOBODY <= now.elapsed();
        if knows_who_was_there
            && self.replicas.iter().filter(|it| it.id != id).any(|it| is_warmer(&it))
        {
            self.warmed = Some(now);
        }
        if let Some(it) = self.get_mut(id) {
            it.is_cold = false;
            it.adapters.lost();
            it.warming = knows_who_was_there.then(|| Warming::from(now));
        }
    }

    /// Whether some replica is not warm yet.
    #[must_use]
    pub fn is_any_warming(&self, now: Timestamp, slow_start: &SlowStart) -> bool {
        self.warmed.is_some_and(|it| now.since(it) < slow_start.window)
    }

    /// The part of its share that replica `id` gets, above 0 to 1.
    #[must_use]
    pub fn weight(&self, now: Timestamp, id: ReplicaId, slow_start: &SlowStart) -> f64 {
        let warming = self.get(id).and_then(|it| it.warming);
        warming.map_or(1.0, |it| slow_start.weight(it.age(now)))
    }

    /// Every replica, by number.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// Whether a replica serves `model`, ready or not; a fleet of nobody might serve any.
    #[must_use]
    pub fn knows(&self, model: ModelId) -> bool {
        self.replicas.is_empty() || self.replicas.iter().any(|it| it.serves(model))
    }

    /// The replicas that take requests for `model`, by number.
    pub fn ready_for(&self, model: ModelId) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |it| it.is_ready() && it.serves(model))
    }

    /// Learns the longest prompt that replica `id` is meant for.
    pub fn bound_prompts(&mut self, id: ReplicaId, prompt_max: Tokens) {
        if let Some(it) = self.get_mut(id) {
            it.prompt_max = Some(prompt_max);
            self.is_pooled = true;
        }
    }

    /// Learns which adapters replica `id` may serve.
    pub fn list_adapters(&mut self, id: ReplicaId, adapters: Box<[ModelId]>) {
        self.has_adapters |= !adapters.is_empty();
        if let Some(it) = self.get_mut(id) {
            it.adapters.list(adapters);
        }
    }

    /// Whether `model` is an adapter of some replica.
    #[must_use]
    pub fn is_adapter(&self, model: ModelId) -> bool {
        self.has_adapters && self.replicas.iter().any(|it| it.adapters.lists(model))
    }

    /// The longest prompt that any replica that serves `model` is meant for, ready or not; none where
    /// that may be any.
    #[must_use]
    pub fn prompt_max(&self, model: ModelId) -> Option<Tokens> {
        let longest =
            self.replicas.iter().filter(|it| it.serves(model)).map(Replica::longest).max();
        longest.filter(|it| *it < ANY_LENGTH)
    }

    /// The replicas that take a prompt of that length for `model`, but those `tried`, by number: of those
    /// that are ready, the pool for the shortest prompts that it fits into. Where a pool has nobody
    /// ready, the next larger one takes its prompts.
    pub fn pool_for<'a>(
        &'a self,
        model: ModelId,
        prompt: Tokens,
        tried: &'a [ReplicaId],
    ) -> impl Iterator<Item = &'a Replica> {
        let all = move || self.ready_for(model).filter(move |it| !tried.contains(&it.id));
        let bounds = || all().map(Replica::longest).filter(|it| prompt <= *it);
        let bound = if self.is_pooled { bounds().min() } else { None };
        all().filter(move |it| !self.is_pooled || Some(it.longest()) == bound)
    }

    /// Learns what replica `id` says of its load: whatever exceeds what was placed here is the
    /// work of others.
    pub fn report(&mut self, now: Timestamp, id: ReplicaId, report: LoadReport) {
        if let Some(replica) = self.get_mut(id) {
            let requests = report.running.saturating_add(report.waiting);
            let foreign = requests.saturating_sub(replica.load.in_flight);
            replica.foreign = Some((now, foreign));
            replica.report = Some((now, report));
            replica.learn_kv(report.kv_usage);
        }
    }

    /// Reserves a request with `uncached` prompt tokens on replica `id`.
    pub fn reserve(&mut self, id: ReplicaId, uncached: Tokens) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.in_flight = replica.load.in_flight.saturating_add(1);
            replica.load.queued_prefill += uncached;
        }
    }

    /// Gives back the prefill part of a reservation.
    pub fn release_prefill(&mut self, id: ReplicaId, uncached: Tokens) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.queued_prefill = replica.load.queued_prefill.saturating_sub(uncached);
        }
    }

    /// Gives back the request part of a reservation.
    pub fn release_request(&mut self, id: ReplicaId) {
        if let Some(replica) = self.get_mut(id) {
            replica.load.in_flight = replica.load.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_placed_counts_until_the_report_is_old() {
        let mut fleet = FleetView::default();
        let id = ReplicaId(3);
        fleet.join(id, Slot::default());
        fleet.reserve(id, Tokens(10));
        let report = LoadReport { running: 4, waiting: 2, kv_usage: 0.5 };
        fleet.report(Timestamp::ZERO, id, report);
        let requests = |now| fleet.get(id).unwrap().requests(now);
        assert_eq!(requests(Timestamp::ZERO), 6);
        assert_eq!(requests(Timestamp::ZERO + Duration::from_secs(11)), 1);
    }

    #[test]
    fn a_seat_or_memory_that_is_lacking_is_waited_for() {
        let mut fleet = FleetView::default();
        let id = ReplicaId(3);
        fleet.join(id, Slot::default());
        let asked = |ttft_max_s| Asked {
            prompt: Tokens(100),
            output: 100.0,
            ttft_max_s,
            ..Asked::default()
        };
        let ttft_s = |fleet: &FleetView, now| {
            let replica = fleet.get(id).unwrap();
            replica.forecast(now, &asked(None), Tokens(0), replica.sharing(now)).ttft_s
        };
        (0..255).for_each(|_| fleet.reserve(id, Tokens(0)));
        let with_a_seat = ttft_s(&fleet, Timestamp::ZERO);
        (0..25).for_each(|_| fleet.reserve(id, Tokens(0)));
        assert!(1.5 * with_a_seat < ttft_s(&fleet, Timestamp::ZERO));
        (0..25).for_each(|_| fleet.release_request(id));
        let full = LoadReport { running: 200, waiting: 55, kv_usage: 0.99 };
        fleet.report(Timestamp::ZERO, id, full);
        let without_memory = ttft_s(&fleet, Timestamp::ZERO);
        assert!(1.5 * with_a_seat < without_memory, "{with_a_seat} {without_memory}");
        let replica = fleet.get(id).unwrap();
        let sharing = replica.sharing(Timestamp::ZERO);
        let late = |most| replica.forecast(Timestamp::ZERO, &asked(most), Tokens(0), sharing);
        assert!(late(Some(with_a_seat / 2.0)).is_late);
        assert!(!late(Some(with_a_seat * 2.5)).is_late && !late(None).is_late);
    }

    #[test]
    fn a_report_that_lags_behind_takes_nothing_away() {
        let mut fleet = FleetView::default();
        let id = ReplicaId(3);
        fleet.join(id, Slot::default());
        for _ in 0..5 {
            fleet.reserve(id, Tokens(10));
        }
        fleet.report(Timestamp::ZERO, id, LoadReport::default());
        assert_eq!(fleet.get(id).unwrap().requests(Timestamp::ZERO), 5);
    }
}
