//! Kinds of work.
//!
//! Results of different kinds of work are different things, so each kind has a unit of its own.

use serde::{Deserialize, Serialize};

/// A kind of work, by what counts as one result of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadClass {
    /// People talk with it; a result is a conversation all of whose turns were good.
    Conversational,
    /// It works through steps; a result is a task all of whose steps were good.
    Agentic,
    /// It answers from documents; a result is a good answer.
    Rag,
    /// It turns documents into data; a result is a good record.
    Extraction,
    /// People speak with it; a result is a minute of a call all of whose turns were good.
    Voice,
    /// Nobody waits for it; a result is a row accepted within the completion window.
    Batch,
}

impl WorkloadClass {
    /// Every class.
    pub const ALL: [Self; 6] = [
        Self::Conversational,
        Self::Agentic,
        Self::Rag,
        Self::Extraction,
        Self::Voice,
        Self::Batch,
    ];

    /// The name as files and command lines spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conversational => "conversational",
            Self::Agentic => "agentic",
            Self::Rag => "rag",
            Self::Extraction => "extraction",
            Self::Voice => "voice",
            Self::Batch => "batch",
        }
    }

    /// What one result is called.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::Conversational => "conversation",
            Self::Agentic => "task",
            Self::Rag => "answer",
            Self::Extraction => "record",
            Self::Voice => "minute",
            Self::Batch => "row",
        }
    }
}

impl std::str::FromStr for WorkloadClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::as_str).join(", ");
        let named = Self::ALL.into_iter().find(|it| it.as_str() == text);
        named.ok_or_else(|| format!("'{text}' is no class of workload; use one of {names}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_is_none_is_told_the_names() {
        assert_eq!("voice".parse(), Ok(WorkloadClass::Voice));
        let error = "chat".parse::<WorkloadClass>().unwrap_err();
        assert!(error.contains("conversational, agentic, rag"), "{error}");
    }
}
