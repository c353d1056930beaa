//! Any bytes as a stream: its events are the same however it is cut into chunks.

#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::sse::Scanner;

fn events<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Vec<(Option<String>, Vec<u8>)> {
    let (mut scanner, mut events) = (Scanner::new(), Vec::new());
    for chunk in chunks {
        scanner.push(chunk, |it| events.push((it.name.map(str::to_owned), it.data.to_vec())));
    }
    events
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, stream)) = bytes.split_first() else { return };
    // A long event is kept in part only, which part depends on the cut.
    if stream.len() > 32 << 10 {
        return;
    }
    let whole = events(std::iter::once(stream));
    let cut = events(stream.chunks(usize::from(*first).max(1)));
    assert_eq!(whole, cut);
});
