//! Which job to drop: a segment tree over the jobs in their order.
//!
//! A leaf holds a kept job's service time and its slack, `start − arrival`, by how much it could
//! start earlier. For every job `l` let `M_l` be the least slack of the jobs after it; the reduction
//! sought is the largest `min(p_l, M_l)`. `M_l` only grows towards the end, so one descent decides
//! at each node whether the best lies to the left or to the right.
//!
//! Once a slack is zero its job starts when it arrives: nothing before it can make the end any
//! earlier, and the reductions to its left are zero for good. Their slacks need not be kept right,
//! so removing a job shifts all that follow by the same amount.

/// No job is here: nothing to drop, and nothing in the way.
const VACANT: Node = Node { service: 0, slack: u64::MAX, earlier: 0 };

#[derive(Clone, Copy, Debug)]
struct Node {
    /// Longest service time below.
    service: u64,
    /// Least slack below, what is pending at the nodes above not yet taken off.
    slack: u64,
    /// By how much every job below is to start earlier; `slack` here has it already.
    earlier: u64,
}

/// The job to drop and by how much its absence brings the end forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) place: usize,
    pub(super) reduction: u64,
}

/// Service times and slacks of the kept jobs, by place.
#[derive(Debug)]
pub(super) struct SlackTree {
    /// A heap: the children of node `i` are `2i` and `2i + 1`, the leaves start at `leaves`.
    nodes: Vec<Node>,
    leaves: usize,
}

impl SlackTree {
    /// A tree with room for `jobs` jobs.
    pub(super) fn new(jobs: usize) -> Self {
        let leaves = jobs.max(1).next_power_of_two();
        Self { nodes: vec![VACANT; leaves.saturating_mul(2)], leaves }
    }

    fn node(&self, at: usize) -> Node {
        self.nodes.get(at).copied().unwrap_or(VACANT)
    }

    fn set(&mut self, at: usize, node: Node) {
        if let Some(slot) = self.nodes.get_mut(at) {
            *slot = node;
        }
    }

    /// Adds the job at `place`, which must come after all that were added.
    pub(super) fn insert(&mut self, place: usize, service: u64, slack: u64) {
        let leaf = self.leaves.saturating_add(place);
        let height = self.leaves.ilog2();
        (1..=height).rev().for_each(|it| self.push_down(leaf >> it));
        self.set(leaf, Node { service, slack, earlier: 0 });
        (1..=height).for_each(|it| self.pull_up(leaf >> it));
    }

    /// Takes out the job at `place` and lets all after it start earlier by `reduction`.
    pub(super) fn remove(&mut self, place: usize, reduction: u64) {
        let leaf = self.leaves.saturating_add(place);
        let height = self.leaves.ilog2();
        (1..=height).rev().for_each(|it| self.push_down(leaf >> it));
        self.set(leaf, VACANT);
        for at in (0..height).map(|it| leaf >> it).filter(|at| at % 2 == 0) {
            self.advance(at.saturating_add(1), reduction);
        }
        (1..=height).for_each(|it| self.pull_up(leaf >> it));
    }

    /// The job whose absence brings the end forward most, the last such one of equals.
    pub(super) fn largest_reduction(&self) -> Option<Cut> {
        // What lies to the right of `at`: its least slack, and its longest job.
        let (mut slack, mut service, mut from) = (u64::MAX, 0, None);
        let (mut at, mut earlier) = (1, 0_u64);
        while at < self.leaves {
            earlier = earlier.saturating_add(self.node(at).earlier);
            let (left, right) = (at.saturating_mul(2), at.saturating_mul(2).saturating_add(1));
            let there = self.node(right);
            let slack_there = slack.min(less(there.slack, earlier));
            if service.max(there.service) >= slack_there {
                at = right;
                continue;
            }
            if there.service > service {
                (service, from) = (there.service, Some(right));
            }
            slack = slack_there;
            at = left;
        }
        let here = self.node(at).service.min(slack);
        if here > service {
            return Some(Cut { place: at.checked_sub(self.leaves)?, reduction: here });
        }
        Some(Cut { place: self.longest(from?), reduction: service })
    }

    /// The place of the longest job below `at`.
    fn longest(&self, mut at: usize) -> usize {
        while at < self.leaves {
            let right = at.saturating_mul(2).saturating_add(1);
            let is_right = self.node(right).service == self.node(at).service;
            at = if is_right { right } else { at.saturating_mul(2) };
        }
        at.saturating_sub(self.leaves)
    }

    fn advance(&mut self, at: usize, by: u64) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.slack = less(node.slack, by);
            node.earlier = node.earlier.saturating_add(by);
        }
    }

    fn push_down(&mut self, at: usize) {
        let earlier = self.node(at).earlier;
        if earlier > 0 {
            self.advance(at.saturating_mul(2), earlier);
            self.advance(at.saturating_mul(2).saturating_add(1), earlier);
            if let Some(node) = self.nodes.get_mut(at) {
                node.earlier = 0;
            }
        }
    }

    fn pull_up(&mut self, at: usize) {
        let left = self.node(at.saturating_mul(2));
        let right = self.node(at.saturating_mul(2).saturating_add(1));
        let service = left.service.max(right.service);
        self.set(at, Node { service, slack: left.slack.min(right.slack), earlier: 0 });
    }
}

/// A slack that shrinks by `by`; where there is no job there is nothing to shrink.
const fn less(slack: u64, by: u64) -> u64 {
    if slack == u64::MAX { slack } else { slack.saturating_sub(by) }
}
