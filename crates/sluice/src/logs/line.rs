//! Writes an event as one line, in text or JSON.
//!
//! What `tracing-subscriber` writes, without its way through `core::fmt` for each field, which took
//! an eighth of what a request costs in user space. Whatever a client sent is escaped, so that no
//! value can begin a line, move a terminal's cursor or turn the direction of a text around.

use std::{
    cell::RefCell,
    fmt::{self, Write as _},
};

use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};
use wire::digits::{push_millionths, push_thousandths, push_whole};

use crate::args::LogFormat;

/// Room for a request's line.
const LINE_BYTES: usize = 640;

const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(0));

/// How the time of a second is written, without the letter at its end.
#[derive(Default)]
struct Second {
    /// Since 1970 began; none before the first line.
    number: Option<i64>,
    text: String,
}

impl Second {
    /// Appends the second of `now`.
    fn push(&mut self, now: Timestamp, out: &mut String) {
        if self.number != Some(now.as_second()) {
            self.number = Some(now.as_second());
            self.text.clear();
            // Writing to a string does not fail; a clock beyond the year 9999 goes unsaid.
            let _ = PRINTER.print_timestamp(&now, &mut self.text);
            self.text.pop();
        }
        out.push_str(&self.text);
    }
}

thread_local! {
    /// The second of this thread's last line: the next one is nearly always of the same, and of a time most is its date.
    static LAST: RefCell<Second> = RefCell::default();
}

/// Writes lines in one of the formats. Spans are not shown: the programs have none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        writer.write_str(&line(self.0, event))
    }
}

/// The line of `event`, its end included.
fn line(format: LogFormat, event: &Event<'_>) -> String {
    let mut out = String::with_capacity(LINE_BYTES);
    let level = level(*event.metadata().level());
    match format {
        LogFormat::Text => {
            time(&mut out);
            out.push(' ');
            out.push_str(level);
            event.record(&mut Text(&mut out));
        }
        LogFormat::Json => {
            out.push_str("{\"timestamp\":\"");
            time(&mut out);
            out.push_str("\",\"level\":\"");
            out.push_str(level.trim_ascii_start());
            out.push('"');
            event.record(&mut Json(&mut out));
            out.push('}');
        }
    }
    out.push('\n');
    out
}

/// Appends the time, to the microsecond.
fn time(out: &mut String) {
    let now = Timestamp::now();
    // A clock before 1970 is set wrong, and then its seconds will do.
    let millionths = u32::try_from(now.subsec_microsecond()).unwrap_or(0);
    let with_last = LAST.try_with(|it| it.try_borrow_mut().map(|mut last| last.push(now, out)));
    // A thread that ends has given it up, and may yet have something to say.
    if !matches!(with_last, Ok(Ok(()))) {
        Second::default().push(now, out);
    }
    out.push('.');
    push_millionths(out, millionths);
    out.push('Z');
}

const fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => " WARN",
        Level::INFO => " INFO",
        Level::DEBUG => "DEBUG",
        Level::TRACE => "TRACE",
    }
}

/// Appends ` name=value` for each field, and the message, which comes first, without its name.
struct Text<'a>(&'a mut String);

impl Text<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(' ');
        self.0.push_str(field.name());
        self.0.push('=');
    }
}

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0.push(' ');
        } else {
            self.name(field);
        }
        let from = self.0.len();
        let _ = write!(self.0, "{value:?}");
        // Nearly all are constant and plain.
        if !self.0.get(from..).is_some_and(|it| is_plain(it, false)) {
            let text = self.0.split_off(from);
            escape(self.0, &text, false);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.0.push(' ');
            return escape(self.0, value, false);
        }
        self.name(field);
        self.0.push('"');
        escape(self.0, value, true);
        self.0.push('"');
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        push_whole(self.0, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        let _ = write!(self.0, "{value}");
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        float(self.0, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.0.push_str(if value { "true" } else { "false" });
    }
}

/// Appends `,"name":value` for each field, the message included.
struct Json<'a>(&'a mut String);

impl Json<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push_str(",\"");
        self.0.push_str(field.name());
        self.0.push_str("\":");
    }
}

impl Visit for Json<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        self.0.push('"');
        escape(self.0, value, true);
        self.0.push('"');
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        push_whole(self.0, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        let _ = write!(self.0, "{value}");
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.name(field);
        if value.is_finite() {
            float(self.0, value);
        } else {
            self.0.push_str("null");
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        self.0.push_str(if value { "true" } else { "false" });
    }
}

/// Largest number that is written by its thousandths without losing any.
const FLOAT_MAX: f64 = 1e12;

