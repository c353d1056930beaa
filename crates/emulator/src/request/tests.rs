//! What is accepted, and what refusals say.

use super::*;

const CHAT: &str = r#""messages":[{"role":"user","content":"hello there"}]"#;

fn parsed(dialect: Dialect, body: &str) -> Result<Asked, ApiError> {
    parse(dialect, body.as_bytes(), "tiny-llama", Tokens(8192))
}

fn chat_with(fields: &str) -> Result<Asked, ApiError> {
    parsed(Dialect::Chat, &format!(r#"{{"model":"tiny-llama",{CHAT}{fields}}}"#))
}

fn completion(prompt: &str) -> Result<Asked, ApiError> {
    parsed(Dialect::Completion, &format!(r#"{{"model":"tiny-llama","prompt":{prompt}}}"#))
}

fn refusal(asked: Result<Asked, ApiError>) -> String {
    String::from_utf8(asked.unwrap_err().body().to_vec()).unwrap()
}

#[test]
fn defaults_are_those_of_vllm() {
    let chat = chat_with("").unwrap();
    assert_eq!((chat.choices, chat.tokens_max, chat.ignore_eos), (1, None, false));
    assert_eq!(chat.delivery, Delivery::Whole);
    assert_eq!(completion("\"abc\"").unwrap().tokens_max, Some(Tokens(16)));
}

#[test]
fn the_newer_name_of_the_limit_wins() {
    let asked = chat_with(r#","max_tokens":5,"max_completion_tokens":7"#).unwrap();
    assert_eq!(asked.tokens_max, Some(Tokens(7)));
    let asked = chat_with(r#","max_tokens":"5","max_completion_tokens":null"#).unwrap();
    assert_eq!(asked.tokens_max, Some(Tokens(5)));
}

#[test]
fn usage_comes_with_a_stream_that_asks_for_it() {
    let asked = chat_with(r#","stream":true,"stream_options":{"include_usage":true}"#).unwrap();
    assert_eq!(asked.delivery, Delivery::Stream { usage: true, continuous_usage: false });
    let asked = chat_with(r#","stream":true"#).unwrap();
    assert_eq!(asked.delivery, Delivery::Stream { usage: false, continuous_usage: false });
}

#[test]
fn a_prompt_is_text_or_ids_or_a_batch_of_either() {
    let lengths = |prompt: &str| -> Vec<u32> {
        completion(prompt).unwrap().prompts.iter().map(|it| it.tokens().0).collect()
    };
    assert_eq!(lengths("\"abcde\""), [2]);
    assert_eq!(lengths("[1,2,3]"), [3]);
    assert_eq!(lengths("[\"abcd\",[1,2,3]]"), [1, 3]);
    for prompt in ["[]", "\"\"", "null", "[[]]"] {
        assert!(refusal(completion(prompt)).contains("must be provided and non-empty"), "{prompt}");
    }
    for prompt in ["7", "[1,\"a\"]", "[-1]", "{}"] {
        assert!(refusal(completion(prompt)).contains("body.prompt"), "{prompt}");
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let refused = |fields: &str| refusal(chat_with(fields));
    assert!(refused(r#","n":0"#).contains("n must be at least 1"));
    assert!(refused(r#","n":1000"#).contains("at most 128"));
    assert!(refused(r#","max_tokens":-3"#).contains("max_tokens must be at least 1, got -3"));
    assert!(refused(r#","max_tokens":8192"#).contains("for a total of 8204 tokens"));
    assert!(refused(r#","stream":"yes""#).contains("body.stream"));
    assert!(refusal(parsed(Dialect::Chat, "[]")).contains("should be an object"));
    assert!(refusal(parsed(Dialect::Chat, r#"{"messages":[{}]}"#)).contains("messages.role"));
}

#[test]
fn the_offset_of_bad_json_counts_all_lines() {
    let message = refusal(parsed(Dialect::Chat, "{\"a\": 1,\n \"b\": x}"));
    assert!(message.contains("body.16"), "{message}");
}
