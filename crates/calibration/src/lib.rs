//! Fits an engine's profile to what a real engine was measured to do.
pub mod minimize;
pub mod requests;
pub mod run;
