//! Quantities that must not be mixed up.

use std::{fmt, iter, ops};

use serde::{Deserialize, Serialize};

/// Bytes of text that count as one token where no tokenizer is at hand.
///
/// English prose under the tokenizers of Llama 3, Qwen and GPT runs at 3.5 to 4.5 bytes a token.
/// The router's estimates, the emulator's token counts and the workloads' synthetic prompts all
/// use this one figure, so that they agree with each other.
pub const BYTES_PER_TOKEN: usize = 4;

/// A number of tokens.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tokens(pub u32);

/// A number of KV blocks.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Blocks(pub u32);

impl Tokens {
    /// No tokens.
    pub const ZERO: Self = Self(0);

    /// The tokens that `bytes` of text are taken to be: a quarter, rounded up.
    #[must_use]
    pub fn estimated_from_bytes(bytes: usize) -> Self {
        Self(u32::try_from(bytes.div_ceil(BYTES_PER_TOKEN)).unwrap_or(u32::MAX))
    }

    /// `self - other`, zero when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The full blocks that these tokens fill; zero when `block` is zero.
    #[must_use]
    pub const fn full_blocks(self, block: Self) -> Blocks {
        match self.0.checked_div(block.0) {
            Some(blocks) => Blocks(blocks),
            None => Blocks(0),
        }
    }
}

impl Blocks {
    /// The tokens these blocks hold when each holds `block`.
    #[must_use]
    pub const fn tokens(self, block: Tokens) -> Tokens {
        Tokens(self.0.saturating_mul(block.0))
    }
}

impl ops::Add for Tokens {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl ops::AddAssign for Tokens {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl iter::Sum for Tokens {
    fn sum<I: Iterator<Item = Self>>(tokens: I) -> Self {
        tokens.fold(Self::ZERO, ops::Add::add)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
