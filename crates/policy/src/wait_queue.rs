//! Requests that wait for a replica: the most urgent first, and among equals the one that must go
//! first.
//!
//! A queue at the router is worth having only as long as waiting can end well. Each request has a
//! latest time at which it can still be sent so that its promise is kept; what has passed it leaves.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
    time::Duration,
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

/// What comes before the time in a place.
type Rank = (Reverse<Priority>, bool);

/// The place before all others.
const FIRST: Place = (Reverse(Priority::System), false, Timestamp::ZERO, RequestId(0));

/// Those that are counted one by one behind a place, at most: whoever comes goes to the end of its class or near it.
const BEHIND_MAX: usize = 512;

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
    /// How many of each line are as urgent and as much within their tenant's share.
    ranks: BTreeMap<(u64, Rank), usize>,
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

    /// Requests that wait in `line` and go before one of `priority` that must go by `latest`; where more than some hundred of
    /// its class go after it, no fewer than those.
    #[must_use]
    pub fn before(
        &self,
        line: u64,
        (priority, is_over_share): (Priority, bool),
        latest: Timestamp,
    ) -> usize {
        let (first, own) = ((Reverse(Priority::System), false), (Reverse(priority), is_over_share));
        let up_to_own = self.ranks.range((line, first)..=(line, own)).map(|it| it.1).sum::<usize>();
        let place = |latest, id| (line, (own.0, own.1, latest, RequestId(id)));
        let end = Timestamp::from_elapsed(Duration::MAX);
        let behind = self.lines.range(place(latest, u64::MAX)..=place(end, u64::MAX));
        up_to_own.saturating_sub(behind.take(BEHIND_MAX).count())
    }

    /// Whether one of `line` and `priority` that must go by `latest` would have a place where `most` may wait.
    #[must_use]
    pub fn has_place_for(
        &self,
        line: u64,
        (priority, is_over_share): (Priority, bool),
        latest: Timestamp,
        most: usize,
    ) -> bool {
        let own = (Reverse(priority), is_over_share);
        let Some(last) = self.waiting.keys().next_back().filter(|_| most <= self.waiting.len())
        else {
            return 0 < most;
        };
        let least = (last.0, last.1);
        if own != least || most == 0 {
            return 0 < most && own < least;
        }
        let others = self.ranks.iter().filter(|it| it.0.1 == own && it.0.0 != line);
        let with_it = self.ranks.get(&(line, own)).map_or(1, |it| it.saturating_add(1));
        let place = (own.0, own.1, latest, RequestId(u64::MAX));
        others.map(|it| *it.1).any(|it| with_it < it)
            || self.last_of(line, own).is_some_and(|last| place < last)
    }

    /// Adds a request. Where `most` wait already, one of those who are the least urgent, or had the most, makes way and is
    /// returned: the last of the line in which there are most of them, which may be the one that is added.
    pub fn push(&mut self, waiting: Waiting, most: usize) -> Option<Waiting> {
        let place = waiting.place();
        self.places.insert(waiting.request.id, place);
        self.latest.insert((waiting.latest, waiting.request.id));
        if waiting.request.slo.completion.is_none() {
            self.sizes.insert((size_of(waiting.work_s), place));
        }
        self.lines.insert((waiting.line, place));
        let rank = self.ranks.entry((waiting.line, (place.0, place.1))).or_default();
        *rank = rank.saturating_add(1);
        self.waiting.insert(place, waiting);
        if self.waiting.len() <= most {
            return None;
        }
        let last = self.waiting.keys().next_back()?;
        let least = (last.0, last.1);
        let of_least = self.ranks.iter().filter(|it| it.0.1 == least);
        let lasts = of_least.filter_map(|(of, count)| Some((*count, self.last_of(of.0, least)?)));
        let out = lasts.max()?.1;
        self.take(out)
    }

    /// The last of those in `line` that are as urgent, and as much within their tenant's share.
    fn last_of(&self, line: u64, (priority, is_over_share): Rank) -> Option<Place> {
        let end = Timestamp::from_elapsed(Duration::MAX);
        let of = |latest, id| (line, (priority, is_over_share, latest, RequestId(id)));
        let mut all = self.lines.range(of(Timestamp::ZERO, 0)..=of(end, u64::MAX));
        all.next_back().map(|it| it.1)
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
        let rank = (waiting.line, (place.0, place.1));
        if let Some(count) = self.ranks.get_mut(&rank) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ranks.remove(&rank);
            }
        }
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
        let of = |of| self.ranks.iter().filter(move |it| it.0.1.0.0 == of).map(|it| *it.1);
        Priority::ALL.map(|priority| of(priority).sum())
    }
}

