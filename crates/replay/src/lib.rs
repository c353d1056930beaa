//! Sends a workload open-loop and records what each client saw.
//!
//! Open-loop: every request leaves at its scheduled time, whether or not earlier ones were answered,
//! as users do who know nothing of each other. A client that waits for answers slows down with the
//! fleet it measures and never sees its queues. Where conversations are closed, only their later
//! turns wait, as a user does who reads the answer before the next question.
//!
//! Read in this order: [`options`], [`run`](crate::run()) (the story), `schedule` (when requests
//! leave), `sessions` (turns that follow answers), `send` (one request), `observe` (what its answer
//! says), [`lag`] (whether the generator kept up), [`output`] (the results folder).

mod body;
mod client;
#[cfg(feature = "parquet")]
mod columns;
pub mod events;
pub mod hang_up;
pub mod lag;
pub mod models;
mod observe;
pub mod options;
pub mod output;
mod run;
mod schedule;
mod send;
mod sessions;
mod target;

pub use client::BadTrust;
pub use hang_up::{HangUpAfter, HangUps};
pub use lag::Lag;
pub use options::{Conversations, Invalid, ReplayOptions, Wake};
pub use run::{NotStarted, Recording, run};
pub use target::{BadTarget, Target};
