//! What is to happen when: events by time, and among equal times in the order they were entered.

use std::{cmp::Reverse, collections::BinaryHeap};

use types::time::Timestamp;

/// Events to come.
#[derive(Debug)]
pub(crate) struct Calendar<E> {
    entries: BinaryHeap<Reverse<Entry<E>>>,
    entered: u64,
}

#[derive(Debug)]
struct Entry<E> {
    at: Timestamp,
    number: u64,
    event: E,
}

impl<E> Calendar<E> {
    pub(crate) const fn new() -> Self {
        Self { entries: BinaryHeap::new(), entered: 0 }
    }

    /// Enters `event`, to happen at `at`.
    pub(crate) fn enter(&mut self, at: Timestamp, event: E) {
        let number = self.entered;
        self.entered = number.saturating_add(1);
        self.entries.push(Reverse(Entry { at, number, event }));
    }

    /// When the next event happens.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.entries.peek().map(|it| it.0.at)
    }

    /// Takes out the next event.
    pub(crate) fn pop(&mut self) -> Option<(Timestamp, E)> {
        self.entries.pop().map(|it| (it.0.at, it.0.event))
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Events come by time, and those of one time in the order they were entered.
        #[test]
        fn the_calendar_is_a_stable_sort(times in prop::collection::vec(0..9_u64, 0..60)) {
            let mut calendar = Calendar::new();
            let at = |it: u64| Timestamp::from_elapsed(std::time::Duration::from_secs(it));
            for (number, time) in times.iter().enumerate() {
                calendar.enter(at(*time), number);
            }
            let mut sorted: Vec<_> = times.iter().map(|it| at(*it)).zip(0_usize..).collect();
            sorted.sort_by_key(|it| it.0);
            let drained: Vec<_> = std::iter::from_fn(|| calendar.pop()).collect();
            prop_assert_eq!(drained, sorted);
        }
    }
}
