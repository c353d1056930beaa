//! Fits an engine's profile to what a real engine was measured to do.
//!
//! Three kinds of measurement exist, and each fit runs the measured workload through the modelled
//! engine in virtual time ([`mod@run`]) with trial after trial of coefficients ([`minimize`](mod@minimize)):
//!
//! * statistics of steady stages: [`stage_file`] reads them, [`stage`] simulates one, [`stage_fit`]
//!   fits;
//! * a recording of each request: [`requests`] reads it, [`requests_fit`] fits, and [`timeline`]
//!   compares the load second by second;
//! * a live endpoint: [`probe`] says what to ask and makes the answers a recording.
//!
//! Every fit starts from what the model and the GPU should cost by arithmetic ([`physics`]) and
//! leaves it only as far as the measurement asks. [`table`] shows the result. Start reading at
//! [`stage_fit`].

pub mod minimize;
pub mod physics;
pub mod probe;
pub mod requests;
pub mod requests_fit;
pub mod run;
pub mod stage;
pub mod stage_file;
pub mod stage_fit;
pub mod table;
pub mod timeline;
