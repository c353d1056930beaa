//! Serves the OpenAI API and proxies each request to its replica.
//!
//! Start with `completion`: the whole path of a request in one file. Along it lie `intake`,
//! `upstream` and `relay`; `passage` is what a request carries from end to end, and `reject` the
//! only table from refusals to status codes. [`serve`] owns the ports and how the router ends,
//! `doors` the connections of the data port;
//! `peers` is what the routers of one fleet tell each other; `routes`, `models`, `feedback` and `admin` what
//! is served on the ports; `body` bounds the memory that bodies take; `goodput` says what became of requests.

mod addresses;
mod admin;
mod app;
mod body;
mod client_io;
mod completion;
pub mod config;
mod discovery;
mod doors;
mod feedback;
mod goodput;
mod h2_streams;
mod head_timer;
mod intake;
mod models;
mod network;
mod passage;
mod peers;
mod ports;
mod quarantine;
mod registry;
mod reject;
mod relay;
pub mod reload;
mod reply;
mod retries;
mod routes;
pub mod serve;
pub mod telemetry;
mod tenants;
mod token_ratio;
#[cfg(feature = "tokenizer")]
mod tokenize;
#[cfg(not(feature = "tokenizer"))]
#[path = "tokenize_absent.rs"]
mod tokenize;
#[cfg(all(test, feature = "tokenizer"))]
#[path = "tokenize_absent.rs"]
#[allow(dead_code, unreachable_pub, reason = "tested here too, where it stands for nothing")]
mod tokenize_absent;
mod upstream;
mod visit;
