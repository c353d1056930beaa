//! Any text as a configuration: it is refused with every mistake named, or it can be used, and written out
//! and read again it is the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use router::config::{Config, Draft};
use serde_yaml::{from_str, to_string};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(draft) = Draft::parse(text) else { return };
    match draft.checked("fuzz") {
        Err(error) => assert!(error.to_string().starts_with("configuration fuzz is invalid:\n  ")),
        Ok(config) => {
            assert!(from_str::<Config>(text).is_ok(), "what is used was read without a mistake");
            let written = to_string(&config).expect("what was read can be written");
            let again: Config = from_str(&written).expect("and read");
            assert_eq!(written, to_string(&again).expect("and written again"));
        }
    }
});
