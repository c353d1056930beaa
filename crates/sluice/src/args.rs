//! What may be typed.

use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    calibrate::Calibrate, check::Check, compare::Compare, demo::Demo, emulate::Emulate, frontier,
    plan::Plan, replay::Replay, report::Report, serve::Serve, simulate::Simulate,
};

/// Routes LLM requests to the replica that already holds their KV cache.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) verb: Verb,
    /// How log lines are written to stderr; SLUICE_LOG sets which (info, debug, router=trace …).
    #[arg(long, value_enum, default_value = "text", global = true, env = "SLUICE_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
}

/// The programs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Demo(Demo),
    Serve(Serve),
    Emulate(Emulate),
    Replay(Box<Replay>),
    Simulate(Simulate),
    Compare(Compare),
    Frontier(Box<frontier::Args>),
    Plan(Plan),
    Report(Box<Report>),
    Calibrate(Calibrate),
    Check(Check),
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Verb {
    /// What is logged unless the user says otherwise.
    pub(crate) const fn log_filter(&self) -> &'static str {
        match self {
            // Their output is a table; a line for each request would bury it.
            Self::Demo(_)
            | Self::Replay(_)
            | Self::Simulate(_)
            | Self::Compare(_)
            | Self::Frontier(_)
            | Self::Plan(_)
            | Self::Report(_)
            | Self::Calibrate(_)
            | Self::Check(_) => "warn",
            Self::Serve(_) | Self::Emulate(_) => "info",
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Args::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        for verb in Args::command().get_subcommands() {
            let after = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(after.contains("sluice "), "{} has no example", verb.get_name());
        }
    }
}
