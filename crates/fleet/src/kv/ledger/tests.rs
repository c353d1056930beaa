//! The ledger on what real engines published, and against a naive model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proptest::prelude::*;
use types::block::BlockHasher;
use wire::kv_events::decode;

use super::*;

const KEY: HashKey = HashKey(3);

fn naming(block: u32) -> Naming {
    Naming { key: KEY, block, model: "m".to_owned() }
}

/// The names that the router gives a prompt of those tokens.
fn routed(tokens: &[u32], block: u32, scope: &Scope<'_>) -> Vec<BlockHash> {
    let mut hasher = BlockHasher::new(ChainSeed::new(KEY, scope), block as usize * 4);
    tokens.iter().for_each(|it| hasher.update(&it.to_le_bytes()));
    hasher.finish()
}

fn plain() -> Scope<'static> {
    Scope { model: "m", ..Scope::default() }
}

/// What somebody holds who is told of changes; panics where a block is told of whose parent is not.
#[derive(Default)]
struct Held(BTreeSet<BlockHash>);

impl Held {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Stored { parent, blocks } => {
                    assert!(parent.is_none_or(|it| self.0.contains(&it)), "parents come first");
                    blocks.iter().for_each(|it| assert!(self.0.insert(*it), "told once"));
                }
                Change::Removed(blocks) => {
                    blocks.iter().for_each(|it| assert!(self.0.remove(it), "told before"));
                }
            }
        }
    }
}

fn captured(engine: &str) -> Vec<Event> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../wire/tests/captures").join(engine);
    let bytes = fs::read(folder.join("kv_events.bin")).unwrap();
    let (mut rest, mut events) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[8..12].try_into().unwrap()) as usize;
        events.extend(decode(&rest[12..12 + length]).unwrap().events);
        rest = &rest[12 + length..];
    }
    events
}

/// Every block that an engine has, by brute force: its tokens from the start and its salt.
#[derive(Default)]
struct Naive {
    blocks: BTreeMap<EngineHash, (Vec<u32>, Option<String>, u32)>,
}

impl Naive {
    fn apply(&mut self, event: &Event) {
        match event {
            Event::Cleared => self.blocks.clear(),
            Event::Removed(removed) => {
                for hash in &removed.hashes {
                    let copies = &mut self.blocks.get_mut(hash).unwrap().2;
                    *copies -= 1;
                    if *copies == 0 {
                        self.blocks.remove(hash);
                    }
                }
            }
            Event::Stored(stored) => {
                let (mut tokens, mut salt) = match stored.parent {
                    Some(it) => (self.blocks[&it].0.clone(), self.blocks[&it].1.clone()),
                    None => (Vec::new(), None),
                };
                for (at, hash) in stored.hashes.iter().enumerate() {
                    let block = stored.block as usize;
                    tokens.extend(&stored.tokens[at * block..(at + 1) * block]);
                    if let Some([Extra::Text(text)]) = stored.extra.get(at).map(Vec::as_slice) {
                        salt = Some(text.clone());
                    }
                    let known = self.blocks.entry(*hash).or_default();
                    *known = (tokens.clone(), salt.clone(), known.2 + 1);
                }
            }
            Event::Unknown => {}
        }
    }

    /// The names of all that is held, in blocks of `block` tokens.
    fn names(&self, block: u32) -> BTreeSet<BlockHash> {
        let names = self.blocks.values().flat_map(|(tokens, salt, _)| {
            let scope = Scope { cache_salt: salt.as_deref(), ..plain() };
            routed(tokens, block, &scope)
        });
        names.collect()
    }
}

#[test]
fn what_vllm_published_under_pressure_is_followed_to_the_block() {
    for block in [32, 64, 96] {
        let (mut ledger, mut names) = (Ledger::new(naming(block)), Names::default());
        let (mut held, mut naive) = (Held::default(), Naive::default());
        let mut most = 0;
        for (at, event) in captured("vllm-0.32.0").into_iter().enumerate() {
            ledger.apply(&event, &mut names).unwrap();
            held.apply(names.take());
            naive.apply(&event);
            // The naive model names everything anew.
            if at % 23 == 0 || at > 960 {
                assert_eq!(held.0, naive.names(block), "after {event:?}");
            }
            most = most.max(held.0.len());
        }
        assert!(most > 100 && ledger.len() == 8, "{most}, {}", ledger.len());
        assert_eq!(ledger.orphans(), 0);
    }
}

