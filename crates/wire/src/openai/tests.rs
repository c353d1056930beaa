//! Tests of what routing reads of a body, and of what it refuses.

use std::borrow::Cow;

use types::{block::HashKey, quantity::Tokens};

use super::{BadRequest, Dialect, Endpoint, View, parse};

fn chat(body: &str) -> Result<View<'_>, BadRequest> {
    parse(Endpoint::ChatCompletions, body.as_bytes())
}

#[test]
fn every_endpoint_is_found_by_its_exact_path_and_no_other() {
    for endpoint in Endpoint::ALL {
        assert_eq!(Endpoint::from_path(endpoint.path()), Some(endpoint));
    }
    for path in ["/v1/chat/completions/", "/V1/chat/completions", "//v1/completions", "/v1", ""] {
        assert_eq!(Endpoint::from_path(path), None);
    }
    assert_eq!(Endpoint::Messages.dialect(), Dialect::Anthropic);
    assert_eq!(Endpoint::Responses.dialect(), Dialect::OpenAi);
}

#[test]
fn the_fields_that_routing_needs_are_read() {
    let view = chat(
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":9,
        "max_completion_tokens":7,"cache_salt":"salt","lora_path":"a","service_tier":"flex",
        "session_id":"s","prompt_cache_key":"p","conversation":{"id":"c"},
        "previous_response_id":"r","safety_identifier":"i","user":"u","messages":[]}"#,
    )
    .unwrap();
    assert_eq!(view.model, "m");
    assert!(view.stream && view.include_usage);
    assert_eq!(view.output_max, Some(Tokens(7)));
    assert_eq!(view.cache_salt.as_deref(), Some("salt"));
    assert_eq!(view.adapter.as_deref(), Some("a"));
    assert_eq!(view.service_tier.as_deref(), Some("flex"));
    let session = view.session;
    assert_eq!(session.session_id.as_deref(), Some("s"));
    assert_eq!(session.prompt_cache_key.as_deref(), Some("p"));
    assert_eq!(session.conversation.as_deref(), Some("c"));
    assert_eq!(session.previous_response_id.as_deref(), Some("r"));
    assert_eq!(session.safety_identifier.as_deref(), Some("i"));
    assert_eq!(session.user.as_deref(), Some("u"));
}

