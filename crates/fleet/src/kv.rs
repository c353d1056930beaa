//! Follows what engines publish of their KV caches.
//!
//! Read in this order: `sequence` (what a message's number says), `ledger` (from an engine's names
//! of blocks to the router's), `socket` (ZeroMQ), [`follow`] (the task that puts them together).
//! Only what a decision needs reaches the dispatcher: names of blocks, a few at a time.

pub mod follow;
mod ledger;
mod sequence;
mod socket;
pub mod status;