#[cfg(test)]
mod tests {
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
            assert!(queue.push(Waiting { line: 0, ..it }, 3).is_none());
        }
        assert_eq!(order(&queue), [2, 1, 3]);
        let latest = Timestamp::from_elapsed(Duration::from_millis(40));
        let before = |is_over| queue.before(0, (Priority::Default, is_over), latest);
        assert_eq!(before(false), 1, "it waits for no one over it");
        assert_eq!(before(true), 2);
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
    fn those_of_other_lines_go_neither_before_nor_after() {
        let mut queue = WaitQueue::default();
        // Those with even numbers stand in one line, the others in another.
        (0..1_000).for_each(|id| drop(queue.push(waiting(id, Priority::Default, 10 * id), 2_000)));
        let before = |priority, ms| {
            queue.before(0, (priority, false), Timestamp::from_elapsed(Duration::from_millis(ms)))
        };
        let counts = [9_990, 5_010, 10, 0].map(|ms| before(Priority::Default, ms));
        assert_eq!(counts, [500, 251, 1, 1], "whoever must go at the same time came first");
        assert_eq!((before(Priority::Interactive, 9_990), before(Priority::Batch, 0)), (0, 500));
        assert_eq!(queue.by_priority(), [0, 1_000, 0, 0]);
    }

    #[test]
    fn of_very_many_behind_it_those_who_come_before_are_told_no_fewer_than_they_are() {
        let mut queue = WaitQueue::default();
        for id in 0..2_000 {
            queue.push(Waiting { line: 0, ..waiting(id, Priority::Default, id) }, 2_000);
        }
        let at = |ms| Timestamp::from_elapsed(Duration::from_millis(ms));
        let before = |ms| queue.before(0, (Priority::Default, false), at(ms));
        assert_eq!([before(1_999), before(1_600), before(3)], [2_000, 1_601, 1_488]);
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
            queue.has_place_for(1, (priority, false), latest, 1)
        };
        assert!(has_place(&queue, Priority::Batch, 900));
        queue.push(waiting(1, Priority::Default, 500), 1);
        assert!(!queue.has_place_for(1, (Priority::System, false), Timestamp::ZERO, 0));
        assert!(has_place(&queue, Priority::Interactive, 900), "it goes before the last");
        assert!(has_place(&queue, Priority::Default, 499));
        assert!(!has_place(&queue, Priority::Default, 501));
        let out = queue.push(waiting(2, Priority::Interactive, 900), 1).unwrap();
        assert_eq!(out.request.id, RequestId(1));
        let out = queue.push(waiting(3, Priority::Batch, 1), 1).unwrap();
        assert_eq!(out.request.id, RequestId(3));
    }

    #[test]
    fn of_those_who_are_alike_the_longest_line_makes_way() {
        let mut queue = WaitQueue::default();
        // One in one line, who has the most time of all; the others in another.
        queue.push(waiting(1, Priority::Default, 900), 4);
        (1..4).for_each(|id| drop(queue.push(waiting(2 * id, Priority::Default, 100 * id), 4)));
        let at = |ms| Timestamp::from_elapsed(Duration::from_millis(ms));
        let has_place = |line, ms| queue.has_place_for(line, (Priority::Default, false), at(ms), 4);
        assert!(has_place(1, 1_000) && has_place(2, 1_000), "of shorter lines");
        assert!(has_place(0, 250) && !has_place(0, 350), "only before others of its own");
        let out = queue.push(waiting(8, Priority::Default, 150), 4).unwrap();
        assert_eq!(out.request.id, RequestId(6), "the last of three");
        // Who is less urgent makes way first, however few these are.
        let out = queue.push(waiting(3, Priority::Batch, 1), 4).unwrap();
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
            prop_assert!(queue.sizes.is_empty() && queue.lines.is_empty() && queue.ranks.is_empty());
            out.sort();
            out.dedup();
            prop_assert_eq!(out.len(), total);
        }
    }
}
