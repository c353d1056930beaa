//! Any lines as a head: what concerns one connection never goes on, and what is odd is no session.

#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use libfuzzer_sys::fuzz_target;
use types::block::HashKey;
use wire::{
    headers::{self, session::Sources},
    openai::{Endpoint, parse},
};

fuzz_target!(|bytes: &[u8]| {
    let mut map = HeaderMap::new();
    for line in bytes.split(|it| *it == b'\n').take(100) {
        let Some(colon) = line.iter().position(|it| *it == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
    let _ = headers::framing_problem(Version::HTTP_11, &map);
    if let Some(id) = headers::request_id(&map) {
        assert!(id.len() <= 128 && id.to_str().is_ok());
    }
    let _ = (headers::retry_after(&map, std::time::Duration::from_secs(1_700_000_000)), headers::whole_number(&map, &headers::SLO_TTFT_MS));
    let view = parse(Endpoint::ChatCompletions, br#"{"model":"m","messages":[]}"#).unwrap();
    let _ = Sources::default().find(&map, &view, HashKey(1), None, None);
    headers::strip_hop_by_hop(&mut map);
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE] {
        assert!(!map.contains_key(&name), "{name} went on");
    }
});
