//! Computes what no policy can exceed, so that a result can be read as a share of its limit.

pub mod on_time;
