//! Fits an engine's profile to what a real engine was measured to do.
pub mod minimize;
pub mod physics;
pub mod requests;
pub mod requests_fit;
pub mod run;
pub mod stage;
pub mod stage_file;
pub mod stage_fit;
