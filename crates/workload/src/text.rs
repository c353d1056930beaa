//! Renders a segment: its name, then words drawn from a stream that the name seeds.
//!
//! The name passes through a bijection and becomes the first eight words, one for each of its
//! bytes. So two names differ within their first 32 bytes of text for certain, and within the first
//! 16 but for one pair in four billion: no cache whose blocks are that long takes one for another.

use types::quantity::{BYTES_PER_TOKEN, Tokens};

use crate::{
    seed::{GOLDEN_GAMMA, mix},
    words::WORDS,
};

/// Words that one step of the stream yields, one for each byte of a `u64`.
const WORDS_PER_STEP: usize = 8;

type Word = [u8; BYTES_PER_TOKEN];

const TABLE: &[Word] = WORDS.as_bytes().as_chunks().0;

/// Appends the first `tokens` words of the text called `id` to `out`.
pub(crate) fn write(id: u64, tokens: Tokens, out: &mut Vec<u8>) {
    let words = usize::try_from(tokens.0).unwrap_or(usize::MAX);
    out.reserve(words.saturating_mul(BYTES_PER_TOKEN));
    let mut state = id;
    for _ in 0..words / WORDS_PER_STEP {
        out.extend_from_slice(step(state).as_flattened());
        state = state.wrapping_add(GOLDEN_GAMMA);
    }
    let last = step(state);
    let rest = last.iter().take(words % WORDS_PER_STEP);
    rest.for_each(|word| out.extend_from_slice(word));
}

/// The eight words that `state` stands for: SplitMix64's output at it, a byte a word.
fn step(state: u64) -> [Word; WORDS_PER_STEP] {
    mix(state).to_le_bytes().map(word)
}

#[expect(clippy::indexing_slicing, reason = "a byte is below 256, the table's length")]
fn word(byte: u8) -> Word {
    TABLE[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn text(id: u64, tokens: u32) -> Vec<u8> {
        let mut out = Vec::new();
        write(id, Tokens(tokens), &mut out);
        out
    }

    #[test]
    fn every_byte_has_a_word_of_its_own() {
        assert_eq!(TABLE.len(), 256);
        assert_eq!(TABLE.iter().collect::<BTreeSet<_>>().len(), 256);
        for word in TABLE {
            assert!(word[..3].iter().all(u8::is_ascii_lowercase) && word[3] == b' ');
        }
    }

    #[test]
    fn a_thousand_names_in_a_row_differ_within_sixteen_bytes() {
        let heads: BTreeSet<Vec<u8>> = (0..1_000).map(|id| text(id, 4)).collect();
        assert_eq!(heads.len(), 1_000);
    }

    proptest! {
        /// A token is four bytes.
        #[test]
        fn length_is_four_bytes_a_token(id: u64, tokens in 0..2_000_u32) {
            prop_assert_eq!(text(id, tokens).len(), tokens as usize * 4);
        }

        /// A shorter text is the beginning of a longer one of the same name.
        #[test]
        fn one_name_is_one_text(id: u64, tokens in 0..600_u32, more in 0..600_u32) {
            prop_assert!(text(id, tokens + more).starts_with(&text(id, tokens)));
        }

        /// Different names differ within their first eight words.
        #[test]
        fn names_never_meet(a: u64, b: u64) {
            prop_assume!(a != b);
            prop_assert_ne!(text(a, 8), text(b, 8));
        }
    }
}
