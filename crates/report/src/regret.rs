//! What decisions turned out to cost: how far predictions were off, and what was computed anew though
//! another replica held it.

use serde::{Deserialize, Serialize};

use crate::{
    record::{Ending, RequestRecord},
    stats::{Stats, count, ratio},
};

/// What the decisions of a run turned out to cost, over its completed requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regret {
    /// How far predicted times to first token were off, in either direction, in milliseconds.
    pub ttft_error_ms: Option<Stats>,
    /// How much later than predicted first tokens came in the mean, in milliseconds; sooner where
    /// negative.
    pub ttft_bias_ms: Option<f64>,
    /// Prompt tokens computed that another replica was believed to hold.
    pub recomputed_tokens: u64,
    /// Those over all prompt tokens of the same requests.
    pub recomputed_share: Option<f64>,
}

impl Regret {
    /// The regret of the completed ones of `records`; none where no router told of its decisions.
    #[must_use]
    pub fn of<'a>(records: impl Iterator<Item = &'a RequestRecord>) -> Option<Self> {
        let (mut errors, mut recomputed, mut prompts) = (Vec::new(), 0_u64, 0.0);
        let mut is_told = false;
        for it in records.filter(|it| it.ending == Ending::Completed) {
            errors.extend(it.ttft_error_ms);
            let Some(tokens) = it.recomputed_tokens else { continue };
            is_told = true;
            recomputed = recomputed.saturating_add(u64::from(tokens.0));
            prompts += f64::from(it.input_tokens.0);
        }
        let bias_ms = ratio(errors.iter().sum(), count(errors.len()));
        let errors_ms = Stats::of(errors.iter().map(|it| it.abs()).collect());
        (is_told || errors_ms.is_some()).then_some(Self {
            ttft_error_ms: errors_ms,
            ttft_bias_ms: bias_ms,
            recomputed_tokens: recomputed,
            recomputed_share: ratio(recomputed as f64, prompts),
        })
    }
}

#[cfg(test)]
mod tests {
    use types::quantity::Tokens;

    use super::*;

    fn record(error_ms: f64, recomputed: u32) -> RequestRecord {
        RequestRecord {
            ttft_error_ms: Some(error_ms),
            recomputed_tokens: Some(Tokens(recomputed)),
            input_tokens: Tokens(100),
            ending: Ending::Completed,
            ..RequestRecord::default()
        }
    }

    #[test]
    fn errors_count_in_either_direction_and_bias_keeps_its_sign() {
        let failed = RequestRecord { ending: Ending::Failed, ..record(1e6, 100) };
        let regret = Regret::of([record(30.0, 20), record(-10.0, 0), failed].iter()).unwrap();
        assert_eq!(regret.ttft_error_ms.map(|it| (it.mean, it.max)), Some((20.0, 30.0)));
        assert_eq!(regret.ttft_bias_ms, Some(10.0));
        assert_eq!((regret.recomputed_tokens, regret.recomputed_share), (20, Some(0.1)));
    }

    #[test]
    fn who_is_told_nothing_regrets_nothing() {
        assert_eq!(Regret::of([RequestRecord::default()].iter()), None);
    }
}
