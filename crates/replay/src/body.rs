//! The request body that a prompt becomes.

use types::quantity::{BYTES_PER_TOKEN, Tokens};
use wire::openai::Endpoint;
use workload::{Message, Prompt};

/// What a body holds besides its prompt, in bytes, about.
const FRAME_BYTES: usize = 256;

/// What every body asks for: a stream with the engine's token counts, of exactly the length asked
/// for, the same on every run.
const FIXED: &[u8] = br#","stream":true,"stream_options":{"include_usage":true},"ignore_eos":true,"temperature":0,"max_tokens":"#;

/// Writes the body that asks `model`, a JSON string with its quotes, for `output` tokens after
/// `prompt`.
pub(crate) fn write(model: &str, endpoint: Endpoint, prompt: &Prompt, output: Tokens) -> Vec<u8> {
    let text_bytes =
        usize::try_from(prompt.tokens().0).unwrap_or(0).saturating_mul(BYTES_PER_TOKEN);
    let frame_bytes = prompt.messages.len().saturating_mul(FRAME_BYTES).saturating_add(FRAME_BYTES);
    let mut body = Vec::with_capacity(text_bytes.saturating_add(frame_bytes));
    body.extend_from_slice(b"{\"model\":");
    body.extend_from_slice(model.as_bytes());
    body.extend_from_slice(FIXED);
    body.extend_from_slice(output.0.to_string().as_bytes());
    if endpoint == Endpoint::Completions {
        body.extend_from_slice(b",\"prompt\":\"");
        prompt.messages.iter().for_each(|message| message.write_text(&mut body));
        body.extend_from_slice(b"\"}");
    } else {
        body.extend_from_slice(b",\"messages\":[");
        for (index, message) in prompt.messages.iter().enumerate() {
            if index > 0 {
                body.push(b',');
            }
            write_message(message, &mut body);
        }
        body.extend_from_slice(b"]}");
    }
    body
}

fn write_message(message: &Message, body: &mut Vec<u8>) {
    body.extend_from_slice(b"{\"role\":\"");
    body.extend_from_slice(message.role.as_str().as_bytes());
    body.extend_from_slice(b"\",\"content\":\"");
    message.write_text(body);
    body.extend_from_slice(b"\"}");
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use workload::{Role, Segment};

    use super::*;

    fn prompt() -> Prompt {
        let message = |role, id| Message::new(role, Segment { id, tokens: Tokens(30) });
        Prompt::new(vec![message(Role::System, 1), message(Role::User, 2)])
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let body = write("\"m\"", Endpoint::ChatCompletions, &prompt(), Tokens(7));
        let json: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&json["model"], &json["max_tokens"]), (&"m".into(), &7.into()));
        assert_eq!(json["stream_options"]["include_usage"], true);
        assert_eq!(json["messages"][0]["role"], "system");
        assert_eq!(json["messages"][1]["content"].as_str().unwrap().len(), 120);
        assert!(body.capacity() < body.len() + 2 * FRAME_BYTES + 300, "{}", body.capacity());
    }

    #[test]
    fn one_message_becomes_a_prompt() {
        let body = write("\"m\"", Endpoint::Completions, &prompt(), Tokens(7));
        let json: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["prompt"].as_str().unwrap().len(), 240);
    }
}