/// Appends a number with three decimals: times are in milliseconds and known to the microsecond.
fn float(out: &mut String, value: f64) {
    if !(0.0..FLOAT_MAX).contains(&value) {
        let _ = write!(out, "{value:.3}");
        return;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number between nought and 10^15"
    )]
    let thousandths = (value * 1e3).round() as u64;
    push_thousandths(out, thousandths);
}

/// Whether nothing in `text` needs an escape.
fn is_plain(text: &str, quoted: bool) -> bool {
    let is_plain = |it: u8| matches!(it, b' '..=b'~') && !(quoted && matches!(it, b'"' | b'\\'));
    // Without an early exit, so that many bytes are looked at at once: nearly all texts are plain.
    text.bytes().fold(true, |all, it| all & is_plain(it))
}

/// Appends `text`, escaped as JSON escapes where it is not printable ASCII, and where it would end a
/// quotation if it is `quoted`.
fn escape(out: &mut String, text: &str, quoted: bool) {
    if is_plain(text, quoted) {
        return out.push_str(text);
    }
    for char in text.chars() {
        match char {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' '..='~' => {
                if quoted && matches!(char, '"' | '\\') {
                    out.push('\\');
                }
                out.push(char);
            }
            // Letters of any script pass; controls and marks that turn text around do not.
            _ if char.is_alphanumeric() => out.push(char),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{Layer, layer::Context, prelude::*};

    use super::*;

    /// Keeps the lines of the events that it sees.
    struct Kept(LogFormat, Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.1.lock().unwrap().push(line(self.0, event));
        }
    }

    fn lines(format: LogFormat, log: impl FnOnce()) -> Vec<String> {
        let kept = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Kept(format, Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, log);
        Arc::into_inner(kept).unwrap().into_inner().unwrap()
    }

    const NASTY: &str = "a\"b\\c\r\n\u{1b}[31m\u{202e}d\u{7f}\u{e9}\u{1f600}";

    #[test]
    fn a_text_line_has_its_message_first_and_its_fields_by_name() {
        let text = lines(LogFormat::Text, || {
            tracing::info!(
                id = "x y",
                status = 200,
                ms = 1.5,
                on = true,
                none = None::<u64>,
                "done"
            );
        });
        let (time, rest) = text[0].split_once(' ').unwrap();
        assert!(
            time.parse::<Timestamp>().is_ok() && time.len() == "2026-11-26T15:30:07.855345Z".len()
        );
        assert_eq!(rest, " INFO done id=\"x y\" status=200 ms=1.500 on=true\n");
    }

    #[test]
    fn every_line_is_one_object_of_what_was_said() {
        let json = lines(LogFormat::Json, || {
            tracing::warn!(model = NASTY, error = %NASTY, ratio = f64::NAN, "no {}", NASTY);
        });
        assert_eq!(json.len(), 1);
        let value: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
        assert_eq!(value["model"], NASTY);
        assert_eq!(value["error"], NASTY);
        assert_eq!(
            (value["level"].as_str(), &value["ratio"]),
            (Some("WARN"), &serde_json::Value::Null)
        );
        assert_eq!(value["message"], format!("no {NASTY}"));
    }

    fn time_now() -> String {
        let mut out = String::new();
        time(&mut out);
        out
    }

    /// Says the time when its thread ends.
    struct Leaver(std::sync::mpsc::Sender<String>);

    impl Drop for Leaver {
        fn drop(&mut self) {
            self.0.send(time_now()).unwrap();
        }
    }

    #[test]
    fn the_time_is_known_while_a_thread_ends_and_while_it_is_being_written() {
        thread_local! {
            static FIRST: RefCell<Option<Leaver>> = RefCell::default();
            static LATER: RefCell<Option<Leaver>> = RefCell::default();
        }
        let (send, said) = std::sync::mpsc::channel();
        // One of them ends after what the thread has kept, in whichever order that is.
        let ending = std::thread::spawn(move || {
            FIRST.set(Some(Leaver(send.clone())));
            send.send(time_now()).unwrap();
            send.send(LAST.with_borrow_mut(|_| time_now())).unwrap();
            LATER.set(Some(Leaver(send)));
        });
        ending.join().unwrap();
        let said: Vec<_> = said.iter().collect();
        assert_eq!(said.len(), 4);
        for time in said {
            assert!(time.parse::<Timestamp>().is_ok() && time.len() == 27, "{time}");
        }
    }

    #[test]
    fn nothing_that_a_client_says_breaks_out_of_its_line() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = lines(format, || tracing::info!(model = NASTY, other = %NASTY, "{NASTY}"));
            let line = lines[0].strip_suffix('\n').unwrap();
            let raw = |it: char| it.is_control() || it == '\u{202e}';
            assert!(!line.contains(raw), "{line}");
        }
    }
}
