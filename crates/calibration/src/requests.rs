//! Compares a run with what a real engine did, request by request and second by second.

use std::sync::Arc;

use engine::{Answer, Job};
use serde::Deserialize;
use types::{
    block::{BlockHash, hash_block},
    quantity::Tokens,
    request::RequestId,
    time::Timestamp,
};
use workload::trace::Recorded;

use crate::run::Sent;

/// One request as the real engine served it; seconds on the engine's own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct MeasuredRequest {
    /// When its client sent it.
    pub sent_s: f64,
    /// When its first token was there.
    pub first_s: f64,
    /// When its last token was there.
    pub last_s: f64,
    /// Tokens of its prompt.
    pub input: Tokens,
    /// Tokens of its answer.
    pub output: Tokens,
}

/// A line of LLMServingSim's recordings: `arrival_time` on the wall clock, the others on the
/// engine's monotonic one.
#[derive(Deserialize)]
struct Line {
    input_toks: u32,
    output_toks: u32,
    arrival_time: f64,
    queued_ts: f64,
    first_token_ts: f64,
    last_token_ts: f64,
}

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BadRecording {
    /// A line is not what it should be.
    #[error("line {line}: {source}")]
    Line {
        /// Line, from 1.
        line: usize,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// There is nothing in it.
    #[error("holds no requests")]
    Empty,
}

/// Reads a recording of LLMServingSim, one JSON object a line, ordered by arrival.
///
/// The two clocks differ by a constant that nobody wrote down. It is at least what makes the
/// quickest request reach the queue the moment it arrived, and is taken to be that; what is left
/// out is the least time between the two, under a millisecond in an engine that is asked in process.
///
/// # Errors
/// A line that cannot be read, or no line.
pub fn read(text: &str) -> Result<Vec<MeasuredRequest>, BadRecording> {
    let mut lines = Vec::new();
    for (index, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        let line: Result<Line, _> = serde_json::from_str(text);
        let number = index.saturating_add(1);
        lines.push(line.map_err(|source| BadRecording::Line { line: number, source })?);
    }
    let clocks = lines.iter().map(|it| it.queued_ts - it.arrival_time).reduce(f64::min);
    let start = lines.iter().map(|it| it.arrival_time).reduce(f64::min);
    let (clocks, start) = clocks.zip(start).ok_or(BadRecording::Empty)?;
    let mut requests: Vec<MeasuredRequest> = lines
        .into_iter()
        .map(|line| MeasuredRequest {
            sent_s: line.arrival_time - start,
            first_s: line.first_token_ts - clocks - start,
            last_s: line.last_token_ts - clocks - start,
            input: Tokens(line.input_toks),
            output: Tokens(line.output_toks),
        })
        .collect();
    requests.sort_by(|a, b| a.sent_s.total_cmp(&b.sent_s));
    Ok(requests)
}

/// The workload that was measured: lengths and times of the recording, and the block names of the
/// trace where it has the same length (another model's tokenizer cuts the text differently, and
/// what it shares is then unknown).
#[must_use]
pub fn workload(measured: &[MeasuredRequest], trace: &Recorded, block: Tokens) -> Vec<Sent> {
    let rows = trace.rows.iter().map(Some).chain(std::iter::repeat(None));
    (0..)
        .zip(measured.iter().zip(rows))
        .map(|(index, (request, row))| {
            let named = row.filter(|row| row.input == request.input);
            let names = named.map(|row| row.blocks.as_slice()).unwrap_or_default();
            let full = request.input.full_blocks(block).0;
            let blocks: Arc<[BlockHash]> = (0..full)
                .map(|place| match names.get(place as usize) {
                    Some(name) => hash_block(BlockHash(0), &name.to_le_bytes()),
                    None => hash_block(BlockHash(index), &place.to_le_bytes()),
                })
                .collect();
            let at = std::time::Duration::try_from_secs_f64(request.sent_s).unwrap_or_default();
            let (id, prompt, output) = (RequestId(index), request.input, request.output);
            let job = Job { id, prompt, blocks, output, answer: Answer::Private };
            Sent { at: Timestamp::from_elapsed(at), job }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use workload::trace::Row;

    use super::*;

    fn line(at: f64, input: u32) -> String {
        format!(
            r#"{{"request_id": "a", "input_toks": {input}, "output_toks": 3, "arrival_time": {},
            "queued_ts": {}, "first_token_ts": {}, "last_token_ts": {}}}"#,
            1_000.0 + at,
            50.0 + at + 0.002,
            50.0 + at + 0.5,
            50.0 + at + 1.5
        )
        .replace('\n', " ")
    }

    #[test]
    fn two_clocks_become_one_that_starts_with_the_first_request() {
        let measured = read(&format!("{}\n\n{}\n", line(2.0, 40), line(1.0, 30))).unwrap();
        assert_eq!(measured.iter().map(|it| it.input.0).collect::<Vec<_>>(), [30, 40]);
        for (it, sent_s) in measured.iter().zip([0.0, 1.0]) {
            assert!(
                (it.sent_s - sent_s).abs() < 1e-9 && (it.first_s - sent_s - 0.498).abs() < 1e-9
            );
        }
    }

    #[test]
    fn a_recording_that_cannot_be_read_is_told_where() {
        assert!(read(" \n").unwrap_err().to_string().contains("no requests"));
        let error = read(&format!("{}\n{{}}\n", line(0.0, 3))).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("input_toks"), "{error}");
    }

    #[test]
    fn names_of_blocks_come_from_the_trace_where_it_tells_of_the_same_prompt() {
        let measured = read(&format!("{}\n{}\n", line(0.0, 40), line(1.0, 40))).unwrap();
        let row = |input| Row { input: Tokens(input), blocks: vec![7, 8], ..Row::default() };
        let blocks = |inputs: [u32; 2]| {
            let trace = Recorded { rows: inputs.map(row).to_vec(), ..Recorded::default() };
            let sent = workload(&measured, &trace, Tokens(16));
            sent.into_iter().map(|it| it.job.blocks).collect::<Vec<_>>()
        };
        let shared = blocks([40, 40]);
        assert_eq!((shared[0].len(), &shared[0]), (2, &shared[1]));
        // Another tokenizer cut the second one: what it shares is not known.
        assert_ne!(blocks([40, 39])[0], blocks([40, 39])[1]);
    }
}
