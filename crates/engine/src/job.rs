//! What an engine is asked to do, what it answers, and why it refuses.

use std::sync::Arc;

use types::{
    block::{BlockHash, hash_block},
    quantity::Tokens,
    request::RequestId,
};

/// One prompt to answer.
#[derive(Clone, Debug)]
pub struct Job {
    /// Identifies the job within the engine; not in use by another job.
    pub id: RequestId,
    /// Length of the prompt, at least one token.
    pub prompt: Tokens,
    /// Names of the prompt's full blocks, first block first. Whatever separates worlds (model,
    /// adapter, salt) is already part of the names.
    pub blocks: Arc<[BlockHash]>,
    /// Tokens to generate, at least one.
    pub output: Tokens,
    /// Names of the blocks that fill up while decoding.
    pub answer: Answer,
}

/// Names of the blocks that fill up while a job decodes.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Nobody else will ask for them; the job itself finds them again after a preemption.
    Private,
    /// The chain that follows the prompt's full blocks, as a later prompt that quotes the answer
    /// would name it. Blocks beyond its end are private.
    Known(Arc<[BlockHash]>),
}

impl Job {
    /// The name of the job's block number `index`, counted from the start of the prompt.
    #[must_use]
    pub(crate) fn name_of(&self, index: usize) -> BlockHash {
        let quoted = match (&self.answer, index.checked_sub(self.blocks.len())) {
            (_, None) => self.blocks.get(index),
            (Answer::Known(chain), Some(beyond)) => chain.get(beyond),
            (Answer::Private, Some(_)) => None,
        };
        quoted.copied().unwrap_or_else(|| hash_block(BlockHash(self.id.0), &index.to_le_bytes()))
    }
}

/// What one step brought one job: its next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The job.
    pub id: RequestId,
    /// Tokens generated so far, this one included; one for the first token.
    pub generated: Tokens,
    /// Tokens of the prompt that were found in the KV cache when the job was first scheduled.
    pub cached: Tokens,
    /// Whether this was the last token; the job is gone.
    pub last: bool,
}

/// Why an engine does not take a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// No token is asked for.
    #[error("no output token is asked for")]
    NoOutput,
    /// Prompt and answer together exceed what the model can attend to.
    #[error("{prompt} prompt and {output} output tokens exceed the context of {max_model_len}")]
    TooLong {
        /// Length of the prompt.
        prompt: Tokens,
        /// Tokens asked for.
        output: Tokens,
        /// Longest context.
        max_model_len: Tokens,
    },
    /// Prompt and answer together could never fit into the KV cache.
    #[error("{prompt} prompt and {output} output tokens exceed the KV cache of {kv} tokens")]
    ExceedsKvCache {
        /// Length of the prompt.
        prompt: Tokens,
        /// Tokens asked for.
        output: Tokens,
        /// Tokens that the KV cache holds.
        kv: Tokens,
    },
    /// The names do not match the prompt's length and the engine's block size.
    #[error(
        "{given} block names for {prompt} prompt tokens: blocks of {block} tokens need {needed}"
    )]
    WrongBlocks {
        /// Length of the prompt.
        prompt: Tokens,
        /// Tokens a block holds.
        block: Tokens,
        /// Names that the prompt needs.
        needed: u32,
        /// Names that came with it.
        given: usize,
    },
    /// A job of this id is still there.
    #[error("a job of id {} is still there", id.0)]
    Duplicate {
        /// The id.
        id: RequestId,
    },
}
