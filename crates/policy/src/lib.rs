//! Decides, for one request, whether to admit it and which replica serves it.
//!
//! Nothing here reads a clock, draws entropy or performs I/O: `now` and the seed arrive as
//! arguments. The router and the simulator therefore run the same code, and a recorded sequence of
//! events always replays to the same decisions.
//!
//! Read in this order: [`dispatcher`] (start here), [`event`], [`config`], [`fleet_view`],
//! [`estimate`], [`prefix_index`] (what was sent where) and [`held_index`] (what engines say they
//! hold), [`session`], [`strategy`], [`saturation`], [`slow_start`], [`adapters`], [`admission`] (who is let in),
//! [`wait_queue`], [`token_bucket`]; [`explanation`] says why a request went where it went, and
//! [`recording`] how a run is kept and asked again.

pub mod adapters;
pub mod admission;
mod coming;
pub mod config;
pub mod dispatcher;
pub mod estimate;
pub mod event;
pub mod explanation;
pub mod fleet_view;
pub mod held_index;
pub mod prefix_index;
pub mod recording;
pub mod saturation;
pub mod session;
mod sharers;
pub mod slow_start;
pub mod strategy;
pub mod token_bucket;
pub mod wait_queue;
