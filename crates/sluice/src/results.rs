//! What results have in common: thresholds that they must hold, prices, and the page they become.

use std::{collections::BTreeSet, path::Path};

use anyhow::bail;
use replay::output;
use report::{
    Histogram, Run, RunInfo,
    cost::{Prices, WorkloadClass},
    gate::{Failed, Gate},
    html::Page,
};
use serde::Serialize;

use crate::typed;

/// Thresholds, for CI.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Gates {
    /// Fails with exit code 1 unless this holds, as in good_request_fraction>=0.99 or
    /// ttft_ms.p99<=1500; may be repeated.
    #[arg(long, value_name = "FIGURE>=NUMBER")]
    pub(crate) fail_under: Vec<Gate>,
}

impl Gates {
    /// Refuses thresholds on what is no figure, before anything is measured: `sample` has all the figures
    /// that there are, those of `sometimes` apart.
    pub(crate) fn refuse_unknown(&self, sample: &impl Serialize, sometimes: &[&str]) {
        for gate in &self.fail_under {
            let is_known = !matches!(gate.check(sample), Err(Failed::Unknown(_)))
                || sometimes.contains(&gate.of());
            if !is_known {
                let known = serde_json::to_value(sample).unwrap_or_default();
                let names = known.as_object().into_iter().flat_map(|it| it.iter());
                let figures = names.filter(|(_, it)| it.is_number() || it.is_null());
                let names: Vec<&str> = figures.map(|it| it.0.as_str()).collect();
                typed::refuse(&format!(
                    "--fail-under {gate}: no such figure; use one of {} or a part of one, as in ttft_ms.p99",
                    names.join(", ")
                ));
            }
        }
    }

    /// The same of what a run has.
    pub(crate) fn refuse_unknown_of_runs(&self) {
        let run = Run::measure(&RunInfo::default(), &[], &Histogram::new());
        self.refuse_unknown(&run, &["limits", "regret"]);
    }

    /// Checks every threshold against the `figures` of each run, which are called by a name.
    ///
    /// # Errors
    /// All that do not hold, in one sentence.
    pub(crate) fn check<'a, T: Serialize + 'a>(
        &self,
        figures: impl IntoIterator<Item = (String, &'a T)>,
    ) -> anyhow::Result<()> {
        let missed: Vec<String> = figures
            .into_iter()
            .flat_map(|(name, figures)| {
                let missed = self.fail_under.iter().filter_map(|it| it.check(figures).err());
                let name = if name.is_empty() { name } else { format!("{name}: ") };
                missed.map(|it| format!("{name}{it}")).collect::<Vec<_>>()
            })
            .collect();
        if missed.is_empty() { Ok(()) } else { bail!("{}", missed.join("; ")) }
    }
}

/// What is paid, and for what.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Paid {
    /// Prices, as in replica_hour=2.50,request=0.0001,currency=EUR; also other_hour, input_mtok,
    /// cached_mtok, output_mtok and rework.
    #[arg(long, value_name = "PRICES", value_parser = prices)]
    pub(crate) costs: Option<Prices>,
    /// Kind of work, which says what counts as a result: conversational, agentic, rag, extraction,
    /// voice or batch.
    #[arg(long, value_name = "CLASS")]
    pub(crate) workload_class: Option<WorkloadClass>,
}

/// Reads `name=price` items, separated by commas.
fn prices(text: &str) -> Result<Prices, String> {
    let mut prices = Prices::default();
    let mut seen = BTreeSet::new();
    for item in text.split(',').map(str::trim).filter(|it| !it.is_empty()) {
        let form = || format!("'{item}' is not NAME=PRICE, as in replica_hour=2.50");
        let (name, value) = item.split_once('=').ok_or_else(form)?;
        if !seen.insert(name.trim()) {
            return Err(format!("'{}' is given twice; name each price once", name.trim()));
        }
        let number = || value.parse().map_err(|_| form());
        match name.trim() {
            "currency" => value.clone_into(&mut prices.currency),
            "replica_hour" => prices.replica_hour = number()?,
            "other_hour" => prices.other_hour = number()?,
            "request" => prices.request = number()?,
            "input_mtok" => prices.input_mtok = number()?,
            "cached_mtok" => prices.cached_mtok = number()?,
            "output_mtok" => prices.output_mtok = number()?,
            "rework" => prices.rework = number()?,
            other => {
                return Err(format!(
                    "'{other}' is no price; use replica_hour, other_hour, request, input_mtok, \
                     cached_mtok, output_mtok, rework or currency"
                ));
            }
        }
    }
    let problems = prices.problems();
    if problems.is_empty() { Ok(prices) } else { Err(problems.join("; ")) }
}

/// Options whose values are nobody else's business.
const SECRET: [&str; 2] = ["--api-key", "--header"];

/// The command line as a manifest states it, which others will read: without keys.
#[must_use]
pub(crate) fn command_line() -> Vec<String> {
    without_keys(std::env::args())
}

fn without_keys(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut is_secret = false;
    arguments
        .map(|it| {
            let (name, value) =
                it.split_once('=').map_or((it.as_str(), None), |(a, b)| (a, Some(b)));
            let hides = SECRET.contains(&name);
            let told = match (std::mem::take(&mut is_secret), hides, value) {
                (true, _, _) => "(hidden)".to_owned(),
                (false, true, Some(_)) => format!("{name}=(hidden)"),
                (false, _, _) => it.clone(),
            };
            is_secret = hides && value.is_none() && told != "(hidden)";
            told
        })
        .collect()
}

/// Writes `report.html` into `folder`.
///
/// # Errors
/// A folder that cannot be written.
pub(crate) fn write_page(folder: &Path, page: &Page) -> anyhow::Result<()> {
    output::write_text(folder, "report.html", &page.render())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_by_name() {
        let read = prices("replica_hour=2.5, request=0.01,currency=EUR").unwrap();
        assert!((read.replica_hour - 2.5).abs() < 1e-12 && (read.request - 0.01).abs() < 1e-12);
        assert_eq!(read.currency, "EUR");
        assert!(prices("gpu=1").unwrap_err().contains("replica_hour"));
        assert!(prices("request").unwrap_err().contains("NAME=PRICE"));
        assert!(prices("request=1,request=2").unwrap_err().contains("given twice"));
        assert!(prices("request=-1").unwrap_err().contains("0 or more"));
    }

    #[test]
    fn a_manifest_holds_no_key() {
        let line = "sluice replay --api-key k1 --header=x-key:k2 --header x:k3 --model m";
        let told = without_keys(line.split(' ').map(str::to_owned)).join(" ");
        let hidden =
            "sluice replay --api-key (hidden) --header=(hidden) --header (hidden) --model m";
        assert_eq!(told, hidden);
    }

    #[test]
    fn every_threshold_that_is_missed_is_named() {
        let run = Run::measure(
            &RunInfo::default(),
            &[report::RequestRecord::default()],
            &Histogram::new(),
        );
        let gates =
            |all: &[&str]| Gates { fail_under: all.iter().map(|it| it.parse().unwrap()).collect() };
        let check = |it: Gates| it.check([("sticky".to_owned(), &run)]);
        assert!(check(gates(&["failed>=1"])).is_ok());
        let error = check(gates(&["good_request_fraction>=0.9", "completed>=1"])).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("sticky: good_request_fraction>=0.9 does not hold"), "{error}");
        assert!(error.contains("; sticky: completed>=1"), "{error}");
    }
}
