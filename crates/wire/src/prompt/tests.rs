//! Tests of the laws that the layout of a prompt keeps.

use proptest::prelude::*;
use types::{
    block::{BlockHash, BlockHasher, ChainSeed, HashKey, Scope},
    quantity::Tokens,
};

use super::PromptHash;
use crate::openai::{Endpoint, parse};

const KEY: HashKey = HashKey(11);
/// Small enough that a few bytes make a difference.
const BLOCK: Tokens = Tokens(1);

fn hash(endpoint: Endpoint, body: &str) -> PromptHash {
    parse(endpoint, body.as_bytes()).unwrap().hash_prompt(KEY, None, BLOCK)
}

fn chat(messages: &str) -> PromptHash {
    hash(Endpoint::ChatCompletions, &format!(r#"{{"model":"m","messages":{messages}}}"#))
}

fn is_prefix(short: &[BlockHash], long: &[BlockHash]) -> bool {
    long.get(..short.len()) == Some(short)
}

#[test]
fn white_space_and_the_order_of_keys_do_not_matter() {
    let a = r#"{"model":"m","tools":[{"a":[1,"x y"]}],"messages":[{"role":"user","content":"hi"},
        {"role":"assistant","tool_calls":[{"id":"1"}],"content":null}]}"#;
    let b = r#" { "messages" : [ { "content" : "hi" , "role" : "user" } ,
        { "tool_calls" : [ { "id" : "1" } ] , "role" : "assistant" } ] ,
        "tools" : [ { "a" : [ 1 , "x y" ] } ] , "model" : "m" } "#;
    let hashed = hash(Endpoint::ChatCompletions, a);
    assert!(hashed.blocks.len() > 10);
    assert_eq!(hashed, hash(Endpoint::ChatCompletions, b));
}

#[test]
fn every_part_of_a_conversation_counts() {
    let bodies = [
        r#"{"model":"m","messages":[{"role":"user","content":"abcdefgh"}]}"#,
        r#"{"model":"n","messages":[{"role":"user","content":"abcdefgh"}]}"#,
        r#"{"model":"m","cache_salt":"s","messages":[{"role":"user","content":"abcdefgh"}]}"#,
        r#"{"model":"m","lora_path":"s","messages":[{"role":"user","content":"abcdefgh"}]}"#,
        r#"{"model":"m","tools":[{}],"messages":[{"role":"user","content":"abcdefgh"}]}"#,
        r#"{"model":"m","messages":[{"role":"tool","content":"abcdefgh"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"abcd"},{"role":"user","content":"efgh"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"abcdefgh","name":"someone"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":"abcdefgh","tool_call_id":"someone"}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"abcd"},{"type":"text","text":"efgh"}]}]}"#,
    ];
    let mut ends: Vec<_> = bodies
        .iter()
        .map(|body| hash(Endpoint::ChatCompletions, body).blocks.last().copied())
        .collect();
    ends.sort_unstable();
    ends.dedup();
    assert_eq!(ends.len(), bodies.len());
}

