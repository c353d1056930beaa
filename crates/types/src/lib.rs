//! The field's terms as types: time, quantities, KV blocks, requests, promises, replicas.
//!
//! Every other crate speaks in these words, so that a token count is never mistaken for a block
//! count and a clock never enters a pure crate.
//!
//! Read in this order: [`time`], [`quantity`], [`block`], [`request`], [`slo`], [`replica`],
//! [`outcome`], [`work`]; [`units`] is how people write quantities in a file.

pub mod block;
pub mod outcome;
pub mod quantity;
pub mod replica;
pub mod request;
pub mod slo;
pub mod time;
pub mod units;
pub mod work;
