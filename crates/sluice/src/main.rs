//! The one binary: parses arguments and starts one of the programs.

#[cfg(target_os = "linux")]
mod allocator;
mod args;
mod calibrate;
mod check;
mod compare;
mod demo;
mod emulate;
mod explain;
mod frontier;
mod limits;
mod logs;
mod plan;
mod promised;
mod recording;
mod replay;
mod report;
mod results;
mod sending;
mod serve;
mod shutdown;
mod simulate;
mod traced;
mod typed;

use std::process::ExitCode;

use clap::Parser as _;
use router::{config::ConfigError, serve::StartError};

use crate::args::{Args, Verb};

/// What `sysexits.h` calls `EX_CONFIG`: the configuration can't be used.
const EXIT_CONFIG: u8 = 78;

fn main() -> ExitCode {
    #[cfg(target_os = "linux")]
    allocator::give_back();
    let Args { verb, log_format } = Args::parse();
    let _logs = logs::start(log_format, verb.log_filter());
    let result = match verb {
        Verb::Demo(demo) => demo::run(&demo),
        Verb::Serve(serve) => serve::run(serve),
        Verb::Emulate(emulate) => emulate::run(emulate),
        Verb::Replay(replay) => replay::run(&replay),
        Verb::Simulate(simulate) => simulate::run(&simulate),
        Verb::Compare(compare) => compare::run(compare),
        Verb::Frontier(frontier) => frontier::run(&frontier),
        Verb::Plan(plan) => plan::run(&plan),
        Verb::Report(report) => report::run(&report),
        Verb::Calibrate(calibrate) => calibrate::run(&calibrate),
        Verb::Check(check) => check::run(&check),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where a person is told what went wrong")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {}", sentence(error));
    let is_config = error.downcast_ref::<ConfigError>().is_some()
        || matches!(error.downcast_ref(), Some(StartError::Config(_) | StartError::Tokenizer(_)));
    if is_config { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
}

/// The error with its causes, each said once: some errors say theirs themselves.
fn sentence(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |told, cause| {
        let cause = cause.to_string();
        if told.contains(&cause) { told } else { format!("{told}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        assert_eq!(
            sentence(&anyhow!("no port").context("cannot listen")),
            "cannot listen: no port"
        );
        let twice = anyhow!("no port").context("cannot listen, no port is free");
        assert_eq!(sentence(&twice), "cannot listen, no port is free");
    }
}
