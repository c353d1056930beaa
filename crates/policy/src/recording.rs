//! Flight recordings: everything a dispatcher learned and decided, to be asked again.
//!
//! A recording is a [`Header`] and then one [`Entry`] for each event, in the order in which the
//! dispatcher saw them. Fed to a [`Replay`] it brings the same decisions about, so that an oddity
//! of production becomes a test; fed to one with another [`Routing`] it says what that would have
//! chosen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use types::{outcome::Outcome, replica::ReplicaId, request::RequestId, time::Timestamp};

use crate::{
    config::{DispatcherConfig, Routing},
    dispatcher::Dispatcher,
    event::{Decision, Event, Placement, Reason},
    explanation::{Book, ExplainConfig},
};

/// The format that this version writes and reads.
pub const FORMAT: u32 = 1;

/// What a recording begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`] of whoever wrote it.
    pub sluice_recording: u32,
    /// Version of whoever wrote it: another one may decide otherwise.
    pub version: String,
    /// What the dispatcher began with.
    pub config: DispatcherConfig,
}

/// One event, and what was decided on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When, in nanoseconds from the start of the run.
    pub at: Timestamp,
    /// What the dispatcher learned.
    pub event: Event,
    /// What it decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub decisions: Vec<Decision>,
}

/// Feeds a recording to a dispatcher and keeps count of what it decides.
#[derive(Debug)]
pub struct Replay {
    dispatcher: Dispatcher,
    /// In force throughout; `None` where the recording's own is.
    instead: Option<Routing>,
    decisions: Vec<Decision>,
    tally: Tally,
}

/// What was decided, in sum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Decisions of the recording.
    pub recorded: u64,
    /// Decisions made now.
    pub decided: u64,
    /// Those that send the request where the recording sent it, or turn it away as well.
    pub same: u64,
    /// Requests turned away.
    pub rejected: u64,
    /// Requests that a fallback placed.
    pub fallback: u64,
    /// Prompt tokens of placed requests.
    pub prompt: u64,
    /// Those of them that the chosen replica was believed to hold.
    pub cached: u64,
    /// Requests sent to each replica.
    pub replicas: BTreeMap<ReplicaId, u64>,
    /// The first decision that is not equal to the recorded one in every respect.
    pub first_difference: Option<Difference>,
}

/// A decision that is not as recorded; `None` where there was none at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// When.
    pub at: Timestamp,
    /// What was decided then.
    pub recorded: Option<Decision>,
    /// What is decided now.
    pub now: Option<Decision>,
}

impl Replay {
    /// Decides as the recording's own dispatcher did.
    #[must_use]
    pub fn again(header: &Header) -> Self {
        Self::new(header.config, None)
    }

    /// Decides by `routing` throughout, whatever the operator switched to.
    ///
    /// What happened to the requests stays as it was recorded: when tokens came, who failed. So the
    /// answer is which replicas would have been chosen and what they were believed to hold, not how
    /// long the requests would have taken.
    #[must_use]
    pub fn instead(header: &Header, routing: Routing) -> Self {
        Self::new(DispatcherConfig { routing, ..header.config }, Some(routing))
    }

    /// Explains what is decided on `request`, before anything is fed.
    #[must_use]
    pub fn explaining(mut self, request: RequestId) -> Self {
        self.dispatcher.explain(ExplainConfig::only(request));
        self
    }

    /// Why it was decided so.
    #[must_use]
    pub const fn explanations(&self) -> &Book {
        self.dispatcher.explanations()
    }

    fn new(config: DispatcherConfig, instead: Option<Routing>) -> Self {
        // Who asks says so.
        let config = DispatcherConfig { explain: ExplainConfig::off(), ..config };
        let dispatcher = Dispatcher::new(config);
        Self { dispatcher, instead, decisions: Vec::new(), tally: Tally::default() }
    }

    /// Applies the next entry.
    pub fn feed(&mut self, entry: &Entry) {
        if self.instead.is_some() && matches!(entry.event, Event::RoutingChanged(_)) {
            return;
        }
        self.decisions.clear();
        self.dispatcher.handle(entry.at, entry.event.clone(), &mut self.decisions);
        self.tally.count(entry, &self.decisions);
        if let Event::Arrived(request) = &entry.event
            && entry.decisions.iter().any(|it| it.verdict.is_err())
        {
            // It was turned away then, so nothing will say that it has left.
            let left = Event::Ended {
                request: request.id,
                outcome: Outcome::Cancelled,
                output: None,
                cached: None,
            };
            self.dispatcher.handle(entry.at, left, &mut self.decisions);
        }
    }

    /// What was decided so far.
    #[must_use]
    pub const fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Tally {
    fn count(&mut self, entry: &Entry, now: &[Decision]) {
        self.recorded = self.recorded.saturating_add(entry.decisions.len() as u64);
        self.decided = self.decided.saturating_add(now.len() as u64);
        for at in 0..entry.decisions.len().max(now.len()) {
            let (recorded, now) = (entry.decisions.get(at).copied(), now.get(at).copied());
            if recorded != now.map(|it| as_detailed_as(recorded.as_ref(), it))
                && self.first_difference.is_none()
            {
                self.first_difference = Some(Difference { at: entry.at, recorded, now });
            }
            if replica_of(recorded.as_ref()) == replica_of(now.as_ref()) {
                self.same = self.same.saturating_add(1);
            }
        }
        for decision in now {
            match &decision.verdict {
                Ok(placement) => {
                    let sent = self.replicas.entry(placement.replica).or_default();
                    *sent = sent.saturating_add(1);
                    let fell_back = u64::from(placement.reason == Reason::Fallback);
                    self.fallback = self.fallback.saturating_add(fell_back);
                    // A retry's prompt was counted when it arrived.
                    if let Event::Arrived(request) = &entry.event {
                        self.prompt = self.prompt.saturating_add(u64::from(request.prompt.0));
                        self.cached = self.cached.saturating_add(u64::from(placement.cached.0));
                    }
                }
                Err(_) => self.rejected = self.rejected.saturating_add(1),
            }
        }
    }

    /// Share of the placed prompt tokens that the chosen replicas were believed to hold, 0 to 1.
    #[must_use]
    pub fn expected_hit_rate(&self) -> f64 {
        share(self.cached, self.prompt)
    }

    /// Share of decisions that are as recorded, 0 to 1.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        share(self.same, self.recorded.max(self.decided))
    }

    /// Share of the requests that went to the replica with the most, 0 to 1.
    #[must_use]
    pub fn busiest(&self) -> f64 {
        let sent = self.replicas.values();
        share(sent.clone().copied().max().unwrap_or_default(), sent.sum())
    }
}

/// `decision` without what its `recorded` counterpart does not say: earlier versions said less.
fn as_detailed_as(recorded: Option<&Decision>, decision: Decision) -> Decision {
    let Some(Ok(recorded)) = recorded.map(|it| it.verdict) else { return decision };
    let verdict = decision.verdict.map(|it| Placement {
        most_cached: it.most_cached.filter(|_| recorded.most_cached.is_some()),
        ttft: it.ttft.filter(|_| recorded.ttft.is_some()),
        ..it
    });
    Decision { verdict, ..decision }
}

fn replica_of(decision: Option<&Decision>) -> Option<ReplicaId> {
    decision.and_then(|it| it.verdict.ok()).map(|it| it.replica)
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
mod tests;
