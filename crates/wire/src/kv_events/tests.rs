//! Batches as engines encode them, and what must not be taken for one.

use proptest::prelude::*;

use super::*;

fn stored() -> Stored {
    Stored {
        hashes: vec![EngineHash(u64::MAX), EngineHash(2)],
        parent: Some(EngineHash(7)),
        tokens: (0..32).collect(),
        block: 16,
        ..Stored::default()
    }
}

fn reread(event: Event) -> Batch {
    decode(&encode(&Batch { at_s: 1.5, events: vec![event], rank: Some(0) })).unwrap()
}

#[test]
fn what_was_written_reads_back() {
    let full = Stored {
        adapter_id: Some(3),
        adapter: Some("a".to_owned()),
        medium: Some("GPU".to_owned()),
        extra: vec![vec![Extra::Text("salt".to_owned())], Vec::new()],
        group: Some(1),
        attention: Some("sliding_window".to_owned()),
        window: Some(4_096),
        ..stored()
    };
    let removed = Removed { hashes: vec![EngineHash(1)], medium: None, group: Some(2) };
    let events =
        [Event::Stored(stored()), Event::Stored(full), Event::Removed(removed), Event::Cleared];
    for event in events {
        assert_eq!(reread(event.clone()).events, [event]);
    }
}

#[test]
fn what_is_not_known_is_passed_over() {
    // [0.0, [{"type": "Sparkle", "block_hashes": "?", "token_ids": {}}, ["Glitter", [1], {}],
    //        {"new": 1, "block_hashes": [5], "type": "BlockRemoved"}], 3, "more"]
    let payload = b"\x94\xcb\0\0\0\0\0\0\0\0\x93\
        \x83\xa4type\xa7Sparkle\xacblock_hashes\xa1?\xa9token_ids\x80\
        \x93\xa7Glitter\x91\x01\x80\
        \x83\xa3new\x01\xacblock_hashes\x91\x05\xa4type\xacBlockRemoved\
        \x03\xa4more";
    let batch = decode(payload).unwrap();
    let removed = Removed { hashes: vec![EngineHash(5)], ..Removed::default() };
    assert_eq!(batch.events, [Event::Unknown, Event::Unknown, Event::Removed(removed)]);
    assert_eq!(batch.rank, Some(3));
}

#[test]
fn a_batch_without_what_every_release_says_is_none() {
    for payload in [
        &b""[..],
        b"\xc0",
        b"\x90",
        b"\x91\xcb\0\0\0\0\0\0\0\0",
        // [0.0, [["BlockStored"]]]
        b"\x92\xcb\0\0\0\0\0\0\0\0\x91\x91\xabBlockStored",
        // [0.0, [["BlockRemoved", ["text"]]]]
        b"\x92\xcb\0\0\0\0\0\0\0\0\x91\x92\xacBlockRemoved\x91\xa4text",
    ] {
        assert!(decode(payload).is_err(), "{payload:?}");
    }
}

proptest! {
    /// Whatever comes is read or refused.
    #[test]
    fn no_bytes_bring_it_down(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&payload);
    }

    /// Nor does a good batch with a byte changed.
    #[test]
    fn no_damage_brings_it_down(at in 0..200_usize, byte in any::<u8>()) {
        let mut payload = encode(&Batch { at_s: 1.0, events: vec![Event::Stored(stored())], rank: None });
        let at = at % payload.len();
        payload[at] = byte;
        let _ = decode(&payload);
    }
}
