//! The answer of a replica that has no model: pseudo-text that depends on nothing but the prompt.
//!
//! Every token is a word of three letters and a space, four bytes in all, so that a later prompt
//! that quotes the answer cuts into the same tokens, and none needs escaping in JSON.

use types::{block::BlockHash, quantity::Tokens};

/// Longest answer when the prompt, not the client, decides where it ends.
const ANSWER_TOKENS_MAX: u64 = 512;

const WORDS: [&str; 32] = [
    " the", " and", " for", " are", " not", " you", " all", " new", " was", " can", " has", " but",
    " our", " one", " may", " out", " use", " any", " see", " his", " who", " now", " get", " how",
    " its", " two", " way", " set", " end", " old", " off", " her",
];

/// The answer to one prompt.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Four bytes a token.
    pub(crate) text: String,
    pub(crate) tokens: Tokens,
    pub(crate) finish_reason: FinishReason,
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FinishReason {
    /// It says so itself.
    Stop,
    /// The client wants no more tokens, or the context is full.
    Length,
}

impl FinishReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Answers the prompt whose content hashes to `prompt` in at most `tokens_max` tokens.
///
/// With `ignore_eos` the answer has exactly `tokens_max`. Without it the answer ends by itself
/// after 1 to 512 tokens, all equally likely, as the prompt's hash decides.
pub(crate) fn generate(prompt: BlockHash, tokens_max: Tokens, ignore_eos: bool) -> Answer {
    let mut random = SplitMix64(prompt.0);
    let end = random.next() % ANSWER_TOKENS_MAX + 1;
    let (tokens, finish_reason) = match u32::try_from(end) {
        Ok(end) if !ignore_eos && end < tokens_max.0 => (Tokens(end), FinishReason::Stop),
        _ => (tokens_max, FinishReason::Length),
    };
    let text =
        (0..tokens.0).map(|_| WORDS.get(random.index()).unwrap_or(&" the")).copied().collect();
    Answer { text, tokens, finish_reason }
}

/// Steele, Lea and Flood's generator (OOPSLA 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An index into the 2⁵ words: the topmost bits, which are the best mixed.
    fn index(&mut self) -> usize {
        usize::from(self.next().to_be_bytes()[0] >> 3)
    }
}

#[cfg(test)]
mod tests {
    use types::quantity::BYTES_PER_TOKEN;

    use super::*;

    #[test]
    fn every_token_is_four_bytes_that_json_takes_as_they_are() {
        for word in WORDS {
            assert_eq!(word.len(), BYTES_PER_TOKEN);
            assert_eq!(serde_json::to_string(word).unwrap(), format!("\"{word}\""));
        }
        let answer = generate(BlockHash(1), Tokens(100), true);
        assert_eq!(answer.text.len(), 400);
        assert_eq!(answer.finish_reason, FinishReason::Length);
    }

    #[test]
    fn the_prompt_decides_the_answer() {
        let text = |prompt| generate(BlockHash(prompt), Tokens(1000), false).text;
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }

    #[test]
    fn answers_end_by_themselves_within_the_bound() {
        let lengths: Vec<u32> =
            (0..1000).map(|it| generate(BlockHash(it), Tokens(10_000), false).tokens.0).collect();
        let mean = lengths.iter().sum::<u32>() / 1000;
        assert!(lengths.iter().all(|it| (1..=512).contains(it)));
        assert!((230..280).contains(&mean), "mean of {mean} tokens");
    }

    #[test]
    fn the_client_can_ask_for_less() {
        let answer = generate(BlockHash(1), Tokens(1), false);
        assert_eq!((answer.tokens, answer.finish_reason), (Tokens(1), FinishReason::Length));
    }
}
