//! Computes what no policy can exceed, so that a result can be read as a share of its limit.

pub mod belady;
mod fenwick;
pub mod hits;
pub mod lru_curve;
pub mod on_time;
pub mod visits;

#[cfg(test)]
mod cache_tests;
