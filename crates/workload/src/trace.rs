//! Requests that were recorded elsewhere.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use types::{quantity::Tokens, time::Timestamp};

use crate::{
    arrival::Arrival,
    prompt::{Prompt, Segment},
    schedule::{Load, Schedule, timestamp_from_s},
    seed::{Kind, segment_id},
};

pub mod azure;
pub mod mooncake;

/// Where a trace is and how to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// File in Mooncake's or Azure's format (its first line tells), or [`crate::bundled::MOONCAKE_SLICE_NAME`].
    pub file: String,
    /// Tokens in a block that the trace names.
    #[serde(default = "block_tokens_default")]
    pub block_tokens: u32,
    /// Leaves lines out that cannot be read, and counts them, where it would stop at the first.
    #[serde(default)]
    pub skip_bad_lines: bool,
}

/// Mooncake's own block size.
const fn block_tokens_default() -> u32 {
    512
}

impl Trace {
    /// The trace called `file`, read with the defaults.
    #[must_use]
    pub const fn new(file: String) -> Self {
        Self { file, block_tokens: block_tokens_default(), skip_bad_lines: false }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.file.is_empty() {
            problems.push("file: needs the path of a trace".to_owned());
        }
        if self.block_tokens == 0 {
            problems.push("block_tokens: needs a number above 0".to_owned());
        }
        problems
    }
}

/// What a trace holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recorded {
    /// Requests, by time and then by place in the file.
    pub rows: Vec<Row>,
    /// What was left out.
    pub skipped: Skipped,
}

/// One recorded request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// When it came, in seconds from the first one.
    pub at_s: f64,
    /// Length of the prompt.
    pub input: Tokens,
    /// Length of the answer.
    pub output: Tokens,
    /// Names of the prompt's blocks, first block first; none where the trace names none.
    pub blocks: Vec<u64>,
    /// Conversation it belongs to, where the trace says.
    pub session: Option<u64>,
    /// Place within the conversation.
    pub turn: u32,
    /// Tenant it belongs to, where the trace says.
    pub tenant: Option<u32>,
    /// Time between the answer before this turn and this turn.
    pub think: Duration,
}

/// Lines of a trace that no request was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Requests with an empty prompt or answer, which no API accepts.
    pub zero_length: u64,
    /// Lines that could not be read.
    pub bad_lines: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "skipped {} requests of zero length and {} unreadable lines",
            self.zero_length, self.bad_lines
        )
    }
}

impl Recorded {
    /// Rows by time, the first at zero. (Some files are ordered by conversation.)
    fn in_order(mut rows: Vec<Row>, skipped: Skipped) -> Self {
        rows.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let first_s = rows.first().map_or(0.0, |row| row.at_s);
        for row in &mut rows {
            row.at_s -= first_s;
        }
        Self { rows, skipped }
    }

    /// Reads `text` in the format that its first line has.
    pub(crate) fn read(trace: &Trace, text: &str) -> Result<Self, mooncake::BadLine> {
        if text.starts_with(azure::HEADER_START) {
            azure::read(trace, text)
        } else {
            mooncake::read(trace, text)
        }
    }

    /// The requests of a run: the recorded ones at their own times, or at those of a schedule.
    ///
    /// A schedule with a rate keeps the recorded order and ends with the trace.
    pub(crate) fn arrivals(&self, load: &Load, block: Tokens) -> Vec<Arrival> {
        let speedup = match load.schedule {
            Schedule::Trace { speedup } => speedup,
            Schedule::Poisson { .. } | Schedule::Constant { .. } => 1.0,
        };
        let recorded = self.rows.iter().map(|row| timestamp_from_s(row.at_s / speedup));
        let times: Vec<Timestamp> = match load.schedule.times(load.seed) {
            None => recorded.collect(),
            Some(times) => times.take(self.rows.len()).collect(),
        };
        let end = load.duration.map(Timestamp::from_elapsed);
        (0..)
            .zip(&self.rows)
            .zip(times)
            .take_while(|(_, at)| end.is_none_or(|end| *at < end))
            .map(|((index, row), at)| Arrival {
                at,
                session: row.session,
                turn: row.turn,
                tenant: row.tenant,
                prompt: row.prompt(index, block, load.seed),
                output: row.output,
                answer: None,
                think: row.think,
            })
            .collect()
    }
}

