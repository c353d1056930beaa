//! A table of what decisions turned out to cost.

use super::{align_right, millis, percent, policy as policy_of, table};
use crate::{regret::Regret, stats::count, summary::Run};

/// What the policies' decisions turned out to cost, each figure the mean over its runs at all rates and
/// seeds; empty where no run says.
#[must_use]
pub fn regret(runs: &[Run]) -> String {
    let mut policies: Vec<String> = Vec::new();
    for name in runs.iter().filter(|it| it.regret.is_some()).map(policy_of) {
        if !policies.contains(&name) {
            policies.push(name);
        }
    }
    if policies.is_empty() {
        return String::new();
    }
    let mut table =
        table(&["policy", "TTFT off by", "p99", "later than told", "recomputed, held elsewhere"]);
    for policy in policies {
        let regrets =
            || runs.iter().filter(|it| policy_of(it) == policy).filter_map(|it| it.regret.as_ref());
        let mean = |of: &dyn Fn(&Regret) -> Option<f64>| {
            let values: Vec<f64> = regrets().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / count(values.len()))
        };
        table.add_row([
            policy.clone(),
            millis(mean(&|it| it.ttft_error_ms.map(|it| it.mean))),
            millis(mean(&|it| it.ttft_error_ms.map(|it| it.p99))),
            mean(&|it| it.ttft_bias_ms).map_or_else(|| "-".to_owned(), |it| format!("{it:+.1} ms")),
            percent(mean(&|it| it.recomputed_share)),
        ]);
    }
    align_right(&mut table);
    format!("what decisions turned out to cost\n{table}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{records, run};

    #[test]
    fn a_policy_that_says_nothing_has_no_row() {
        assert_eq!(regret(&[run(&records())]), "");
        let mut told = run(&records());
        told.regret = Some(Regret {
            ttft_error_ms: None,
            ttft_bias_ms: Some(-12.25),
            recomputed_tokens: 7,
            recomputed_share: Some(0.125),
        });
        let text = regret(&[told, run(&records())]);
        assert!(text.contains("-12.2 ms") && text.contains("12.5 %"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}
