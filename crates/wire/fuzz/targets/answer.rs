//! Any bytes as an answer, in one piece or as events: an error is never taken back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::{
    openai::Endpoint,
    sse::Scanner,
    usage::{Answer, carries_output},
};

fuzz_target!(|bytes: &[u8]| {
    for endpoint in [Endpoint::ChatCompletions, Endpoint::Messages, Endpoint::Responses] {
        let mut whole = Answer::new(endpoint);
        whole.body(bytes);
        let (mut streamed, mut had_failed) = (Answer::new(endpoint), false);
        Scanner::new().push(bytes, |event| {
            let _ = carries_output(&event);
            streamed.event(&event);
            assert!(!had_failed || streamed.has_failed(), "an error was taken back");
            had_failed = streamed.has_failed();
        });
    }
});
