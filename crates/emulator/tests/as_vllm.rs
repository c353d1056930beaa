//! The emulator answers with the fields, order, framing and words of the vLLM that was recorded.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeSet, path::PathBuf};

use common::{Answer, get, post, replica, send};
use emulator::Fault;
use serde_json::{Value, json};

fn captured(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(file);
    std::fs::read_to_string(path).unwrap()
}

fn recorded(name: &str) -> Answer {
    Answer::parse(captured(&format!("{name}.http")).as_bytes())
}

/// Sends the recorded request to a replica and returns its answer and the recorded one.
async fn exchange(replica: &emulator::Handle, name: &str) -> (Answer, Answer) {
    let request = captured(&format!("{name}.request.http"));
    let (ours, theirs) = (send(replica.address(), &request).await, recorded(name));
    assert_eq!(ours.status, theirs.status, "{name}: {}", ours.body);
    assert!(ours.complete, "{name}");
    for header in ["content-type: ", "allow: "] {
        let value = |answer: &Answer| {
            answer.head.lines().find_map(|it| it.strip_prefix(header)).map(str::to_owned)
        };
        assert_eq!(value(&ours), value(&theirs), "{name}");
    }
    (ours, theirs)
}

/// The keys of a JSON text in their order, nested ones included.
fn keys(text: &str) -> Vec<&str> {
    let mut keys = Vec::new();
    let mut parts = text.split('"').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_some_and(|next| next.starts_with(':')) {
            keys.push(part);
        }
    }
    keys
}

/// The value with every text and number replaced by what it is.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null | Value::Bool(_) => value.clone(),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Array(items) => items.iter().map(shape).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), shape(value))).collect()
        }
    }
}

fn assert_same_shape(name: &str, ours: &str, theirs: &str) {
    assert_eq!(keys(ours), keys(theirs), "{name}: {ours}");
    let parsed = |text: &str| shape(&serde_json::from_str(text).unwrap());
    assert_eq!(parsed(ours), parsed(theirs), "{name}: {ours}");
}

#[tokio::test]
async fn whole_answers_have_the_recorded_fields_in_the_recorded_order() {
    let replica = replica().await;
    for name in [
        "chat_1_cold",
        "chat_2_warm_shared_prefix",
        "chat_3_exact_repeat",
        "chat_cache_salt",
        "chat_n2",
        "chat_request_id_header",
        "completion_text",
        "completion_batch_prompts",
        "models",
        "version",
        "reset_prefix_cache",
    ] {
        let (ours, theirs) = exchange(&replica, name).await;
        assert_same_shape(name, &ours.body, &theirs.body);
    }
    for name in ["health", "ping"] {
        let (ours, _) = exchange(&replica, name).await;
        assert_eq!(ours.body, "", "{name}");
    }
}

#[tokio::test]
async fn a_request_id_names_the_answer() {
    let replica = replica().await;
    let (ours, theirs) = exchange(&replica, "chat_request_id_header").await;
    assert_eq!(ours.json()["id"], theirs.json()["id"]);
}

#[tokio::test]
async fn token_ids_are_counted_and_cached_as_recorded() {
    let replica = replica().await;
    for name in ["completion_token_ids", "completion_token_ids_repeat"] {
        let (ours, theirs) = exchange(&replica, name).await;
        assert_eq!(ours.json()["usage"], theirs.json()["usage"], "{name}");
    }
}

#[tokio::test]
async fn a_shared_prefix_is_cached_by_whole_blocks_and_a_salt_separates() {
    let replica = replica().await;
    let mut details = Vec::new();
    for name in
        ["chat_1_cold", "chat_2_warm_shared_prefix", "chat_3_exact_repeat", "chat_cache_salt"]
    {
        let usage = exchange(&replica, name).await.0.json()["usage"].clone();
        let tokens = |field: &str| usage["prompt_tokens_details"][field].as_u64().unwrap();
        let prompt = usage["prompt_tokens"].as_u64().unwrap();
        assert_eq!(tokens("cached_tokens") + tokens("created_cache_tokens"), prompt / 32 * 32);
        details.push((prompt, tokens("cached_tokens")));
    }
    // The shared system prompt has 672 bytes and a head of 12: 171 tokens, 5 whole blocks.
    let cached: Vec<u64> = details.iter().map(|(_, cached)| *cached).collect();
    let repeat = details.get(2).map(|(prompt, _)| (prompt - 1) / 32 * 32);
    assert_eq!(cached, [0, 160, repeat.unwrap(), 0], "{details:?}");
}

/// The events of a stream without those that repeat the shape of the one before.
fn distinct(answer: &Answer) -> Vec<&str> {
    let mut events = answer.events();
    let form =
        |event: &str| serde_json::from_str(event).map(|it| (keys(event).join(","), shape(&it)));
    events.dedup_by(|a, b| form(a).ok() == form(b).ok());
    events
}

