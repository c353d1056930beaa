//! What all formats have in common: rows are gathered, bad lines named or counted.

use std::{collections::BTreeMap, time::Duration};

use types::quantity::Tokens;

use crate::{
    range::TOKENS_MAX,
    trace::{Recorded, Row, Skipped, Trace},
};

/// Block sizes that files in the wild use, for the cure of a mismatch.
const BLOCK_TOKENS_KNOWN: [u32; 7] = [512, 16, 64, 32, 128, 256, 1_024];

/// Why a line of a trace cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {problem}")]
pub struct BadLine {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It is not what the format has.
    #[error("{reason}; correct or remove the line, or set skip_bad_lines (--skip-bad-lines)")]
    Unreadable {
        /// What the parser found.
        reason: String,
    },
    /// The number of names does not fit the block size.
    #[error("{names} hash_ids for {input} tokens do not fit blocks of {block} tokens; {cure}")]
    BlockMismatch {
        /// Names on the line.
        names: usize,
        /// Length of the prompt.
        input: u32,
        /// Block size as given.
        block: u32,
        /// What to do.
        cure: String,
    },
    /// There is no line at all.
    #[error("the file is empty; name one that holds requests")]
    Empty,
    /// No format has such a line.
    #[error("no known format begins like this; say which it is with format (--format): {known}")]
    UnknownFormat {
        /// The names of all formats.
        known: String,
    },
}

impl Problem {
    /// The problem that a line which is not what it should be has.
    pub(super) fn unreadable(reason: impl Into<String>) -> Self {
        Self::Unreadable { reason: reason.into() }
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        let told = error.to_string();
        // Of the file's lines only one is told, and that is not the parser's.
        let place = format!(" at line {} column {}", error.line(), error.column());
        match told.strip_suffix(&place) {
            Some(reason) => Self::unreadable(format!("{reason} (column {})", error.column())),
            None => Self::unreadable(told),
        }
    }
}

/// Gathers the rows of a file.
pub(super) struct Rows<'a> {
    trace: &'a Trace,
    rows: Vec<Row>,
    skipped: Skipped,
    /// Lines that were skipped because their names do not fit the block size, and the first of them.
    misfits: (usize, Option<BadLine>),
}

impl<'a> Rows<'a> {
    pub(super) const fn new(trace: &'a Trace) -> Self {
        let skipped = Skipped { zero_length: 0, bad_lines: 0, unanswered: 0 };
        Self { trace, rows: Vec::new(), skipped, misfits: (0, None) }
    }

    /// Counts a conversation in which nobody answers.
    pub(super) const fn leave_unanswered(&mut self) {
        self.skipped.unanswered = self.skipped.unanswered.saturating_add(1);
    }

    /// Takes the row that line `line` became. One of no length is counted and left out, and so is
    /// one that cannot be read, where that is wanted.
    pub(super) fn take(&mut self, line: usize, row: Result<Row, Problem>) -> Result<(), BadLine> {
        let row = row.and_then(|row| {
            let longest = row.input.max(row.output).0;
            if longest > TOKENS_MAX {
                let reason = format!("a length of {longest} tokens is above {TOKENS_MAX}");
                return Err(Problem::unreadable(reason));
            }
            if row.at_s.is_finite() { Ok(row) } else { Err(Problem::unreadable("no time")) }
        });
        match row {
            Ok(row) if row.input == Tokens::ZERO || row.output == Tokens::ZERO => {
                self.skipped.zero_length = self.skipped.zero_length.saturating_add(1);
            }
            Ok(row) => self.rows.push(row),
            Err(problem) => self.refuse(line, problem)?,
        }
        Ok(())
    }

    /// Counts or reports line `line`, which is no row.
    pub(super) fn refuse(&mut self, line: usize, problem: Problem) -> Result<(), BadLine> {
        let is_misfit = match problem {
            Problem::Unreadable { .. } => false,
            Problem::BlockMismatch { .. } => true,
            Problem::Empty | Problem::UnknownFormat { .. } => return Err(self.bad(line, problem)),
        };
        if !self.trace.skip_bad_lines {
            return Err(self.bad(line, problem));
        }
        self.skipped.bad_lines = self.skipped.bad_lines.saturating_add(1);
        if is_misfit {
            let bad = self.bad(line, problem);
            self.misfits.0 = self.misfits.0.saturating_add(1);
            self.misfits.1.get_or_insert(bad);
        }
        Ok(())
    }

