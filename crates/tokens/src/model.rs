//! A model's tokenizer and template, and what they make of a body.

use std::time::Duration;

use serde_json::{Map, Value};
use types::block::{BlockHash, BlockHasher, ChainSeed};
use types::quantity::Tokens;
use wire::openai::Endpoint;

use crate::{
    segments::{BadTokenizer, Segments},
    template::{BadTemplate, Template, TokenizerConfig},
};

/// Ids remembered for one model: 64 MiB of them.
const IDS_MAX: usize = 16 << 20;

/// What a model's folder holds can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BadModel {
    /// `tokenizer.json` is none.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[from] BadTokenizer),
    /// The template is none.
    #[error("chat template: {0}")]
    Template(#[from] BadTemplate),
    /// `tokenizer_config.json` is not what it should be.
    #[error("tokenizer_config.json: {0}")]
    Config(#[from] serde_json::Error),
}

/// The texts of a model's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files<'a> {
    /// `tokenizer.json`.
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`.
    pub config: Option<&'a [u8]>,
    /// `chat_template.jinja`, which goes before the one in `tokenizer_config.json`.
    pub template: Option<&'a str>,
}

/// A model's tokenizer and template.
#[derive(Debug)]
pub struct Model {
    segments: Segments,
    template: Option<Template>,
    /// What stands before and after a prompt that is a text.
    frame: (Vec<u32>, Vec<u32>),
}

impl Model {
    /// Reads a model's files; `seed` keys what is remembered.
    ///
    /// # Errors
    ///
    /// A file is not what it should be.
    pub fn new(files: Files<'_>, seed: u64) -> Result<Self, BadModel> {
        let config = files.config.map(serde_json::from_slice::<TokenizerConfig>).transpose()?;
        let config = config.unwrap_or_default();
        let source = files.template.or_else(|| config.chat_template());
        let template = source.map(|it| Template::new(it, &config)).transpose()?;
        let segments = Segments::new(files.tokenizer, seed, IDS_MAX)?;
        let frame = segments.frame().unwrap_or_default();
        Ok(Self { segments, template, frame })
    }

    /// The token ids of the prompt that `body` asks for at `now`, counted from 1970, which templates may write; `None`
    /// where they can't be told, and of a batch the first prompt's.
    #[must_use]
    pub fn ids(&self, endpoint: Endpoint, body: &[u8], now: Duration) -> Option<Vec<u32>> {
        match endpoint {
            Endpoint::ChatCompletions => {
                let body = serde_json::from_slice(body).ok()?;
                let text = self.template.as_ref()?.render(&body, now)?;
                self.segments.encode(&text)
            }
            Endpoint::Completions => {
                let body: Map<String, Value> = serde_json::from_slice(body).ok()?;
                match body.get("prompt")? {
                    Value::String(text) => self.framed(text, &body),
                    Value::Array(prompts) => self.framed(prompts.first()?.as_str()?, &body),
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
                }
            }
            Endpoint::Responses
            | Endpoint::Messages
            | Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Score
            | Endpoint::Tokenize
            | Endpoint::Detokenize => None,
        }
    }

    fn framed(&self, text: &str, body: &Map<String, Value>) -> Option<Vec<u32>> {
        let ids = self.segments.encode(text)?;
        let is_framed = body.get("add_special_tokens").and_then(Value::as_bool).unwrap_or(true);
        let (before, after) = &self.frame;
        Some(if is_framed { [before, &ids, after].map(Vec::as_slice).concat() } else { ids })
    }
}

/// The names of the full blocks of `block` tokens that `ids` make, and how many tokens they are.
#[must_use]
pub fn blocks(seed: ChainSeed, block: Tokens, ids: &[u32]) -> (Vec<BlockHash>, Tokens) {
    let bytes: Vec<u8> = ids.iter().flat_map(|it| it.to_le_bytes()).collect();
    let block_bytes =
        usize::try_from(block.0).unwrap_or(usize::MAX).saturating_mul(size_of::<u32>());
    let mut hasher = BlockHasher::new(seed, block_bytes);
    hasher.update(&bytes);
    (hasher.finish(), Tokens(u32::try_from(ids.len()).unwrap_or(u32::MAX)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn model() -> Model {
        let tokenizer = testing::tokenizer();
        let files = Files {
            tokenizer: tokenizer.as_bytes(),
            template: Some(testing::TEMPLATE),
            config: None,
        };
        Model::new(files, 7).unwrap()
    }

    fn ids(endpoint: Endpoint, body: &Value) -> Option<Vec<u32>> {
        model().ids(endpoint, body.to_string().as_bytes(), Duration::ZERO)
    }

    #[test]
    fn a_chat_is_the_text_that_its_template_makes() {
        let chat = json!({"messages": [{"role": "user", "content": "why?"}]});
        let text = "<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n";
        let expected = ids(Endpoint::Completions, &json!({"prompt": text}));
        assert!(expected.is_some());
        assert_eq!(ids(Endpoint::ChatCompletions, &chat), expected);
        assert_eq!(ids(Endpoint::Completions, &json!({"prompt": [text, "b"]})), expected);
    }

    #[test]
    fn what_has_no_text_has_no_ids() {
        assert_eq!(ids(Endpoint::Completions, &json!({"prompt": [1, 2]})), None);
        assert_eq!(ids(Endpoint::Embeddings, &json!({"input": "a"})), None);
        assert_eq!(model().ids(Endpoint::ChatCompletions, b"{", Duration::ZERO), None);
    }

    #[test]
    fn a_file_that_is_none_is_named() {
        let error = Model::new(Files { tokenizer: b"{}", ..Files::default() }, 7).unwrap_err();
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
}
