//! Serves the OpenAI API and proxies each request to its replica.
//!
//! Start with `completion`: the whole path of a request in one file. Along it lie `intake`,
//! `upstream` and `relay`; `passage` is what a request carries from end to end, and `reject` the
//! only table from refusals to status codes. [`serve`] owns the ports and how the router ends;
//! `routes`, `models` and `admin` what is served on them.

mod admin;
mod app;
mod completion;
pub mod config;
mod intake;
mod models;
mod passage;
mod reject;
mod relay;
mod routes;
pub mod serve;
pub mod telemetry;
mod token_ratio;
#[cfg(feature = "tokenizer")]
mod tokenize;
#[cfg(not(feature = "tokenizer"))]
#[path = "tokenize_absent.rs"]
mod tokenize;
mod upstream;