#[test]
fn a_salted_prompt_is_named_as_a_request_with_that_salt() {
    let (mut ledger, mut names) = (Ledger::new(naming(32)), Names::default());
    let mut held = Held::default();
    let mut salted = None;
    for event in captured("vllm-0.32.0").into_iter().take(20) {
        ledger.apply(&event, &mut names).unwrap();
        held.apply(names.take());
        if let Event::Stored(it) = event
            && it.extra[0] == [Extra::Text("tenant-a".to_owned())]
        {
            salted = Some(it.tokens);
        }
    }
    let scope = Scope { cache_salt: Some("tenant-a"), ..plain() };
    let asked = routed(&salted.unwrap(), 32, &scope);
    assert!(asked.len() == 8 && asked.iter().all(|it| held.0.contains(it)));
}

#[test]
fn pages_of_one_token_make_blocks_of_many() {
    let (mut ledger, mut names) = (Ledger::new(naming(64)), Names::default());
    let mut held = Held::default();
    for event in captured("sglang-0.5.21") {
        ledger.apply(&event, &mut names).unwrap();
        held.apply(names.take());
    }
    // The one prompt since the cache was flushed: 258 tokens and the answer's three.
    assert_eq!(held.0.len(), 4);
}

#[test]
fn hashes_of_content_alone_are_refused() {
    let (mut ledger, mut names) = (Ledger::new(naming(64)), Names::default());
    let refusal =
        captured("sglang-0.5.4.post3").iter().find_map(|it| ledger.apply(it, &mut names).err());
    assert_eq!(refusal, Some(Unusable::Unchained));
}

#[test]
fn blocks_that_do_not_fit_into_the_routers_are_refused() {
    let (mut ledger, mut names) = (Ledger::new(naming(64)), Names::default());
    let event = Event::Stored(Stored { block: 48, ..chain(&[1], None) });
    assert_eq!(
        ledger.apply(&event, &mut names),
        Err(Unusable::BlockSize { engine: 48, router: 64 })
    );
}

#[test]
fn what_there_is_no_room_for_is_not_told_and_comes_in_when_there_is() {
    let (mut ledger, mut names) = (Ledger::new(naming(4)), Names::default());
    ledger.nodes_max = 3;
    let mut apply = |event: Event, names: &mut Names| ledger.apply(&event, names).unwrap();
    apply(Event::Stored(chain(&[1, 2], None)), &mut names);
    apply(Event::Stored(chain(&[3, 4], Some(2))), &mut names);
    let mut held = Held::default();
    held.apply(names.take());
    assert_eq!(held.0.len(), 3, "the fourth found no room");
    apply(Event::Stored(chain(&[5], Some(4))), &mut names);
    assert_eq!(names.take(), [], "nor does what follows it");
    let removed = Removed { hashes: vec![EngineHash(3)], ..Removed::default() };
    apply(Event::Removed(removed), &mut names);
    apply(Event::Stored(chain(&[6], Some(2))), &mut names);
    held.apply(names.take());
    assert_eq!(held.0.len(), 3);
    assert_eq!(ledger.orphans(), 2);
}

#[test]
fn other_tiers_and_other_kinds_of_attention_make_no_hits() {
    let (mut ledger, mut names) = (Ledger::new(naming(4)), Names::default());
    let of = |medium: &str, attention: &str, group| {
        Event::Stored(Stored {
            medium: Some(medium.to_owned()),
            attention: Some(attention.to_owned()),
            group: Some(group),
            ..chain(&[1], None)
        })
    };
    for ignored in [of("GPU", "sliding_window", 0), of("CPU", "full_attention", 1)] {
        ledger.apply(&ignored, &mut names).unwrap();
        assert_eq!(names.take(), []);
    }
    ledger.apply(&of("GPU", "full_attention", 1), &mut names).unwrap();
    ledger.apply(&of("GPU", "full_attention", 2), &mut names).unwrap();
    assert_eq!(names.take().len(), 1);
    // The other caches evict on their own.
    let removed = |group| {
        let hashes = vec![EngineHash(1)];
        Event::Removed(Removed { hashes, group: Some(group), ..Removed::default() })
    };
    ledger.apply(&removed(0), &mut names).unwrap();
    assert_eq!(names.take(), []);
    ledger.apply(&removed(1), &mut names).unwrap();
    assert_eq!(names.take().len(), 1);
}

