//! What can be made to go wrong, so that a router can be shown to survive it.

use std::{str::FromStr, time::Duration};

/// What is wrong with a replica.
///
/// Unless said otherwise a fault touches the completion routes only, and from the next request on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The process is gone: connections break, new ones are refused. What comes back after it has
    /// an empty cache and counters at zero.
    Down,
    /// Every connection is answered with bytes that are not HTTP, and closed.
    GarbageBytes,
    /// The answer is 200, says it is JSON, and is not.
    GarbageBody,
    /// The request is read and the connection closed without an answer.
    CloseBeforeAnswer,
    /// The request is read and never answered, on every route.
    Silence,
    /// The connection breaks after this many chunks of the answer, without the end of the body; an
    /// answer that is not streamed is computed and then broken off.
    BreakAfter(u32),
    /// Nothing more comes after this many chunks of the answer; the connection stays open. An
    /// answer that is not streamed never comes.
    StallAfter(u32),
    /// The engine dies after this many chunks of the answer while the API server lives on: an error
    /// within the stream, then `[DONE]`; an answer that is not streamed becomes a 500.
    EngineDeathAfter(u32),
    /// Every answer is this error; 429 and 503 are what replicas send under overload.
    Status {
        /// The status code.
        code: u16,
        /// What `Retry-After` says, in whole seconds.
        retry_after: Option<Duration>,
    },
    /// `/health` answers late.
    SlowHealth(Duration),
}

/// How an answer is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Break,
    Stall,
    EngineDeath,
}

impl Fault {
    /// How an answer is cut short, and after how many chunks.
    pub(crate) const fn cut(self) -> Option<(Cut, u32)> {
        match self {
            Self::BreakAfter(chunks) => Some((Cut::Break, chunks)),
            Self::StallAfter(chunks) => Some((Cut::Stall, chunks)),
            Self::EngineDeathAfter(chunks) => Some((Cut::EngineDeath, chunks)),
            Self::None
            | Self::Down
            | Self::GarbageBytes
            | Self::GarbageBody
            | Self::CloseBeforeAnswer
            | Self::Silence
            | Self::Status { .. }
            | Self::SlowHealth(_) => None,
        }
    }

    /// Whether connections break when this begins.
    pub(crate) const fn severs(self) -> bool {
        matches!(self, Self::Down | Self::GarbageBytes)
    }
}

/// A fault that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no fault is called {given:?}: choose one of none, down, garbage-bytes, garbage-body, \
     close, silence, break:CHUNKS, stall:CHUNKS, engine-death:CHUNKS, status:CODE, \
     status:CODE:RETRY_AFTER_SECONDS, slow-health:MILLISECONDS"
)]
pub struct ParseFaultError {
    /// What was given.
    pub given: String,
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        parse(text).ok_or_else(|| ParseFaultError { given: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Fault> {
    let mut parts = text.split(':');
    let name = parts.next()?;
    let numbers: Vec<u32> = parts.map(str::parse).collect::<Result<_, _>>().ok()?;
    let fault = match (name, numbers.as_slice()) {
        ("none", []) => Fault::None,
        ("down", []) => Fault::Down,
        ("garbage-bytes", []) => Fault::GarbageBytes,
        ("garbage-body", []) => Fault::GarbageBody,
        ("close", []) => Fault::CloseBeforeAnswer,
        ("silence", []) => Fault::Silence,
        ("break", [chunks]) => Fault::BreakAfter(*chunks),
        ("stall", [chunks]) => Fault::StallAfter(*chunks),
        ("engine-death", [chunks]) => Fault::EngineDeathAfter(*chunks),
        ("status", [code, rest @ ..]) if rest.len() < 2 => Fault::Status {
            code: u16::try_from(*code).ok().filter(|code| (400..600).contains(code))?,
            retry_after: rest.first().map(|seconds| Duration::from_secs(u64::from(*seconds))),
        },
        ("slow-health", [milliseconds]) => {
            Fault::SlowHealth(Duration::from_millis(u64::from(*milliseconds)))
        }
        _ => return None,
    };
    Some(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_from_the_command_line() {
        let after = |seconds| Some(Duration::from_secs(seconds));
        for (text, fault) in [
            ("none", Fault::None),
            ("down", Fault::Down),
            ("break:5", Fault::BreakAfter(5)),
            ("status:503", Fault::Status { code: 503, retry_after: None }),
            ("status:429:2", Fault::Status { code: 429, retry_after: after(2) }),
            ("slow-health:1500", Fault::SlowHealth(Duration::from_millis(1500))),
        ] {
            assert_eq!(text.parse(), Ok(fault), "{text}");
        }
    }

    #[test]
    fn an_unknown_fault_is_answered_with_the_known_ones() {
        for text in ["", "brake:5", "break", "break:-1", "status:200", "status:503:1:1", "down:1"] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("break:CHUNKS"), "{error}");
        }
    }
}
