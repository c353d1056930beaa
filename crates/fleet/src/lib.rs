//! Keeps the dispatcher's picture of the replicas current and shares it between tasks.
//!
//! Read in this order: [`dispatch`] (the dispatcher behind its lock, and the ticket that gives a
//! request's place back), [`recorder`] (keeps what it learned and decided), [`placements`] (what other
//! routers of the fleet are told), [`replica`] (what the live layer keeps of a replica; [`origin`] is where it is), [`health`] (when a
//! replica is ejected and readmitted), [`fleet`] (the replicas together, and the tasks that probe
//! and scrape them), [`kv`] (what engines publish of their caches). [`client`],
//! [`connect`] and [`tls`] are how a replica is reached, and `pace` how fast connections are made.

pub mod client;
pub mod connect;
pub mod dispatch;
mod ejections;
pub mod fleet;
pub mod health;
mod http1;
pub mod kv;
pub mod origin;
mod pace;
pub mod placements;
mod probe;
pub mod recorder;
pub mod replica;
mod scrape;
pub mod tls;
