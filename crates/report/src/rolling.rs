//! Goodput of a server that never ends: rolling windows by model, SLO class and tenant.
//!
//! Everything is counted twice, by whether a disruption window was open when the request came: what a
//! deployment did is the difference. Quality labels come late, so the last requests are remembered and
//! a label that changes a verdict changes the counts. All memory is bounded: the busiest keys have
//! counts of their own, the rest share one; of labels for requests long gone the caller is told.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use serde::Serialize;
use types::time::Timestamp;

use crate::{
    record::{Ending, RequestRecord},
    stats::ratio,
};

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

/// Counts of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    requests: u64,
    completed: u64,
    good: u64,
    rejected: u64,
    labelled: u64,
    output_tokens: u64,
    good_tokens: u64,
    first_tokens: u64,
    ttft_s: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.completed = self.completed.saturating_add(other.completed);
        self.good = self.good.saturating_add(other.good);
        self.rejected = self.rejected.saturating_add(other.rejected);
        self.labelled = self.labelled.saturating_add(other.labelled);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.good_tokens = self.good_tokens.saturating_add(other.good_tokens);
        self.first_tokens = self.first_tokens.saturating_add(other.first_tokens);
        self.ttft_s += other.ttft_s;
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.cached_tokens = self.cached_tokens.saturating_add(other.cached_tokens);
    }

    fn of(record: &RequestRecord) -> Self {
        let completed = record.ending == Ending::Completed;
        let tokens = if completed { u64::from(record.output_tokens.0) } else { 0 };
        let ttft = record.ttft();
        let cached = record.cached_tokens.filter(|_| completed);
        Self {
            requests: 1,
            completed: completed.into(),
            good: record.slo.good.into(),
            rejected: (record.ending == Ending::Rejected).into(),
            labelled: 0,
            output_tokens: tokens,
            good_tokens: if record.slo.good { tokens } else { 0 },
            first_tokens: ttft.is_some().into(),
            ttft_s: ttft.unwrap_or_default().as_secs_f64(),
            prompt_tokens: cached.map_or(0, |_| record.input_tokens.0.into()),
            cached_tokens: cached.map_or(0, |it| it.0.into()),
        }
    }

    /// A label changed a request of so many tokens to good or from it.
    fn relabel(&mut self, is_good: bool, was_good: bool, is_first: bool, tokens: u64) {
        self.labelled = self.labelled.saturating_add(is_first.into());
        if is_good && !was_good {
            self.good = self.good.saturating_add(1);
            self.good_tokens = self.good_tokens.saturating_add(tokens);
        } else if was_good && !is_good {
            self.good = self.good.saturating_sub(1);
            self.good_tokens = self.good_tokens.saturating_sub(tokens);
        }
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
    key: Key,
    slot: u64,
    inside: bool,
    /// Good but for the label.
    kept_promises: bool,
    accepted: Option<bool>,
    tokens: u64,
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
    keys: BTreeMap<Key, Ring>,
    recent: BTreeMap<u64, Left>,
    order: VecDeque<u64>,
    disruptions: VecDeque<Opened>,
}