    fn bad(&self, line: usize, problem: Problem) -> BadLine {
        BadLine { file: self.trace.file.clone(), line, problem }
    }

    /// Rows in order, of a file whose lines name blocks.
    ///
    /// # Errors
    /// The first line whose names do not fit, where they are not fewer than those that do: then it is
    /// the block size that is wrong and not the lines, and the whole file would be misread.
    pub(super) fn in_blocks(mut self, block: u32) -> Result<Recorded, BadLine> {
        let named = self.rows.iter().filter(|it| !it.blocks.is_empty()).count();
        match self.misfits.1.take() {
            Some(first) if self.misfits.0 >= named => Err(first),
            Some(_) | None => Ok(self.in_order(block)),
        }
    }

    /// Rows by time, the first at zero. (Some files are ordered by conversation.) A row that follows
    /// another has no time of its own, and keeps its place after it.
    pub(super) fn in_order(mut self, block: u32) -> Recorded {
        let mut before_s = BTreeMap::new();
        for row in &mut self.rows {
            let before_s = row.session.map(|it| before_s.entry(it).or_insert(row.at_s));
            if let Some(before_s) = before_s {
                // For the sort alone; what follows is timed when a run is planned.
                row.at_s = if row.follows { *before_s } else { row.at_s };
                *before_s = row.at_s;
            }
        }
        self.rows.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        let first_s = self.rows.first().map_or(0.0, |row| row.at_s);
        for row in &mut self.rows {
            row.at_s -= first_s;
        }
        Recorded { rows: self.rows, skipped: self.skipped, block: Tokens(block), is_untimed: false }
    }

    /// Rows as the file has them, whose times it does not tell.
    pub(super) fn untimed(self) -> Recorded {
        Recorded { is_untimed: true, ..self.in_order(1) }
    }
}

/// The lines of `text` that are not blank, numbered from 1.
pub(super) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// The line, from 1, on which `part` of `text` begins.
pub(super) fn line_of(text: &str, part: &str) -> usize {
    let offset = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    let before = text.as_bytes().get(..offset).unwrap_or_default();
    before.iter().filter(|it| **it == b'\n').count().saturating_add(1)
}

/// Checks that `names` name the blocks of `input` tokens.
pub(super) fn check_blocks(input: u32, names: usize, block: u32) -> Result<(), Problem> {
    if names == 0 || fits(input, names, block) {
        return Ok(());
    }
    let fitting = BLOCK_TOKENS_KNOWN.into_iter().find(|it| fits(input, names, *it));
    let cure = match fitting {
        Some(size) => {
            format!("blocks of {size} would: set block_tokens to {size} (--block-tokens {size})")
        }
        None => "correct the line or set block_tokens (--block-tokens) to the file's".to_owned(),
    };
    Err(Problem::BlockMismatch { names, input, block, cure })
}

/// Whether `names` name the blocks of `input` tokens, the partial last one counted or not.
fn fits(input: u32, names: usize, block: u32) -> bool {
    let full = input.checked_div(block).and_then(|it| usize::try_from(it).ok());
    let all = usize::try_from(input.div_ceil(block.max(1))).ok();
    Some(names) == full || Some(names) == all
}

/// Numbers conversations as they come, and their turns.
#[derive(Debug, Default)]
pub(super) struct Sessions(BTreeMap<String, (u64, u32)>);

impl Sessions {
    /// The number of the conversation called `name`, and the place of its next turn.
    pub(super) fn next_turn(&mut self, name: &str) -> (u64, u32) {
        let next = self.0.len() as u64;
        if let Some((number, turns)) = self.0.get_mut(name) {
            *turns = turns.saturating_add(1);
            return (*number, *turns);
        }
        self.0.insert(name.to_owned(), (next, 0));
        (next, 0)
    }
}

/// `milliseconds` as a length of time; none for what is no such number.
pub(super) fn duration_from_ms(milliseconds: f64) -> Duration {
    Duration::try_from_secs_f64(milliseconds / 1_000.0).unwrap_or_default()
}
