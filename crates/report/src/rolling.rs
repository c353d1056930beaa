//! Goodput of a server that never ends: rolling windows by model, SLO class and tenant.
//!
//! Everything is counted twice, by whether a disruption window was open when the request came: what a
//! deployment did is the difference. Quality labels come late, so the last requests are remembered and
//! a label that changes a verdict changes the counts. All memory is bounded: the busiest keys have
//! counts of their own, the rest share one; of labels for requests long gone the caller is told.
//!
//! Costs are live where prices are known: what is paid by the hour for the replicas that are there, divided
//! among keys by the tokens they had computed, and what each request costs by itself.

mod counts;
mod meter;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use types::time::Timestamp;

pub use self::counts::Figures;
use self::{counts::Counts, meter::Meter};
use crate::{cost::Prices, record::RequestRecord};

/// Length of a slot.
const SLOT: Duration = Duration::from_secs(10);

/// Slots kept: ten minutes.
const SLOTS: u64 = 60;

/// Keys with counts of their own.
const KEYS_MAX: usize = 256;

/// Requests that a label can still be joined to.
const RECENT_MAX: usize = 1 << 16;

/// Disruptions remembered.
const DISRUPTIONS_MAX: usize = 64;

/// Windows that are told of.
const WINDOWS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(600)];

/// Who counts are kept of.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// Model asked for.
    pub model: String,
    /// Promise it was under; empty where there are no classes.
    pub slo_class: String,
    /// Who asked, as a keyed hash in hexadecimal; empty where nobody is told apart.
    pub tenant: String,
}

/// The same in texts of somebody else's: a request whose key is known has none of its own made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyOf<'a> {
    /// Model asked for.
    pub model: &'a str,
    /// Promise it was under.
    pub slo_class: &'a str,
    /// Who asked.
    pub tenant: &'a str,
}

impl KeyOf<'_> {
    /// What keys share that have no counts of their own.
    const OTHER: Self = Self { model: "(other)", slo_class: "", tenant: "" };

    fn to_key(self) -> Key {
        Key {
            model: self.model.to_owned(),
            slo_class: self.slo_class.to_owned(),
            tenant: self.tenant.to_owned(),
        }
    }
}

impl Key {
    fn texts(&self) -> KeyOf<'_> {
        KeyOf { model: &self.model, slo_class: &self.slo_class, tenant: &self.tenant }
    }
}

/// The counts of one key.
#[derive(Clone, Debug, Default)]
struct Ring {
    /// Slots by their number, the newest last.
    slots: VecDeque<(u64, Counts)>,
    /// Since the start: outside of disruption windows, and inside.
    all: [Counts; 2],
}

impl Ring {
    fn slot(&mut self, number: u64) -> Option<&mut Counts> {
        if self.slots.back().is_none_or(|it| it.0 < number) {
            self.slots.push_back((number, Counts::default()));
            let oldest = number.saturating_sub(SLOTS.saturating_sub(1));
            while self.slots.front().is_some_and(|it| it.0 < oldest) {
                self.slots.pop_front();
            }
        }
        self.slots.iter_mut().rev().find(|it| it.0 == number).map(|it| &mut it.1)
    }
}

/// A request that has left, while a label may still come.
#[derive(Clone, Debug)]
struct Left {
    key: Arc<Key>,
    slot: u64,
    inside: bool,
    /// Good but for the label.
    kept_promises: bool,
    accepted: Option<bool>,
    tokens: u64,
    /// What it costs more when it is not good.
    rework: f64,
}

/// The last requests that have left, in the order in which they left.
///
/// Every request comes in and few are asked for, so they lie in a row and are looked for one by one: all names are
/// half a megabyte, gone through in some tens of microseconds. A tree of them cost every request more than that
/// saved, in memory that was in no cache.
#[derive(Debug, Default)]
struct Recent {
    names: VecDeque<u64>,
    left: VecDeque<Left>,
}

impl Recent {
    fn add(&mut self, name: u64, left: Left) {
        if RECENT_MAX <= self.names.len() {
            self.names.pop_front();
            self.left.pop_front();
        }
        self.names.push_back(name);
        self.left.push_back(left);
    }

    /// Where the last request of this name is.
    fn find(&self, name: u64) -> Option<usize> {
        let (older, newer) = self.names.as_slices();
        let is_it = |it: &u64| *it == name;
        let newest = newer.iter().rposition(is_it).map(|it| it.saturating_add(older.len()));
        newest.or_else(|| older.iter().rposition(is_it))
    }
}

/// A window that a disruption opened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opened {
    /// What it was.
    pub kind: String,
    /// When, in seconds since the start.
    pub from_s: f64,
    /// When it closes or closed.
    pub until_s: f64,
}

/// Rolling goodput.
#[derive(Debug, Default)]
pub struct Rolling {
    /// In their order; shared with the requests that are remembered, of which there are many for each.
    keys: Vec<(Arc<Key>, Ring)>,
    recent: Recent,
    disruptions: VecDeque<Opened>,
    meter: Meter,
}

