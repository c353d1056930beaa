//! Turns request records into latency, SLO, goodput and cost figures, tables and pages.
//!
//! A driver, real or simulated, writes one [`RequestRecord`] a request; everything else follows from
//! the records. Read in this order: [`record`], [`goodput`] (what counts as good), [`summary`] (the
//! figures of a run), [`regret`] (what its decisions
//! turned out to cost), [`mod@limits`] (what no policy can exceed), [`paired`] (policies compared),
//! [`table`] and [`csv`].

pub mod classes;
pub mod cost;
pub mod csv;
pub mod disruption;
pub mod frontier;
pub mod gate;
pub mod goodput;
pub mod histogram;
pub mod html;
pub mod interval;
pub mod judged;
pub mod knee;
pub mod limits;
mod millis;
pub mod paired;
pub mod peers;
pub mod plan;
pub mod record;
pub mod regret;
pub mod rolling;
mod session;
pub mod slo;
pub mod stats;
pub mod summary;
pub mod table;
pub mod windows;

pub use goodput::Terms;
pub use histogram::Histogram;
pub use limits::Limits;
pub use millis::SloMillis;
pub use record::{Ending, RequestRecord};
pub use stats::Stats;
pub use summary::{Caveats, Run, RunInfo, Summary};
