//! Comma-separated values whose columns are found by name.

use types::quantity::Tokens;

use crate::trace::lines::{BadLine, Problem, numbered};

/// A table as text.
pub(super) struct Table<'a> {
    /// The header's line, from 1, and its cells.
    header: (usize, Vec<&'a str>),
    text: &'a str,
}

/// One line below the header.
pub(super) struct Cells<'a>(Vec<&'a str>);

impl<'a> Table<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let (number, header) = numbered(text).next().unwrap_or((1, ""));
        let header = header.trim_start_matches('\u{feff}').split(',').map(str::trim).collect();
        Self { header: (number, header), text }
    }

    /// The place of the column called `name`, where there is one.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.header.1.iter().position(|it| *it == name)
    }

    /// The place of the column called `name`.
    pub(super) fn column(&self, file: &str, name: &str) -> Result<usize, BadLine> {
        self.find(name).ok_or_else(|| BadLine {
            file: file.to_owned(),
            line: self.header.0,
            problem: Problem::unreadable(format!("there is no column {name}")),
        })
    }

    /// The lines below the header, numbered from 1 as the file has them.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, Cells<'a>)> {
        let cells = |text: &'a str| Cells(text.split(',').map(str::trim).collect());
        numbered(self.text).skip(1).map(move |(number, text)| (number, cells(text)))
    }
}

impl<'a> Cells<'a> {
    /// The text in `column`; nothing where the line is too short.
    pub(super) fn text(&self, column: usize) -> &'a str {
        self.0.get(column).copied().unwrap_or_default()
    }

    /// The number of tokens in `column`.
    pub(super) fn tokens(&self, column: usize) -> Result<Tokens, Problem> {
        let text = self.text(column);
        let tokens = text.parse().ok().map(Tokens);
        tokens.ok_or_else(|| Problem::unreadable(format!("`{text}` is no number of tokens")))
    }

    /// The seconds in `column`.
    pub(super) fn seconds(&self, column: usize) -> Result<f64, Problem> {
        let text = self.text(column);
        let seconds = text.parse::<f64>().ok().filter(|it| it.is_finite());
        seconds.ok_or_else(|| Problem::unreadable(format!("`{text}` is no number of seconds")))
    }
}