/// Time is virtual and passes when everything else is done: tokens that a reader is late for come together,
/// which is another form of event, and how late it is depends on the machine.
#[tokio::test(start_paused = true)]
async fn streams_have_the_recorded_events_in_the_recorded_order() {
    let replica = replica().await;
    for name in [
        "chat_stream_usage",
        "chat_stream_no_usage",
        "chat_stream_continuous_usage",
        "completion_stream_usage",
    ] {
        let (ours, theirs) = exchange(&replica, name).await;
        let (ours, theirs) = (distinct(&ours), distinct(&theirs));
        assert_eq!(ours.len(), theirs.len(), "{name}: {ours:#?}");
        let (done, ours) = ours.split_last().unwrap();
        assert_eq!(done, &"[DONE]");
        for (ours, theirs) in ours.iter().zip(theirs) {
            // Its prompt is shorter than a block, and ours as well.
            assert_same_shape(name, ours, theirs);
        }
    }
}

#[tokio::test]
async fn errors_have_the_recorded_words() {
    let replica = replica().await;
    for name in [
        "err_404",
        "err_405",
        "err_bad_temperature",
        "err_bad_type",
        "err_empty_messages",
        "err_max_tokens_too_big",
        "err_missing_messages",
        "err_stream_options_without_stream",
        "err_token_out_of_vocab",
        "err_too_long",
        "err_unknown_model",
    ] {
        let (ours, theirs) = exchange(&replica, name).await;
        assert_eq!(ours.body, theirs.body, "{name}");
    }
    let (ours, theirs) = exchange(&replica, "err_invalid_json").await;
    assert_same_shape("err_invalid_json", &ours.body, &theirs.body);
    assert_eq!(ours.json()["error"]["param"], theirs.json()["error"]["param"]);
}

#[tokio::test]
async fn an_engine_that_dies_ends_its_streams_as_recorded() {
    let replica = replica().await;
    replica.set_fault(Fault::EngineDeathAfter(3)).await.unwrap();
    let ours = common::chat(&replica, &common::streamed(5, 20)).await;
    let theirs = recorded("engine_death_stream");
    let end = |answer: &Answer| -> Vec<Value> {
        let events = answer.events();
        let last = events.iter().rev().take(2).rev();
        last.map(|it| serde_json::from_str(it).unwrap_or_else(|_| json!(it))).collect()
    };
    assert_eq!(end(&ours), end(&theirs));
    assert!(ours.complete && ours.events().len() == 5, "{:?}", ours.events());
}

/// What a line of metrics measures: all but the value.
fn series(line: &str) -> &str {
    line.rsplit_once(' ').map_or(line, |(series, _)| series)
}

#[tokio::test]
async fn metrics_have_the_recorded_names_labels_and_buckets() {
    let replica = replica().await;
    let page = get(replica.address(), "/metrics").await.body;
    let recorded = captured("metrics.txt");
    let samples = |page: &str| -> BTreeSet<String> {
        let lines = page.lines().filter(|it| !it.starts_with('#') && !it.contains("cache_config"));
        lines.map(|it| series(it).to_owned()).collect()
    };
    let (ours, mut theirs) = (samples(&page), samples(&recorded));
    // Two ways to end that an emulated engine has not.
    theirs.retain(|it| !it.contains("\"error\"") && !it.contains("\"repetition\""));
    assert_eq!(ours, theirs);
    let types = |page: &str| -> BTreeSet<String> {
        page.lines().filter(|it| it.starts_with("# TYPE")).map(str::to_owned).collect()
    };
    assert_eq!(types(&page), types(&recorded));

    let config =
        |page: &str| page.lines().find(|it| it.contains("config_info{")).unwrap().to_owned();
    let (ours, theirs) = (config(&page), config(&recorded));
    for label in ours.split(['{', '}', ',']).filter(|it| it.contains('=')) {
        assert!(theirs.contains(label), "{label}");
    }
}

#[tokio::test]
async fn metrics_count_what_was_served() {
    let replica = replica().await;
    for _ in 0..2 {
        common::chat(&replica, &common::question(100, 10)).await;
    }
    let body = json!({"prompt": "a", "max_tokens": 1});
    send(replica.address(), &post("/v1/completions", &body)).await;
    let page = get(replica.address(), "/metrics").await.body;
    let value = |name: &str, label: &str| -> f64 {
        let prefix = format!("vllm:{name}{{");
        let mut lines = page.lines().filter(|it| it.starts_with(&prefix) && it.contains(label));
        lines.next().unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    };
    // 500 bytes of question, 12 of its head, 8 of its end, 16 of the answer's head.
    let prompt = f64::from((500 + 12 + 8 + 16) / 4);
    for (name, label, expected) in [
        ("prompt_tokens_total", "", 2.0 * prompt + 1.0),
        ("prefix_cache_queries_total", "", 2.0 * prompt + 1.0),
        ("prefix_cache_hits_total", "", 128.0),
        ("generation_tokens_total", "", 21.0),
        ("request_success_total", "\"length\"", 3.0),
        ("time_to_first_token_seconds_count", "", 3.0),
        ("inter_token_latency_seconds_count", "", 18.0),
        ("e2e_request_latency_seconds_bucket", "+Inf", 3.0),
        ("num_requests_running", "", 0.0),
        ("kv_cache_usage_perc", "", 0.0),
    ] {
        assert!((value(name, label) - expected).abs() < 1e-9, "{name}: {}", value(name, label));
    }
}
