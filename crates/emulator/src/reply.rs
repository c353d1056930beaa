//! The JSON of answers that are sent in one piece, and of usage.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::value::RawValue;
use types::quantity::Tokens;

use crate::{answer::Answer, dialect::Dialect};

/// Stands where vLLM names its version and configuration.
pub(crate) const FINGERPRINT: &str = concat!("sluice-emulator-", env!("CARGO_PKG_VERSION"));

/// What all chunks of an answer begin with.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) dialect: Dialect,
    /// The answer's id, as JSON.
    pub(crate) id: Box<RawValue>,
    /// The model's name, as JSON.
    pub(crate) model: Box<RawValue>,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

impl Head {
    pub(crate) fn new(dialect: Dialect, id: &str, model: &str) -> Self {
        let json = |text: &str| serde_json::value::to_raw_value(text).unwrap_or_default();
        Self { dialect, id: json(id), model: json(model), created: seconds_since_1970() }
    }
}

/// The wall clock, in seconds since 1970.
pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

/// What a request consumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) dialect: Dialect,
    pub(crate) prompt: Tokens,
    pub(crate) completion: Tokens,
    /// Prompt tokens found in the KV cache.
    pub(crate) cached: Tokens,
    /// Prompt tokens in full blocks that were not.
    pub(crate) created: Tokens,
}

#[derive(Serialize)]
struct UsageJson {
    prompt_tokens: Tokens,
    total_tokens: Tokens,
    completion_tokens: Tokens,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: (),
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: Tokens,
    created_cache_tokens: Option<Tokens>,
    multimodal_tokens: (),
}

impl Usage {
    fn created(&self) -> Option<Tokens> {
        (self.dialect == Dialect::Chat).then_some(self.created)
    }

    /// The `usage` of the last chunk of a stream.
    pub(crate) fn in_stream(&self) -> String {
        let created = self
            .created()
            .map_or_else(String::new, |created| format!(",\"created_cache_tokens\":{created}"));
        format!(
            "{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},\
             \"prompt_tokens_details\":{{\"cached_tokens\":{}{created}}}}}",
            self.prompt,
            self.prompt + self.completion,
            self.completion,
            self.cached,
        )
    }

    /// The `usage` of a chunk in the middle of a stream.
    pub(crate) fn so_far(&self) -> String {
        format!(
            "{{\"prompt_tokens\":{},\"total_tokens\":{},\"completion_tokens\":{},\
             \"completion_tokens_details\":null}}",
            self.prompt,
            self.prompt + self.completion,
            self.completion,
        )
    }

    fn whole(&self) -> UsageJson {
        UsageJson {
            prompt_tokens: self.prompt,
            total_tokens: self.prompt + self.completion,
            completion_tokens: self.completion,
            prompt_tokens_details: PromptDetails {
                cached_tokens: self.cached,
                created_cache_tokens: self.created(),
                multimodal_tokens: (),
            },
            completion_tokens_details: (),
        }
    }
}

/// An answer in one piece; `()` is JSON's null, for fields that this replica never fills.
#[derive(Serialize)]
struct Whole<'a, Choice> {
    id: &'a RawValue,
    object: &'static str,
    created: u64,
    model: &'a RawValue,
    choices: Vec<Choice>,
    service_tier: (),
    system_fingerprint: &'static str,
    usage: UsageJson,
    #[serde(flatten)]
    prompt_echo: Option<PromptEcho>,
    kv_transfer_params: (),
    ec_transfer_params: (),
    metrics: (),
}

#[derive(Default, Serialize)]
struct PromptEcho {
    prompt_logprobs: (),
    prompt_token_ids: (),
    prompt_text: (),
}

#[derive(Serialize)]
struct ChatChoice<'a> {
    index: usize,
    message: Message<'a>,
    logprobs: (),
    finish_reason: &'static str,
    stop_reason: (),
    token_ids: (),
    routed_experts: (),
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
    refusal: (),
    annotations: (),
    audio: (),
    function_call: (),
    reasoning: (),
}

#[derive(Serialize)]
struct TextChoice<'a> {
    index: usize,
    text: &'a str,
    logprobs: (),
    finish_reason: &'static str,
    stop_reason: (),
    token_ids: (),
    prompt_logprobs: (),
    prompt_token_ids: (),
    routed_experts: (),
}

/// The body of an answer in one piece.
pub(crate) fn whole(head: &Head, answers: &[Answer], usage: &Usage) -> Vec<u8> {
    let answers = answers.iter().enumerate();
    match head.dialect {
        Dialect::Chat => {
            let choices = answers.map(|(index, answer)| chat_choice(index, answer)).collect();
            render(head, choices, usage, Some(PromptEcho::default()))
        }
        Dialect::Completion => {
            let choices = answers.map(|(index, answer)| text_choice(index, answer)).collect();
            render(head, choices, usage, None)
        }
    }
}

fn render<Choice: Serialize>(
    head: &Head,
    choices: Vec<Choice>,
    usage: &Usage,
    prompt_echo: Option<PromptEcho>,
) -> Vec<u8> {
    let whole = Whole {
        id: &head.id,
        object: head.dialect.object(),
        created: head.created,
        model: &head.model,
        choices,
        service_tier: (),
        system_fingerprint: FINGERPRINT,
        usage: usage.whole(),
        prompt_echo,
        kv_transfer_params: (),
        ec_transfer_params: (),
        metrics: (),
    };
    serde_json::to_vec(&whole).unwrap_or_default()
}

fn chat_choice(index: usize, answer: &Answer) -> ChatChoice<'_> {
    let message = Message {
        role: "assistant",
        content: &answer.text,
        refusal: (),
        annotations: (),
        audio: (),
        function_call: (),
        reasoning: (),
    };
    let finish_reason = answer.finish_reason.as_str();
    ChatChoice {
        index,
        message,
        logprobs: (),
        finish_reason,
        stop_reason: (),
        token_ids: (),
        routed_experts: (),
    }
}

fn text_choice(index: usize, answer: &Answer) -> TextChoice<'_> {
    TextChoice {
        index,
        text: &answer.text,
        logprobs: (),
        finish_reason: answer.finish_reason.as_str(),
        stop_reason: (),
        token_ids: (),
        prompt_logprobs: (),
        prompt_token_ids: (),
        routed_experts: (),
    }
}
