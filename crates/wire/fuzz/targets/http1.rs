//! Any bytes as an answer over HTTP/1.1: however they are cut, its head, data and end are the same, and no byte of
//! what comes behind it is taken.

#![no_main]

use bytes::{Buf as _, BytesMut};
use libfuzzer_sys::fuzz_target;
use wire::http1::{BadAnswer, Framing, Head, take_head};

/// Head and data of the answer in `bytes`, which come `size` at a time, and how many are behind it.
fn read(bytes: &[u8], size: usize) -> Result<(Option<Head>, Vec<u8>, usize), BadAnswer> {
    let (mut unread, mut head, mut data) = (BytesMut::new(), None::<Head>, Vec::new());
    let mut framing = Framing::Over;
    for part in bytes.chunks(size) {
        unread.extend_from_slice(part);
        if head.is_none() {
            head = take_head(&mut unread)?;
            let Some(head) = &head else { continue };
            framing = head.framing;
        }
        while !unread.is_empty() && framing != Framing::Over {
            let piece = framing.next(&unread)?;
            assert!(0 < piece.skipped + piece.data, "nothing is read");
            unread.advance(piece.skipped);
            data.extend_from_slice(&unread.split_to(piece.data));
        }
    }
    if head.is_some() {
        assert!(unread.is_empty() || framing == Framing::Over);
    }
    Ok((head, data, unread.len()))
}

fuzz_target!(|bytes: &[u8]| {
    let Some((size, bytes)) = bytes.split_first() else { return };
    let (whole, cut) = (read(bytes, bytes.len().max(1)), read(bytes, usize::from(*size).max(1)));
    let told = |it: Result<(Option<Head>, Vec<u8>, usize), BadAnswer>| {
        it.ok().map(|(head, data, behind)| (head.map(|it| (it.status, it.headers)), data, behind))
    };
    let (whole, cut) = (told(whole), told(cut));
    if let Some((Some((_, headers)), ..)) = &whole {
        let lengths = headers.get_all("content-length").iter().count();
        assert!(lengths <= usize::from(!headers.contains_key("transfer-encoding")));
    }
    assert_eq!(whole, cut);
});
