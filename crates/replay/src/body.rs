//! The request body that a prompt becomes.

use bytes::Bytes;
use types::quantity::{BYTES_PER_TOKEN, Tokens};
use wire::openai::Endpoint;
use workload::{Message, Prompt, Role};

/// What a body holds besides its prompt, in bytes, about.
const FRAME_BYTES: usize = 256;

/// What every body asks for: the same answer on every run, as a stream.
const FIXED: &[u8] = br#","stream":true,"temperature":0"#;

/// What OpenAI's endpoints need to tell the engine's token counts.
const WITH_USAGE: &[u8] = br#","stream_options":{"include_usage":true}"#;

/// What makes an engine go on to the length wanted.
const EXACT_LENGTH: &[u8] = br#","ignore_eos":true"#;

/// What all bodies of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    /// The model, as a JSON string with its quotes.
    pub(crate) model: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) exact_lengths: bool,
}

impl Frame {
    /// Writes the body that asks for `output` tokens after `prompt`; one that was given stays as it
    /// is.
    pub(crate) fn body(&self, prompt: &Prompt, output: Tokens) -> Bytes {
        if let Some(given) = &prompt.given {
            return Bytes::copy_from_slice(given.body.as_bytes());
        }
        let mut body = Vec::with_capacity(size(prompt));
        body.extend_from_slice(b"{\"model\":");
        body.extend_from_slice(self.model.as_bytes());
        body.extend_from_slice(FIXED);
        if self.endpoint != Endpoint::Messages {
            body.extend_from_slice(WITH_USAGE);
            if self.exact_lengths {
                body.extend_from_slice(EXACT_LENGTH);
            }
        }
        body.extend_from_slice(b",\"max_tokens\":");
        body.extend_from_slice(output.0.to_string().as_bytes());
        match self.endpoint {
            Endpoint::Completions => {
                body.extend_from_slice(b",\"prompt\":\"");
                prompt.messages.iter().for_each(|message| message.write_text(&mut body));
                body.extend_from_slice(b"\"}");
            }
            Endpoint::Messages => write_anthropic(prompt, &mut body),
            Endpoint::ChatCompletions
            | Endpoint::Responses
            | Endpoint::Embeddings
            | Endpoint::Rerank
            | Endpoint::Score
            | Endpoint::Tokenize
            | Endpoint::Detokenize => {
                write_messages(prompt.messages.iter(), &mut body);
                body.push(b'}');
            }
        }
        body.into()
    }
}

/// Length of the body that `prompt` becomes, about.
fn size(prompt: &Prompt) -> usize {
    let text_bytes =
        usize::try_from(prompt.tokens().0).unwrap_or(0).saturating_mul(BYTES_PER_TOKEN);
    let frame_bytes = prompt.messages.len().saturating_mul(FRAME_BYTES).saturating_add(FRAME_BYTES);
    text_bytes.saturating_add(frame_bytes)
}

/// Anthropic has the operator's words beside the conversation.
fn write_anthropic(prompt: &Prompt, body: &mut Vec<u8>) {
    let is_system = |it: &&Message| it.role == Role::System;
    if prompt.messages.iter().any(|it| is_system(&it)) {
        body.extend_from_slice(b",\"system\":\"");
        prompt.messages.iter().filter(is_system).for_each(|it| it.write_text(body));
        body.push(b'"');
    }
    write_messages(prompt.messages.iter().filter(|it| !is_system(it)), body);
    body.push(b'}');
}

fn write_messages<'a>(messages: impl Iterator<Item = &'a Message>, body: &mut Vec<u8>) {
    body.extend_from_slice(b",\"messages\":[");
    for (index, message) in messages.enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(b"{\"role\":\"");
        body.extend_from_slice(message.role.as_str().as_bytes());
        body.extend_from_slice(b"\",\"content\":\"");
        message.write_text(body);
        body.extend_from_slice(b"\"}");
    }
    body.push(b']');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;
    use workload::{Given, Segment};

    use super::*;

    fn prompt() -> Prompt {
        let message = |role, id| Message::new(role, Segment { id, tokens: Tokens(30) });
        Prompt::new(vec![message(Role::System, 1), message(Role::User, 2)])
    }

    fn written(endpoint: Endpoint, exact_lengths: bool) -> Value {
        let frame = Frame { model: "\"m\"".to_owned(), endpoint, exact_lengths };
        serde_json::from_slice(&frame.body(&prompt(), Tokens(7))).unwrap()
    }

    #[test]
    fn a_conversation_becomes_messages() {
        let json = written(Endpoint::ChatCompletions, true);
        assert_eq!((&json["model"], &json["max_tokens"]), (&"m".into(), &7.into()));
        assert_eq!(json["stream_options"]["include_usage"], true);
        assert_eq!(json["ignore_eos"], true);
        assert_eq!(json["messages"][0]["role"], "system");
        assert_eq!(json["messages"][1]["content"].as_str().unwrap().len(), 120);
        assert!(written(Endpoint::ChatCompletions, false).get("ignore_eos").is_none());
    }

    #[test]
    fn one_message_becomes_a_prompt() {
        let json = written(Endpoint::Completions, true);
        assert_eq!(json["prompt"].as_str().unwrap().len(), 240);
    }

    #[test]
    fn anthropic_has_the_operators_words_apart() {
        let json = written(Endpoint::Messages, true);
        assert_eq!(json["system"].as_str().unwrap().len(), 120);
        assert_eq!(json["messages"].as_array().unwrap().len(), 1);
        assert_eq!((&json["stream"], &json["max_tokens"]), (&true.into(), &7.into()));
        assert!(json.get("ignore_eos").is_none() && json.get("stream_options").is_none());
    }

    #[test]
    fn a_given_body_stays_as_it_is() {
        let body = "{ \"model\":\"own\",\"prompt\" : \"x\"}";
        let given = Some(Arc::new(Given { api: None, body: body.to_owned() }));
        let frame = Frame {
            model: "\"m\"".to_owned(),
            endpoint: Endpoint::ChatCompletions,
            exact_lengths: true,
        };
        assert_eq!(frame.body(&Prompt { given, ..prompt() }, Tokens(7)), body);
    }

    #[test]
    fn memory_is_claimed_once() {
        let frame = Frame {
            model: "\"m\"".to_owned(),
            endpoint: Endpoint::ChatCompletions,
            exact_lengths: true,
        };
        assert!(frame.body(&prompt(), Tokens(7)).len() <= size(&prompt()));
    }
}