#[test]
fn what_is_absent_or_null_reads_as_nothing() {
    let view = chat(r#"{"model":"m","stream":null,"max_tokens":null,"messages":null}"#).unwrap();
    assert!(!view.stream && !view.include_usage);
    assert_eq!((view.output_max, view.cache_salt), (None, None));
}

#[test]
fn a_name_without_escapes_is_borrowed_from_the_body() {
    assert!(matches!(chat(r#"{"model":"m"}"#).unwrap().model, Cow::Borrowed("m")));
    assert_eq!(chat(r#"{"mod\u0065l":"\u006d\/n"}"#).unwrap().model, "m/n");
}

#[test]
fn anthropic_names_its_user_in_the_metadata() {
    let body = br#"{"model":"m","user":"no","metadata":{"user_id":"yes"},"messages":[]}"#;
    let view = parse(Endpoint::Messages, body).unwrap();
    assert_eq!(view.session.user.as_deref(), Some("yes"));
}

#[test]
fn a_limit_that_is_no_whole_number_is_left_to_the_engine() {
    for limit in ["\"16\"", "-1", "1.5", "1e99999"] {
        let body = format!(r#"{{"model":"m","max_tokens":{limit}}}"#);
        assert_eq!(chat(&body).unwrap().output_max, None, "{limit}");
    }
    let huge = r#"{"model":"m","max_tokens":99999999999}"#;
    assert_eq!(chat(huge).unwrap().output_max, Some(Tokens(u32::MAX)));
}

#[test]
fn a_model_is_needed_except_to_tokenize() {
    let missing = chat("{}").unwrap_err();
    assert_eq!(missing.param(), Some("model"));
    assert!(missing.to_string().contains("GET /v1/models"));
    assert_eq!(parse(Endpoint::Tokenize, b"{}").unwrap().model, "");
    for body in [r#"{"model":7}"#, r#"{"model":""}"#, r#"{"model":"\ud800"}"#] {
        assert!(matches!(chat(body), Err(BadRequest::WrongType { param: "model", .. })), "{body}");
    }
}

#[test]
fn a_field_that_is_read_must_not_come_twice() {
    for (body, param) in [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","mode\u006c":"a"}"#, "model"),
        (r#"{"model":"a","stream":true,"stream":false}"#, "stream"),
        (r#"{"model":"a","messages":[],"x":1,"messages":null}"#, "messages"),
    ] {
        assert_eq!(chat(body).unwrap_err(), BadRequest::Duplicate { param }, "{body}");
    }
    assert!(chat(r#"{"model":"a","unread":1,"unread":2}"#).is_ok());
}

#[test]
fn a_type_that_would_route_wrong_is_refused() {
    for (endpoint, body, param) in [
        (Endpoint::ChatCompletions, r#"{"model":"m","messages":"hi"}"#, "messages"),
        (Endpoint::ChatCompletions, r#"{"model":"m","stream":"true"}"#, "stream"),
        (Endpoint::ChatCompletions, r#"{"model":"m","stream":1}"#, "stream"),
        (Endpoint::ChatCompletions, r#"{"model":"m","cache_salt":1}"#, "cache_salt"),
        (Endpoint::Completions, r#"{"model":"m","prompt":{}}"#, "prompt"),
        (Endpoint::Responses, r#"{"model":"m","input":3}"#, "input"),
        (Endpoint::Messages, r#"{"model":"m","system":false}"#, "system"),
    ] {
        assert_eq!(parse(endpoint, body.as_bytes()).unwrap_err().param(), Some(param), "{body}");
    }
}

#[test]
fn what_is_not_json_is_refused_with_its_place() {
    let error = chat("{\"model\": \"m\",\n  \"stream\": tru }").unwrap_err();
    assert!(matches!(error, BadRequest::NotJson { line: 2, .. }), "{error}");
    assert_eq!(error.to_string().matches("line 2").count(), 1, "{error}");
    let invalid = ["", "{", "{\"model\":\"m\"} x", "\u{feff}{}", "{\"a\":\"\u{0}\"}"];
    for body in invalid {
        assert!(matches!(chat(body), Err(BadRequest::NotJson { .. })), "{body:?}");
    }
    for body in ["[]", "[\"m\", true]", "\"m\"", "null", "1"] {
        assert_eq!(chat(body).unwrap_err(), BadRequest::NotAnObject, "{body}");
    }
    let broken = parse(Endpoint::Completions, b"{\"model\":\"\xff\"}").unwrap_err();
    assert_eq!(broken, BadRequest::NotUtf8 { offset: 10 });
}

#[test]
fn nesting_of_any_depth_costs_no_stack() {
    for field in ["unread", "messages", "stream_options", "tools"] {
        let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
        let body = format!(r#"{{"model":"m","{field}":{open}{close}}}"#);
        let view = chat(&body).unwrap();
        let read = field == "messages" || field == "tools";
        let hashed = view.hash_prompt(HashKey(1), None, Tokens(16));
        assert_eq!(hashed.blocks.len() > 6_000, read);
        assert_eq!(hashed.first_turn, None);
        let body = format!(r#"{{"model":"m","{field}":{}"#, "{\"a\":".repeat(200_000));
        assert!(matches!(chat(&body), Err(BadRequest::NotJson { .. })));
    }
}

#[test]
fn a_million_keys_are_walked_over() {
    let mut body = String::from("{");
    for key in 0..1_000_000 {
        body.push_str(&format!("\"k{key}\":0,"));
    }
    body.push_str(r#""model":"m"}"#);
    assert_eq!(chat(&body).unwrap().model, "m");
}

#[test]
fn a_lone_surrogate_in_content_is_left_to_the_engine() {
    assert!(chat(r#"{"model":"m","messages":[{"role":"user","content":"\ud800"}]}"#).is_ok());
}

#[test]
fn a_debug_view_shows_no_prompt() {
    let view = chat(r#"{"model":"m","user":"u","messages":[{"content":"secret"}]}"#).unwrap();
    let shown = format!("{view:?}");
    assert!(shown.contains("\"m\"") && !shown.contains("secret"), "{shown}");
}
