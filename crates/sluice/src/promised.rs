//! What requests are promised, as the command line says it.

use std::collections::{BTreeMap, BTreeSet};

use replay::ReplayOptions;
use report::Terms;
use types::slo::Slo;
use workload::Arrival;

/// What requests are promised.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Promised {
    /// The promises, in milliseconds, in AIPerf's notation.
    #[arg(long, value_name = "SLOS", value_parser = report::slo::parse)]
    #[arg(default_value = "time_to_first_token:1500 time_per_output_token:60")]
    pub(crate) goodput: Slo,
    /// The promises to one SLO class instead, as in 'batch=completion_window:14400000'; may be repeated.
    #[arg(long, value_name = "CLASS=SLOS", value_parser = class)]
    goodput_class: Vec<(String, Slo)>,
    /// SLO class of the requests whose workload names none; goes out as `x-sluice-slo-class`.
    #[arg(long, value_name = "CLASS")]
    slo_class: Option<String>,
    /// Most times that a good request may have been sent again; any number when absent.
    #[arg(long, value_name = "N")]
    retries_max: Option<u32>,
}

/// Reads a class and its promises.
fn class(text: &str) -> Result<(String, Slo), String> {
    let form = || format!("'{text}' is not CLASS=SLOS, as in batch=completion_window:14400000");
    let (name, slos) = text.split_once('=').ok_or_else(form)?;
    let name = name.trim();
    if name.is_empty() {
        return Err(form());
    }
    let slo = report::slo::parse(slos).map_err(|error| format!("{name}: {error}"))?;
    Ok((name.to_owned(), slo))
}

impl Promised {
    /// What requests without a class are judged on.
    pub(crate) const fn terms(&self) -> Terms {
        Terms { slo: self.goodput, retries_max: self.retries_max }
    }

    /// Refuses two promises to one class, of which only one could be kept.
    ///
    /// # Errors
    /// Names the class.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut seen = BTreeSet::new();
        match self.goodput_class.iter().find(|(name, _)| !seen.insert(name)) {
            Some((name, _)) => {
                anyhow::bail!("--goodput-class {name} is given twice; name each class once")
            }
            None => Ok(()),
        }
    }

    /// What those of each class are judged on instead.
    pub(crate) fn classes(&self) -> BTreeMap<String, Terms> {
        let terms = |slo| Terms { slo, retries_max: self.retries_max };
        self.goodput_class.iter().map(|(name, slo)| (name.clone(), terms(*slo))).collect()
    }

    /// `options` with these promises.
    pub(crate) fn with(&self, options: ReplayOptions) -> ReplayOptions {
        ReplayOptions {
            terms: self.terms(),
            classes: self.classes(),
            slo_class: self.slo_class.clone(),
            ..options
        }
    }

    /// What a person should know of the classes that `arrivals` name: those without a promise of their
    /// own.
    pub(crate) fn note(&self, arrivals: &[Arrival]) -> Option<String> {
        let classes = self.classes();
        let named = arrivals.iter().filter_map(|it| it.slo_class.as_deref());
        let unknown: BTreeSet<&str> = named
            .chain(self.slo_class.as_deref())
            .filter(|it| !classes.contains_key(*it))
            .collect();
        let unknown: Vec<&str> = unknown.into_iter().collect();
        let names = unknown.join(", ");
        (!unknown.is_empty()).then(|| {
            format!("no promise of its own for {names}: judged by --goodput; pass --goodput-class")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_class_is_read_with_its_promises() {
        let (name, slo) = class("batch=completion_window:14400000").unwrap();
        assert_eq!((name.as_str(), slo.completion), ("batch", Some(Duration::from_secs(14_400))));
        let (_, slo) = class("fast=time_to_first_token:300 request_latency:900").unwrap();
        assert!(slo.ttft.is_some() && slo.e2e.is_some());
        for (text, told) in
            [("batch", "CLASS=SLOS"), ("=x:1", "CLASS=SLOS"), ("batch=ttft:5", "batch: 'ttft'")]
        {
            assert!(class(text).unwrap_err().contains(told), "{text}");
        }
    }
}
