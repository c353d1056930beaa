//! How many bytes of text make a token, learned for each model from what replicas count.
//!
//! Without a tokenizer the length of a prompt in tokens is a guess from its bytes: four to a token
//! unless answers have told better. What is learned moves in steps of a tenth, and only once enough was
//! counted: blocks are cut by it, so each step renames every block of the model.

use std::sync::Arc;

use dashmap::DashMap;
use rustc_hash::FxBuildHasher;
use types::{quantity::Tokens, request::ModelId};

/// Models whose figure is kept; clients may make up any number of names, and replicas answer to few.
const MODELS_MAX: usize = 256;

/// Tokens that must have been counted before a figure is believed.
const TOKENS_MIN: u64 = 20_000;

/// Tokens after which what was counted before counts half.
const TOKENS_HALF: u64 = 1_000_000;

/// What a figure may be, in hundredths of a byte: one byte a token is Chinese in a byte-level
/// vocabulary, sixteen are spaces.
const RANGE: std::ops::RangeInclusive<u64> = 100..=1_600;

/// Bytes a token, by model.
#[derive(Clone, Debug, Default)]
pub(crate) struct TokenRatios(Arc<DashMap<ModelId, Ratio, FxBuildHasher>>);

/// What was counted of one model.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    bytes: u64,
    tokens: u64,
    /// In force, in hundredths of a byte.
    centibytes: u32,
}

impl Ratio {
    /// What was counted, once that is enough to be believed.
    fn learned(&self) -> Option<u64> {
        if self.tokens < TOKENS_MIN {
            return None;
        }
        let learned = self.bytes.saturating_mul(100).checked_div(self.tokens)?;
        Some(learned.clamp(*RANGE.start(), *RANGE.end()))
    }
}

/// Whether a figure is off by more than a tenth of itself.
fn is_off(learned: u64, centibytes: u32) -> bool {
    learned.abs_diff(centibytes.into()).saturating_mul(10) > u64::from(centibytes)
}

/// Without knowing better, in hundredths of a byte: [`types::quantity::BYTES_PER_TOKEN`].
const DEFAULT: u32 = 400;

impl TokenRatios {
    /// Hundredths of a byte to a token of `model`.
    pub(crate) fn centibytes(&self, model: ModelId) -> u32 {
        self.0.get(&model).map_or(DEFAULT, |it| it.centibytes)
    }

    /// What is in force for each model of which something is known.
    pub(crate) fn all(&self) -> Vec<(ModelId, u32)> {
        let is_known = |it: &Ratio| it.learned().is_some() || it.centibytes != DEFAULT;
        let known = self.0.iter().filter(|it| is_known(it.value()));
        known.map(|it| (*it.key(), it.value().centibytes)).collect()
    }

    /// Learns that another router takes a token of `model` to be `centibytes` long, and does so too where
    /// what was counted here allows it: routers that cut text otherwise name no block alike. Of two figures
    /// that will both do each takes the lower, so that all come to the same.
    pub(crate) fn told(&self, model: ModelId, centibytes: u32) {
        let is_full = self.0.len() >= MODELS_MAX && !self.0.contains_key(&model);
        if is_full || !RANGE.contains(&u64::from(centibytes)) {
            return;
        }
        let fresh = Ratio { bytes: 0, tokens: 0, centibytes: DEFAULT };
        let mut it = self.0.entry(model).or_insert(fresh);
        let is_preferred = match it.learned() {
            None => centibytes < it.centibytes || it.centibytes == DEFAULT,
            Some(learned) => centibytes < it.centibytes && !is_off(learned, centibytes),
        };
        if is_preferred {
            it.centibytes = centibytes;
        }
    }

    /// Learns that a replica counted `tokens` in a prompt that was taken to have `estimated`.
    pub(crate) fn learn(&self, model: ModelId, estimated: Tokens, tokens: Tokens) {
        if self.0.len() >= MODELS_MAX && !self.0.contains_key(&model) {
            return;
        }
        let fresh = Ratio { bytes: 0, tokens: 0, centibytes: DEFAULT };
        let mut it = self.0.entry(model).or_insert(fresh);
        // Of an estimate, its bytes can be told again.
        let bytes = u64::from(estimated.0).saturating_mul(it.centibytes.into()) / 100;
        it.bytes = it.bytes.saturating_add(bytes);
        it.tokens = it.tokens.saturating_add(tokens.0.into());
        let Some(learned) = it.learned() else { return };
        if is_off(learned, it.centibytes) {
            it.centibytes = u32::try_from(learned).unwrap_or(DEFAULT);
        }
        if it.tokens > TOKENS_HALF {
            (it.bytes, it.tokens) = (it.bytes / 2, it.tokens / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODEL: ModelId = ModelId(1);

    #[test]
    fn a_figure_is_learned_and_small_deviations_change_nothing() {
        let ratios = TokenRatios::default();
        assert_eq!(ratios.centibytes(MODEL), 400);
        // 4,000 bytes that were 970 tokens.
        (0..100).for_each(|_| ratios.learn(MODEL, Tokens(1_000), Tokens(970)));
        assert_eq!(ratios.centibytes(MODEL), 400);
        // Chinese: 4,000 bytes that were 1,600.
        let ratios = TokenRatios::default();
        for _ in 0..100 {
            let estimated = Tokens(400_000 / ratios.centibytes(MODEL));
            ratios.learn(MODEL, estimated, Tokens(1_600));
        }
        let learned = ratios.centibytes(MODEL);
        assert!((245..=280).contains(&learned), "{learned}");
        assert_eq!(ratios.centibytes(ModelId(2)), 400);
    }

    #[test]
    fn routers_that_tell_each_other_come_to_cut_alike() {
        let counted = |bytes: u32| {
            let ratios = TokenRatios::default();
            for _ in 0..100 {
                let estimated = Tokens(bytes * 100 / ratios.centibytes(MODEL));
                ratios.learn(MODEL, estimated, Tokens(1_000));
            }
            ratios
        };
        // Two that count much the same, one that has counted nothing, and one that is told other text.
        let (one, two) = (counted(2_500), counted(2_600));
        let (new, other) = (TokenRatios::default(), counted(5_000));
        assert_ne!(one.centibytes(MODEL), two.centibytes(MODEL));
        let mut alike = [&one, &two, &new];
        for _ in 0..2 {
            for teller in [&one, &two, &new, &other] {
                for (model, centibytes) in teller.all() {
                    alike.iter().for_each(|it| it.told(model, centibytes));
                    other.told(model, centibytes);
                }
            }
        }
        alike.sort_by_key(|it| it.centibytes(MODEL));
        let figures = alike.map(|it| it.centibytes(MODEL));
        assert_eq!(figures[0], figures[2], "{figures:?}");
        assert!((480..=520).contains(&other.centibytes(MODEL)), "what it counted says otherwise");
        new.told(MODEL, 7);
        assert_eq!(new.centibytes(MODEL), figures[0], "no token is so short");
    }

    #[test]
    fn made_up_models_take_no_memory_without_end() {
        let ratios = TokenRatios::default();
        (0..1_000).for_each(|it| ratios.learn(ModelId(it), Tokens(10), Tokens(10)));
        assert_eq!(ratios.0.len(), MODELS_MAX);
    }
}
