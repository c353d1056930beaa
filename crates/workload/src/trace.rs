//! Requests that were recorded elsewhere.
//!
//! A file has one of ten [`Format`]s, named or recognised by how it begins. What it holds becomes
//! [`Row`]s, and those become the requests of a run: at their recorded times, faster, or at the times
//! of a schedule.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use types::{quantity::Tokens, time::Timestamp, work::WorkloadClass};

use crate::{
    arrival::Arrival,
    prompt::{Prompt, Segment},
    range::DurationRange,
    schedule::{Load, Schedule, timestamp_from_s},
    seed::{Kind, segment_id},
};

pub mod aiperf;
pub mod azure;
pub mod bailian;
pub mod burst_gpt;
mod columns;
pub mod format;
mod lines;
pub mod mooncake;
pub mod openai;
pub mod recording;
pub mod results;
mod said;
pub mod share_gpt;

pub use self::{
    format::Format,
    lines::{BadLine, Problem},
};

/// Allowance for an answer whose end is not known, for each of its tokens: what a busy engine takes.
pub const ANSWER_TIME_PER_TOKEN: Duration = Duration::from_millis(30);

/// Where a trace is and how to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// File, or [`crate::bundled::MOONCAKE_SLICE_NAME`].
    pub file: String,
    /// Its format; how it begins tells when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Tokens in a block that the trace names; when absent the format's own: 512 in Mooncake's, 16
    /// in Bailian's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_tokens: Option<u32>,
    /// Leaves lines out that cannot be read, and counts them, where it would stop at the first.
    #[serde(default)]
    pub skip_bad_lines: bool,
    /// How long users think before a later turn, where the file does not tell.
    #[serde(default = "think_time_default")]
    pub think_time: DurationRange,
}

/// As the support chatbot's users do.
const fn think_time_default() -> DurationRange {
    DurationRange { min: Duration::from_secs(2), max: Duration::from_secs(6) }
}

impl Trace {
    /// The trace called `file`, read with the defaults.
    #[must_use]
    pub const fn new(file: String) -> Self {
        Self {
            file,
            format: None,
            block_tokens: None,
            skip_bad_lines: false,
            think_time: think_time_default(),
        }
    }

    /// Everything wrong with the values.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.file.is_empty() {
            problems.push("file: needs the path of a trace".to_owned());
        }
        if self.block_tokens == Some(0) {
            problems.push("block_tokens: needs a number above 0".to_owned());
        }
        problems.extend(self.think_time.problem("think_time"));
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
    /// Tokens in a block that rows name.
    pub block: Tokens,
    /// Whether the file does not tell when requests come, so that only a schedule can.
    pub is_untimed: bool,
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
    /// The promise it was under, by name, where the trace says.
    pub slo_class: Option<Arc<str>>,
    /// The kind of work it is, where the trace says.
    pub workload_class: Option<WorkloadClass>,
    /// Time between the answer before this turn and this turn.
    pub think: Duration,
    /// Whether it comes when the turn before was answered and thought about, and not at a time of
    /// its own.
    pub follows: bool,
    /// The prompt itself, where the file holds it.
    pub prompt: Option<Prompt>,
}

/// Lines of a trace that no request was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Requests with an empty prompt or answer, which no API accepts.
    pub zero_length: u64,
    /// Lines that could not be read.
    pub bad_lines: u64,
    /// Conversations in which nobody answers, of which no request can be made.
    pub unanswered: u64,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "skipped {} requests of zero length and {} unreadable lines",
            self.zero_length, self.bad_lines
        )?;
        match self.unanswered {
            0 => Ok(()),
            count => write!(f, ", and {count} conversations without an answer"),
        }
    }
}

impl Recorded {
    /// Reads `text` in the format that the trace names, or that the text has.
    ///
    /// # Errors
    /// A text of no known format, or the first line that cannot be read, unless such lines are to be
    /// skipped.
    pub fn read(trace: &Trace, text: &str) -> Result<Self, BadLine> {
        let format = trace.format.or_else(|| Format::recognise(text));
        format.ok_or_else(|| format::unknown(trace, text))?.read(trace, text)
    }

    /// The requests of a run, by time: the recorded ones at their own times, or at those of a
    /// schedule.
    ///
    /// A schedule with a rate keeps the recorded order and ends with the trace. Where later turns
    /// follow answers, its rate is that of all requests, and it says when conversations begin; each
    /// later turn leaves after an allowance for the answer before it and the time to think.
    ///
    /// Also whether the run's length leaves any of them out.
    pub(crate) fn arrivals(&self, load: &Load) -> (Vec<Arrival>, bool) {
        let starts = self.rows.iter().filter(|it| !it.follows);
        let mut times = match load.schedule {
            Schedule::Trace { speedup } => {
                let recorded = starts.map(|row| timestamp_from_s(row.at_s / speedup));
                recorded.collect::<Vec<_>>()
            }
            Schedule::Poisson { .. }
            | Schedule::Constant { .. }
            | Schedule::Gamma { .. }
            | Schedule::Varying { .. } => {
                let count = starts.count();
                let share = count as f64 / self.rows.len().max(1) as f64;
                let schedule = load.schedule.scaled(share);
                schedule.times(load.seed).into_iter().flatten().take(count).collect()
            }
        }
        .into_iter();
        let mut turns: BTreeMap<u64, u32> = BTreeMap::new();
        for session in self.rows.iter().filter_map(|it| it.session) {
            let of_session = turns.entry(session).or_default();
            *of_session = of_session.saturating_add(1);
        }
        let mut answered = BTreeMap::new();
        let mut arrivals = Vec::with_capacity(self.rows.len());
        for (index, row) in (0..).zip(&self.rows) {
            let before = row.session.filter(|_| row.follows).and_then(|it| answered.get(&it));
            let at = match before {
                Some(before) => Some(*before + row.think),
                // A turn whose conversation the schedule never came to, or the end of a schedule.
                None if row.follows => None,
                None => times.next(),
            };
            let Some(at) = at else { continue };
            if let Some(session) = row.session {
                answered.insert(session, at + ANSWER_TIME_PER_TOKEN.saturating_mul(row.output.0));
            }
            let turns = row.session.and_then(|it| turns.get(&it)).copied();
            arrivals.push(row.arrival(at, turns, index, self.block, load.seed));
        }
        let end = load.duration.map(Timestamp::from_elapsed);
        let all = arrivals.len();
        arrivals.retain(|it| end.is_none_or(|end| it.at < end));
        arrivals.sort_by_key(|it| it.at);
        let is_cut = arrivals.len() < all;
        (arrivals, is_cut)
    }
}

