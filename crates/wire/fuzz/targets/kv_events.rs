//! Any bytes as what an engine publishes of its cache.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(batch) = wire::kv_events::decode(bytes) {
        let again = wire::kv_events::encode(&batch);
        assert!(wire::kv_events::decode(&again).is_ok(), "what was read can be read again");
    }
});
