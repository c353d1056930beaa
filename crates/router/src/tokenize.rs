//! The models whose prompts are turned into tokens, and how much of that goes on at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokens::model::{BadModel, Files, Model, blocks};
use tokio::sync::Semaphore;
use types::{
    block::{ChainSeed, HashKey},
    quantity::Tokens,
};
use wire::{openai::Endpoint, prompt::PromptHash};

/// A model's folder can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// A file can't be read.
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: std::io::Error },
    /// A file is not what it should be.
    #[error("{folder}: {source}")]
    Bad { folder: String, source: BadModel },
}

/// Tokenizers by the models' names.
#[derive(Debug)]
pub(crate) struct Tokenizers {
    models: BTreeMap<String, Arc<Model>>,
    /// Prompts that are tokenised at once: as many as there are cores, so that long ones take turns
    /// and the threads that serve stay free.
    permits: Arc<Semaphore>,
}

impl Tokenizers {
    /// Reads the folders of `models`, each once.
    pub(crate) fn load(
        models: &BTreeMap<String, PathBuf>,
        key: HashKey,
    ) -> Result<Self, TokenizerError> {
        let mut by_folder: BTreeMap<&Path, Arc<Model>> = BTreeMap::new();
        let mut by_name = BTreeMap::new();
        for (name, folder) in models {
            let model = match by_folder.get(folder.as_path()) {
                Some(model) => Arc::clone(model),
                None => Arc::new(load(folder, key)?),
            };
            by_folder.insert(folder, Arc::clone(&model));
            by_name.insert(name.clone(), model);
        }
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        Ok(Self { models: by_name, permits: Arc::new(Semaphore::new(cores)) })
    }

    /// Whether prompts for `model` are turned into tokens.
    pub(crate) fn knows(&self, model: &str) -> bool {
        self.models.contains_key(model)
    }

    /// Names the blocks of the prompt in `body` by its tokens; `None` where they can't be told.
    pub(crate) async fn hash_prompt(
        &self,
        model: &str,
        endpoint: Endpoint,
        body: bytes::Bytes,
        seed: ChainSeed,
        block: Tokens,
    ) -> Option<PromptHash> {
        let model = Arc::clone(self.models.get(model)?);
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        let tokenising = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let ids = model.ids(endpoint, &body, now)?;
            let (blocks, prompt) = blocks(seed, block, &ids);
            Some(PromptHash { blocks, prompt, is_estimated: false, first_turn: None })
        });
        tokenising.await.ok()?
    }
}

fn load(folder: &Path, key: HashKey) -> Result<Model, TokenizerError> {
    let read = |name: &str| std::fs::read(folder.join(name));
    let tokenizer = read("tokenizer.json").map_err(|source| TokenizerError::Read {
        file: folder.join("tokenizer.json").display().to_string(),
        source,
    })?;
    let config = read("tokenizer_config.json").ok();
    let template = std::fs::read_to_string(folder.join("chat_template.jinja")).ok();
    let files =
        Files { tokenizer: &tokenizer, config: config.as_deref(), template: template.as_deref() };
    Model::new(files, key.0)
        .map_err(|source| TokenizerError::Bad { folder: folder.display().to_string(), source })
}
