//! Finds the events of a server-sent stream in the chunks that pass by.
//!
//! The chunks are forwarded as they came; the [`Scanner`] only looks on. An event that lies within
//! one chunk is handed out borrowed, the usual case. One that is split is gathered, up to
//! [`KEPT_BYTES_MAX`]; of a longer one the rest is passed over, and it is marked as cut.
//!
//! Read as WHATWG's HTML standard, section 9.2.6, has it: lines end in `\n`, `\r\n` or `\r`, a
//! byte order mark may open the stream, comments count for nothing, several `data` lines are joined
//! by `\n`, and an event without `data` is none.

use std::cell::Cell;

use memchr::{memchr, memchr2};

#[cfg(test)]
mod tests;

/// Most that is kept of an event that is split over chunks.
pub const KEPT_BYTES_MAX: usize = 64 * 1024;

/// Longest name of an event that is kept.
const NAME_BYTES_MAX: usize = 128;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Its `event` field, where it has one.
    pub name: Option<&'a str>,
    /// Its `data`.
    pub data: &'a [u8],
    /// Whether the event was longer than what is kept, and so is not whole.
    pub cut: bool,
}

/// Finds the events of one stream.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Data of an event that began in an earlier chunk, then its last line so far.
    kept: Vec<u8>,
    /// Where in `kept` that line starts.
    line_start: usize,
    /// Name of that event; empty for none.
    name: Vec<u8>,
    has_data: bool,
    /// Whether some of the event, or of its last line, was not kept.
    cut: bool,
    line_cut: bool,
    /// Whether that event is open at all.
    open: bool,
    /// Whether the last byte was a `\r`, whose `\n` may be yet to come.
    after_return: bool,
    /// Bytes of the byte order mark seen so far; its length once the stream has begun.
    mark_seen: usize,
}

impl Scanner {
    /// Starts before the first byte of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks at the next `bytes` of the stream and calls `on_event` with each event that ends in
    /// them.
    pub fn push(&mut self, bytes: &[u8], mut on_event: impl FnMut(Event<'_>)) {
        self.push_until(bytes, |event| {
            on_event(event);
            false
        });
    }

    /// As [`Self::push`], but looks no further than the event that `is_last`. Returns how many of `bytes` were
    /// looked at: those up to the end of that event, or all.
    pub fn push_until(
        &mut self,
        bytes: &[u8],
        mut is_last: impl FnMut(Event<'_>) -> bool,
    ) -> usize {
        let is_over = Cell::new(false);
        let mut on_event = |event: Event<'_>| is_over.set(is_last(event));
        let mut rest = self.skip_mark(bytes);
        if self.after_return && !rest.is_empty() {
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
            self.after_return = false;
        }
        while !rest.is_empty() && !is_over.get() {
            rest = if self.open {
                self.resume(rest, &mut on_event)
            } else if let Some((event, after)) = whole_event(rest) {
                self.after_return = after.ends_in_return;
                event.into_iter().for_each(&mut on_event);
                after.rest
            } else {
                self.open = true;
                rest
            };
        }
        bytes.len().saturating_sub(rest.len())
    }

    fn skip_mark<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(mark) = BYTE_ORDER_MARK.get(self.mark_seen)
            && let Some((first, tail)) = rest.split_first()
        {
            if first == mark {
                self.mark_seen = self.mark_seen.saturating_add(1);
                rest = tail;
            } else {
                self.mark_seen = BYTE_ORDER_MARK.len();
            }
        }
        rest
    }

    /// Reads on in the open event, and returns what comes after it.
    fn resume<'b>(&mut self, bytes: &'b [u8], on_event: &mut impl FnMut(Event<'_>)) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(end) = memchr2(b'\n', b'\r', rest) {
            let (line, tail) = rest.split_at(end);
            self.keep(line);
            let after = AfterLine::of(tail);
            self.after_return = after.ends_in_return;
            if self.end_line() {
                if self.has_data {
                    let name = std::str::from_utf8(&self.name).ok().filter(|it| !it.is_empty());
                    on_event(Event { name, data: &self.kept, cut: self.cut });
                }
                self.close();
                return after.rest;
            }
            rest = after.rest;
        }
        self.keep(rest);
        &[]
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES_MAX.saturating_sub(self.kept.len());
        let (fits, beyond) = bytes.split_at(room.min(bytes.len()));
        self.kept.extend_from_slice(fits);
        self.line_cut |= !beyond.is_empty();
    }

    /// Takes in the last line; returns whether it was the empty one that ends an event.
    fn end_line(&mut self) -> bool {
        let line = self.kept.get(self.line_start..).unwrap_or_default();
        if line.is_empty() && !self.line_cut {
            return true;
        }
        let (field, value) = split_field(line);
        match field {
            b"data" => {
                let value_start = self.kept.len().saturating_sub(value.len());
                let joint: &[u8] = if self.has_data { b"\n" } else { b"" };
                self.kept.splice(self.line_start..value_start, joint.iter().copied());
                self.has_data = true;
            }
            b"event" => {
                self.name.clear();
                if value.len() <= NAME_BYTES_MAX {
                    self.name.extend_from_slice(value);
                }
                self.kept.truncate(self.line_start);
            }
            _ => self.kept.truncate(self.line_start),
        }
        self.line_start = self.kept.len();
        self.cut |= std::mem::take(&mut self.line_cut);
        false
    }

    fn close(&mut self) {
        self.kept.clear();
        self.name.clear();
        self.line_start = 0;
        self.has_data = false;
        self.cut = false;
        self.open = false;
    }
}

/// What follows the end of a line or event.
struct AfterLine<'b> {
    rest: &'b [u8],
    /// Whether the end was a `\r` after which nothing has come yet.
    ends_in_return: bool,
}

impl<'b> AfterLine<'b> {
    /// Splits off the line's end, with which `tail` starts.
    fn of(tail: &'b [u8]) -> Self {
        let rest = match tail {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => tail,
        };
        Self { rest, ends_in_return: tail == b"\r" }
    }
}

/// The event that `bytes` start with, borrowed, if it is whole and needs no joining.
fn whole_event(bytes: &[u8]) -> Option<(Option<Event<'_>>, AfterLine<'_>)> {
    let mut name = None;
    let mut data = None;
    let mut rest = bytes;
    loop {
        let (line, tail) = rest.split_at(memchr2(b'\n', b'\r', rest)?);
        let after = AfterLine::of(tail);
        if line.is_empty() {
            return Some((data.map(|data| Event { name, data, cut: false }), after));
        }
        let (field, value) = split_field(line);
        if field == b"data" {
            if data.replace(value).is_some() {
                return None;
            }
        } else if field == b"event" {
            let fits = (1..=NAME_BYTES_MAX).contains(&value.len());
            name = std::str::from_utf8(value).ok().filter(|_| fits);
        }
        rest = after.rest;
    }
}

/// Splits a line at its first colon; one space after it is not part of the value.
fn split_field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr(b':', line) else { return (line, b"") };
    let (field, rest) = line.split_at(colon);
    let value = rest.strip_prefix(b":").unwrap_or(rest);
    (field, value.strip_prefix(b" ").unwrap_or(value))
}
