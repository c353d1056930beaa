//! A file of recorded requests, as the command line names it: the same options wherever one is read.

use workload::{
    range::DurationRange,
    trace::{Format, Trace},
};

use crate::typed;

/// A file of recorded requests, and how it is read.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Traced {
    /// Recorded requests to take, in any of ten formats, `.zst` and `.gz` unpacked.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<String>,
    /// Format of the trace; how it begins tells when absent.
    #[arg(long, value_name = "NAME", requires = "trace")]
    pub(crate) format: Option<Format>,
    /// Tokens in a block of the trace; the format's own when absent.
    #[arg(long, value_name = "N", requires = "trace")]
    pub(crate) block_tokens: Option<u32>,
    /// Leaves out lines of the trace that can't be read, and counts them.
    #[arg(long, requires = "trace")]
    pub(crate) skip_bad_lines: bool,
    /// How long users think before a later turn, where the trace does not tell: a time, or two as in
    /// 2s..6s.
    #[arg(long, value_name = "TIMES", value_parser = typed::times, requires = "trace")]
    pub(crate) think_time: Option<DurationRange>,
}

impl Traced {
    /// Refuses options for reading a trace where there is none to read: the argument parser waives that
    /// they need one where something else is named in its place.
    ///
    /// # Errors
    /// Names the option.
    pub(crate) fn refuse_without_trace(&self) -> anyhow::Result<()> {
        let idle = [
            ("--format", self.format.is_some()),
            ("--block-tokens", self.block_tokens.is_some()),
            ("--skip-bad-lines", self.skip_bad_lines),
            ("--think-time", self.think_time.is_some()),
        ];
        match idle.into_iter().find(|it| it.1 && self.trace.is_none()) {
            Some((name, _)) => {
                anyhow::bail!("{name} says how a trace is read; pass --trace FILE with it")
            }
            None => Ok(()),
        }
    }

    /// The trace that was named, with what `base` says of traces where the command line says nothing; none
    /// where no file was named.
    pub(crate) fn over(&self, base: Option<&Trace>) -> Option<Trace> {
        let file = self.trace.clone()?;
        let base = base.cloned().unwrap_or_else(|| Trace::new(String::new()));
        Some(Trace {
            file,
            format: self.format.or(base.format),
            block_tokens: self.block_tokens.or(base.block_tokens),
            skip_bad_lines: self.skip_bad_lines || base.skip_bad_lines,
            think_time: self.think_time.unwrap_or(base.think_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_command_line_says_goes_before_what_a_scenario_says() {
        let own =
            Trace { block_tokens: Some(16), skip_bad_lines: true, ..Trace::new("a".to_owned()) };
        let traced = Traced {
            trace: Some("b".to_owned()),
            format: Some(Format::Mooncake),
            ..Traced::default()
        };
        let made = traced.over(Some(&own)).unwrap();
        assert_eq!((made.file.as_str(), made.block_tokens), ("b", Some(16)));
        assert_eq!((made.format, made.skip_bad_lines), (Some(Format::Mooncake), true));
        assert_eq!(Traced::default().over(Some(&own)), None);
        assert!(traced.refuse_without_trace().is_ok());
        let idle = Traced { trace: None, ..traced };
        assert!(idle.refuse_without_trace().unwrap_err().to_string().starts_with("--format"));
    }
}
