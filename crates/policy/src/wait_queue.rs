//! Requests that wait for a replica: the most urgent first, and among equals the one that must go
//! first.
//!
//! A queue at the router is worth having only as long as waiting can end well. Each request has a
//! latest time at which it can still be sent so that its promise is kept; what has passed it leaves.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
};

use rustc_hash::FxHashMap;
use types::{
    request::{Priority, Request, RequestId},
    time::Timestamp,
};

use crate::admission::{Gate, shares::size_of};

/// A request that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The request.
    pub request: Request,
    /// When it came.
    pub arrived: Timestamp,
    /// When it must have been sent.
    pub latest: Timestamp,
    /// Seconds of GPU time that it is expected to take.
    pub work_s: f64,
    /// What stood in its way when it was last looked at.
    pub gate: Gate,
    /// Until that would have been worked off, seconds.
    pub after_s: f64,
    /// Whether it might have gone, and rather waits for a better replica.
    pub has_choice: bool,
    /// Whether its tenant had more than its share when it was last looked at.
    pub is_over_share: bool,
    /// The line it stands in: that of all who wait for the same replicas.
    pub line: u64,
}

impl Waiting {
    fn place(&self) -> Place {
        let Self { request, latest, is_over_share, .. } = self;
        (Reverse(request.priority), *is_over_share, *latest, request.id)
    }
}

/// Place in the queue: urgency, those within their tenant's share first, the latest time to go, and the order of
/// arrival.
pub type Place = (Reverse<Priority>, bool, Timestamp, RequestId);

/// The place before all others.
const FIRST: Place = (Reverse(Priority::System), false, Timestamp::ZERO, RequestId(0));

/// A bounded queue of requests.
#[derive(Debug, Default)]
pub struct WaitQueue {
    waiting: BTreeMap<Place, Waiting>,
    places: FxHashMap<RequestId, Place>,
    /// By when they must have gone.
    latest: BTreeSet<(Timestamp, RequestId)>,
    /// Those of each size for whom somebody waits.
    sizes: BTreeSet<(usize, Place)>,
    /// Those of each line.
    lines: BTreeSet<(u64, Place)>,
}

impl WaitQueue {
    /// Requests that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Requests that wait and go before one of `priority` that must go by `latest`.
    #[must_use]
    pub fn before(&self, priority: Priority, is_over_share: bool, latest: Timestamp) -> usize {
        let place = (Reverse(priority), is_over_share, latest, RequestId(u64::MAX));
        self.waiting.range(..place).count()
    }

    /// Whether one of `priority` that must go by `latest` would have a place where `most` may wait.
    #[must_use]
    pub fn has_place_for(
        &self,
        (priority, is_over_share): (Priority, bool),
        latest: Timestamp,
        most: usize,
    ) -> bool {
        let place = (Reverse(priority), is_over_share, latest, RequestId(u64::MAX));
        let last = self.waiting.keys().next_back();
        self.waiting.len() < most || last.is_some_and(|last| 0 < most && place < *last)
    }

    /// Adds a request. Where `most` wait already, the last in the order does not, whoever that is, and
    /// is returned.
    pub fn push(&mut self, waiting: Waiting, most: usize) -> Option<Waiting> {
        let place = waiting.place();
        self.places.insert(waiting.request.id, place);
        self.latest.insert((waiting.latest, waiting.request.id));
        if waiting.request.slo.completion.is_none() {
            self.sizes.insert((size_of(waiting.work_s), place));
        }
        self.lines.insert((waiting.line, place));
        self.waiting.insert(place, waiting);
        if self.waiting.len() <= most {
            return None;
        }
        let last = self.waiting.keys().next_back().copied()?;
        self.take(last)
    }

    /// The place after `place`, or the first.
    #[must_use]
    pub fn next(&self, place: Option<Place>) -> Option<Place> {
        let after = place.map_or(Unbounded, Excluded);
        self.waiting.range((after, Unbounded)).next().map(|it| *it.0)
    }

    /// The place after `place` of those in `line`, or their first.
    #[must_use]
    pub fn next_in(&self, line: u64, place: Option<Place>) -> Option<Place> {
        let after = place.map_or(Included((line, FIRST)), |it| Excluded((line, it)));
        let next = self.lines.range((after, Unbounded)).next();
        next.filter(|it| it.0 == line).map(|it| it.1)
    }

    /// The line after `line`, or the first after the last.
    #[must_use]
    pub fn line_after(&self, line: u64) -> Option<u64> {
        let next = line.checked_add(1).and_then(|it| self.lines.range((it, FIRST)..).next());
        next.or_else(|| self.lines.first()).map(|it| it.0)
    }

