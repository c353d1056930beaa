//! Policies compared on the same requests: seed by seed, each with a baseline.
//!
//! Runs of one workload and one seed had the same requests, so the difference between two of them is
//! due to the policies alone; what all seeds have in common cancels out.

use serde::{Deserialize, Serialize};

use crate::{interval::Interval, summary::Run};

/// What `comparison.json` calls its own layout.
pub const SCHEMA: &str = "sluice.comparison/1";

/// A figure that policies are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Good requests per second.
    RequestGoodput,
    /// Mean time to first token, in milliseconds.
    TtftMsMean,
    /// 99th percentile of the same.
    TtftMsP99,
    /// Mean time per output token, in milliseconds.
    TpotMsMean,
    /// Cached over all prompt tokens.
    CacheHitRate,
}

impl Figure {
    /// Every figure, in the order in which they are listed to people.
    pub const ALL: [Self; 5] = [
        Self::RequestGoodput,
        Self::TtftMsMean,
        Self::TtftMsP99,
        Self::TpotMsMean,
        Self::CacheHitRate,
    ];

    /// The figure of a run, where it has one.
    #[must_use]
    pub fn of(self, run: &Run) -> Option<f64> {
        match self {
            Self::RequestGoodput => Some(run.request_goodput),
            Self::TtftMsMean => run.ttft_ms.map(|it| it.mean),
            Self::TtftMsP99 => run.ttft_ms.map(|it| it.p99),
            Self::TpotMsMean => run.tpot_ms.map(|it| it.mean),
            Self::CacheHitRate => run.cache_hit_rate,
        }
    }

    /// Whether more is better.
    #[must_use]
    pub const fn more_is_better(self) -> bool {
        match self {
            Self::RequestGoodput | Self::CacheHitRate => true,
            Self::TtftMsMean | Self::TtftMsP99 | Self::TpotMsMean => false,
        }
    }
}

/// How a policy differs from the baseline in one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the workload.
    pub workload: String,
    /// The policy.
    pub policy: String,
    /// The policy it is compared with.
    pub baseline: String,
    /// What is compared.
    pub figure: Figure,
    /// Seeds that both have a figure for.
    pub pairs: usize,
    /// Mean of the baseline's figures.
    pub baseline_mean: Option<f64>,
    /// The policy's figure minus the baseline's; none of too few pairs.
    pub difference: Option<Interval>,
    /// What that says.
    pub verdict: Verdict,
}

/// What a difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The policy is better than the baseline.
    Better,
    /// It is worse.
    Worse,
    /// The interval holds zero.
    NoSignificantDifference,
    /// There were too few seeds to tell.
    TooFewSeeds,
}

impl Verdict {
    /// The verdict as people read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Worse => "worse",
            Self::NoSignificantDifference => "no significant difference",
            Self::TooFewSeeds => "too few seeds",
        }
    }
}

/// Compares every other policy with `baseline`, workload by workload, in the order of `runs`.
#[must_use]
pub fn compare(runs: &[Run], baseline: &str) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|it| it.workload == first.workload).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut policies: Vec<String> = Vec::new();
        for policy in group.iter().map(Run::rules) {
            if policy != baseline && !policies.contains(&policy) {
                policies.push(policy);
            }
        }
        for policy in policies {
            let figures = Figure::ALL.into_iter();
            differences.extend(figures.map(|figure| difference(group, baseline, &policy, figure)));
        }
    }
    differences
}

fn difference(group: &[Run], baseline: &str, policy: &str, figure: Figure) -> Difference {
    let of = |policy: &str, seed| {
        let run = group.iter().find(|it| it.rules() == policy && it.seed == seed)?;
        figure.of(run)
    };
    let seeds = group.iter().filter(|it| it.rules() == baseline).map(|it| it.seed);
    let pairs: Vec<(f64, f64)> =
        seeds.filter_map(|seed| Some((of(baseline, seed)?, of(policy, seed)?))).collect();
    let differences: Vec<f64> = pairs.iter().map(|(baseline, policy)| policy - baseline).collect();
    let interval = Interval::of_mean(&differences);
    let sum: f64 = pairs.iter().map(|it| it.0).sum();
    Difference {
        workload: group.first().map(|it| it.workload.clone()).unwrap_or_default(),
        policy: policy.to_owned(),
        baseline: baseline.to_owned(),
        figure,
        pairs: pairs.len(),
        baseline_mean: (!pairs.is_empty()).then(|| sum / crate::stats::count(pairs.len())),
        difference: interval,
        verdict: match interval {
            None => Verdict::TooFewSeeds,
            Some(it) if !it.excludes_zero() => Verdict::NoSignificantDifference,
            Some(it) if (it.mean > 0.0) == figure.more_is_better() => Verdict::Better,
            Some(_) => Verdict::Worse,
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    /// Runs of two policies on six seeds; `gain` is what the second has more of goodput.
    pub(crate) fn runs(gain: impl Fn(u64) -> f64) -> Vec<Run> {
        let run = |policy: &str, seed: u64, request_goodput: f64| Run {
            policy: policy.to_owned(),
            seed,
            request_goodput,
            ..run(&records())
        };
        let level = |seed: u64| 10.0 + (seed * 7 % 5) as f64;
        (1..=6)
            .flat_map(|seed| {
                [run("random", seed, level(seed)), run("sticky", seed, level(seed) + gain(seed))]
            })
            .collect()
    }

    fn goodput(runs: &[Run]) -> Difference {
        compare(runs, "random").remove(0)
    }

    #[test]
    fn pairing_cancels_what_seeds_have_in_common() {
        let steady = goodput(&runs(|seed| 0.5 + 0.01 * seed as f64));
        assert_eq!((steady.verdict, steady.pairs), (Verdict::Better, 6));
        let interval = steady.difference.unwrap();
        assert!(0.5 < interval.low && interval.high < 0.57, "{interval:?}");
        assert_eq!(goodput(&runs(|seed| -0.5 - 0.01 * seed as f64)).verdict, Verdict::Worse);
    }

    #[test]
    fn chance_is_called_chance() {
        let mixed = goodput(&runs(|seed| if seed % 2 == 0 { 1.0 } else { -0.9 }));
        assert_eq!(mixed.verdict, Verdict::NoSignificantDifference);
    }

    #[test]
    fn two_seeds_tell_nothing() {
        let two: Vec<Run> = runs(|_| 5.0).into_iter().filter(|it| it.seed <= 2).collect();
        assert_eq!(goodput(&two).verdict, Verdict::TooFewSeeds);
    }

    #[test]
    fn every_figure_is_compared_and_the_baseline_is_not() {
        let all = compare(&runs(|_| 1.0), "random");
        assert_eq!(all.len(), Figure::ALL.len());
        assert!(all.iter().all(|it| it.policy == "sticky"));
    }
}