impl Row {
    /// A row of no length at `at_s`.
    fn at(at_s: f64) -> Self {
        Self { at_s, ..Self::default() }
    }

    /// The request that the `index`-th row becomes.
    fn arrival(
        &self,
        at: Timestamp,
        turns: Option<u32>,
        index: u64,
        block: Tokens,
        seed: u64,
    ) -> Arrival {
        let prompt = self.prompt.clone();
        Arrival {
            at,
            session: self.session,
            turn: self.turn,
            turns,
            tenant: self.tenant,
            slo_class: self.slo_class.clone(),
            workload_class: self.workload_class,
            prompt: prompt.unwrap_or_else(|| self.named_prompt(index, block, seed)),
            output: self.output,
            answer: None,
            think: self.think,
        }
    }

    /// The prompt of the `index`-th row: a segment for each block that is named, and one that
    /// nothing else shares for what no name covers.
    fn named_prompt(&self, index: u64, block: Tokens, seed: u64) -> Prompt {
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
mod real_lines;

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at_s: f64, input: u32, blocks: &[u64]) -> Row {
        let (input, output) = (Tokens(input), Tokens(5));
        Row { input, output, blocks: blocks.to_vec(), ..Row::at(at_s) }
    }

    fn recorded(rows: Vec<Row>) -> Recorded {
        Recorded { rows, block: Tokens(16), ..Recorded::default() }
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
        let recorded = recorded(rows);
        let (all, _) = recorded.arrivals(&load(Schedule::Trace { speedup: 1.0 }));
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
        let recorded = recorded(rows);
        let (all, _) = recorded.arrivals(&load(Schedule::Trace { speedup: 1.0 }));
        assert_ne!(text(&all[0])[..32], text(&all[1])[..32]);
    }

    #[test]
    fn speedup_divides_the_times_and_a_rate_replaces_them() {
        let rows = (0..3).map(|at| row(f64::from(at), 16, &[1])).collect();
        let recorded = recorded(rows);
        let times = |load: &Load| -> Vec<u128> {
            recorded.arrivals(load).0.iter().map(|it| it.at.elapsed().as_millis()).collect()
        };
        assert_eq!(times(&load(Schedule::Trace { speedup: 4.0 })), [0, 250, 500]);
        assert_eq!(times(&load(Schedule::Constant { rate_per_s: 10.0 })), [100, 200, 300]);
        let short = Load {
            duration: Some(Duration::from_millis(1_500)),
            ..load(Schedule::Trace { speedup: 1.0 })
        };
        assert_eq!(times(&short), [0, 1_000]);
        // Whoever asks for more than there is has a run that the trace ends.
        let long = Load { duration: Some(Duration::from_secs(3)), ..short.clone() };
        assert_eq!([short, long].map(|it| recorded.arrivals(&it).1), [true, false]);
    }

    #[test]
    fn later_turns_follow_the_answer_and_the_time_to_think() {
        let turn = |session, turn, follows| Row {
            session: Some(session),
            turn,
            follows,
            output: Tokens(10),
            think: Duration::from_secs(1),
            ..row(0.0, 16, &[1])
        };
        let rows = vec![turn(0, 0, false), turn(0, 1, true), turn(1, 0, false), turn(1, 1, true)];
        let recorded = Recorded { is_untimed: true, ..recorded(rows) };
        let (all, _) = recorded.arrivals(&load(Schedule::Constant { rate_per_s: 4.0 }));
        let told: Vec<_> =
            all.iter().map(|it| (it.at.elapsed().as_millis(), it.session, it.turn)).collect();
        // Four requests a second in conversations of two: two conversations a second.
        assert_eq!(
            told,
            [(500, Some(0), 0), (1_000, Some(1), 0), (1_800, Some(0), 1), (2_300, Some(1), 1)]
        );
        // Whoever is cut off still knows how long the conversation was to be.
        let short = Load {
            duration: Some(Duration::from_secs(2)),
            ..load(Schedule::Constant { rate_per_s: 4.0 })
        };
        let (cut, _) = recorded.arrivals(&short);
        assert_eq!((cut.len(), cut.iter().all(|it| it.turns == Some(2))), (3, true));
    }
}
