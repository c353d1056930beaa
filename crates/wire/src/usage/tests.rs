//! Tests of what is learned from answers, in the words of each dialect.

use types::quantity::Tokens;

use super::{Answer, End, Usage, carries_output};
use crate::{
    openai::Endpoint,
    sse::{Event, Scanner},
};

fn usage(prompt: u32, cached: u32, completion: u32) -> Usage {
    Usage {
        prompt: Some(Tokens(prompt)),
        cached: Some(Tokens(cached)),
        completion: Some(Tokens(completion)),
    }
}

fn stream(endpoint: Endpoint, text: &str) -> Answer {
    let mut answer = Answer::new(endpoint);
    Scanner::new().push(text.as_bytes(), |event| answer.event(&event));
    answer
}

fn body(text: &str) -> Answer {
    let mut answer = Answer::new(Endpoint::ChatCompletions);
    answer.body(text.as_bytes());
    answer
}

#[test]
fn openai_says_its_figures_before_its_end() {
    let answer = stream(
        Endpoint::ChatCompletions,
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}],\"usage\":null}\n\n\
         data: {\"choices\":[],\"usage\":{\"prompt_tokens\":263,\"total_tokens\":287,\
         \"completion_tokens\":24,\"prompt_tokens_details\":{\"cached_tokens\":224}}}\n\n\
         data: [DONE]\n\n",
    );
    assert_eq!((answer.usage(), answer.end()), (usage(263, 224, 24), Some(End::Complete)));
}

#[test]
fn anthropic_counts_the_cache_beside_the_input() {
    let answer = stream(
        Endpoint::Messages,
        "event: message_start\n\
         data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":1,\
         \"output_tokens\":0,\"cache_read_input_tokens\":12}}}\n\n\
         event: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":8}}\n\n\
         event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    assert_eq!((answer.usage(), answer.end()), (usage(13, 12, 8), Some(End::Complete)));
}

#[test]
fn a_response_says_its_figures_in_its_last_event() {
    let answer = stream(
        Endpoint::Responses,
        "event: response.created\ndata: {\"response\":{\"error\":null,\"usage\":null}}\n\n\
         event: response.incomplete\ndata: {\"response\":{\"usage\":{\"input_tokens\":13,\
         \"input_tokens_details\":{\"cached_tokens\":12},\"output_tokens\":6}}}\n\n",
    );
    assert_eq!((answer.usage(), answer.end()), (usage(13, 12, 6), Some(End::Complete)));
}

#[test]
fn an_error_in_a_stream_is_not_undone_by_a_clean_end() {
    for error in [
        r#"{"error": {"message": "EngineCore encountered an issue.", "code": 500}}"#,
        r#"{"object":"error","message":"too long","code":400}"#,
    ] {
        let text = format!("data: {error}\n\ndata: [DONE]\n\n");
        assert_eq!(stream(Endpoint::ChatCompletions, &text).end(), Some(End::Failed), "{error}");
    }
    let text = "event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n\
                event: message_stop\ndata: {}\n\n";
    assert_eq!(stream(Endpoint::Messages, text).end(), Some(End::Failed));
    let text = "event: response.failed\ndata: {\"response\":{\"error\":{\"code\":\"x\"}}}\n\n";
    assert_eq!(stream(Endpoint::Responses, text).end(), Some(End::Failed));
}

#[test]
fn an_abort_is_told_from_an_end() {
    let text = "data: {\"choices\":[{\"finish_reason\":\"abort\"}]}\n\ndata: [DONE]\n\n";
    assert_eq!(stream(Endpoint::Completions, text).end(), Some(End::Aborted));
    assert_eq!(body(r#"{"choices":[{"finish_reason":"abort"}]}"#).end(), Some(End::Aborted));
}

#[test]
fn a_stream_without_its_end_is_broken_off() {
    let text = "data: {\"choices\":[]}\n\n";
    assert_eq!(stream(Endpoint::ChatCompletions, text).end(), None);
    let done = "data: [DONE]\n\n";
    assert_eq!(stream(Endpoint::Messages, done).end(), None);
    assert_eq!(stream(Endpoint::Responses, done).end(), None);
}

#[test]
fn what_a_model_says_is_not_taken_for_figures_or_errors() {
    let said = serde_json::to_string(r#"{"error":{},"usage":{"prompt_tokens":1}} "abort" [DONE]"#);
    let said = said.unwrap();
    let text = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":{said}}}}}]}}\n\n");
    let answer = stream(Endpoint::ChatCompletions, &text);
    assert_eq!((answer.usage(), answer.end()), (Usage::default(), None));
    let tool = r#"{"content":[{"type":"tool_use","input":{"usage":{"input_tokens":9},"error":1}}],
                   "usage":{"input_tokens":2,"output_tokens":3}}"#;
    let answer = body(tool);
    assert_eq!(answer.usage().prompt, Some(Tokens(2)));
    assert_eq!(answer.end(), Some(End::Complete));
}

#[test]
fn a_body_is_complete_when_it_is_json_and_no_error() {
    let complete = body(
        r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":5,
        "completion_tokens":2,"prompt_tokens_details":null}}"#,
    );
    assert_eq!(complete.end(), Some(End::Complete));
    assert_eq!((complete.usage().prompt, complete.usage().cached), (Some(Tokens(5)), None));
    assert_eq!(body(r#"{"error":{"message":"no"}}"#).end(), Some(End::Failed));
    assert_eq!(body(r#"{"choices":[{"#).end(), None);
}

#[test]
fn output_is_told_from_its_frame() {
    let carries =
        |text: &str| carries_output(&Event { name: None, data: text.as_bytes(), cut: false });
    for text in [
        r#"{"choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"content": "a"}}]}"#,
        r#"{"choices":[{"text":"\""}]}"#,
        r#"{"delta":{"type":"text_delta","text":"ision"}}"#,
        r#"{"delta":"umer","type":"response.output_text.delta"}"#,
        r#"{"choices":[{"delta":{"content":"","tool_calls":[{"function":{"arguments":"{"}}]}}]}"#,
    ] {
        assert!(carries(text), "{text}");
    }
    for text in [
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{"content":null,"reasoning_content":null}}]}"#,
        r#"{"content_block":{"type":"text","text":""}}"#,
        r#"{"message":{"content":[]}}"#,
        "[DONE]",
    ] {
        assert!(!carries(text), "{text}");
    }
}
