//! Prompts in the tokens of a model's own tokenizer.

#![cfg(feature = "tokenizer")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::path::PathBuf;

use common::{CHAT, MODEL, config, stage_with};
use policy::config::StrategyName::PrefixAware;
use router::serve::Router;
use serde_json::json;
use types::{quantity::Tokens, units::TokenCount};

fn tiny() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tokens/tests/tiny")
}

#[tokio::test]
async fn a_chat_is_counted_and_cut_in_its_models_tokens() {
    let mut config = config(PrefixAware);
    config.policy.prefix.block = TokenCount(Tokens(16));
    config.tokenizers.insert(MODEL.to_owned(), tiny());
    let stage = stage_with(config, 1).await;
    let question = "why is the sky blue? ".repeat(20);
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 1});
    let text = format!("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n");
    let tokenizer = tokens::segments::Segments::new(
        &std::fs::read(tiny().join("tokenizer.json")).unwrap(),
        0,
        1 << 16,
    );
    let ids = tokenizer.unwrap().encode(&text).unwrap().len();
    let hit = async || {
        let answer = stage.post(CHAT, &[], body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("x-sluice-prefix-hit").to_owned()
    };
    assert_eq!(hit().await, format!("0/{ids}"));
    assert_eq!(hit().await, format!("{}/{ids}", ids / 16 * 16));
}

#[tokio::test]
async fn a_folder_without_a_tokenizer_is_named() {
    let mut config = config(PrefixAware);
    config.replicas.push(router::config::Replica::at("http://127.0.0.1:9"));
    config.tokenizers.insert("m".to_owned(), PathBuf::from("/nowhere"));
    let error = Router::open(config).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/tokenizer.json"), "{error}");
}