impl Row {
    /// A row of no length at `at_s`.
    fn at(at_s: f64) -> Self {
        Self { at_s, ..Self::default() }
    }

    /// The prompt of the `index`-th row: a segment for each block that is named, and one that
    /// nothing else shares for what no name covers.
    fn prompt(&self, index: u64, block: Tokens, seed: u64) -> Prompt {
        let mut segments = Vec::with_capacity(self.blocks.len().saturating_add(1));
        let mut rest = self.input;
        for name in &self.blocks {
            let tokens = rest.min(block);
            rest = rest.saturating_sub(tokens);
            segments.push(Segment { id: segment_id(seed, Kind::TraceBlock, *name), tokens });
        }
        if rest > Tokens::ZERO {
            segments.push(Segment { id: segment_id(seed, Kind::Unique, index), tokens: rest });
        }
        Prompt::from_user(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Tokens = Tokens(16);

    fn row(at_s: f64, input: u32, blocks: &[u64]) -> Row {
        let (input, output) = (Tokens(input), Tokens(5));
        Row { input, output, blocks: blocks.to_vec(), ..Row::at(at_s) }
    }

    fn load(schedule: Schedule) -> Load {
        Load { schedule, duration: None, seed: 1 }
    }

    fn text(arrival: &Arrival) -> Vec<u8> {
        let mut out = Vec::new();
        arrival.prompt.messages.iter().for_each(|it| it.write_text(&mut out));
        out
    }

    #[test]
    fn equal_names_are_equal_text_and_the_rest_is_a_rows_own() {
        let rows = vec![row(0.0, 40, &[1, 2]), row(0.0, 40, &[1, 2]), row(0.0, 40, &[1, 3])];
        let recorded = Recorded { rows, skipped: Skipped::default() };
        let all = recorded.arrivals(&load(Schedule::Trace { speedup: 1.0 }), BLOCK);
        let texts: Vec<Vec<u8>> = all.iter().map(text).collect();
        assert!(texts.iter().all(|it| it.len() == 160));
        assert_eq!(texts[0][..128], texts[1][..128]);
        assert_ne!(texts[0][128..144], texts[1][128..144]);
        assert_eq!(texts[0][..64], texts[2][..64]);
        assert_ne!(texts[0][64..80], texts[2][64..80]);
    }

    #[test]
    fn a_row_without_names_shares_nothing() {
        let rows = vec![row(0.0, 40, &[]), row(0.0, 40, &[])];
        let recorded = Recorded { rows, skipped: Skipped::default() };
        let all = recorded.arrivals(&load(Schedule::Trace { speedup: 1.0 }), BLOCK);
        assert_ne!(text(&all[0])[..32], text(&all[1])[..32]);
    }

    #[test]
    fn speedup_divides_the_times_and_a_rate_replaces_them() {
        let rows = (0..3).map(|at| row(f64::from(at), 16, &[1])).collect();
        let recorded = Recorded { rows, skipped: Skipped::default() };
        let times = |load: &Load| -> Vec<u128> {
            recorded.arrivals(load, BLOCK).iter().map(|it| it.at.elapsed().as_millis()).collect()
        };
        assert_eq!(times(&load(Schedule::Trace { speedup: 4.0 })), [0, 250, 500]);
        assert_eq!(times(&load(Schedule::Constant { rate_per_s: 10.0 })), [100, 200, 300]);
        let short = Load {
            duration: Some(Duration::from_millis(1_500)),
            ..load(Schedule::Trace { speedup: 1.0 })
        };
        assert_eq!(times(&short), [0, 1_000]);
    }
}