impl Rolling {
    /// Counts a request that came at `record.scheduled`, has left at `now`, and was judged.
    pub fn count(
        &mut self,
        now: Timestamp,
        key: KeyOf<'_>,
        record: &RequestRecord,
        prices: Option<&Prices>,
    ) {
        // What is lost with a replica was sent to it before the window opened.
        let inside = self.was_disrupted(record.scheduled, now);
        let counts = Counts::of(record, prices);
        let name = hashed(key.tenant, &record.request_id);
        let at = self.place_for(key);
        let Some((key, ring)) = self.keys.get_mut(at) else { return };
        let slot = slot_at(now);
        if let Some(it) = ring.slot(slot) {
            it.add(&counts);
        }
        if let Some(it) = ring.all.get_mut(usize::from(inside)) {
            it.add(&counts);
        }
        let left = Left {
            key: Arc::clone(key),
            slot,
            inside,
            kept_promises: record.slo.good,
            accepted: None,
            tokens: counts.output_tokens,
            rework: if counts.completed > 0 { prices.map_or(0.0, |it| it.rework) } else { 0.0 },
        };
        self.recent.add(name, left);
    }

    /// Where the counts of `key` are: its own where it has some or may have, else those that all others share.
    fn place_for(&mut self, key: KeyOf<'_>) -> usize {
        let (key, at) = match find(&self.keys, key) {
            Ok(at) => return at,
            Err(at) if self.keys.len() < KEYS_MAX => (key, at),
            Err(_) => match find(&self.keys, KeyOf::OTHER) {
                Ok(at) => return at,
                Err(at) => (KeyOf::OTHER, at),
            },
        };
        self.keys.insert(at, (Arc::new(key.to_key()), Ring::default()));
        at
    }

    /// Whether a request of `tenant` is still remembered.
    #[must_use]
    pub fn remembers(&self, tenant: &str, request_id: &str) -> bool {
        self.recent.find(hashed(tenant, request_id)).is_some()
    }

    /// Joins a label to the request of `tenant`, as [`Key::tenant`] has it, that has this name; returns
    /// whether it is still remembered. Another tenant's of the same name is another request.
    pub fn label(&mut self, tenant: &str, request_id: &str, accepted: bool) -> bool {
        let name = hashed(tenant, request_id);
        let Some(left) = self.recent.find(name).and_then(|it| self.recent.left.get_mut(it)) else {
            return false;
        };
        let was_good = left.kept_promises && left.accepted != Some(false);
        let is_good = left.kept_promises && accepted;
        let is_first = left.accepted.replace(accepted).is_none();
        let place = find(&self.keys, left.key.texts());
        let ring = place.ok().and_then(|at| self.keys.get_mut(at));
        let Some((_, ring)) = ring else { return false };
        let slot = ring.slots.iter_mut().find(|it| it.0 == left.slot).map(|it| &mut it.1);
        for counts in slot.into_iter().chain(ring.all.get_mut(usize::from(left.inside))) {
            counts.relabel(is_good, was_good, is_first, left.tokens, left.rework);
        }
        true
    }

    /// Opens a window at `now` that closes by itself after `lasts`.
    pub fn open(&mut self, now: Timestamp, kind: &str, lasts: Duration) {
        if self.disruptions.len() >= DISRUPTIONS_MAX {
            self.disruptions.pop_front();
        }
        let from_s = now.elapsed().as_secs_f64();
        let until_s = from_s + lasts.as_secs_f64();
        self.disruptions.push_back(Opened { kind: kind.to_owned(), from_s, until_s });
    }

    /// Closes the windows of `kind` that are open; returns whether any was.
    pub fn close(&mut self, now: Timestamp, kind: &str) -> bool {
        let now_s = now.elapsed().as_secs_f64();
        let open = self.disruptions.iter_mut().filter(|it| it.kind == kind && it.until_s > now_s);
        let closed = open.map(|it| it.until_s = now_s).count();
        closed > 0
    }

    fn is_disrupted(&self, at: Timestamp) -> bool {
        self.was_disrupted(at, at)
    }

    /// Whether a window was open at any time from `from` to `until`.
    fn was_disrupted(&self, from: Timestamp, until: Timestamp) -> bool {
        let (from_s, until_s) = (from.elapsed().as_secs_f64(), until.elapsed().as_secs_f64());
        self.disruptions.iter().any(|it| from_s < it.until_s && it.from_s <= until_s)
    }

    /// Learns that so many replicas are paid for from `now` on.
    pub fn paid(&mut self, now: Timestamp, replicas: u32) {
        let inside = self.is_disrupted(now);
        self.meter.read(now, replicas, inside);
    }

    /// What there is to tell at `now`.
    #[must_use]
    pub fn view(&self, now: Timestamp, prices: Option<&Prices>) -> View {
        let all = self.sum(|_| true);
        let figures = |ring: &Ring| self.of(ring, &all, now, prices);
        let keys =
            self.keys.iter().map(|(key, ring)| KeyView { key: Key::clone(key), of: figures(ring) });
        View {
            now_s: now.elapsed().as_secs_f64(),
            is_disrupted: self.is_disrupted(now),
            disruptions: self.disruptions.iter().cloned().collect(),
            currency: prices.map(|it| it.currency.clone()),
            all: figures(&all),
            keys: keys.collect(),
        }
    }

