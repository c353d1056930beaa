//! Sluice's own records as a workload: the `requests.jsonl` of a run, and the router's access log.
//!
//! ```json
//! {"request_id": "replay-1-000003", "session": 2, "turn": 1, "scheduled_s": 1.5, "input_tokens": 900, "output_tokens": 80, …}
//! {"timestamp": "2026-11-26T15:00:01.5Z", "level": "INFO", "message": "request", "prompt_tokens": 900, "output_tokens": 80, "e2e_ms": 412.0, …}
//! ```
//!
//! Neither says what was asked, only how long it was, so every row's text is its own. Requests that
//! brought no answer have no length of one: they are counted and left out, so a run of a fleet that
//! refused much is replayed at less than its load. An access log is `sluice serve --log-format
//! json`; lines that are about something else are passed over.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use types::{quantity::Tokens, work::WorkloadClass};

use crate::trace::{
    Recorded, Row, Trace, azure,
    lines::{BadLine, Problem, Rows, numbered},
};

/// What is read of a line of `requests.jsonl`.
#[derive(Deserialize)]
struct Record {
    session: Option<u64>,
    #[serde(default)]
    turn: u32,
    tenant: Option<u32>,
    slo_class: Option<String>,
    workload_class: Option<WorkloadClass>,
    scheduled_s: f64,
    last_token_s: Option<f64>,
    input_tokens: u32,
    output_tokens: u32,
}

/// What is read of a line of the access log.
#[derive(Deserialize)]
struct Logged {
    /// When the request ended.
    timestamp: String,
    message: Option<String>,
    prompt_tokens: Option<u32>,
    output_tokens: Option<u32>,
    e2e_ms: Option<f64>,
}

/// Reads the `requests.jsonl` in `text`; `trace.file` only serves messages.
///
/// # Errors
/// The first line that cannot be read, unless such lines are to be skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut rows = Rows::new(trace);
    let mut answered_s = BTreeMap::new();
    for (number, line) in numbered(text) {
        let record = serde_json::from_str::<Record>(line).map_err(Problem::from);
        rows.take(number, record.map(|it| it.into_row(&mut answered_s)))?;
    }
    Ok(rows.in_order(1))
}

/// Reads the access log in `text`; `trace.file` only serves messages.
///
/// # Errors
/// The first line that cannot be read, unless such lines are to be skipped.
pub fn read_log(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut rows = Rows::new(trace);
    for (number, line) in numbered(text) {
        match serde_json::from_str::<Logged>(line) {
            Ok(logged) if logged.message.as_deref() == Some("request") => {
                rows.take(number, logged.row())?;
            }
            Ok(_) => {}
            Err(error) => rows.refuse(number, error.into())?,
        }
    }
    Ok(rows.in_order(1))
}

impl Record {
    fn into_row(self, answered_s: &mut BTreeMap<u64, f64>) -> Row {
        let end_s = self.last_token_s.unwrap_or(self.scheduled_s);
        let before_s = self.session.and_then(|it| answered_s.insert(it, end_s));
        let think_s = before_s.map_or(0.0, |it| self.scheduled_s - it);
        Row {
            input: Tokens(self.input_tokens),
            output: Tokens(self.output_tokens),
            session: self.session,
            turn: self.turn,
            tenant: self.tenant,
            slo_class: self.slo_class.map(Into::into),
            workload_class: self.workload_class,
            think: Duration::try_from_secs_f64(think_s).unwrap_or_default(),
            ..Row::at(self.scheduled_s)
        }
    }
}

impl Logged {
    fn row(&self) -> Result<Row, Problem> {
        let end_s = azure::seconds(&self.timestamp)
            .ok_or_else(|| Problem::unreadable(format!("`{}` is no time", self.timestamp)))?;
        Ok(Row {
            input: Tokens(self.prompt_tokens.unwrap_or(0)),
            output: Tokens(self.output_tokens.unwrap_or(0)),
            ..Row::at(end_s - self.e2e_ms.unwrap_or_default() / 1_000.0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_can_be_run_again() {
        let text = r#"{"request_id":"a","session":4,"turn":0,"scheduled_s":1.0,"last_token_s":2.5,"input_tokens":10,"output_tokens":5,"ending":"completed"}
{"request_id":"b","session":null,"scheduled_s":1.5,"input_tokens":10,"output_tokens":0,"ending":"rejected"}
{"request_id":"c","session":4,"turn":1,"tenant":3,"slo_class":"batch","workload_class":"rag","scheduled_s":4.5,"last_token_s":5.0,"input_tokens":30,"output_tokens":6}"#;
        let recorded = read(&Trace::new("requests.jsonl".to_owned()), text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.zero_length), (2, 1));
        let last = &recorded.rows[1];
        assert_eq!((last.session, last.turn, last.tenant), (Some(4), 1, Some(3)));
        assert_eq!((last.at_s, last.think), (3.5, Duration::from_secs(2)));
        assert_eq!(last.slo_class.as_deref(), Some("batch"));
        assert_eq!(last.workload_class, Some(WorkloadClass::Rag));
    }

    #[test]
    fn a_log_says_when_requests_ended_and_how_long_they_took() {
        let text = r#"{"timestamp":"2026-11-26T15:00:00.000Z","level":"INFO","message":"recording decisions"}
{"timestamp":"2026-11-26T15:00:03.000Z","level":"INFO","message":"request","request_id":"r","prompt_tokens":900,"output_tokens":80,"e2e_ms":2500.0}
{"timestamp":"2026-11-26T15:00:02.000Z","level":"INFO","message":"request","request_id":"s","prompt_tokens":70,"output_tokens":9,"e2e_ms":500.0}"#;
        let recorded = read_log(&Trace::new("access.log".to_owned()), text).unwrap();
        let told: Vec<_> = recorded.rows.iter().map(|it| (it.at_s, it.input.0)).collect();
        assert_eq!(told, [(0.0, 900), (1.0, 70)]);
        let bad = text.replace("2026-11-26T15:00:02.000Z", "noon");
        let error = read_log(&Trace::new("access.log".to_owned()), &bad).unwrap_err();
        assert!(error.to_string().starts_with("access.log, line 3: `noon`"), "{error}");
    }
}
