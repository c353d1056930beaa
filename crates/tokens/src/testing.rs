//! Tokenizers made for tests, trained on this file.

use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerBuilder, TokenizerImpl,
    models::bpe::{BPE, BpeTrainerBuilder},
    pre_tokenizers::{
        byte_level::ByteLevel,
        metaspace::{Metaspace, PrependScheme},
    },
};

type Made = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// A chat template as many models have it.
pub(crate) const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

/// The `tokenizer.json` of a byte-level tokenizer such as GPT's, Llama 3's and Qwen's.
pub(crate) fn tokenizer() -> String {
    made(ByteLevel::new(false, true, true).into(), ByteLevel::alphabet().into_iter().collect())
}

/// The same of one that marks the beginning of a text, as Llama 2's and Mistral's do.
pub(crate) fn metaspace() -> String {
    made(Metaspace::new('▁', PrependScheme::First, true).into(), ('a'..='z').collect())
}

fn made(pre_tokenizer: PreTokenizerWrapper, alphabet: Vec<char>) -> String {
    let mut tokenizer: Made = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(None)
        .with_pre_tokenizer(Some(pre_tokenizer))
        .with_post_processor(None)
        .with_decoder(None)
        .build()
        .unwrap();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let special: Vec<_> = special.iter().map(|it| AddedToken::from(*it, true)).collect();
    let mut trainer = BpeTrainerBuilder::new()
        .show_progress(false)
        .vocab_size(600)
        .initial_alphabet(alphabet.into_iter().collect())
        .special_tokens(special.clone())
        .build();
    let texts = include_str!("testing.rs").lines().map(str::to_owned);
    tokenizer.train(&mut trainer, texts).unwrap();
    let _ = tokenizer.add_special_tokens(special);
    let _: ModelWrapper = tokenizer.get_model().clone().into();
    tokenizer.to_string(false).unwrap()
}

/// Writes the tokenizer that is kept as a file anew: `cargo test -p tokens -- --ignored`.
#[test]
#[ignore = "writes a file"]
fn the_kept_tokenizer_is_made() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tiny");
    std::fs::write(folder.join("tokenizer.json"), tokenizer()).unwrap();
    std::fs::write(folder.join("chat_template.jinja"), TEMPLATE).unwrap();
}
