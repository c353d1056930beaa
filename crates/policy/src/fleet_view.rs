//! What the dispatcher believes of each replica: health, models, load.
//!
//! Load has two parts. What this dispatcher placed is counted exactly and at once: it is reserved
//! at the pick, so that simultaneous requests never choose from one stale snapshot. What others
//! placed is read from the engine's own reports.

mod glance;
mod lines;
mod replica;
#[cfg(test)]
mod tests;

use smallvec::SmallVec;
use types::{
    quantity::Tokens,
    replica::{Health, LoadReport, ReplicaId},
    request::ModelId,
    time::Timestamp,
};

pub(crate) use self::glance::Glance;
pub use self::replica::{Accuracy, Load, Replica};
use self::{glance::Replicas, lines::Lines, replica::ANY_LENGTH};
use crate::{
    estimate::{
        Coefficients, EstimateConfig, Forecast, ReplicaEstimate, Seats,
        fleet_speed::{FleetSpeed, Observed},
    },
    prefix_index::Slot,
    slow_start::{KNOWS_NOBODY, SlowStart},
};

/// Replicas that hear of an answer of another one, at most, and those looked at for ones that serve the same: the next
/// by number, so that it takes as long in a fleet of any size, and all hear as much.
const HEAR_MAX: usize = 7;
const LOOKED_AT_MAX: usize = 64;

/// Every replica of the fleet, by number.
#[derive(Debug, Default)]
pub struct FleetView {
    replicas: Replicas,
    estimate: EstimateConfig,
    /// How fast its replicas are, all together.
    speed: FleetSpeed,
    /// How fast they were when all last believed it.
    settled: FleetSpeed,
    /// When a replica last came that was colder than others.
    warmed: Option<Timestamp>,
    /// Whether some replica is meant for short prompts.
    is_pooled: bool,
    /// Whether some replica lists adapters.
    has_adapters: bool,
    lines: Lines,
}

impl FleetView {
    /// A fleet of nobody, whose replicas are estimated from `estimate`.
    #[must_use]
    pub fn new(estimate: EstimateConfig) -> Self {
        Self { estimate, ..Self::default() }
    }

    /// Adds a replica that is not ready yet; one that is already known stays as it is.
    pub fn join(&mut self, id: ReplicaId, slot: Slot) {
        let Err(at) = self.position(id) else { return };
        let mut estimate = ReplicaEstimate::new(&self.estimate);
        if !self.estimate.frozen {
            let (prefill, decode) = (self.speed.prefill.value(), self.speed.decode.value());
            estimate.start_like(prefill.unwrap_or(1.0), decode.unwrap_or(1.0));
        }
        let seats = Seats::new(self.estimate.coefficients.sequences_max);
        self.replicas.insert(at, Replica::new(id, slot, estimate, seats));
        self.lines.forget();
    }

    /// Lets the estimate of replica `id` learn, which from then on takes for its own only what differs
    /// from the fleet's by more than chance.
    pub(crate) fn learn(&mut self, id: ReplicaId, learn: impl FnOnce(&mut Replica)) {
        let Ok(at) = self.position(id) else { return };
        let Some(replica) = self.replicas.get_mut(at) else { return };
        let known = |it: &Replica| (it.estimate.observed(), it.estimate.believed());
        let before = known(replica);
        learn(replica);
        let after = known(replica);
        if before != after {
            self.speed.changed(before.0, after.0);
            replica.estimate.settle(&self.speed);
            self.settle_all();
        }
    }

    /// Has all replicas believe the fleet's speed anew once it has moved: who learned first, when little was
    /// known of the others, would otherwise seem faster or slower than its like until it learns again, which
    /// nobody does who is busy.
    fn settle_all(&mut self) {
        if self.speed.is_near(&self.settled) {
            return;
        }
        self.settled = self.speed;
        for at in 0..self.replicas.len() {
            if let Some(replica) = self.replicas.get_mut(at) {
                replica.estimate.settle(&self.speed);
            }
        }
    }

    /// Has replica `id` learn from an answer that ran with `took_s` a token where `tpot_max_s` was promised, and a few of
    /// those that serve the same hear of it: what one misses the others are about to, and where answers are rare each by
    /// itself would learn only once the load is over.
    pub(crate) fn learn_tpot(
        &mut self,
        now: Timestamp,
        id: ReplicaId,
        forecast: &Forecast,
        took_s: f64,
        tpot_max_s: f64,
    ) {
        let Ok(at) = self.position(id) else { return };
        let Some(own) = self.replicas.get_mut(at) else { return };
        own.estimate.learn_tpot(forecast, took_s, tpot_max_s);
        Accuracy::move_to(&mut own.accuracy.tpot, forecast.tpot_s, took_s);
        let there = |at: usize| self.replicas.get(at);
        let alike = (at + 1..self.replicas.len())
            .chain(0..at)
            .take(LOOKED_AT_MAX)
            .filter(|it| there(*it).map(|it| &it.models) == there(at).map(|it| &it.models))
            .take(HEAR_MAX);
        // The others stay untouched: what decisions read of one that was is read anew.
        let hearing: SmallVec<[usize; HEAR_MAX]> =
            alike.filter(|it| there(*it).is_some_and(|it| it.estimate.hears(now))).collect();
        for at in hearing {
            if let Some(it) = self.replicas.get_mut(at) {
                it.estimate.hear_tpot(now, forecast, took_s, tpot_max_s);
            }
        }
    }

