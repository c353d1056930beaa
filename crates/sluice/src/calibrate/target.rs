//! Measures a live endpoint and fits a profile to it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use calibration::{
    probe::{self, Burst, Extent, Question, Reply},
    table,
};
use replay::{ReplayOptions, Target, models};
use report::RequestRecord;
use tokio_util::sync::CancellationToken;
use types::{quantity::Tokens, time::Timestamp};
use wire::openai::Endpoint;
use workload::{Arrival, Prompt, Segment};

use super::Calibrate;
use crate::{limits, shutdown, simulate::load};

/// Most simulations of one fit.
const TRIALS_MAX: usize = 1_200;

/// What a fit starts from where neither a profile nor a known model and GPU is named; the sweeps
/// scale it.
const START: &str = "llama-3-8b-h100";

pub(super) fn fit(calibrate: &Calibrate, target: &Target) -> anyhow::Result<()> {
    let extent = Extent {
        prompt_max: Tokens(calibrate.prompt_max),
        concurrency_max: calibrate.concurrency_max,
        ..Extent::default()
    };
    let problems = extent.problems();
    if !problems.is_empty() {
        bail!("too little to ask: {}", problems.join("; "));
    }
    limits::raise();
    let runtime = tokio::runtime::Runtime::new().context("cannot start the threads that send")?;
    runtime.block_on(measure(calibrate, target, &extent))
}

#[expect(clippy::print_stdout, reason = "the result is for the terminal")]
async fn measure(calibrate: &Calibrate, target: &Target, extent: &Extent) -> anyhow::Result<()> {
    let model = match &calibrate.model {
        Some(model) => model.clone(),
        None => models::first(target, calibrate.api_key.as_deref(), None).await?,
    };
    let base = match calibrate.start(Some(&model))? {
        Some(base) => base,
        None => load::profile(START)?,
    };
    let options = ReplayOptions {
        targets: vec![target.clone()],
        model: model.clone(),
        endpoint: Endpoint::Completions,
        api_key: calibrate.api_key.clone(),
        run_id: "calibrate".to_owned(),
        session_header: false,
        ..ReplayOptions::default()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let first_name = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    tokio::spawn(async move {
        shutdown::requested().await;
        stopping.cancel();
    });
    let answered = asked(&options, extent, first_name, stop).await?;
    let name = model.rsplit('/').next().unwrap_or(&model);
    let (sweeps, fit) = probe::fit(&answered, &base, name, TRIALS_MAX)?;
    let title = format!("{model} at {target}");
    println!("{}\n{}", table::sweeps(&sweeps), table::recording(&title, &fit));
    calibrate.write(&[&fit.profile])
}

/// Sends every burst, each when the one before has been answered.
async fn asked(
    options: &ReplayOptions,
    extent: &Extent,
    first_name: u64,
    stop: CancellationToken,
) -> anyhow::Result<Vec<(Burst, Vec<Reply>)>> {
    let mut answered = Vec::new();
    for burst in extent.bursts(first_name) {
        let replies = ask(options, &burst, stop.clone()).await?;
        answered.push((burst, replies));
    }
    Ok(answered)
}

/// Sends a burst and waits for its answers.
async fn ask(
    options: &ReplayOptions,
    burst: &Burst,
    stop: CancellationToken,
) -> anyhow::Result<Vec<Reply>> {
    let arrivals: Vec<Arrival> = burst.questions.iter().map(arrival).collect();
    let recording = replay::run(options, arrivals, stop, |_| {}).await?;
    if let Some(error) = recording.records.iter().find_map(|it| it.error.as_ref()) {
        bail!("the endpoint did not answer: {error}; check the address and the model's context");
    }
    let replies: Vec<Reply> = recording.records.iter().filter_map(reply).collect();
    if replies.len() < burst.questions.len() {
        bail!("stopped while measuring; nothing was fitted");
    }
    Ok(replies)
}

fn arrival(question: &Question) -> Arrival {
    Arrival {
        at: Timestamp::ZERO,
        session: None,
        turn: 0,
        turns: None,
        workload_class: None,
        tenant: None,
        slo_class: None,
        prompt: Prompt::from_user(vec![Segment { id: question.name, tokens: question.prompt }]),
        output: question.output,
        answer: None,
        think: std::time::Duration::ZERO,
    }
}

fn reply(record: &RequestRecord) -> Option<Reply> {
    let seconds = |at: Timestamp| at.elapsed().as_secs_f64();
    Some(Reply {
        sent_s: seconds(record.sent?),
        first_s: seconds(record.first_token?),
        last_s: seconds(record.last_token?),
        input: record.input_tokens,
        output: record.output_tokens,
        cached: record.cached_tokens,
    })
}

#[cfg(test)]
mod tests;
