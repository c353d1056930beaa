//! Fits a profile to each model and GPU of a file of measured stages.

use anyhow::{Context as _, bail};
use calibration::{
    stage_file,
    stage_fit::{self, FitError, GroupFit, Options},
    table,
};

use super::Calibrate;
use crate::simulate::load;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the result is for the terminal")]
pub(super) fn fit(calibrate: &Calibrate, file: &str) -> anyhow::Result<()> {
    let text = load::trace(file).with_context(|| format!("cannot read stages {file}"))?;
    let read = stage_file::read(&text).with_context(|| format!("cannot use stages {file}"))?;
    if read.averages > 0 {
        eprintln!("left out {} rows that average over stages", read.averages);
    }
    for workload in &read.unknown {
        eprintln!(
            "left out a stage of {workload:?}, whose load is not known; add the column rate_req"
        );
    }
    let named = calibrate.profile.as_deref().map(load::profile).transpose()?;
    let mut fits: Vec<GroupFit> = Vec::new();
    let mut failures: Vec<FitError> = Vec::new();
    for group in stage_fit::groups(read.stages) {
        let name = group.name();
        if calibrate.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let fitted = stage_fit::start(&group, named.as_ref())
            .and_then(|start| stage_fit::fit(&group, &start, &Options::default()));
        match fitted {
            Ok(fit) => {
                println!("{}", table::stages(&fit));
                fits.push(fit);
            }
            Err(error) => {
                eprintln!("not fitted: {error}");
                failures.push(error);
            }
        }
    }
    if fits.is_empty() {
        match failures.into_iter().next() {
            Some(error) => return Err(error).with_context(|| format!("nothing fitted in {file}")),
            None => bail!("no stage of {file} matches --only; leave it out to see all"),
        }
    }
    println!("{}", table::summary(&fits));
    let profiles: Vec<_> = fits.iter().map(|fit| &fit.profile).collect();
    calibrate.write(&profiles)
}
