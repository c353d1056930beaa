//! What is known of those who ask the same replicas.
//!
//! A model that is full says nothing of another on other replicas: neither how fast those who wait for it go, nor when
//! there is room for who is turned away. Nor does anybody give way to those who ask other replicas, whatever their class
//! and however little their tenants had.

use std::time::Duration;

use lru::LruCache;
use rustc_hash::FxBuildHasher;
use types::{
    request::{Priority, TenantId},
    time::Timestamp,
};

use super::{
    RATE_TIME,
    room::{Room, Watched},
    shares::Tenants,
};
use crate::estimate::decay::Decayed;

/// Lines that are remembered; the one that was asked least recently gives way.
const LINES_MAX: usize = 256;

/// Tenants that are remembered, in all lines together, one that asks in several as often. Where there are more, the one
/// that was seen least recently in the line that has most gives way.
const TENANTS_MAX: usize = 8_192;

/// How long a class counts as there after its last request.
const CLASS_AGE_MAX: Duration = Duration::from_secs(30);

/// What is known of each line.
#[derive(Debug)]
pub(super) struct Lines(LruCache<u64, Line, FxBuildHasher>);

#[derive(Debug, Default)]
struct Line {
    /// Requests that were placed of late, once one was.
    placed: Option<Decayed>,
    /// Of those who wait for an answer, and of work for later.
    rooms: [Room; 2],
    /// When each class last came.
    seen: [Option<Timestamp>; Priority::ALL.len()],
    tenants: Tenants,
}

impl Default for Lines {
    fn default() -> Self {
        Self(LruCache::unbounded_with_hasher(FxBuildHasher))
    }
}

impl Lines {
    fn line(&mut self, line: u64) -> &mut Line {
        if LINES_MAX <= self.0.len() && !self.0.contains(&line) {
            self.0.pop_lru();
        }
        self.0.get_or_insert_mut(line, Line::default)
    }

    /// The line, with a place for `tenant`.
    fn line_for(&mut self, line: u64, tenant: TenantId) -> &mut Line {
        let is_known = self.0.peek(&line).is_some_and(|it| it.tenants.knows(tenant));
        if !is_known && TENANTS_MAX <= self.0.iter().map(|it| it.1.tenants.len()).sum() {
            let largest = self.0.iter_mut().max_by_key(|it| it.1.tenants.len());
            if let Some((_, it)) = largest {
                it.tenants.forget_one();
            }
        }
        self.line(line)
    }

    /// Notes that `tenant` asked for something of `class` in `line`, whether or not it is let in.
    pub(super) fn came(&mut self, now: Timestamp, line: u64, tenant: TenantId, class: Priority) {
        let it = self.line_for(line, tenant);
        it.tenants.asked(now, tenant, class);
        if let Some(seen) = it.seen.get_mut(class as usize) {
            *seen = Some(now);
        }
    }

    /// Counts `work_s` seconds that were given in `line` to a tenant for something of a class.
    pub(super) fn gave(
        &mut self,
        now: Timestamp,
        line: u64,
        (tenant, class): (TenantId, Priority),
        work_s: f64,
    ) {
        self.line_for(line, tenant).tenants.gave(now, tenant, class, work_s);
    }

    /// Whether `tenant` had clearly more than its share beside those who ask in `line`.
    pub(super) fn is_over(
        &mut self,
        now: Timestamp,
        line: u64,
        tenant: TenantId,
        class: Priority,
    ) -> bool {
        self.0.peek_mut(&line).is_some_and(|it| it.tenants.is_over(now, tenant, class))
    }

    /// Whether requests of `class` came in `line` of late.
    pub(super) fn is_there(&self, now: Timestamp, line: u64, class: Priority) -> bool {
        let seen = self.0.peek(&line).and_then(|it| it.seen.get(class as usize).copied().flatten());
        seen.is_some_and(|it| now.since(it) <= CLASS_AGE_MAX)
    }

    /// Notes that a request of `line` was placed, beside `all` that were placed of late. One of which none was before
    /// may have begun because replicas came or went: it is taken to have had as many of these as each line in which
    /// somebody asked of late, all where there is no other.
    pub(super) fn placed(&mut self, now: Timestamp, line: u64, all: Decayed) {
        if self.0.peek(&line).is_none_or(|it| it.placed.is_none()) {
            let asked = |it: &Line| it.seen.iter().flatten().any(|at| now.since(*at) <= RATE_TIME);
            let others = self.0.iter().filter(|it| *it.0 != line && asked(it.1)).count();
            self.line(line).placed = Some(all.part(1.0 / (1.0 + others as f64)));
        }
        if let Some(placed) = &mut self.line(line).placed {
            placed.add(now, 1.0);
        }
    }

