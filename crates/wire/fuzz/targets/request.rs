//! Any bytes as a body of any endpoint: what is read of it is the same after white space is added.

#![no_main]

use libfuzzer_sys::fuzz_target;
use types::{block::HashKey, quantity::Tokens};
use wire::openai::{Endpoint, parse};

fuzz_target!(|bytes: &[u8]| {
    let Some((first, body)) = bytes.split_first() else { return };
    let endpoint = Endpoint::ALL[usize::from(*first) % Endpoint::ALL.len()];
    let Ok(view) = parse(endpoint, body) else { return };
    let hashed = view.hash_prompt(HashKey(1), Some("tenant"), Tokens(16));
    // Four bytes a token, and images may stand for more than they take; never without bound.
    assert!(hashed.prompt.0 as usize <= body.len() * 4 + 1024 * 1024, "{}", hashed.prompt);
    assert!(hashed.blocks.len() <= hashed.prompt.0 as usize / 16 + 1);
    let spaced = [b" ", body, b"\n"].concat();
    let again = parse(endpoint, &spaced).expect("white space around a body is no mistake");
    assert_eq!(hashed, again.hash_prompt(HashKey(1), Some("tenant"), Tokens(16)));
});