    /// The last ten minutes of each SLO class.
    #[must_use]
    pub fn classes(&self, now: Timestamp, prices: Option<&Prices>) -> Vec<(String, Figures)> {
        let all = self.sum(|_| true);
        let names: BTreeSet<&str> = self.keys.iter().map(|it| it.0.slo_class.as_str()).collect();
        let figures = |name: &str| {
            let of = self.of(&self.sum(|it| it.slo_class == name), &all, now, prices);
            Some((name.to_owned(), of.windows.last()?.figures))
        };
        names.into_iter().filter_map(figures).collect()
    }

    /// The counts of every key that `is_wanted`, together.
    fn sum(&self, is_wanted: impl Fn(&Key) -> bool) -> Ring {
        let mut slots: BTreeMap<u64, Counts> = BTreeMap::new();
        let mut sum = Ring::default();
        for (_, ring) in self.keys.iter().filter(|it| is_wanted(&it.0)) {
            for (number, counts) in &ring.slots {
                slots.entry(*number).or_default().add(counts);
            }
            sum.all.iter_mut().zip(&ring.all).for_each(|(all, own)| all.add(own));
        }
        sum.slots = slots.into_iter().collect();
        sum
    }

    /// The figures of `ring`, a part of `all`.
    fn of(&self, ring: &Ring, all: &Ring, now: Timestamp, prices: Option<&Prices>) -> Of {
        let since_start = |inside: usize| {
            let (own, whole) = (ring.all.get(inside), all.all.get(inside));
            let paid = self.meter.since_start(inside);
            let bill =
                prices.zip(whole).map(|(prices, whole)| paid.price(prices) * own_share(own, whole));
            Figures::of(&own.copied().unwrap_or_default(), None, bill)
        };
        let window = |length: Duration| {
            let (counts, covered_s, oldest) = last(ring, now, length);
            let (whole, ..) = last(all, now, length);
            let paid = self.meter.since(oldest);
            let bill = prices.map(|prices| paid.price(prices) * own_share(Some(&counts), &whole));
            let figures = Figures::of(&counts, Some(covered_s), bill);
            WindowView { length_s: length.as_secs(), figures }
        };
        Of {
            windows: WINDOWS.map(window).to_vec(),
            undisturbed: since_start(0),
            disrupted: since_start(1),
        }
    }
}

fn own_share(own: Option<&Counts>, whole: &Counts) -> f64 {
    own.map_or(0.0, |it| it.share_of(whole))
}

/// The counts of the last slots of `ring`, the seconds that they cover, and the oldest slot among them.
fn last(ring: &Ring, now: Timestamp, length: Duration) -> (Counts, f64, u64) {
    let slots = length.as_secs().checked_div(SLOT.as_secs()).unwrap_or(1);
    let newest = slot_at(now);
    let oldest = newest.saturating_sub(slots.saturating_sub(1));
    let mut counts = Counts::default();
    ring.slots.iter().filter(|it| it.0 >= oldest).for_each(|it| counts.add(&it.1));
    // The newest slot is still being filled, and a young server has no more to look back on.
    let since = Timestamp::from_elapsed(SLOT.saturating_mul(u32::try_from(oldest).unwrap_or(0)));
    (counts, now.since(since).as_secs_f64().max(1.0), oldest)
}

fn slot_at(now: Timestamp) -> u64 {
    now.elapsed().as_secs().checked_div(SLOT.as_secs()).unwrap_or_default()
}

/// Where `key` is among `keys`, or belongs.
fn find(keys: &[(Arc<Key>, Ring)], key: KeyOf<'_>) -> Result<usize, usize> {
    keys.binary_search_by(|it| it.0.texts().cmp(&key))
}

fn hashed(tenant: &str, request_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tenant, request_id).hash(&mut hasher);
    hasher.finish()
}

/// What there is to tell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// Seconds since the start.
    pub now_s: f64,
    /// Whether a disruption window is open.
    pub is_disrupted: bool,
    /// The last disruptions.
    pub disruptions: Vec<Opened>,
    /// The currency of all costs; absent without prices.
    pub currency: Option<String>,
    /// Everything together.
    pub all: Of,
    /// Each model, SLO class and tenant.
    pub keys: Vec<KeyView>,
}

/// One model, SLO class and tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
    /// Its figures.
    #[serde(flatten)]
    pub of: Of,
}

/// The figures of some requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Of {
    /// The last minute, and the last ten.
    pub windows: Vec<WindowView>,
    /// Since the start, outside of disruption windows.
    pub undisturbed: Figures,
    /// Inside of them.
    pub disrupted: Figures,
}

/// A rolling window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WindowView {
    /// Its length, in seconds.
    pub length_s: u64,
    /// What it holds.
    #[serde(flatten)]
    pub figures: Figures,
}

#[cfg(test)]
mod tests;
