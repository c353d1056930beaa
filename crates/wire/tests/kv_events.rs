//! Reads the KV-cache events that real engines published; `captures/README.md` says where they are
//! from.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{collections::BTreeMap, fs, path::Path};

use wire::kv_events::{
    Batch, EngineHash, Event, Extra, Removed, Stored, decode, encode, is_device, is_full_attention,
};

fn capture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name)).unwrap()
}

/// The payloads of a capture.
fn payloads(engine: &str) -> Vec<Vec<u8>> {
    let bytes = capture(&format!("{engine}/kv_events.bin"));
    let (mut rest, mut payloads) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        payloads.push(rest[12..12 + length].to_vec());
        rest = &rest[12 + length..];
    }
    payloads
}

fn batches(engine: &str) -> Vec<Batch> {
    payloads(engine).iter().map(|it| decode(it).unwrap()).collect()
}

fn stored(batches: &[Batch]) -> impl Iterator<Item = &Stored> {
    batches.iter().flat_map(|it| &it.events).filter_map(|it| match it {
        Event::Stored(stored) => Some(stored),
        Event::Removed(_) | Event::Cleared | Event::Unknown => None,
    })
}

#[test]
fn every_release_of_vllm_says_the_same() {
    for line in String::from_utf8(capture("kv_event_formats.jsonl")).unwrap().lines() {
        let line: BTreeMap<String, String> = serde_json::from_str(line).unwrap();
        let hex = line["payload_hex"].as_bytes();
        let byte = |it: &[u8]| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16).unwrap();
        let payload: Vec<u8> = hex.chunks(2).map(byte).collect();
        let batch = decode(&payload).unwrap();
        assert_eq!((batch.at_s, batch.rank), (1_795_422_328.25, Some(0)), "{}", line["vllm"]);
        let [Event::Stored(stored), Event::Removed(removed), Event::Cleared] = &batch.events[..]
        else {
            panic!("{:?}", batch.events);
        };
        let hashes = if line["hashes"] == "bytes" {
            [EngineHash(0x0101_0101_0101_0101), EngineHash(0x0202_0202_0202_0202)]
        } else {
            [EngineHash((1 << 63) + 1), EngineHash((1 << 63) + 2)]
        };
        assert_eq!(stored.hashes, hashes);
        assert_eq!((stored.parent, stored.block), (None, 16));
        assert_eq!(stored.tokens, (0..32).collect::<Vec<_>>());
        assert!(is_device(stored.medium.as_deref()));
        assert!(is_full_attention(stored.attention.as_deref()));
        let salt = [vec![Extra::Text("tenant-a".to_owned())], Vec::new()];
        assert!(stored.extra.is_empty() || stored.extra == salt);
        assert_eq!(removed.hashes, hashes[..1]);
    }
}

#[test]
fn what_vllm_publishes_is_read_to_the_last_field() {
    let batches = batches("vllm-0.32.0");
    assert_eq!(batches.len(), 122);
    let events = || batches.iter().flat_map(|it| &it.events);
    assert_eq!(stored(&batches).count(), 329);
    assert_eq!(events().filter(|it| matches!(it, Event::Removed(_))).count(), 644);
    assert_eq!(events().filter(|it| **it == Event::Cleared).count(), 1);
    assert!(!events().any(|it| *it == Event::Unknown));
    for stored in stored(&batches) {
        assert_eq!(stored.tokens.len(), stored.hashes.len() * 32);
        assert_eq!(stored.attention.as_deref(), Some("full_attention"));
        assert_eq!(stored.group, Some(0));
    }
    let salted = stored(&batches).filter(|it| it.extra[0] == [Extra::Text("tenant-a".to_owned())]);
    assert_eq!(salted.count(), 1);
}

/// What the emulator publishes is, byte for byte, what vLLM publishes.
#[test]
fn what_is_written_is_what_vllm_writes() {
    for payload in payloads("vllm-0.32.0") {
        let mut batch = decode(&payload).unwrap();
        for event in &mut batch.events {
            // A block without extra keys is told apart from an event without any.
            if let Event::Stored(Stored { extra, hashes, .. }) = event {
                assert_eq!(extra.len(), hashes.len());
            }
        }
        assert_eq!(encode(&batch), payload);
    }
}

#[test]
fn older_arrays_and_hashes_of_bytes_are_read() {
    let older = batches("vllm-0.11.0");
    assert!(older.last().unwrap().events.contains(&Event::Cleared));
    assert!(stored(&older).all(|it| it.block == 16 && it.tokens.len() == it.hashes.len() * 16));
    assert!(older.iter().flat_map(|it| &it.events).any(|it| matches!(it, Event::Removed(_))));
    let bytes = batches("vllm-0.32.0-bytes");
    let mut known: Vec<EngineHash> = Vec::new();
    for stored in stored(&bytes) {
        assert!(stored.parent.is_none_or(|it| known.contains(&it)), "parents come first");
        known.extend(&stored.hashes);
    }
    assert!(known.len() > 20);
}

#[test]
fn sglang_chains_since_its_hashes_cover_what_came_before() {
    let newer = batches("sglang-0.5.21");
    assert!(newer.iter().any(|it| it.events.contains(&Event::Cleared)));
    let salts = stored(&newer).filter(|it| it.salt.is_some()).count();
    assert_eq!(salts, 2);
    let mut parents = stored(&newer).filter_map(|it| it.parent);
    assert!(parents.any(|it| it.0 > 1 << 63), "hashes are signed there");
    // Before, equal pages had equal hashes wherever they stood: one follows itself.
    let older = batches("sglang-0.5.4.post3");
    assert!(stored(&older).any(|it| it.parent == it.hashes.first().copied()));
    assert!(stored(&newer).all(|it| it.parent != it.hashes.first().copied()));
}

#[test]
fn an_eviction_names_its_blocks() {
    let batches = batches("vllm-0.32.0");
    let removed = batches.iter().flat_map(|it| &it.events).find_map(|it| match it {
        Event::Removed(removed) => Some(removed.clone()),
        Event::Stored(_) | Event::Cleared | Event::Unknown => None,
    });
    let Removed { hashes, medium, group } = removed.unwrap();
    assert_eq!((hashes.len(), medium.as_deref(), group), (1, Some("GPU"), Some(0)));
}
