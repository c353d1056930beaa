//! Fits a profile to the recorded requests of one run.

use anyhow::{Context as _, bail};
use calibration::{
    physics,
    requests::{self, MeasuredRequest},
    requests_fit::{self, Recording},
    run::Setting,
    table,
    timeline::{self, Moment},
};
use workload::trace::{Recorded, Trace, mooncake};

use super::Calibrate;
use crate::simulate::load;

/// Block size of the traces that come with such recordings, and of the engines.
const BLOCK_TOKENS: u32 = 16;

/// Most simulations of one fit.
const TRIALS_MAX: usize = 1_200;

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
pub(super) fn fit(calibrate: &Calibrate, file: &str) -> anyhow::Result<()> {
    let text = load::trace(file).with_context(|| format!("cannot read recording {file}"))?;
    let measured = requests::read(&text).with_context(|| format!("cannot use {file}"))?;
    let Some(mut start) = calibrate.start(calibrate.model.as_deref())? else {
        bail!(
            "nothing to start from: pass --model and --gpu (known models: {}; GPUs: {}), or \
             --profile",
            physics::models().collect::<Vec<_>>().join(", "),
            physics::gpus().collect::<Vec<_>>().join(", ")
        );
    };
    if calibrate.profile.is_none() {
        start = physics::shared_by_ranks(&start, calibrate.ranks);
    }
    let load = calibrate.timeseries.as_deref().map(moments).transpose()?;
    let recording = recording(calibrate, measured, &start)?;
    let fit = requests_fit::fit(&recording, &start, TRIALS_MAX)
        .with_context(|| format!("cannot fit {file}"))?;
    println!("{}", table::recording(file, &fit));
    if let Some(load) = load {
        println!("{}", table::timeline(&timeline::compare(&load, &fit.samples)));
    }
    calibrate.write(&[&fit.profile])
}

fn moments(file: &str) -> anyhow::Result<Vec<Moment>> {
    let text = load::trace(file).with_context(|| format!("cannot read time series {file}"))?;
    timeline::read(&text).with_context(|| format!("cannot use {file}"))
}

fn recording(
    calibrate: &Calibrate,
    measured: Vec<MeasuredRequest>,
    start: &engine::Profile,
) -> anyhow::Result<Recording> {
    let trace = match &calibrate.trace {
        None => Recorded::default(),
        Some(file) => {
            let text = load::trace(file).with_context(|| format!("cannot read trace {file}"))?;
            let trace = Trace { block_tokens: Some(BLOCK_TOKENS), ..Trace::new(file.clone()) };
            mooncake::read(&trace, &text)?
        }
    };
    let workload = requests::workload(&measured, &trace, start.block_size);
    let replicas = usize::try_from(calibrate.ranks).unwrap_or(usize::MAX);
    let setting = Setting { replicas, lockstep: replicas > 1, ..Setting::default() };
    Ok(Recording { workload, measured, setting })
}
