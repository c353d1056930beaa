//! The engine does what a real vLLM did, event for event.
//!
//! Each file in `captures/` is a recorded sequence of requests with everything that the recording
//! tells of the cache: the tokens that each request found, and every event in the order, and in the
//! messages, in which vLLM published it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod replay;

use replay::{Comparison, compare};

fn same(text: &str) -> Comparison {
    let found = compare(text).unwrap();
    assert!(found.differences.is_empty(), "{:#?}", found.differences);
    found
}

#[test]
fn chats_a_burst_and_evictions_go_as_on_vllm_0_32() {
    let found = same(include_str!("captures/vllm-0.32.0.json"));
    assert!(found.events > 900, "{found:?}");
}

#[test]
fn chats_and_evictions_go_as_on_vllm_0_11() {
    same(include_str!("captures/vllm-0.11.0.json"));
}

#[test]
fn preemptions_and_aborts_under_pressure_go_as_on_vllm_0_32() {
    let found = same(include_str!("captures/vllm-0.32.0-pressure.json"));
    assert!(found.preemptions > 0 && found.requests == 300, "{found:?}");
}
