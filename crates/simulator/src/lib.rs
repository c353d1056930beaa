//! Runs policy, engines and workload in virtual time.
//!
//! Nothing here decides, serves, asks or judges by itself: [`policy::dispatcher`] decides,
//! [`engine`] serves, [`workload`] asks and [`report`] judges, each the very code that the router,
//! the emulator and the replay run. What this crate owns is time (a calendar of events), what gets
//! lost between the parts (late and lost signals, faults), and the invariants that every run must
//! keep.
//!
//! Start at [`run`] in `world`; then [`setup`] (what a run is made of), `server` (what stands behind
//! a router), [`fault`], and `content` (how prompts become blocks). A [`scenario`] is a setup as a
//! file states it; [`limits()`] says what no policy can exceed on the requests of a run.

mod bounds;
mod calendar;
mod content;
pub mod fault;
mod flight;
pub mod scenario;
mod seed;
mod server;
pub mod setup;
mod world;

pub use crate::{
    bounds::limits,
    fault::Fault,
    scenario::Scenario,
    setup::{Kind, ServiceTime, Setup, Signals},
    world::{Recording, Refusal, Violation, run},
};
