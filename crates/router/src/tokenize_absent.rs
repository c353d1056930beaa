//! Stands in for `tokenize` in a program built without it (feature `tokenizer`).

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use types::{
    block::{ChainSeed, HashKey},
    quantity::Tokens,
};
use wire::{openai::Endpoint, prompt::PromptHash};

/// Prompts can't be turned into tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The program lacks what it takes.
    #[error(
        "this program was built without tokenizers; build it with `--features tokenizer`, or leave `tokenizers` \
         out"
    )]
    Absent,
}

/// Tokenizers of no model.
#[derive(Debug)]
pub(crate) struct Tokenizers;

impl Tokenizers {
    pub(crate) fn load(
        models: &BTreeMap<String, PathBuf>,
        _key: HashKey,
    ) -> Result<Self, TokenizerError> {
        if models.is_empty() { Ok(Self) } else { Err(TokenizerError::Absent) }
    }

    #[expect(clippy::unused_self, reason = "as the one that stands here otherwise")]
    pub(crate) const fn knows(&self, _model: &str) -> bool {
        false
    }

    #[expect(clippy::unused_async, reason = "as above")]
    pub(crate) async fn hash_prompt(
        &self,
        _model: &str,
        _endpoint: Endpoint,
        _body: Bytes,
        _seed: ChainSeed,
        _block: Tokens,
    ) -> Option<PromptHash> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_tokenizers_says_so_and_how_to_have_them() {
        let load = |models: BTreeMap<String, PathBuf>| Tokenizers::load(&models, HashKey(1));
        assert!(load(BTreeMap::new()).is_ok_and(|it| !it.knows("m")));
        let told =
            load([("m".to_owned(), PathBuf::from("models/m"))].into()).unwrap_err().to_string();
        assert!(
            told.contains("--features tokenizer") && told.contains("leave `tokenizers`"),
            "{told}"
        );
    }
}