    /// The place after `place` of those who can be done later, or their first one after their last.
    #[must_use]
    pub fn next_later(&self, place: Option<Place>) -> Option<Place> {
        let first = (Reverse(Priority::Batch), false, Timestamp::ZERO, RequestId(0));
        let after = self.next(place).filter(|_| place.is_some());
        let place = after.or_else(|| self.waiting.range(first..).next().map(|it| *it.0));
        place.filter(|it| it.0.0 == Priority::Batch)
    }

    /// The first place of a request of `size` for whose answer somebody waits, and whose tenant had no more than its
    /// share.
    #[must_use]
    pub fn first_of(&self, size: usize) -> Option<Place> {
        Priority::ALL.into_iter().rev().find_map(|priority| {
            let of = |is_over| (size, (Reverse(priority), is_over, Timestamp::ZERO, RequestId(0)));
            self.sizes.range(of(false)..of(true)).next().map(|it| it.1)
        })
    }

    /// Who has `place`.
    #[must_use]
    pub fn get(&self, place: &Place) -> Option<&Waiting> {
        self.waiting.get(place)
    }

    /// Takes out who has `place`.
    pub fn take(&mut self, place: Place) -> Option<Waiting> {
        let waiting = self.waiting.remove(&place)?;
        self.places.remove(&waiting.request.id);
        self.latest.remove(&(waiting.latest, waiting.request.id));
        self.sizes.remove(&(size_of(waiting.work_s), place));
        self.lines.remove(&(waiting.line, place));
        Some(waiting)
    }

    /// Takes out a request that left, if it was here.
    pub fn remove(&mut self, id: RequestId) -> Option<Waiting> {
        let place = self.places.get(&id).copied()?;
        self.take(place)
    }

    /// Whether the request waits.
    #[must_use]
    pub fn contains(&self, id: RequestId) -> bool {
        self.places.contains_key(&id)
    }

