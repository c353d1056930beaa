//! Says which requests arrive when, from a trace or a distribution.
//!
//! A workload is a list of [`Arrival`]s: when a request is sent, what its prompt is made of and how
//! long its answer is to be. Prompts are kept as segments and become text only when they are sent,
//! so that a trace of a million requests fits in memory and equal segments render to equal text.
//!
//! Read in this order: [`arrival`], [`prompt`], [`mod@file`] (what a workload file says), then a generator:
//! [`support_chat`], [`documents`], [`independent`], [`mix`] or [`trace`]. When requests come is
//! said by [`schedule`], [`pacing`] and [`rates`].

pub mod arrival;
pub mod bundled;
pub mod documents;
pub mod file;
pub mod independent;
pub mod mix;
pub mod pacing;
pub mod prompt;
pub mod range;
pub mod rates;
pub mod schedule;
pub mod seed;
pub mod support_chat;
mod text;
pub mod trace;
mod words;
mod zipf;

pub use arrival::Arrival;
pub use file::{Planned, Workload, WorkloadError};
pub use pacing::Pacing;
pub use prompt::{Api, Given, Message, Prompt, Role, Segment};
pub use rates::{RatePoint, Rates};
pub use schedule::{Load, Schedule};
