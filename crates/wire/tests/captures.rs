//! Reads what real engines were sent and answered; `captures/README.md` says where it is from.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use types::{
    block::HashKey,
    quantity::{Blocks, Tokens},
};
use wire::{
    openai::{BadRequest, Endpoint, parse},
    prometheus,
    prompt::PromptHash,
    sse::Scanner,
    usage::{Answer, End, carries_output},
};

fn capture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(name)).unwrap()
}

/// Head and body of a captured message.
fn split(message: &[u8]) -> (&str, &[u8]) {
    let end = message.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let (head, body) = message.split_at(end);
    (std::str::from_utf8(head).unwrap(), body.get(4..).unwrap())
}

/// The chunks of a chunked body, as far as they go.
fn chunks(mut body: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    while let Some(end) = body.windows(2).position(|it| it == b"\r\n") {
        let size = std::str::from_utf8(body.get(..end).unwrap()).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        let start = end + 2;
        let Some(chunk) = body.get(start..start + size) else { break };
        chunks.push(chunk);
        body = body.get(start + size + 2..).unwrap_or_default();
    }
    chunks
}

/// What is learned of a captured answer, and how many of its events carry output.
fn learn(endpoint: Endpoint, name: &str) -> (Answer, usize) {
    let message = capture(name);
    let (head, body) = split(&message);
    let mut answer = Answer::new(endpoint);
    let mut outputs = 0;
    if head.contains("text/event-stream") {
        let mut scanner = Scanner::new();
        for chunk in chunks(body) {
            scanner.push(chunk, |event| {
                outputs += usize::from(carries_output(&event));
                answer.event(&event);
            });
        }
    } else {
        answer.body(body);
    }
    (answer, outputs)
}

fn prompt(name: &str) -> Result<PromptHash, BadRequest> {
    let message = capture(name);
    let (head, body) = split(&message);
    let endpoint = Endpoint::from_path(head.split(' ').nth(1).unwrap()).unwrap();
    parse(endpoint, body).map(|it| it.hash_prompt(HashKey(3), None, Tokens(16)))
}

