//! Sends a workload open-loop and records what each client saw.
//!
//! Open-loop: every request leaves at its scheduled time, whether or not earlier ones were answered,
//! as users do who know nothing of each other. A client that waits for answers slows down with the
//! fleet it measures and never sees its queues.
//!
//! Read in this order: [`options`], [`run`](crate::run()) (the story), `schedule` (when requests
//! leave), `send` (one request), `observe` (what its answer says), [`output`] (the results folder).

mod body;
pub mod models;
mod observe;
pub mod options;
pub mod output;
mod run;
mod schedule;
mod send;

pub use options::{Invalid, ReplayOptions, Target};
pub use run::{Recording, run};