impl Rolling {
    /// Counts a request that came at `record.scheduled`, has left at `now`, and was judged.
    pub fn count(&mut self, now: Timestamp, key: Key, record: &RequestRecord) {
        let inside = self.is_disrupted(record.scheduled);
        let counts = Counts::of(record);
        let is_known = self.keys.contains_key(&key);
        let key = if is_known || self.keys.len() < KEYS_MAX { key } else { other() };
        let slot = slot_at(now);
        let ring = self.keys.entry(key.clone()).or_default();
        if let Some(it) = ring.slot(slot) {
            it.add(&counts);
        }
        if let Some(it) = ring.all.get_mut(usize::from(inside)) {
            it.add(&counts);
        }
        let name = hashed(&record.request_id);
        let left = Left {
            key,
            slot,
            inside,
            kept_promises: record.slo.good,
            accepted: None,
            tokens: counts.output_tokens,
        };
        if self.recent.insert(name, left).is_none() {
            self.order.push_back(name);
        }
        while self.order.len() > RECENT_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.recent.remove(&oldest);
            }
        }
    }

    /// Joins a label to its request; returns whether the request is still remembered.
    pub fn label(&mut self, request_id: &str, accepted: bool) -> bool {
        let Some(left) = self.recent.get_mut(&hashed(request_id)) else { return false };
        let was_good = left.kept_promises && left.accepted != Some(false);
        let is_good = left.kept_promises && accepted;
        let is_first = left.accepted.replace(accepted).is_none();
        let Some(ring) = self.keys.get_mut(&left.key) else { return false };
        let slot = ring.slots.iter_mut().find(|it| it.0 == left.slot).map(|it| &mut it.1);
        for counts in slot.into_iter().chain(ring.all.get_mut(usize::from(left.inside))) {
            counts.relabel(is_good, was_good, is_first, left.tokens);
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
        let at_s = at.elapsed().as_secs_f64();
        self.disruptions.iter().any(|it| it.from_s <= at_s && at_s < it.until_s)
    }

    /// What there is to tell at `now`.
    #[must_use]
    pub fn view(&self, now: Timestamp) -> View {
        let keys = self.keys.iter().map(|(key, ring)| KeyView {
            key: key.clone(),
            windows: WINDOWS.map(|length| window(ring, now, length)).to_vec(),
            undisturbed: Figures::of(&ring.all[0], None),
            disrupted: Figures::of(&ring.all[1], None),
        });
        View {
            now_s: now.elapsed().as_secs_f64(),
            is_disrupted: self.is_disrupted(now),
            disruptions: self.disruptions.iter().cloned().collect(),
            keys: keys.collect(),
        }
    }
}

fn window(ring: &Ring, now: Timestamp, length: Duration) -> WindowView {
    let slots = length.as_secs().checked_div(SLOT.as_secs()).unwrap_or(1);
    let newest = slot_at(now);
    let oldest = newest.saturating_sub(slots.saturating_sub(1));
    let mut counts = Counts::default();
    ring.slots.iter().filter(|it| it.0 >= oldest).for_each(|it| counts.add(&it.1));
    // The newest slot is still being filled, and a young server has no more to look back on.
    let since = Timestamp::from_elapsed(SLOT.saturating_mul(u32::try_from(oldest).unwrap_or(0)));
    let covered = now.since(since).as_secs_f64().max(1.0);
    WindowView { length_s: length.as_secs(), figures: Figures::of(&counts, Some(covered)) }
}

fn slot_at(now: Timestamp) -> u64 {
    now.elapsed().as_secs().checked_div(SLOT.as_secs()).unwrap_or_default()
}

/// What keys share that have no counts of their own.
fn other() -> Key {
    Key { model: "(other)".to_owned(), ..Key::default() }
}

fn hashed(request_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    request_id.hash(&mut hasher);
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
    /// Each model, SLO class and tenant.
    pub keys: Vec<KeyView>,
}

/// One model, SLO class and tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    /// Which.
    #[serde(flatten)]
    pub key: Key,
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

/// Figures of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that have left.
    pub requests: u64,
    /// Whole answers.
    pub completed: u64,
    /// Good ones.
    pub good: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Requests that somebody judged.
    pub labelled: u64,
    /// Good requests over all.
    pub good_request_fraction: Option<f64>,
    /// Good requests per second; absent where no window bounds them.
    pub request_goodput: Option<f64>,
    /// Output tokens of good requests per second.
    pub output_token_goodput: Option<f64>,
    /// Mean time to first token, from the request's head.
    pub ttft_ms_mean: Option<f64>,
    /// Cached over all prompt tokens.
    pub cache_hit_rate: Option<f64>,
}

impl Figures {
    fn of(it: &Counts, seconds: Option<f64>) -> Self {
        let per_s = |amount: u64| ratio(amount as f64, seconds?);
        let share = |part: u64, whole: u64| ratio(part as f64, whole as f64);
        Self {
            requests: it.requests,
            completed: it.completed,
            good: it.good,
            rejected: it.rejected,
            labelled: it.labelled,
            good_request_fraction: share(it.good, it.requests),
            request_goodput: per_s(it.good),
            output_token_goodput: per_s(it.good_tokens),
            ttft_ms_mean: ratio(it.ttft_s * 1_000.0, it.first_tokens as f64),
            cache_hit_rate: share(it.cached_tokens, it.prompt_tokens),
        }
    }
}

#[cfg(test)]
mod tests;
