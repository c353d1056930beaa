//! Each policy as a share of what no policy can exceed.

use std::fmt::Write as _;

use super::{align_right, percent, policy, table};
use crate::{limits::Limits, stats::count, summary::Run};

/// The limits of each workload and rate, and how far each policy comes; means over the seeds. Empty
/// where nobody computed any.
#[must_use]
pub fn limits(runs: &[Run]) -> String {
    let mut out = String::new();
    let mut rest = runs;
    while let Some(first) = rest.first() {
        let same = rest.iter().take_while(|it| it.workload == first.workload).count();
        let (group, others) = rest.split_at(same);
        rest = others;
        let Some(some) = group.iter().find_map(|it| it.limits.as_ref()) else { continue };
        // Writing to a string cannot fail.
        let _ =
            write!(out, "limits of {}\n{}{}\n", first.workload, told(group, some), shares(group));
    }
    out
}

/// The limits themselves, in sentences.
fn told(group: &[Run], some: &Limits) -> String {
    let of = |figure: fn(&Limits) -> Option<f64>| {
        mean(group.iter().filter_map(|it| figure(it.limits.as_ref()?)))
    };
    let mut out = String::new();
    if let Some(endless) = of(|it| it.hit_rate_endless) {
        let _ = write!(
            out,
            "hit rate: {} in an endless cache, {} in the fleet's {} tokens under the best eviction;\n\
             under LRU {} where nothing is kept twice, {} where everything is kept everywhere\n",
            percent(Some(endless)),
            percent(of(|it| it.hit_rate_best)),
            some.cache_tokens,
            percent(of(|it| it.hit_rate_lru_fleet)),
            percent(of(|it| it.hit_rate_lru_replica)),
        );
    }
    if let Some(good) = of(|it| it.good_request_fraction) {
        let reached = if some.good_is_exact { ", which some schedule reaches" } else { "" };
        let _ = write!(out, "good requests: at most {}{reached}", percent(Some(good)));
        let knee = of(|it| it.knee_rps).map(|it| format!("; fluid knee {it:.1}/s"));
        let _ = writeln!(out, "{}", knee.unwrap_or_default());
    }
    out
}

fn shares(group: &[Run]) -> String {
    let mut policies: Vec<String> = Vec::new();
    for name in group.iter().map(policy) {
        if !policies.contains(&name) {
            policies.push(name);
        }
    }
    let mut table =
        table(&["policy", "hit rate", "of limit", "good requests", "of limit", "goodput of knee"]);
    for name in policies {
        let of = |figure: fn(&Run) -> Option<f64>| {
            percent(mean(group.iter().filter(|it| policy(it) == name).filter_map(figure)))
        };
        table.add_row([
            name.clone(),
            of(|it| it.cache_hit_rate),
            of(Run::hit_rate_of_limit),
            of(|it| it.good_request_fraction),
            of(Run::good_of_limit),
            of(Run::goodput_of_knee),
        ]);
    }
    align_right(&mut table);
    format!("{table}\n")
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    #[test]
    fn policies_are_shares_of_their_limits() {
        let limits = Limits {
            cache_tokens: 3_736_000,
            hit_rate_endless: Some(0.9),
            hit_rate_best: Some(0.8),
            hit_rate_lru_fleet: Some(0.75),
            hit_rate_lru_replica: Some(0.4),
            knee_rps: Some(2.0),
            good_request_fraction: Some(0.8),
            ..Limits::default()
        };
        let one = Run { limits: Some(limits), ..run(&records()) };
        let other = Run { policy: "random".to_owned(), cache_hit_rate: None, ..one.clone() };
        let without = Run { workload: "without".to_owned(), limits: None, ..one.clone() };
        let table = super::limits(&[one, other, without]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        insta::assert_snapshot!(table);
    }
}
