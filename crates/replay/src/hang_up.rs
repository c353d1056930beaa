//! Clients that hang up on purpose, as impatient users do.

use std::{str::FromStr, time::Duration};

use types::block::{BlockHash, hash_block};

/// Which requests are given up, and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HangUps {
    /// Share of the requests, 0 to 1; which ones is drawn at random.
    pub share: f64,
    /// When.
    pub after: HangUpAfter,
}

/// When a client hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HangUpAfter {
    /// So long after the request was due.
    Time(Duration),
    /// When so many tokens have come.
    Tokens(u32),
}

/// Why a text does not say who hangs up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not SHARE:WHEN, as in 10%:2s or 5%:20tokens")]
pub struct BadHangUps(String);

impl HangUps {
    /// When the client of the `index`-th request hangs up, if it is one that does; `seed` says which
    /// are.
    pub(crate) fn of(self, seed: u64, index: usize) -> Option<HangUpAfter> {
        let drawn = hash_block(BlockHash(seed), &(index as u64).to_le_bytes()).0;
        let drawn = drawn as f64 / u64::MAX as f64;
        (drawn < self.share).then_some(self.after)
    }

    /// What is wrong with the values.
    pub(crate) fn problem(self) -> Option<String> {
        let is_share = (0.0..=1.0).contains(&self.share);
        (!is_share).then(|| format!("hang-ups: needs a share from 0 to 1, has {}", self.share))
    }
}

impl FromStr for HangUps {
    type Err = BadHangUps;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadHangUps(text.to_owned());
        let (share, after) = text.split_once(':').ok_or_else(bad)?;
        let percent: f64 =
            share.trim().strip_suffix('%').ok_or_else(bad)?.parse().map_err(|_| bad())?;
        if !(0.0..=100.0).contains(&percent) {
            return Err(bad());
        }
        let after = after.trim();
        let tokens = after.strip_suffix("tokens").or_else(|| after.strip_suffix("token"));
        let after = match tokens {
            Some(count) => HangUpAfter::Tokens(count.trim().parse().map_err(|_| bad())?),
            None => {
                let time: jiff::SignedDuration = after.parse().map_err(|_| bad())?;
                HangUpAfter::Time(time.try_into().map_err(|_| bad())?)
            }
        };
        Ok(Self { share: percent / 100.0, after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_kept_and_the_same_each_time() {
        let hang_ups = HangUps { share: 0.1, after: HangUpAfter::Tokens(3) };
        let drawn = |seed| -> Vec<usize> {
            (0..10_000).filter(|index| hang_ups.of(seed, *index).is_some()).collect()
        };
        assert!((900..1_100).contains(&drawn(1).len()), "{}", drawn(1).len());
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        let none = HangUps { share: 0.0, ..hang_ups };
        assert!((0..1_000).all(|index| none.of(1, index).is_none()));
        let all = HangUps { share: 1.0, ..hang_ups };
        assert!((0..1_000).all(|index| all.of(1, index).is_some()));
    }

    #[test]
    fn it_is_written_as_a_share_and_a_time_or_a_number_of_tokens() {
        let time = HangUpAfter::Time(Duration::from_millis(1_500));
        assert_eq!("10%:1.5s".parse(), Ok(HangUps { share: 0.1, after: time }));
        let tokens = HangUpAfter::Tokens(20);
        assert_eq!("5%: 20 tokens".parse(), Ok(HangUps { share: 0.05, after: tokens }));
        for text in
            ["10", "10:2s", "101%:2s", "-1%:2s", "NaN%:2s", "10%:", "10%:-2s", "10%:x tokens"]
        {
            assert_eq!(text.parse::<HangUps>(), Err(BadHangUps(text.to_owned())));
        }
    }
}
