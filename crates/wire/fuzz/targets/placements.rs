//! Any bytes as what another router tells of its requests.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut frames = wire::placements::Frames::default();
    for piece in bytes.chunks(37) {
        frames.push(piece);
        while let Ok(Some(_)) = frames.take() {}
    }
});
