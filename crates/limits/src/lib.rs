//! Computes what no policy can exceed, so that a result can be read as a share of its limit.
//!
//! Two resources limit a fleet. Its caches: [`visits`] reduces requests to what decides about hits;
//! [`hits`] has the endless cache, [`belady`] the best eviction, [`lru_curve`] the usual one at every
//! size. Its time: [`on_time`] has the most requests that anybody could serve in time, [`knee`] the
//! rate up to which all of them can be.

pub mod belady;
mod fenwick;
pub mod hits;
pub mod knee;
pub mod lru_curve;
pub mod on_time;
pub mod visits;

#[cfg(test)]
mod cache_tests;