#[test]
fn an_adapter_is_asked_for_by_its_name() {
    let (mut ledger, mut names) = (Ledger::new(naming(4)), Names::default());
    let text = |it: &str| Extra::Text(it.to_owned());
    let stored = Stored {
        adapter: Some("lora".to_owned()),
        adapter_id: Some(1),
        extra: vec![vec![text("lora"), text("salt")], vec![text("lora")]],
        ..chain(&[1, 2], None)
    };
    ledger.apply(&Event::Stored(stored), &mut names).unwrap();
    let scope = Scope { model: "lora", cache_salt: Some("salt"), ..Scope::default() };
    let blocks = routed(&[1, 1, 1, 1, 2, 2, 2, 2], 4, &scope);
    assert_eq!(names.take(), [Change::Stored { parent: None, blocks }]);
}

#[test]
fn what_any_rank_holds_counts() {
    let mut names = Names::default();
    let mut ranks = [Ledger::new(naming(4)), Ledger::new(naming(4))];
    let stored = Event::Stored(chain(&[1, 2], None));
    for rank in &mut ranks {
        rank.apply(&stored, &mut names).unwrap();
    }
    assert_eq!(names.take().len(), 1);
    ranks[0].apply(&Event::Cleared, &mut names).unwrap();
    assert_eq!(names.take(), []);
    ranks[1].apply(&Event::Cleared, &mut names).unwrap();
    assert!(matches!(&names.take()[..], [Change::Removed(blocks)] if blocks.len() == 2));
}

/// Blocks of four tokens each, named by their last number.
fn chain(hashes: &[u64], parent: Option<u64>) -> Stored {
    Stored {
        hashes: hashes.iter().copied().map(EngineHash).collect(),
        parent: parent.map(EngineHash),
        tokens: hashes.iter().flat_map(|it| [u32::try_from(*it).unwrap(); 4]).collect(),
        block: 4,
        ..Stored::default()
    }
}

proptest! {
    /// Whatever order an engine evicts in, what is told is closed, and is what is held and all of
    /// whose predecessors are.
    #[test]
    fn what_is_told_is_what_can_be_reached(
        steps in prop::collection::vec((0..3_u8, 1..32_u64), 1..80),
        blocks in 1..4_u32,
    ) {
        let (mut ledger, mut names) = (Ledger::new(naming(4 * blocks)), Names::default());
        let (mut held, mut copies) = (Held::default(), BTreeMap::<u64, u32>::new());
        // Block n follows block n/2: a tree in which every prefix is shared.
        let parent = |hash: u64| Some(hash / 2).filter(|it| *it > 0);
        for (kind, hash) in steps {
            let known = parent(hash).is_none_or(|it| ledger.by_hash.contains_key(&EngineHash(it)));
            if kind < 2 {
                let stored = Event::Stored(chain(&[hash], parent(hash)));
                ledger.apply(&stored, &mut names).unwrap();
                *copies.entry(hash).or_default() += u32::from(known);
            } else {
                let hashes = vec![EngineHash(hash)];
                let removed = Event::Removed(Removed { hashes, ..Removed::default() });
                ledger.apply(&removed, &mut names).unwrap();
                let it = copies.entry(hash).or_default();
                *it = it.saturating_sub(1);
            }
            held.apply(names.take());
            let is_held = |it: u64| copies.get(&it).is_some_and(|it| *it > 0);
            let reached = (1..32_u64).filter(|hash| {
                std::iter::successors(Some(*hash), |it| parent(*it)).all(is_held)
            });
            let expected: BTreeSet<_> = reached
                .flat_map(|hash| {
                    let mut path: Vec<_> =
                        std::iter::successors(Some(hash), |it| parent(*it)).collect();
                    path.reverse();
                    routed(&chain(&path, None).tokens, 4 * blocks, &plain())
                })
                .collect();
            prop_assert_eq!(&held.0, &expected);
        }
        ledger.clear(&mut names);
        held.apply(names.take());
        prop_assert!(held.0.is_empty() && names.held.is_empty());
    }
}
