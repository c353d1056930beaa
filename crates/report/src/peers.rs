//! Results under the names that others' tools read: AIPerf's `profile_export.jsonl`, and the keys of the
//! file that `vllm bench serve --save-result` writes.
//!
//! Names and units are theirs; figures are this project's. So latencies count from the scheduled send,
//! where AIPerf counts from the actual one and vLLM's client too, and rates are per second of the
//! schedule; the time that vLLM divides by is `duration`.

use serde_json::{Map, Value, json};
use types::time::Timestamp;

use crate::{
    record::{Ending, RequestRecord},
    stats::{Stats, ratio},
    summary::{Run, Summary},
};

/// A line of `profile_export.jsonl`: the request of that `number`, in a run that started at
/// `start_ns` after 1970 and counts from `warm_up` on.
#[must_use]
pub fn aiperf(record: &RequestRecord, number: u64, start_ns: u64, warm_up: Timestamp) -> Value {
    let ns = |at: Timestamp| {
        let since = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        start_ns.saturating_add(since)
    };
    let conversation = record.session.map(|it| it.to_string());
    let phase = if record.scheduled < warm_up { "warmup" } else { "profiling" };
    json!({
        "metadata": {
            "session_num": number,
            "x_request_id": record.request_id,
            "x_correlation_id": conversation,
            "conversation_id": conversation,
            "turn_index": record.turn,
            "credit_issued_ns": ns(record.scheduled),
            "request_start_ns": ns(record.sent.unwrap_or(record.scheduled)),
            "request_ack_ns": record.first_token.map(ns),
            "request_end_ns": ns(record.ended),
            "worker_id": "sluice",
            "record_processor_id": "sluice",
            "benchmark_phase": phase,
            "was_cancelled": record.ending == Ending::Cancelled,
            "cancellation_time_ns": (record.ending == Ending::Cancelled).then(|| ns(record.ended)),
        },
        "metrics": metrics(record),
        "error": error(record),
    })
}

fn metrics(record: &RequestRecord) -> Value {
    let mut all = Map::new();
    let mut put = |name: &str, value: Option<f64>, unit: &str| {
        if let Some(value) = value {
            all.insert(name.to_owned(), json!({ "value": value, "unit": unit }));
        }
    };
    let ms = |it: Option<std::time::Duration>| it.map(|it| it.as_secs_f64() * 1_000.0);
    let completed = record.ending == Ending::Completed;
    put("time_to_first_token", ms(record.ttft()).filter(|_| completed), "ms");
    put("inter_token_latency", ms(record.tpot()), "ms");
    put("request_latency", ms(record.e2e()), "ms");
    put("inter_chunk_latency_p95", ms(record.itl_p95()), "ms");
    put("credit_to_start_latency", ms(record.lag()), "ms");
    put("input_sequence_length", Some(f64::from(record.input_tokens.0)), "tokens");
    if completed {
        let tokens = f64::from(record.output_tokens.0);
        put("output_sequence_length", Some(tokens), "tokens");
        let per_user = record.tpot().and_then(|it| ratio(1.0, it.as_secs_f64()));
        put("output_token_throughput_per_user", per_user, "tokens/sec/user");
        let cached = record.cached_tokens.map(|it| f64::from(it.0));
        put("usage_prompt_cache_read_tokens", cached, "tokens");
        put("good_request_count", Some(f64::from(u8::from(record.slo.good))), "requests");
    }
    Value::Object(all)
}

fn error(record: &RequestRecord) -> Value {
    let (kind, code) = match record.ending {
        Ending::Completed => return Value::Null,
        Ending::Rejected => ("Rejected", record.status),
        // What AIPerf writes of those whose clients hung up.
        Ending::Cancelled => ("RequestCancellationError", Some(499)),
        Ending::Failed => ("Failed", record.status),
    };
    json!({ "code": code, "type": kind, "message": record.error.as_deref().unwrap_or_default() })
}