#[test]
fn every_captured_request_is_read() {
    for folder in ["vllm-0.32.0", "llama-server-0.3.36"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures").join(folder);
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name =
                path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/captures"));
            let name = name.unwrap().to_str().unwrap();
            if !name.ends_with(".request.http") {
                continue;
            }
            match prompt(name) {
                Ok(_) => assert!(!name.contains("invalid_json"), "{name}"),
                Err(BadRequest::NotJson { .. }) => assert!(name.contains("invalid_json"), "{name}"),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
}

#[test]
fn requests_with_one_system_text_share_their_blocks_and_salted_ones_do_not() {
    let cold = prompt("vllm-0.32.0/chat_1_cold.request.http").unwrap();
    let warm = prompt("vllm-0.32.0/chat_2_warm_shared_prefix.request.http").unwrap();
    let salted = prompt("vllm-0.32.0/chat_cache_salt.request.http").unwrap();
    let shared = cold.blocks.iter().zip(&warm.blocks).take_while(|(a, b)| a == b).count();
    assert!(shared >= 10, "{shared} of {}", cold.blocks.len());
    assert_ne!(cold.blocks.first(), salted.blocks.first());
}

#[test]
fn token_ids_are_counted_as_the_engine_counts_them() {
    let ids = prompt("vllm-0.32.0/completion_token_ids.request.http").unwrap();
    assert_eq!((ids.prompt, ids.blocks.len()), (Tokens(128), 8));
}

#[test]
fn every_engine_tells_its_cost_and_its_end() {
    use Endpoint::{ChatCompletions, Messages, Responses};
    for (endpoint, name, prompt, cached, completion) in [
        (ChatCompletions, "vllm-0.32.0/chat_stream_usage.http", 263, 224, 24),
        (ChatCompletions, "sglang-0.5.21/chat_stream_usage.http", 263, 249, 24),
        (ChatCompletions, "llama-server-0.3.36/chat_stream_usage.http", 259, 249, 16),
        (Messages, "vllm-0.32.0/messages_anthropic_stream.http", 13, 0, 8),
        (Messages, "sglang-0.5.21/messages_anthropic_stream.http", 13, 12, 8),
        (Messages, "llama-server-0.3.36/messages_anthropic_stream.http", 13, 12, 8),
        (Responses, "vllm-0.32.0/responses_stream.http", 13, 0, 8),
        (Responses, "sglang-0.5.21/responses_stream.http", 13, 12, 6),
        (Responses, "llama-server-0.3.36/responses_stream.http", 13, 12, 8),
    ] {
        let (answer, outputs) = learn(endpoint, name);
        let usage = answer.usage();
        assert_eq!(usage.prompt, Some(Tokens(prompt)), "{name}");
        assert_eq!(usage.cached, Some(Tokens(cached)), "{name}");
        assert_eq!(usage.completion, Some(Tokens(completion)), "{name}");
        assert_eq!(answer.end(), Some(End::Complete), "{name}");
        assert!((2..=30).contains(&outputs), "{name}: {outputs} events carry output");
    }
    let (unary, _) = learn(ChatCompletions, "vllm-0.32.0/chat_1_cold.http");
    assert_eq!(unary.end(), Some(End::Complete));
    assert!(unary.usage().prompt > Some(Tokens(200)));
}

#[test]
fn an_engine_that_dies_is_told_from_one_that_ends() {
    use Endpoint::ChatCompletions;
    for (name, end) in [
        ("vllm-0.32.0-death/enginecore-kill_stream_0.http", Some(End::Failed)),
        ("vllm-0.32.0-death/api-term_stream_0.http", Some(End::Aborted)),
        ("llama-server-death/api-kill_stream_0.http", None),
        ("sglang-0.5.4.post3/err_too_long_stream.http", Some(End::Failed)),
    ] {
        assert_eq!(learn(ChatCompletions, name).0.end(), end, "{name}");
    }
}

#[test]
fn every_engine_tells_its_load() {
    for (name, running, waiting, kv_usage, block, cache_blocks) in [
        ("vllm-0.32.0", 16, 8, 0.377_690_8, Some(32), Some(512)),
        ("vllm-0.11.0", 0, 0, 0.0, Some(16), Some(1024)),
        ("sglang-0.5.21", 16, 8, 0.16, Some(1), Some(32_768)),
        ("sglang-0.5.4.post3", 16, 9, 0.167_968_75, None, None),
        ("llama-server-0.3.36", 4, 3, 0.0, None, None),
    ] {
        let scrape = prometheus::read(&capture(&format!("{name}/metrics_busy.txt"))).unwrap();
        assert_eq!((scrape.load.running, scrape.load.waiting), (running, waiting), "{name}");
        assert!((scrape.load.kv_usage - kv_usage).abs() < 1e-6, "{name}: {scrape:?}");
        assert_eq!(scrape.block, block.map(Tokens), "{name}");
        assert_eq!(scrape.cache_blocks, cache_blocks.map(Blocks), "{name}");
    }
}

#[test]
fn an_engine_tells_how_often_requests_lost_their_memory() {
    let idle = "vllm:num_preemptions_total{engine=\"0\",model_name=\"tiny-llama\"} 0.0";
    for name in ["vllm-0.32.0", "vllm-0.11.0"] {
        let page = String::from_utf8(capture(&format!("{name}/metrics_busy.txt"))).unwrap();
        let told = |page: &str| prometheus::read(page.as_bytes()).unwrap().load.preemptions;
        assert_eq!(told(&page), Some(0), "{name}");
        // Nobody was preempted when the pages were captured, so the count is put in.
        assert!(page.contains(idle), "{name}");
        assert_eq!(told(&page.replace(idle, &idle.replace("0.0", "13.0"))), Some(13), "{name}");
        assert_eq!(told(&page.replace(idle, "")), None, "{name}: a page that does not say");
    }
    let page =
        b"sglang:num_running_reqs 3.0\nsglang:num_retractions_sum{engine_type=\"unified\"} 13.0\n";
    let load = prometheus::read(page).unwrap().load;
    assert_eq!((load.preemptions, load.preemptions_of_ended), (None, Some(13)));
}
