//! Any text as a trace of any format: it is read or refused with a line to look at, and what is read can
//! be replayed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use workload::trace::{Format, Recorded, Trace};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, text)) = bytes.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut trace = Trace::new("fuzz".to_owned());
    // Ten formats, each also with lines skipped, and none, which has it told by the text.
    trace.format = Format::ALL.get(usize::from(first % 16)).copied();
    trace.skip_bad_lines = first & 0x80 != 0;
    match Recorded::read(&trace, text) {
        Ok(recorded) => {
            let mut last = 0.0;
            for row in &recorded.rows {
                assert!(row.at_s.is_finite() && 0.0 <= row.at_s, "{}", row.at_s);
                assert!(row.follows || last <= row.at_s, "{last} comes before {}", row.at_s);
                if !row.follows {
                    last = row.at_s;
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
