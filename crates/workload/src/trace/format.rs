//! Which format a file has: named by the user, or recognised by how it begins.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::trace::{
    Recorded, Trace, aiperf, azure, bailian, burst_gpt,
    lines::{BadLine, Problem, numbered},
    mooncake, openai, recording, results, share_gpt,
};

/// Lines that are looked at before a file is of no known format: the first may be a bad one.
const LINES_TRIED: usize = 20;

/// A format that recorded requests come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Mooncake's traces, and those that others write in its form.
    Mooncake,
    /// Azure's LLM inference traces of 2023 and 2024.
    Azure,
    /// BurstGPT.
    #[serde(rename = "burstgpt")]
    BurstGpt,
    /// Alibaba's Bailian (Qwen) traces.
    Bailian,
    /// Conversations with their texts.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// Bodies of requests, or a batch file.
    Openai,
    /// AIPerf's `inputs.json` and data sets.
    Aiperf,
    /// The `requests.jsonl` of a results folder.
    Results,
    /// The router's access log.
    AccessLog,
    /// A flight recording.
    Recording,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Self::Mooncake,
        Self::Azure,
        Self::BurstGpt,
        Self::Bailian,
        Self::ShareGpt,
        Self::Openai,
        Self::Aiperf,
        Self::Results,
        Self::AccessLog,
        Self::Recording,
    ];

    /// Its name in files and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mooncake => "mooncake",
            Self::Azure => "azure",
            Self::BurstGpt => "burstgpt",
            Self::Bailian => "bailian",
            Self::ShareGpt => "sharegpt",
            Self::Openai => "openai",
            Self::Aiperf => "aiperf",
            Self::Results => "results",
            Self::AccessLog => "access-log",
            Self::Recording => "recording",
        }
    }

    /// The format of `text`, by how it begins.
    #[must_use]
    pub fn recognise(text: &str) -> Option<Self> {
        let text = text.trim_start_matches('\u{feff}');
        if aiperf::is_inputs(text) {
            return Some(Self::Aiperf);
        }
        if text.trim_start().starts_with('[') {
            return Some(Self::ShareGpt);
        }
        let (_, first) = numbered(text).next()?;
        if let Some(format) = of_header(first) {
            return Some(format);
        }
        numbered(text).take(LINES_TRIED).find_map(|(_, line)| {
            serde_json::from_str::<Map<String, Value>>(line).ok().as_ref().and_then(of_object)
        })
    }

    pub(super) fn read(self, trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
        match self {
            Self::Mooncake => mooncake::read(trace, text),
            Self::Azure => azure::read(trace, text),
            Self::BurstGpt => burst_gpt::read(trace, text),
            Self::Bailian => bailian::read(trace, text),
            Self::ShareGpt => share_gpt::read(trace, text),
            Self::Openai => openai::read(trace, text),
            Self::Aiperf => aiperf::read(trace, text),
            Self::Results => results::read(trace, text),
            Self::AccessLog => results::read_log(trace, text),
            Self::Recording => recording::read(trace, text),
        }
    }
}

/// The format whose header `line` is.
fn of_header(line: &str) -> Option<Format> {
    let cells: Vec<&str> = line.split(',').map(str::trim).collect();
    let has_all = |names: [&str; 3]| names.iter().all(|name| cells.contains(name));
    if has_all(azure::COLUMNS) {
        Some(Format::Azure)
    } else if has_all(burst_gpt::COLUMNS) {
        Some(Format::BurstGpt)
    } else {
        None
    }
}

/// The format that such a line belongs to.
fn of_object(line: &Map<String, Value>) -> Option<Format> {
    let has = |key: &str| line.contains_key(key);
    let format = if has("sluice_recording") {
        Format::Recording
    } else if has("scheduled_s") {
        Format::Results
    } else if has("chat_id") && has("input_length") {
        Format::Bailian
    } else if has("output_length") && (has("input_length") || has("text_input")) {
        Format::Mooncake
    } else if has("level") && has("message") {
        Format::AccessLog
    } else if has("conversations") || (has("messages") && !is_request(line)) {
        Format::ShareGpt
    } else if has("body") || has("payload") || has("messages") || has("prompt") {
        Format::Openai
    } else if has("turns") || has("text") || has("texts") {
        Format::Aiperf
    } else {
        return None;
    };
    Some(format)
}

