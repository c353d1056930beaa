//! Tables over several seeds: means with their intervals, and differences with a verdict.

use std::fmt::Write as _;

use super::{align_right, heading, millis, percent, policy as policy_of, table};
use crate::{
    interval::Interval,
    paired::{Difference, Figure, Verdict},
    stats::count,
    summary::Run,
};

/// Policies side by side, each figure the mean over the seeds; with five seeds or more, ± half of
/// its 95 % interval.
#[must_use]
pub fn means(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|it| it.workload == first.workload).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut policies: Vec<String> = Vec::new();
        for name in group.iter().map(policy_of) {
            if !policies.contains(&name) {
                policies.push(name);
            }
        }
        let mut table = table(&["policy", "hit rate", "TTFT mean", "TTFT p99", "TPOT", "goodput"]);
        for policy in &policies {
            let of = |figure: Figure| -> Vec<f64> {
                let runs = group.iter().filter(|it| policy_of(it) == *policy);
                runs.filter_map(|it| figure.of(it)).collect()
            };
            table.add_row([
                policy.clone(),
                cell(Figure::CacheHitRate, &of(Figure::CacheHitRate)),
                cell(Figure::TtftMsMean, &of(Figure::TtftMsMean)),
                cell(Figure::TtftMsP99, &of(Figure::TtftMsP99)),
                cell(Figure::TpotMsMean, &of(Figure::TpotMsMean)),
                cell(Figure::RequestGoodput, &of(Figure::RequestGoodput)),
            ]);
        }
        align_right(&mut table);
        let seeds = group.len() / policies.len().max(1);
        let requests = group.iter().map(|it| it.requests).sum::<u64>() as f64 / count(group.len());
        let of_seeds = if seeds == 1 { String::new() } else { format!(", {seeds} seeds") };
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{}\n{table}",
            heading(
                &first.workload,
                &format!(
                    "{requests:.0} requests at {:.1}/s for {:.0} s{of_seeds}",
                    first.offered_rps, first.window_s
                )
            )
        );
    }
    out
}

/// How policies differ from the baseline, with a verdict.
#[must_use]
pub fn differences(differences: &[Difference]) -> String {
    let mut out = String::new();
    let mut rest = differences;
    while let Some(first) = rest.first() {
        let is_same =
            |it: &Difference| (&it.workload, &it.policy) == (&first.workload, &first.policy);
        let same = rest.iter().take_while(|it| is_same(it)).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let mut table = table(&["", &first.baseline, "difference", "95 % interval", "verdict"]);
        for it in group {
            let ends = it.difference.map(|ends| {
                format!("{} to {}", signed(it.figure, ends.low), signed(it.figure, ends.high))
            });
            table.add_row([
                name(it.figure).to_owned(),
                it.baseline_mean.map_or_else(|| "-".to_owned(), |mean| value(it.figure, mean)),
                it.difference.map_or_else(|| "-".to_owned(), |ends| signed(it.figure, ends.mean)),
                ends.unwrap_or_else(|| "-".to_owned()),
                it.verdict.as_str().to_owned(),
            ]);
        }
        align_right(&mut table);
        let told = group.iter().filter(|it| it.verdict != Verdict::TooFewSeeds).count();
        let hint = if told == 0 { "; five seeds or more tell better from chance" } else { "" };
        let _ = writeln!(
            out,
            "{}: {} against {}, paired over {} seeds{hint}\n{table}",
            first.workload, first.policy, first.baseline, first.pairs
        );
    }
    out
}

const fn name(figure: Figure) -> &'static str {
    match figure {
        Figure::RequestGoodput => "goodput",
        Figure::TtftMsMean => "TTFT mean",
        Figure::TtftMsP99 => "TTFT p99",
        Figure::TpotMsMean => "TPOT mean",
        Figure::CacheHitRate => "hit rate",
    }
}

fn cell(figure: Figure, values: &[f64]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    let number = values.iter().sum::<f64>() / count(values.len());
    let mean = value(figure, number);
    let half = Interval::of_mean(values).map(|it| (it.high - it.low) / 2.0);
    match half {
        None => mean,
        // One seed far from the others: how wide the interval is then says nothing more.
        Some(half) if half > number.abs() => format!("{mean} ±>100 %"),
        Some(half) => format!("{mean} ±{}", bare(figure, half)),
    }
}

fn value(figure: Figure, value: f64) -> String {
    match figure {
        Figure::RequestGoodput => format!("{value:.2}/s"),
        Figure::TtftMsMean | Figure::TtftMsP99 | Figure::TpotMsMean => millis(Some(value)),
        Figure::CacheHitRate => percent(Some(value)),
    }
}

/// A figure without its unit, to three digits or so.
fn bare(figure: Figure, value: f64) -> String {
    match figure {
        Figure::CacheHitRate => format!("{:.1}", value * 100.0),
        Figure::RequestGoodput => format!("{value:.2}"),
        Figure::TtftMsMean | Figure::TtftMsP99 | Figure::TpotMsMean if value.abs() >= 100.0 => {
            format!("{value:.0}")
        }
        Figure::TtftMsMean | Figure::TtftMsP99 | Figure::TpotMsMean => format!("{value:.2}"),
    }
}

fn signed(figure: Figure, value: f64) -> String {
    let bare = bare(figure, value);
    let unit = match figure {
        Figure::RequestGoodput => "/s",
        Figure::TtftMsMean | Figure::TtftMsP99 | Figure::TpotMsMean => " ms",
        Figure::CacheHitRate => " pp",
    };
    let sign = if bare.starts_with('-') { "" } else { "+" };
    format!("{sign}{bare}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paired::{compare, tests::runs};

    #[test]
    fn an_interval_wider_than_its_mean_is_not_told_in_digits() {
        let outlier = cell(Figure::TtftMsP99, &[237.0, 229.0, 222.0, 9_809.0, 229.0]);
        assert_eq!(outlier, "2145 ms ±>100 %");
        assert!(
            cell(Figure::TtftMsP99, &[237.0, 229.0, 222.0, 240.0, 229.0]).starts_with("231 ms ±")
        );
    }

    #[test]
    fn seeds_become_means_and_differences() {
        let runs = runs(|seed| 0.5 + 0.01 * seed as f64);
        let text = format!("{}\n{}", means(&runs), differences(&compare(&runs, "random")));
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
        insta::assert_snapshot!(text);
    }
}
