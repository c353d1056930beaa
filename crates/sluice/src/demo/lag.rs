//! Whether the demonstration kept up with its own schedule: it shares its processors with all that it measures.

use replay::{Lag, lag::LAG_MAX};
use report::Run;

/// Why figures are not to be trusted, if so: each run whose requests left late.
pub(super) fn doubt(runs: &[Run], lags: &[Lag]) -> Option<String> {
    let late = runs.iter().zip(lags).filter_map(|(run, lag)| {
        let behind = lag.verdict(LAG_MAX)?;
        Some(format!("{} under {}: {behind}", run.workload, run.policy))
    });
    let late: Vec<String> = late.collect();
    let cure = "try again while nothing else is busy here, or with a longer --duration";
    (!late.is_empty()).then(|| format!("{}; {cure}", late.join("\n")))
}

/// The note below the table.
pub(super) fn note(lags: &[Lag]) -> String {
    let worst = lags.iter().map(|it| it.p99).max().unwrap_or_default();
    format!(
        "Requests left at most {worst:.1?} late (p99 of the latest run; {LAG_MAX:?} is too late)."
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use report::{Histogram, RunInfo};

    use super::*;

    #[test]
    fn only_the_run_that_left_late_is_doubted() {
        let info = RunInfo { policy: "sticky".to_owned(), ..RunInfo::default() };
        let run = Run::measure(&info, &[], &Histogram::new());
        let late = Lag { p99: Duration::from_millis(40), ..Lag::default() };
        let runs = [run.clone(), run];
        assert_eq!(doubt(&runs, &[Lag::default(), Lag::default()]), None);
        let told = doubt(&runs, &[Lag::default(), late]).unwrap();
        assert_eq!(told.matches("FELL BEHIND").count(), 1, "{told}");
        assert!(told.contains("under sticky") && told.contains("--duration"), "{told}");
        assert!(note(&[Lag::default(), late]).contains("40.0ms"));
    }
}
