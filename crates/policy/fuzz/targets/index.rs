//! Any history of the prefix index: it never claims what was not said, and forgets nothing as long as it
//! has room.
//!
//! The model keeps every block of every replica in a plain set and never evicts, so what the index says
//! must be a prefix of what the model knows, and all of it where nothing had to give way.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use policy::prefix_index::{Hits, PrefixIndex, Slot};
use types::{block::BlockHash, request::TenantId};

/// Replicas of a history.
const REPLICAS: usize = 5;

/// Bytes of a step: what is done, by which replica, for which tenant, with which prompt.
const STEP: usize = 5;

/// A replica and every block that it was said to hold since it joined.
struct Model {
    slot: Slot,
    blocks: BTreeSet<u64>,
}

/// Blocks of a prompt of a family; its first `shared` ones are those of all families.
fn prompt(family: u8, shared: u8, depth: u8) -> Vec<BlockHash> {
    let hash = |at: u8| {
        let of = if at < shared { 0 } else { u64::from(family) + 1 };
        BlockHash(((of << 8) | u64::from(at)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    };
    (0..depth % 64).map(hash).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let Some(([room, shared], steps)) = bytes.split_first_chunk::<2>() else { return };
    let bytes_max = 37 * (usize::from(*room) * 8 + 1);
    let mut index = PrefixIndex::new(bytes_max, 64);
    let mut models: Vec<Model> =
        (0..REPLICAS).map(|_| Model { slot: index.join(), blocks: BTreeSet::new() }).collect();
    // All that was ever said, by anyone: while it fits, nothing may be forgotten.
    let mut ever = BTreeSet::new();
    let mut is_bounded = false;
    for step in steps.chunks_exact(STEP).take(100) {
        let [what, who, tenant, family, depth] = step else { return };
        let blocks = prompt(*family % 16, shared % 8, *depth);
        let model = &mut models[usize::from(*who) % REPLICAS];
        match what % 8 {
            0..=4 => {
                index.insert_for(model.slot, TenantId(u64::from(*tenant % 4)), &blocks);
                // The index files as much of a chain as it could hold at all.
                let filed = blocks.iter().take(index.capacity()).map(|it| it.0);
                model.blocks.extend(filed.clone());
                ever.extend(filed);
            }
            5 => {
                index.leave(model.slot);
                *model = Model { slot: index.join(), blocks: BTreeSet::new() };
            }
            6 => {
                index.bound(model.slot, u32::from(*depth) * 4);
                is_bounded = true;
            }
            _ => {}
        }
        assert!(index.bytes() <= bytes_max, "{} of {bytes_max} bytes", index.bytes());
        assert!(index.len() <= index.capacity());
        let mut hits = Hits::default();
        index.hits(&blocks, &mut hits);
        let is_whole = ever.len() <= index.capacity() && !is_bounded;
        for Model { slot, blocks: known } in &models {
            let naive = blocks.iter().take_while(|it| known.contains(&it.0)).count();
            let said = hits.of(*slot) as usize;
            assert!(said <= naive, "{said} blocks are claimed, {naive} were said");
            assert!(!is_whole || said == naive, "{naive} were said, {said} are remembered");
        }
    }
});
