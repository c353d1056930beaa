//! A request on its way through a run.

use std::sync::Arc;

use policy::event::Placement;
use types::{quantity::Tokens, request::Request, time::Timestamp, work::WorkloadClass};

use crate::server::Work;

/// A request that has arrived and has not left.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) scheduled: Timestamp,
    pub(crate) session: Option<u64>,
    pub(crate) turn: u32,
    pub(crate) turns: Option<u32>,
    pub(crate) tenant: Option<u32>,
    pub(crate) slo_class: Option<Arc<str>>,
    pub(crate) workload_class: Option<WorkloadClass>,
    pub(crate) input: Tokens,
    /// Router that decides on it.
    pub(crate) router: u32,
    pub(crate) work: Work,
    pub(crate) stage: Stage,
    /// Whether its router sees its tokens come.
    pub(crate) streamed: bool,
    /// When it last came.
    pub(crate) came: Timestamp,
    /// Times it was turned away and comes again.
    pub(crate) came_again: u32,
    /// The request, for as long as it may come again.
    pub(crate) request: Option<Request>,
    /// What it is told when it is turned away.
    pub(crate) refused_with: u16,
    /// Times it was sent.
    pub(crate) attempts: u32,
    pub(crate) decided: Option<Timestamp>,
    /// What was decided last.
    pub(crate) placement: Option<Placement>,
    /// Where it was sent last.
    pub(crate) replica: Option<u32>,
    pub(crate) cached: Option<Tokens>,
    pub(crate) first_token: Option<Timestamp>,
    /// Step of its replica that brought the first token.
    pub(crate) first_step: u32,
    /// Steps that brought it nothing, each run of them as the steps before and after.
    pub(crate) pauses: Vec<(u32, u32)>,
    pub(crate) last_token: Option<Timestamp>,
    pub(crate) generated: Tokens,
}

impl Flight {
    /// How much later than predicted the first token came, counted from the decision, in milliseconds.
    pub(crate) fn ttft_error_ms(&self) -> Option<f64> {
        let came_s = self.first_token?.since(self.decided?).as_secs_f64();
        let told_s = self.placement?.ttft?.as_secs_f64();
        Some((came_s - told_s) * 1e3)
    }
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// For its router to decide.
    Undecided,
    /// For the answer of a replica, in its incarnation of that number.
    Sent { replica: u32, generation: u32 },
}