    /// Has margins be learned anew.
    pub(crate) fn forget_margins(&mut self) {
        for at in 0..self.replicas.len() {
            if let Some(it) = self.replicas.get_mut(at) {
                it.estimate.forget_margins();
            }
        }
    }

    pub(crate) fn position(&self, id: ReplicaId) -> Result<usize, usize> {
        // Nearly always replicas are numbered as they came, and none has left.
        let likely = usize::try_from(id.0).unwrap_or(usize::MAX);
        if self.replicas.get(likely).is_some_and(|it| it.id == id) {
            return Ok(likely);
        }
        self.replicas.binary_search_by_key(&id, |it| it.id)
    }

    /// Removes a replica and returns what was known of it.
    pub fn leave(&mut self, id: ReplicaId) -> Option<Replica> {
        let position = self.position(id).ok()?;
        let replica = self.replicas.remove(position);
        self.lines.forget();
        self.speed.changed(replica.estimate.observed(), Observed::default());
        Some(replica)
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
        // Those that come together are not held back from each other.
        let knows_who_was_there = KNOWS_NOBODY <= now.elapsed();
        if knows_who_was_there
            && self.replicas.iter().filter(|it| it.id != id).any(|it| it.is_warmer(now))
        {
            self.warmed = Some(now);
        }
        if let Some(it) = self.get_mut(id) {
            it.warm(now, knows_who_was_there);
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
        self.get(id).map_or(1.0, |it| it.weight(now, slow_start))
    }

    /// Every replica, by number.
    #[must_use]
    pub fn replicas(&self) -> &[Replica] {
        &self.replicas
    }

    /// The form that its replicas' predictions have.
    pub(crate) const fn form(&self) -> &Coefficients {
        &self.estimate.coefficients
    }

    /// Seconds that a replica takes for a prompt of which nothing is cached, in the mean.
    pub(crate) fn prefill_s(&self, prompt: Tokens) -> f64 {
        self.form().prefill_s(Tokens::ZERO, prompt) * self.speed.prefill.value().unwrap_or(1.0)
    }

    /// Seconds per token of an answer that is alone on `replica`.
    pub(crate) fn step_alone_s(&self, replica: &Replica) -> f64 {
        let decode = replica.estimate.observed().decode.or_else(|| self.speed.decode.value());
        self.form().step_ms * 1e-3 * decode.unwrap_or(1.0)
    }

    /// Has what decisions read of the replicas hold at `now`.
    pub(crate) fn refresh(&mut self, now: Timestamp) {
        self.replicas.refresh(now);
    }

    /// What decisions read of every replica, by number, as of the last refresh.
    pub(crate) fn glances(&self) -> &[Glance] {
        self.replicas.glances()
    }

    /// Requests on all replicas, as of the last refresh.
    pub(crate) const fn requests(&self) -> usize {
        self.replicas.requests()
    }

    /// The place of the replica that the prefix index files under the slot of that index.
    pub(crate) fn place_of(&self, slot: usize) -> Option<usize> {
        let is_it = |it: &Glance| it.slot.index() == slot;
        // Nearly always replicas came in the order of their numbers.
        if self.glances().get(slot).is_some_and(is_it) {
            return Some(slot);
        }
        self.glances().iter().position(is_it)
    }

    /// Whether the replica at a place is one of [those](Self::pool_for) that take a request for `model`, where
    /// that can be said without a look at the others.
    pub(crate) fn takes(&self, at: usize, model: ModelId, tried: &[ReplicaId]) -> bool {
        let takes = |it: &Replica| it.is_ready() && it.serves(model) && !tried.contains(&it.id);
        !self.is_pooled && self.replicas.get(at).is_some_and(takes)
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
            self.lines.forget();
        }
    }

    /// Learns which models replica `id` serves; none means any.
    pub fn list_models(&mut self, id: ReplicaId, models: Box<[ModelId]>) {
        if let Some(it) = self.get_mut(id) {
            it.models = models;
            self.lines.forget();
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

    /// The replicas that take a prompt of that length for `model`, but those `tried`, by number, with their
    /// places: of those that are ready, the pool for the shortest prompts that it fits into. Where a pool
    /// has nobody ready, the next larger one takes its prompts. As of the last refresh.
    pub(crate) fn pool_for<'a>(
        &'a self,
        model: ModelId,
        prompt: Tokens,
        tried: &'a [ReplicaId],
    ) -> impl Iterator<Item = (usize, &'a Glance)> {
        let serves = move |at: usize, it: &Glance| {
            it.serves_any || self.replicas.get(at).is_some_and(|it| it.serves(model))
        };
        let all = move || {
            let all = self.replicas.glances().iter().enumerate();
            all.filter(move |(at, it)| it.is_ready && serves(*at, it) && !tried.contains(&it.id))
        };
        let bounds = || all().map(|it| it.1.longest).filter(|it| prompt <= *it);
        let bound = if self.is_pooled { bounds().min() } else { None };
        all().filter(move |(_, it)| !self.is_pooled || Some(it.longest) == bound)
    }

    /// A number that those have in common who ask the same replicas: [those](Self::pool_for) that take such a request
    /// when all are ready.
    pub(crate) fn line_of(&mut self, model: ModelId, prompt: Tokens) -> u64 {
        self.lines.of(&self.replicas, model, prompt)
    }

    /// Learns what replica `id` says of its load: whatever exceeds what was placed here is the
    /// work of others.
    pub fn report(&mut self, now: Timestamp, id: ReplicaId, report: LoadReport) {
        if let Some(replica) = self.get_mut(id) {
            replica.report(now, report);
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