    /// When the first of them must have gone.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.latest.first().map(|it| it.0)
    }

    /// Takes out one that can no longer be sent in time.
    pub fn expired(&mut self, now: Timestamp) -> Option<Waiting> {
        let (latest, id) = self.latest.first().copied()?;
        if now <= latest { None } else { self.remove(id) }
    }

    /// Those who wait, by urgency, the least urgent first.
    #[must_use]
    pub fn by_priority(&self) -> [usize; Priority::ALL.len()] {
        Priority::ALL.map(|of| self.waiting.values().filter(|it| it.request.priority == of).count())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*, sample::select};
    use types::{quantity::Tokens, request::ModelId};

    use super::*;

    fn waiting(id: u64, priority: Priority, latest_ms: u64) -> Waiting {
        let request = Request {
            priority,
            ..Request::new(RequestId(id), ModelId(1), Tokens(1), Vec::new().into())
        };
        let latest = Timestamp::from_elapsed(Duration::from_millis(latest_ms));
        let (gate, after_s) = (Gate::Tpot, 0.1);
        Waiting {
            request,
            arrived: Timestamp::ZERO,
            latest,
            work_s: 0.1,
            gate,
            after_s,
            has_choice: false,
            is_over_share: false,
            line: id % 2,
        }
    }

    fn order(queue: &WaitQueue) -> Vec<u64> {
        let mut place = None;
        let mut order = Vec::new();
        while let Some(next) = queue.next(place) {
            order.push(next.3.0);
            place = Some(next);
        }
        order
    }

    #[test]
    fn who_had_more_than_its_share_waits_behind_all_others_of_its_class() {
        let mut queue = WaitQueue::default();
        let over =
            |id, latest| Waiting { is_over_share: true, ..waiting(id, Priority::Default, latest) };
        for it in [over(1, 10), waiting(2, Priority::Default, 30), waiting(3, Priority::Batch, 5)] {
            assert!(queue.push(it, 3).is_none());
        }
        assert_eq!(order(&queue), [2, 1, 3]);
        let latest = Timestamp::from_elapsed(Duration::from_millis(40));
        assert_eq!(
            queue.before(Priority::Default, false, latest),
            1,
            "it waits for no one over it"
        );
        assert_eq!(queue.before(Priority::Default, true, latest), 2);
        assert_eq!(queue.first_of(size_of(0.1)), queue.next(None), "all are of one size");
        queue.remove(RequestId(2));
        let first = queue.first_of(size_of(0.1)).map(|it| it.3);
        assert_eq!(first, Some(RequestId(3)), "not who is over its share, however urgent");
        queue.remove(RequestId(3));
        assert_eq!(queue.first_of(size_of(0.1)), None);
    }

    #[test]
    fn the_urgent_go_first_and_then_who_must_go_first() {
        let mut queue = WaitQueue::default();
        for it in [
            waiting(1, Priority::Default, 500),
            waiting(2, Priority::Default, 300),
            waiting(3, Priority::Batch, 100),
            waiting(4, Priority::Interactive, 900),
        ] {
            assert!(queue.push(it, 10).is_none());
        }
        assert_eq!(order(&queue), [4, 2, 1, 3]);
        assert_eq!(queue.by_priority(), [1, 2, 1, 0]);
    }

    #[test]
    fn each_line_has_an_order_of_its_own_and_they_take_turns() {
        let mut queue = WaitQueue::default();
        assert_eq!((queue.line_after(0), queue.next_in(0, None)), (None, None));
        for (id, latest) in [(1, 100), (3, 50), (2, 200), (4, 70)] {
            queue.push(waiting(id, Priority::Default, latest), 10);
        }
        let in_line = |line| {
            let next = |place: &Place| queue.next_in(line, Some(*place));
            std::iter::successors(queue.next_in(line, None), next)
                .map(|it| it.3.0)
                .collect::<Vec<_>>()
        };
        assert_eq!((in_line(0), in_line(1)), (vec![4, 2], vec![3, 1]));
        let after = [u64::MAX, 0, 1].map(|it| queue.line_after(it));
        assert_eq!(after, [Some(0), Some(1), Some(0)]);
        queue.remove(RequestId(2));
        queue.remove(RequestId(4));
        assert_eq!(queue.line_after(1), Some(1), "nobody stands in the other");
    }

    #[test]
    fn those_who_can_be_done_later_are_looked_at_in_turn() {
        let mut queue = WaitQueue::default();
        assert_eq!(queue.next_later(None), None);
        for it in [
            waiting(1, Priority::Batch, 500),
            waiting(2, Priority::Default, 300),
            waiting(3, Priority::Batch, 100),
        ] {
            assert!(queue.push(it, 10).is_none());
        }
        let mut place = None;
        let mut looked_at = Vec::new();
        for _ in 0..3 {
            place = queue.next_later(place);
            looked_at.extend(place.map(|it| it.3.0));
        }
        assert_eq!(looked_at, [3, 1, 3]);
        queue.remove(RequestId(3));
        assert_eq!(queue.next_later(place).map(|it| it.3.0), Some(1));
        queue.remove(RequestId(1));
        assert_eq!(queue.next_later(place), None);
    }

    #[test]
    fn a_full_queue_gives_up_its_last_whoever_that_is() {
        let mut queue = WaitQueue::default();
        let has_place = |queue: &WaitQueue, priority, ms| {
            let latest = Timestamp::from_elapsed(Duration::from_millis(ms));
            queue.has_place_for((priority, false), latest, 1)
        };
        assert!(has_place(&queue, Priority::Batch, 900));
        queue.push(waiting(1, Priority::Default, 500), 1);
        assert!(has_place(&queue, Priority::Interactive, 900), "it goes before the last");
        assert!(has_place(&queue, Priority::Default, 499));
        assert!(!has_place(&queue, Priority::Default, 501));
        let out = queue.push(waiting(2, Priority::Interactive, 900), 1).unwrap();
        assert_eq!(out.request.id, RequestId(1));
        let out = queue.push(waiting(3, Priority::Batch, 1), 1).unwrap();
        assert_eq!(out.request.id, RequestId(3));
    }

    proptest! {
        /// The bound holds, nobody is lost or kept twice, and nobody stays beyond its time.
        #[test]
        fn everybody_who_came_in_comes_out_once(
            pushed in vec((select(Priority::ALL.to_vec()), 0..1_000_u64), 0..100),
            removed in vec(0..100_u64, 0..30),
            now in 0..1_200_u64,
        ) {
            let mut queue = WaitQueue::default();
            let mut out = Vec::new();
            let total = pushed.len();
            for (id, (priority, latest)) in (0..).zip(pushed) {
                out.extend(queue.push(waiting(id, priority, latest), 20).map(|it| it.request.id));
                prop_assert!(queue.len() <= 20);
            }
            out.extend(removed.iter().filter_map(|it| queue.remove(RequestId(*it))).map(|it| it.request.id));
            let now = Timestamp::from_elapsed(Duration::from_millis(now));
            while let Some(it) = queue.expired(now) {
                out.push(it.request.id);
            }
            prop_assert!(queue.expires().is_none_or(|it| now <= it));
            while let Some(place) = queue.next(None) {
                out.extend(queue.take(place).map(|it| it.request.id));
            }
            prop_assert!(queue.places.is_empty() && queue.latest.is_empty());
            prop_assert!(queue.sizes.is_empty() && queue.lines.is_empty());
            out.sort();
            out.dedup();
            prop_assert_eq!(out.len(), total);
        }
    }
}
