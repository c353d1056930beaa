//! What is paid by the hour, as time passes.

use std::collections::VecDeque;

use types::time::Timestamp;

use super::{SLOTS, slot_at};
use crate::cost::Prices;

/// Seconds in an hour.
const HOUR_S: f64 = 3_600.0;

/// Time that was paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Time {
    seconds: f64,
    /// The same times the replicas that were there.
    replica_seconds: f64,
}

impl Time {
    /// What it cost.
    pub(super) fn price(self, prices: &Prices) -> f64 {
        let by_replica = prices.replica_hour * self.replica_seconds;
        prices.other_hour.mul_add(self.seconds, by_replica) / HOUR_S
    }

    fn add(&mut self, other: Self) {
        self.seconds += other.seconds;
        self.replica_seconds += other.replica_seconds;
    }
}

/// Time that was paid for, by slots and since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// When it was read last, and how many replicas there were.
    read: Option<(Timestamp, u32)>,
    slots: VecDeque<(u64, Time)>,
    /// Since the start: outside of disruption windows, and inside.
    all: [Time; 2],
}

impl Meter {
    /// Adds the time since the last reading, in which there were as many replicas as then. It counts where
    /// it ends, so readings are to come more often than slots begin.
    pub(super) fn read(&mut self, now: Timestamp, replicas: u32, inside: bool) {
        let before = self.read.replace((now, replicas));
        let Some((at, replicas)) = before else { return };
        let seconds = now.since(at).as_secs_f64();
        let time = Time { seconds, replica_seconds: seconds * f64::from(replicas) };
        if let Some(all) = self.all.get_mut(usize::from(inside)) {
            all.add(time);
        }
        let number = slot_at(now);
        match self.slots.back_mut().filter(|it| it.0 >= number) {
            Some((_, slot)) => slot.add(time),
            None => self.slots.push_back((number, time)),
        }
        let oldest = number.saturating_sub(SLOTS.saturating_sub(1));
        while self.slots.front().is_some_and(|it| it.0 < oldest) {
            self.slots.pop_front();
        }
    }

    /// Time that was paid for from the slot `oldest` on.
    pub(super) fn since(&self, oldest: u64) -> Time {
        let mut sum = Time::default();
        self.slots.iter().filter(|it| it.0 >= oldest).for_each(|it| sum.add(it.1));
        sum
    }

    /// The same since the start, inside of disruption windows (1) or outside (0).
    pub(super) fn since_start(&self, inside: usize) -> Time {
        self.all.get(inside).copied().unwrap_or_default()
    }
}