/// `summary.json`: each run with vLLM's keys beside its own, and those of a single run at the top,
/// where vLLM's tools look for them.
#[must_use]
pub fn summary(summary: &Summary) -> Value {
    let runs: Vec<Value> = summary
        .runs
        .iter()
        .map(|run| {
            let mut own = vllm(run);
            // Where both have a name, this project's figure stays.
            if let Ok(Value::Object(fields)) = serde_json::to_value(run) {
                own.extend(fields);
            }
            Value::Object(own)
        })
        .collect();
    let mut all = match summary.runs.as_slice() {
        [run] => vllm(run),
        _ => Map::new(),
    };
    all.insert("schema".to_owned(), json!(summary.schema));
    all.insert("runs".to_owned(), Value::Array(runs));
    Value::Object(all)
}

/// The keys of vLLM's result file.
fn vllm(run: &Run) -> Map<String, Value> {
    let duration = run.window_s + run.drain_s;
    let tokens = run.input_tokens.saturating_add(run.output_tokens) as f64;
    let rate = |amount: f64| ratio(amount, run.window_s);
    let mut all = Map::new();
    for (key, value) in [
        ("duration", json!(duration)),
        ("num_prompts", json!(run.requests)),
        ("completed", json!(run.completed)),
        ("failed", json!(run.failed.saturating_add(run.rejected))),
        ("request_rate", json!(run.offered_rps)),
        ("total_input_tokens", json!(run.input_tokens)),
        ("total_output_tokens", json!(run.output_tokens)),
        ("request_throughput", json!(run.request_throughput)),
        ("request_goodput", json!(run.request_goodput)),
        ("output_throughput", json!(run.output_token_throughput)),
        ("total_token_throughput", json!(rate(tokens))),
    ] {
        all.insert(key.to_owned(), value);
    }
    for (name, stats) in
        [("ttft", run.ttft_ms), ("tpot", run.tpot_ms), ("itl", run.itl_ms), ("e2el", run.e2e_ms)]
    {
        let of = |part: fn(Stats) -> f64| stats.map(part);
        for (part, value) in [
            ("mean", of(|it| it.mean)),
            ("median", of(|it| it.p50)),
            ("std", of(|it| it.std)),
            ("p90", of(|it| it.p90)),
            ("p95", of(|it| it.p95)),
            ("p99", of(|it| it.p99)),
        ] {
            all.insert(format!("{part}_{name}_ms"), json!(value));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::tests::{answered, ended, records, run};

    #[test]
    fn a_line_has_aiperfs_names_and_units() {
        let line = aiperf(&answered(1_000, 200, Some(80)), 7, 1_000_000_000, Timestamp::ZERO);
        let (metadata, metrics) = (&line["metadata"], &line["metrics"]);
        assert_eq!(metadata["session_num"], 7);
        assert_eq!(metadata["credit_issued_ns"], 2_000_000_000_u64);
        assert_eq!(metadata["request_start_ns"], 2_001_000_000_u64);
        assert_eq!(metadata["benchmark_phase"], "profiling");
        assert_eq!(metrics["time_to_first_token"], json!({ "value": 200.0, "unit": "ms" }));
        assert_eq!(metrics["inter_token_latency"], json!({ "value": 100.0, "unit": "ms" }));
        assert_eq!(metrics["output_sequence_length"]["unit"], "tokens");
        assert_eq!(line["error"], Value::Null);
    }

    #[test]
    fn what_failed_has_an_error_and_no_latency() {
        let line = aiperf(&ended(0, Ending::Rejected), 0, 0, Timestamp::ZERO);
        assert_eq!(line["error"]["type"], "Rejected");
        assert!(line["metrics"].get("request_latency").is_none());
    }

    #[test]
    fn a_single_run_has_vllms_keys_at_the_top_and_can_still_be_read() {
        let own = Summary::new(vec![run(&records())]);
        let value = summary(&own);
        for key in "duration completed failed request_throughput request_goodput output_throughput \
            total_token_throughput mean_ttft_ms median_tpot_ms std_itl_ms p99_e2el_ms"
            .split_whitespace()
        {
            assert!(value[key].is_number(), "{key} is missing: {value:#}");
            assert!(value["runs"][0][key].is_number(), "{key} is missing in the run");
        }
        // Refusals are failures to vLLM; ours are told apart, under the same name.
        assert_eq!((&value["failed"], &value["runs"][0]["failed"]), (&json!(2), &json!(1)));
        assert_eq!(serde_json::from_value::<Summary>(value).unwrap(), own);
    }
}