#[test]
fn a_text_and_its_only_part_are_the_same_content() {
    let text = chat(r#"[{"role":"user","content":"some words"}]"#);
    let part = chat(r#"[{"role":"user","content":[{"type":"text","text":"some words"}]}]"#);
    assert_eq!(text, part);
}

#[test]
fn the_tenant_separates_equal_prompts() {
    let body = br#"{"model":"m","prompt":"some words"}"#;
    let view = parse(Endpoint::Completions, body).unwrap();
    assert_ne!(view.hash_prompt(KEY, Some("a"), BLOCK), view.hash_prompt(KEY, Some("b"), BLOCK));
}

#[test]
fn cache_marks_may_move() {
    let a = r#"[{"role":"user","content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t","content":[{"type":"text","text":"b"}]}]}]"#;
    let b = r#"[{"role":"user","content":[{"type":"text","text":"a"}]},
        {"role":"user","content":[{"type":"tool_result","tool_use_id":"t",
        "content":[{"type":"text","text":"b"}],"cache_control":{"type":"ephemeral"}}]}]"#;
    assert_eq!(chat(a), chat(b));
}

#[test]
fn an_image_counts_as_one_whatever_its_encoding() {
    let image = |data: &str| {
        chat(&format!(
            r#"[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{data}"}}}}]}}]"#
        ))
    };
    let (small, large) = (image("data:abc"), image(&"x".repeat(1_000_000)));
    assert_eq!(small.prompt, large.prompt);
    assert!((1024..1040).contains(&small.prompt.0), "{}", small.prompt);
    assert_ne!(small.blocks.last(), large.blocks.last());
}

#[test]
fn a_small_body_cannot_claim_a_huge_prompt_by_naming_images() {
    let parts = r#"{"type":"image"},"#.repeat(100_000);
    let many = chat(&format!(r#"[{{"role":"user","content":[{parts}{{}}]}}]"#));
    assert!(many.prompt.0 < 512 * 1024 + 100_000 * 5, "{}", many.prompt);
}

#[test]
fn token_ids_are_counted_exactly() {
    let ids = hash(Endpoint::Completions, r#"{"model":"m","prompt":[1, 2,3 ,4000000000]}"#);
    assert_eq!((ids.prompt, ids.blocks.len()), (Tokens(4), 4));
    let batch = hash(Endpoint::Completions, r#"{"model":"m","prompt":[ [1,2,3,4000000000],[5]]}"#);
    assert_eq!((batch.prompt, &batch.blocks), (Tokens(5), &ids.blocks));
}

#[test]
fn the_first_text_of_a_batch_names_the_blocks() {
    let one = hash(Endpoint::Completions, r#"{"model":"m","prompt":"some words"}"#);
    let two = hash(Endpoint::Completions, r#"{"model":"m","prompt":[ "some words","more" ]}"#);
    assert_eq!(one.blocks, two.blocks);
    assert_eq!((one.prompt, two.prompt), (Tokens(3), Tokens(4)));
    for empty in ["[]", "\"\"", "null"] {
        let body = format!(r#"{{"model":"m","prompt":{empty}}}"#);
        assert!(hash(Endpoint::Completions, &body).blocks.is_empty(), "{empty}");
    }
}

#[test]
fn each_endpoint_has_its_own_place_for_the_prompt() {
    for (endpoint, body) in [
        (Endpoint::Messages, r#"{"model":"m","system":"be brief","messages":[]}"#),
        (Endpoint::Messages, r#"{"model":"m","system":[{"type":"text","text":"be brief"}]}"#),
        (Endpoint::Responses, r#"{"model":"m","instructions":"be brief"}"#),
        (
            Endpoint::ChatCompletions,
            r#"{"model":"m","messages":[{"role":"system","content":"be brief"}]}"#,
        ),
    ] {
        let system = chat(r#"[{"role":"system","content":"be brief"}]"#);
        assert_eq!(hash(endpoint, body), system, "{body}");
    }
    let input = hash(Endpoint::Responses, r#"{"model":"m","input":"hello"}"#);
    assert_eq!(input, chat(r#"[{"role":"user","content":"hello"}]"#));
    for (endpoint, body) in [
        (Endpoint::Embeddings, r#"{"model":"m","input":["hello","you"]}"#),
        (Endpoint::Rerank, r#"{"model":"m","query":"hello","documents":["a"]}"#),
        (Endpoint::Score, r#"{"model":"m","text_1":"hello","text_2":"a"}"#),
    ] {
        assert_eq!(hash(endpoint, body).prompt.0, 2 + u32::from(endpoint == Endpoint::Rerank));
    }
    assert_eq!(hash(Endpoint::Tokenize, r#"{"prompt":"hello"}"#).prompt, Tokens::ZERO);
}

#[test]
fn what_is_deep_or_of_an_odd_shape_is_taken_as_it_stands() {
    let deep = format!(
        r#"[{{"role":"user","content":{}"x"{}}}]"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(chat(&deep).prompt.0 > 40_000);
    for odd in ["[1,2]", "[[]]", r#"[{"role":7,"content":{"a":1}}]"#, r#"[{"content":[1,null]}]"#] {
        let _ = chat(odd);
    }
}

#[test]
fn the_first_turn_needs_a_user() {
    let first = |messages: &str| {
        let body = format!(r#"{{"model":"m","messages":{messages}}}"#);
        hash(Endpoint::ChatCompletions, &body).first_turn
    };
    assert_eq!(first(r#"[{"role":"system","content":"a"}]"#), None);
    assert!(first(r#"[{"role":"user","content":"a"}]"#).is_some());
    let input = hash(Endpoint::Responses, r#"{"model":"m","input":"a"}"#);
    assert_eq!(input.first_turn, first(r#"[{"role":"user","content":"a"}]"#));
    let prompt = hash(Endpoint::Completions, r#"{"model":"m","prompt":"a"}"#);
    assert_eq!(prompt.first_turn, None);
}

/// Lengths about that from which on pieces are not gathered.
const LENGTHS: [usize; 8] = [0, 1, 2, 255, 510, 512, 513, 2_000];

fn message() -> impl Strategy<Value = String> {
    let role = prop::sample::select(vec!["system", "user", "assistant", "tool"]);
    let text = "[a-z \\\\\"\u{e9}]{0,20}";
    (role, text, any::<bool>()).prop_map(|(role, text, in_parts)| {
        let text = serde_json::to_string(&text).unwrap();
        if in_parts {
            format!(r#"{{"role":"{role}","content":[{{"type":"text","text":{text}}}]}}"#)
        } else {
            format!(r#"{{"content":{text},"role":"{role}"}}"#)
        }
    })
}

proptest! {
    /// How long its pieces are does not matter: the blocks are those of the layout as one text.
    #[test]
    fn short_and_long_pieces_are_laid_out_alike(
        pieces in prop::collection::vec((0..3_usize, prop::sample::select(&LENGTHS[..])), 0..8),
    ) {
        let (mut turns, mut laid_out) = (Vec::new(), String::new());
        for (kind, length) in pieces {
            let text = "x".repeat(length);
            laid_out += "\x1e";
            turns.push(match kind {
                0 => {
                    laid_out += &format!("user\x1f{text}");
                    format!(r#"{{"role":"user","content":"{text}"}}"#)
                }
                1 => {
                    laid_out += &format!("\x1f\"{text}\"");
                    format!("\"{text}\"")
                }
                _ => {
                    laid_out += &format!("{text}\x1f");
                    format!(r#"{{"role":"{text}"}}"#)
                }
            });
        }
        let scope = Scope { model: "m", ..Scope::default() };
        let mut hasher = BlockHasher::new(ChainSeed::new(KEY, &scope), 4);
        hasher.update(laid_out.as_bytes());
        prop_assert_eq!(chat(&format!("[{}]", turns.join(","))).blocks, hasher.finish());
    }

    #[test]
    fn appending_turns_only_appends_blocks(
        turns in prop::collection::vec(message(), 0..8),
        kept in 0..8_usize,
    ) {
        let long = chat(&format!("[{}]", turns.join(",")));
        let kept = turns.get(..kept.min(turns.len())).unwrap_or_default();
        let short = chat(&format!("[{}]", kept.join(", ")));
        prop_assert!(is_prefix(&short.blocks, &long.blocks));
        prop_assert!(short.prompt <= long.prompt);
    }

    /// Whatever the shape, both walks end, and white space makes no difference.
    #[test]
    fn no_shape_makes_it_panic(value in any_json(), field in 0..5_usize) {
        let field = ["messages", "input", "prompt", "system", "tools"][field];
        let tight = format!(r#"{{"model":"m","{field}":{value}}}"#);
        let wide = format!(r#"{{"model":"m","{field}":{} }}"#, value.replace(',', " , "));
        for endpoint in Endpoint::ALL {
            if let Ok(view) = parse(endpoint, tight.as_bytes()) {
                let hashed = view.hash_prompt(KEY, None, BLOCK);
                prop_assert_eq!(hashed, hash(endpoint, &wide));
            }
        }
    }
}

/// JSON of any shape, made of the words that a body holds.
fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec!["null", "1", "-2.5e3", "true", r#""user""#, r#""a\nb""#]);
    let key = prop::sample::select(vec!["role", "content", "text", "type", "tool_calls", "x"]);
    leaf.prop_map(str::to_owned).prop_recursive(5, 40, 5, move |inner| {
        let items = prop::collection::vec(inner.clone(), 0..5);
        let entries = prop::collection::vec((key.clone(), inner), 0..5);
        prop_oneof![
            items.prop_map(|items| format!("[{}]", items.join(","))),
            entries.prop_map(|entries| {
                let entries: Vec<String> =
                    entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", entries.join(","))
            }),
        ]
    })
}
