//! What an engine would prefill: a prompt as bytes, tokens and named KV blocks.
//!
//! A chat is laid out by a fixed plain template. Each piece is padded to whole tokens, so that the
//! answer of one turn, which starts on a token, lies at the same place when the next turn quotes
//! it. Token ids become four bytes each, so text and ids share one rule.

use serde_json::{Map, Value};
use types::{
    block::{BlockHash, hash_block},
    quantity::{BYTES_PER_TOKEN, Tokens},
};

/// A prompt as whole tokens of four bytes each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Prompt {
    bytes: Vec<u8>,
}

impl Prompt {
    /// Text as it stands; the last token may be part filled.
    pub(crate) fn from_text(text: &str) -> Self {
        let mut prompt = Self { bytes: Vec::with_capacity(text.len().saturating_add(4)) };
        prompt.append(text.as_bytes());
        prompt
    }

    /// Token ids as they stand.
    pub(crate) fn from_ids(ids: impl Iterator<Item = u32>) -> Self {
        Self { bytes: ids.flat_map(u32::to_le_bytes).collect() }
    }

    /// A chat: the tools, then turn after turn, then the head of the turn to be written.
    pub(crate) fn from_chat(messages: &[Value], tools: Option<&Value>) -> Self {
        let mut prompt = Self { bytes: Vec::new() };
        if let Some(tools) = tools {
            prompt.append(b"<|tools|>\n");
            prompt.append(tools.to_string().as_bytes());
            prompt.append(END);
        }
        for message in messages.iter().filter_map(Value::as_object) {
            prompt.append_turn(message);
        }
        prompt.append_head("assistant");
        prompt
    }

    fn append_turn(&mut self, message: &Map<String, Value>) {
        self.append_head(message.get("role").and_then(Value::as_str).unwrap_or_default());
        match message.get("content") {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => self.append(text.as_bytes()),
            Some(Value::Array(parts)) => parts.iter().for_each(|part| self.append_part(part)),
            Some(other) => self.append(other.to_string().as_bytes()),
        }
        if let Some(calls) = message.get("tool_calls").filter(|calls| !calls.is_null()) {
            self.append(calls.to_string().as_bytes());
        }
        self.append(END);
    }

    fn append_part(&mut self, part: &Value) {
        match part.get("text").and_then(Value::as_str) {
            Some(text) => self.append(text.as_bytes()),
            None => self.append(part.to_string().as_bytes()),
        }
    }

    fn append_head(&mut self, role: &str) {
        self.append(format!("<|{role}|>\n").as_bytes());
    }

    /// Appends a piece and fills up its last token.
    fn append(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        self.bytes.resize(self.bytes.len().next_multiple_of(BYTES_PER_TOKEN), 0);
    }

    pub(crate) fn tokens(&self) -> Tokens {
        Tokens::estimated_from_bytes(self.bytes.len())
    }

    /// The token ids of the blocks of `block` tokens that the prompt fills, and of those that fill up
    /// as `answer` is appended to it, block after block.
    pub(crate) fn ids(&self, block: Tokens, answer: &str) -> Vec<Box<[u32]>> {
        let bytes = [&self.bytes, answer.as_bytes()].concat();
        let block_bytes = (block.0 as usize).saturating_mul(BYTES_PER_TOKEN).max(1);
        bytes.chunks_exact(block_bytes).map(ids).collect()
    }

    /// The hash of the whole content.
    pub(crate) fn hash(&self, seed: BlockHash) -> BlockHash {
        hash_block(seed, &self.bytes)
    }

    /// The names of the blocks of `block` tokens that the prompt fills, and of those that fill up
    /// as `answer` is appended to it.
    pub(crate) fn names(
        &self,
        seed: BlockHash,
        block: Tokens,
        answer: &str,
    ) -> (Vec<BlockHash>, Vec<BlockHash>) {
        let block_bytes = (block.0 as usize).saturating_mul(BYTES_PER_TOKEN).max(1);
        let prompt = chain(seed, &self.bytes, block_bytes);
        let parent = prompt.last().copied().unwrap_or(seed);
        let mut tail = self.bytes.chunks_exact(block_bytes).remainder().to_vec();
        tail.extend_from_slice(answer.as_bytes());
        (prompt, chain(parent, &tail, block_bytes))
    }
}

/// Four bytes make a token.
fn ids(bytes: &[u8]) -> Box<[u32]> {
    let (tokens, _) = bytes.as_chunks::<BYTES_PER_TOKEN>();
    tokens.iter().map(|it| u32::from_le_bytes(*it)).collect()
}

/// Closes a turn.
const END: &[u8] = b"<|end|>\n";

fn chain(parent: BlockHash, content: &[u8], block_bytes: usize) -> Vec<BlockHash> {
    let blocks = content.chunks_exact(block_bytes);
    let link = |parent: &mut BlockHash, block: &[u8]| {
        *parent = hash_block(*parent, block);
        Some(*parent)
    };
    blocks.scan(parent, link).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SEED: BlockHash = BlockHash(7);
    const BLOCK: Tokens = Tokens(4);

    #[test]
    fn the_last_token_may_be_part_filled() {
        assert_eq!(Prompt::from_text("").tokens(), Tokens(0));
        assert_eq!(Prompt::from_text("abcd").tokens(), Tokens(1));
        assert_eq!(Prompt::from_text("abcde").tokens(), Tokens(2));
        assert_eq!(Prompt::from_ids([1, 2, 3].into_iter()).tokens(), Tokens(3));
    }

    #[test]
    fn the_next_turn_names_the_blocks_of_the_answer_it_quotes() {
        let question = json!({"role": "user", "content": "why is the sky blue?"});
        let answer = " the and for are not you all new was";
        let first = Prompt::from_chat(std::slice::from_ref(&question), None);
        let (prompt, answered) = first.names(SEED, BLOCK, answer);
        let turns = [
            question,
            json!({"role": "assistant", "content": answer}),
            json!({"role": "user", "content": "and why is the sunset red?"}),
        ];
        let (second, _) = Prompt::from_chat(&turns, None).names(SEED, BLOCK, "");
        let known: Vec<BlockHash> = prompt.into_iter().chain(answered).collect();
        assert!(known.len() > 3);
        assert_eq!(second.get(..known.len()), Some(known.as_slice()));
    }

    #[test]
    fn parts_of_text_read_as_the_text() {
        let plain = [json!({"role": "user", "content": "some text"})];
        let parts = [json!({"role": "user", "content": [{"type": "text", "text": "some text"}]})];
        assert_eq!(Prompt::from_chat(&plain, None), Prompt::from_chat(&parts, None));
        let tools = json!([{"type": "function"}]);
        assert_ne!(Prompt::from_chat(&plain, None), Prompt::from_chat(&plain, Some(&tools)));
    }

    #[test]
    fn a_chat_ends_with_the_head_of_the_answer() {
        let prompt = Prompt::from_chat(&[json!({"role": "user", "content": "hi"})], None);
        let text = "<|user|>\n\0\0\0hi\0\0<|end|>\n<|assistant|>\n\0\0";
        assert_eq!(String::from_utf8(prompt.bytes).unwrap(), text);
    }
}
