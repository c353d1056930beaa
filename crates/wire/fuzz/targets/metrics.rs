//! Any bytes as what an engine says of its load.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = wire::prometheus::read(bytes);
});
