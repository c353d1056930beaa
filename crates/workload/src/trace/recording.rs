//! A flight recording as a workload: what `sluice serve --record` wrote.
//!
//! A recording holds when each request came, how long its prompt was, and the hashes of its blocks,
//! so prefixes are shared as they were. How long answers were it does not hold. They are estimated
//! from the time between first token and end, at [`ANSWER_TIME_PER_TOKEN`] a token, and are no longer
//! than the client allowed: good enough to load a fleet alike, not to compare lengths.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use types::{
    quantity::Tokens,
    request::{Request, RequestId, SessionKey, TenantId},
    time::Timestamp,
};

use crate::trace::{
    ANSWER_TIME_PER_TOKEN, Recorded, Row, Trace,
    lines::{BadLine, Problem, Rows, numbered},
};

/// What is read of the first line.
#[derive(Deserialize)]
struct Header {
    config: Config,
}

#[derive(Deserialize)]
struct Config {
    prefix: Prefix,
}

#[derive(Deserialize)]
struct Prefix {
    block: u32,
}

#[derive(Deserialize)]
struct Entry<'a> {
    at: Timestamp,
    #[serde(borrow)]
    event: &'a RawValue,
}

/// What is read of an event; one that says nothing about requests has none of these.
#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Event {
    arrived: Option<Request>,
    first_token: Option<RequestId>,
    ended: Option<Ended>,
}

#[derive(Deserialize)]
struct Ended {
    request: RequestId,
}

/// A request while the recording is read.
struct Open {
    line: usize,
    arrived: Timestamp,
    first_token: Option<Timestamp>,
    request: Request,
}

/// Reads the recording in `text`; `trace.file` only serves messages.
///
/// # Errors
/// A first line that is no header, or the first line that cannot be read, unless such lines are to be
/// skipped.
pub fn read(trace: &Trace, text: &str) -> Result<Recorded, BadLine> {
    let mut lines = numbered(text);
    let (number, first) = lines.next().unwrap_or((1, ""));
    let header: Header = serde_json::from_str(first).map_err(|error| BadLine {
        file: trace.file.clone(),
        line: number,
        problem: Problem::from(error),
    })?;
    let mut reader =
        Reader { rows: Rows::new(trace), open: BTreeMap::new(), names: Names::default() };
    for (number, line) in lines {
        match parse(line) {
            Ok((at, event)) => reader.learn(number, at, event)?,
            Err(problem) => reader.rows.refuse(number, problem)?,
        }
    }
    Ok(reader.rows.in_order(header.config.prefix.block))
}

fn parse(line: &str) -> Result<(Timestamp, Event), Problem> {
    let Entry { at, event } = serde_json::from_str(line)?;
    // An event without figures is written as its name.
    let has_figures = event.get().starts_with('{');
    let event = if has_figures { serde_json::from_str(event.get())? } else { Event::default() };
    Ok((at, event))
}

struct Reader<'a> {
    rows: Rows<'a>,
    open: BTreeMap<RequestId, Open>,
    names: Names,
}

/// Numbers for conversations and tenants, as they come.
#[derive(Default)]
struct Names {
    sessions: BTreeMap<SessionKey, (u64, u32)>,
    tenants: BTreeMap<TenantId, u32>,
}

impl Reader<'_> {
    fn learn(&mut self, line: usize, at: Timestamp, event: Event) -> Result<(), BadLine> {
        if let Some(request) = event.arrived {
            let id = request.id;
            self.open.insert(id, Open { line, arrived: at, first_token: None, request });
        }
        if let Some(open) = event.first_token.and_then(|id| self.open.get_mut(&id)) {
            open.first_token.get_or_insert(at);
        }
        if let Some(open) = event.ended.and_then(|it| self.open.remove(&it.request)) {
            self.rows.take(open.line, Ok(self.names.row(&open, at)))?;
        }
        Ok(())
    }
}

impl Names {
    fn row(&mut self, open: &Open, ended: Timestamp) -> Row {
        let Open { request, arrived, first_token, .. } = open;
        let decoding = first_token.map_or(std::time::Duration::ZERO, |it| ended.since(it));
        let gaps = decoding.as_nanos().checked_div(ANSWER_TIME_PER_TOKEN.as_nanos()).unwrap_or(0);
        let estimate = u32::try_from(gaps).unwrap_or(u32::MAX).saturating_add(1);
        let next = self.sessions.len() as u64;
        let place = request.session.map(|key| {
            let place = self.sessions.entry(key).or_insert((next, 0));
            let turn = place.1;
            place.1 = turn.saturating_add(1);
            (place.0, turn)
        });
        let next = u32::try_from(self.tenants.len()).unwrap_or(u32::MAX);
        let tenant = (request.tenant != TenantId::NONE)
            .then(|| *self.tenants.entry(request.tenant).or_insert(next));
        Row {
            input: request.prompt,
            output: request.output_max.map_or(Tokens(estimate), |it| it.min(Tokens(estimate))),
            blocks: request.blocks.iter().map(|it| it.0).collect(),
            session: place.map(|it| it.0),
            turn: place.map_or(0, |it| it.1),
            tenant,
            ..Row::at(arrived.elapsed().as_secs_f64())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDING: &str = r#"{"sluice_recording":1,"version":"0.1.0","config":{"prefix":{"block":16,"index_bytes_max":9},"session":{}}}
{"at":1000000000,"event":{"replica-joined":1}}
{"at":2000000000,"event":{"arrived":{"id":7,"model":5,"prompt":40,"blocks":"00000000000000010000000000000002","session":340282366920938463463374607431768211455,"tenant":9}},"decisions":[]}
{"at":2500000000,"event":{"arrived":{"id":8,"model":5,"prompt":20,"blocks":"0000000000000001","session":null,"output_max":2}}}
{"at":3000000000,"event":{"first-token":7}}
{"at":3100000000,"event":{"first-token":8}}
{"at":3600000000,"event":{"ended":{"request":7,"outcome":"finished"}}}
{"at":9000000000,"event":{"ended":{"request":8,"outcome":"finished"}}}
"#;

    #[test]
    fn requests_keep_their_times_and_shared_blocks() {
        let recorded = read(&Trace::new("d.jsonl".to_owned()), RECORDING).unwrap();
        let [first, second] = recorded.rows.as_slice() else { panic!("two requests") };
        assert_eq!((first.at_s, second.at_s), (0.0, 0.5));
        assert_eq!((&first.blocks[..], &second.blocks[..]), (&[1, 2][..], &[1][..]));
        assert_eq!((first.session, first.tenant, second.session), (Some(0), Some(0), None));
        // 600 ms at 30 ms a token, and the first token; the other's client wanted two.
        assert_eq!((first.output, second.output), (Tokens(21), Tokens(2)));
        assert_eq!(recorded.block, Tokens(16));
    }

    #[test]
    fn a_bad_line_is_named_and_can_be_skipped() {
        let text = RECORDING.replace("\"at\":2500000000", "\"at\":-1");
        let trace = Trace::new("d.jsonl".to_owned());
        let error = read(&trace, &text).unwrap_err().to_string();
        assert!(error.starts_with("d.jsonl, line 4: "), "{error}");
        let recorded = read(&Trace { skip_bad_lines: true, ..trace }, &text).unwrap();
        assert_eq!((recorded.rows.len(), recorded.skipped.bad_lines), (1, 1));
    }
}