    /// Requests of `line` placed in a second, of late; nothing of one of which none was.
    pub(super) fn rate_per_s(&self, now: Timestamp, line: u64) -> f64 {
        let placed = self.0.peek(&line).and_then(|it| it.placed);
        placed.map_or(0.0, |it| it.rate(now))
    }

    /// What is known of room for those of `line`, or for their work for later.
    pub(super) fn room(&mut self, line: u64, is_for_later: bool) -> &mut Room {
        let [urgent, later] = &mut self.line(line).rooms;
        if is_for_later { later } else { urgent }
    }

    /// The one of all who are watched that was looked at longest ago, if that is long enough ago.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Watched> {
        let rooms = self.0.iter_mut().flat_map(|it| &mut it.1.rooms);
        rooms.filter(|it| it.looked().is_some()).min_by_key(|it| it.looked())?.due(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_elapsed(Duration::from_millis(ms))
    }

    #[test]
    fn each_line_has_its_own_rate_and_a_new_one_begins_with_a_part_of_that_of_all() {
        let (mut lines, mut all) = (Lines::default(), Decayed::new(RATE_TIME));
        let mut place = |lines: &mut Lines, ms, line| {
            lines.came(at(ms), line, TenantId(0), Priority::Default);
            lines.placed(at(ms), line, all);
            all.add(at(ms), 1.0);
        };
        (0..6_000).for_each(|step| place(&mut lines, 10 * step, 1));
        place(&mut lines, 60_000, 2);
        let rates = |lines: &Lines, ms| [1, 2, 3].map(|it| lines.rate_per_s(at(ms), it));
        let [first, second, none] = rates(&lines, 60_000);
        assert!((95.0..105.0).contains(&first) && (45.0..55.0).contains(&second), "{second}");
        assert!(none <= 0.0);
        (6_000..9_000).for_each(|step| place(&mut lines, 10 * step, 1));
        let [first, second, _] = rates(&lines, 90_000);
        assert!(95.0 < first && second < 3.0, "{first}, {second}");
        // Nobody asks in the others any more.
        place(&mut lines, 96_000, 4);
        let rate = lines.rate_per_s(at(96_000), 4);
        assert!((all.rate(at(96_000)) - rate).abs() < 1e-9, "{rate}");
    }

    #[test]
    fn where_lines_take_turns_none_is_taken_to_have_had_what_all_had() {
        let (mut lines, mut all) = (Lines::default(), Decayed::new(RATE_TIME));
        for step in 0..12_000 {
            let line = step % 200;
            lines.came(at(5 * step), line, TenantId(0), Priority::Default);
            lines.placed(at(5 * step), line, all);
            all.add(at(5 * step), 1.0);
        }
        let rates = (0..200).map(|it| lines.rate_per_s(at(60_000), it));
        assert!(
            rates.clone().all(|it| (0.7..1.5).contains(&it)),
            "{:?}",
            rates.collect::<Vec<_>>()
        );
    }

    #[test]
    fn lines_that_nobody_asks_any_more_are_forgotten() {
        let mut lines = Lines::default();
        (0..1_000).for_each(|line| lines.placed(at(line), line, Decayed::new(RATE_TIME)));
        assert_eq!(lines.0.len(), LINES_MAX);
        assert!(0.0 < lines.rate_per_s(at(1_000), 999));
    }

    #[test]
    fn however_many_tenants_come_those_of_a_line_with_few_are_remembered() {
        let (mut lines, class) = (Lines::default(), Priority::Default);
        for tenant in 1..=2 {
            lines.came(at(0), 1, TenantId(tenant), class);
            lines.gave(at(0), 1, (TenantId(tenant), class), 0.1);
        }
        lines.gave(at(0), 1, (TenantId(1), class), 10.0);
        for tenant in 0..20_000 {
            lines.came(at(1), 2 + tenant % 2, TenantId(tenant), class);
        }
        let known: usize = lines.0.iter().map(|it| it.1.tenants.len()).sum();
        assert_eq!(known, TENANTS_MAX);
        assert!(lines.is_over(at(1), 1, TenantId(1), class));
    }
}