/// Whether a line with messages asks for an answer, and does not hold it: it says how it is to be
/// answered, or ends with what a user says. A recorder's conversations say when they began.
fn is_request(line: &Map<String, Value>) -> bool {
    let how = ["model", "max_tokens", "max_completion_tokens", "stream"];
    let last = line.get("messages").and_then(|it| it.as_array()?.last()?.get("role")?.as_str());
    let asks = last == Some("user") && !line.contains_key("start_s");
    how.into_iter().any(|key| line.contains_key(key)) || asks
}

/// What is wrong with a file whose format cannot be told.
pub(super) fn unknown(trace: &Trace, text: &str) -> BadLine {
    if text.trim().is_empty() {
        return BadLine { file: trace.file.clone(), line: 1, problem: Problem::Empty };
    }
    let known = Format::ALL.map(Format::as_str).join(", ");
    BadLine { file: trace.file.clone(), line: 1, problem: Problem::UnknownFormat { known } }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a word is no format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no format; use one of {known}", known = Format::ALL.map(Format::as_str).join(", "))]
pub struct NoFormat(String);

impl FromStr for Format {
    type Err = NoFormat;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.into_iter().find(|it| it.as_str() == text);
        named.ok_or_else(|| NoFormat(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_told_apart_by_how_they_begin() {
        for (head, format) in [
            ("\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\n", Format::Azure),
            (
                "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n",
                Format::BurstGpt,
            ),
            (r#"{"timestamp":0,"input_length":1,"output_length":1}"#, Format::Mooncake),
            (
                "\n{\"trunc\n{\"timestamp\":0,\"input_length\":1,\"output_length\":1}",
                Format::Mooncake,
            ),
            (
                r#"{"chat_id":1,"parent_chat_id":-1,"timestamp":0,"input_length":1}"#,
                Format::Bailian,
            ),
            ("[\n {\"id\": 1, \"conversations\": []}]", Format::ShareGpt),
            (r#"{"conversations":[]}"#, Format::ShareGpt),
            (r#"{"session_id":"a","start_s":1,"messages":[]}"#, Format::ShareGpt),
            (r#"{"model":"m","messages":[]}"#, Format::Openai),
            (r#"{"messages":[{"role":"user","content":"Hi"}],"max_tokens":5}"#, Format::Openai),
            (r#"{"messages":[],"stream":true}"#, Format::Openai),
            (r#"{"messages":[{"role":"user","content":"Hi"}]}"#, Format::Openai),
            (
                r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Yes?"}]}"#,
                Format::ShareGpt,
            ),
            (r#"{"custom_id":"a","body":{}}"#, Format::Openai),
            (r#"{"timestamp":0,"payload":{}}"#, Format::Openai),
            ("{\n \"data\": [\n {\"session_id\": \"a\", \"payloads\": []}]}", Format::Aiperf),
            (r#"{"text":"Hi"}"#, Format::Aiperf),
            (r#"{"request_id":"a","scheduled_s":1.0}"#, Format::Results),
            (r#"{"timestamp":"2026","level":"INFO","message":"request"}"#, Format::AccessLog),
            (r#"{"sluice_recording":1,"version":"0.1.0"}"#, Format::Recording),
        ] {
            assert_eq!(Format::recognise(head), Some(format), "{head}");
        }
        for head in ["", "a,b,c\n1,2,3", "{\"a\":1}"] {
            assert_eq!(Format::recognise(head), None, "{head}");
        }
    }

    #[test]
    fn a_format_has_one_name_everywhere() {
        for format in Format::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
            assert_eq!(serde_json::to_value(format).unwrap(), format.as_str());
        }
        let error = "csv".parse::<Format>().unwrap_err().to_string();
        assert!(error.contains("use one of mooncake, azure"), "{error}");
    }
}
