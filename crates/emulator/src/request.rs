//! What a client asks for, checked in the order and words of vLLM.

use serde_json::{Map, Value};
use types::quantity::Tokens;

use crate::{
    dialect::Dialect,
    error::{ApiError, shown},
    prompt::Prompt,
};

#[cfg(test)]
mod tests;

/// Most answers to one request: prompts times choices.
const ANSWERS_MAX: usize = 128;
/// Token ids below this exist, as in Llama 3.
const VOCABULARY: u64 = 128_256;
/// What `/v1/completions` generates when nothing is said.
const COMPLETION_TOKENS_DEFAULT: i64 = 16;

/// A checked request for one or several answers.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) prompts: Vec<Prompt>,
    /// Answers to each prompt.
    pub(crate) choices: usize,
    /// Most tokens in each answer; as many as the context holds when absent.
    pub(crate) tokens_max: Option<Tokens>,
    pub(crate) ignore_eos: bool,
    pub(crate) cache_salt: Option<String>,
    pub(crate) delivery: Delivery,
}

/// How the answer is to arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// Token by token.
    Stream {
        /// A last chunk tells the usage.
        usage: bool,
        /// Every chunk tells the usage so far.
        continuous_usage: bool,
    },
}

/// Reads the body of a request to a replica that serves `model` in a context of `context`.
pub(crate) fn parse(
    dialect: Dialect,
    body: &[u8],
    model: &str,
    context: Tokens,
) -> Result<Asked, ApiError> {
    let body: Value = serde_json::from_slice(body).map_err(|error| not_json(body, &error))?;
    let Value::Object(body) = body else {
        return Err(ApiError::validation(
            "dict_type",
            "",
            "Input should be an object",
            &shown(&body),
        ));
    };
    let fields = Fields(&body);
    let stream = fields.boolean("stream")?.unwrap_or(false);
    let choices = fields.integer("n")?.unwrap_or(1);
    let tokens_max = match fields.integer("max_completion_tokens")? {
        Some(most) => Some(most),
        None => fields.integer("max_tokens")?,
    };
    let ignore_eos = fields.boolean("ignore_eos")?.unwrap_or(false);
    let cache_salt = fields.string("cache_salt")?;
    let conversation = match dialect {
        Dialect::Chat => Some(fields.list("messages")?),
        Dialect::Completion => None,
    };
    let delivery = fields.delivery(stream)?;
    fields.check_temperature()?;
    if let Some(asked) = fields.string("model")?.filter(|asked| *asked != model) {
        return Err(ApiError::unknown_model(&asked, model));
    }
    let prompts = match conversation {
        Some(messages) => vec![chat(messages, fields.present("tools"))?],
        None => completion_prompts(fields.present("prompt"))?,
    };
    let choices = check_answers(prompts.len(), choices)?;
    let tokens_max = tokens_max.or(match dialect {
        Dialect::Chat => None,
        Dialect::Completion => Some(COMPLETION_TOKENS_DEFAULT),
    });
    let tokens_max = check_lengths(&prompts, tokens_max, context)?;
    Ok(Asked { prompts, choices, tokens_max, ignore_eos, cache_salt, delivery })
}

/// Where the JSON ends to make sense, as an offset into the body.
fn not_json(body: &[u8], error: &serde_json::Error) -> ApiError {
    let lines = body.split_inclusive(|byte| *byte == b'\n');
    let before: usize = lines.take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let problem = match error.classify() {
        serde_json::error::Category::Eof => "Unexpected end of data",
        serde_json::error::Category::Io
        | serde_json::error::Category::Syntax
        | serde_json::error::Category::Data => "Expecting value",
    };
    ApiError::not_json(before.saturating_add(error.column()), problem)
}

/// The fields of a body; one that is null counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn present(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let (number, kind, problem) = match value.as_str() {
            Some(text) => (
                text.trim().parse().ok(),
                "int_parsing",
                "Input should be a valid integer, unable to parse string as an integer",
            ),
            None => (value.as_i64(), "int_type", "Input should be a valid integer"),
        };
        let refused = || ApiError::validation(kind, name, problem, &shown(value));
        number.map(Some).ok_or_else(refused)
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.typed(name, Value::as_bool, "bool_type", "Input should be a valid boolean")
    }

    fn string(&self, name: &str) -> Result<Option<String>, ApiError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        self.typed(name, text, "string_type", "Input should be a valid string")
    }

    fn typed<T>(
        &self,
        name: &str,
        read: impl Fn(&Value) -> Option<T>,
        kind: &str,
        problem: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        match read(value) {
            Some(value) => Ok(Some(value)),
            None => Err(ApiError::validation(kind, name, problem, &shown(value))),
        }
    }

    fn list(&self, name: &str) -> Result<&'a [Value], ApiError> {
        match self.0.get(name) {
            Some(Value::Array(items)) => Ok(items),
            Some(value) => Err(ApiError::validation(
                "list_type",
                name,
                "Input should be a valid list",
                &shown(value),
            )),
            None => {
                let input = format!("'<dict of {} items>'", self.0.len());
                Err(ApiError::validation("missing", name, "Field required", &input))
            }
        }
    }

    fn delivery(&self, stream: bool) -> Result<Delivery, ApiError> {
        match (stream, self.present("stream_options")) {
            (false, None) => Ok(Delivery::Whole),
            (false, Some(_)) => Err(ApiError::bad_request(
                "Stream options can only be defined when `stream=True`. (parameter=stream_options)",
                Some("stream_options"),
            )),
            (true, options) => {
                let option = |name| {
                    options.and_then(|it| it.get(name)).and_then(Value::as_bool).unwrap_or(false)
                };
                let usage = option("include_usage");
                let continuous_usage = usage && option("continuous_usage_stats");
                Ok(Delivery::Stream { usage, continuous_usage })
            }
        }
    }

    fn check_temperature(&self) -> Result<(), ApiError> {
        match self.present("temperature").and_then(Value::as_f64) {
            Some(value) if value < 0.0 => Err(ApiError::bad_value(
                &format!("temperature must be non-negative, got {value:?}."),
                "temperature",
                format!("{value:?}"),
            )),
            _ => Ok(()),
        }
    }
}

fn chat(messages: &[Value], tools: Option<&Value>) -> Result<Prompt, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::bad_request(
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
            None,
        ));
    }
    let untyped = |message: &&Value| message.get("role").and_then(Value::as_str).is_none();
    if let Some(message) = messages.iter().find(untyped) {
        let loc = "messages.role";
        return Err(ApiError::validation("missing", loc, "Field required", &shown(message)));
    }
    Ok(Prompt::from_chat(messages, tools))
}

/// A prompt is text or token ids; a list of either is a batch.
fn completion_prompts(prompt: Option<&Value>) -> Result<Vec<Prompt>, ApiError> {
    let prompts = match prompt {
        Some(Value::String(text)) => vec![Prompt::from_text(text)],
        Some(Value::Array(items)) if items.iter().all(Value::is_u64) => vec![from_ids(items)?],
        Some(Value::Array(items)) => items.iter().map(batch_item).collect::<Result<_, _>>()?,
        Some(value) => return Err(wrong_prompt(value)),
        None => Vec::new(),
    };
    if prompts.is_empty() || prompts.iter().any(|prompt| prompt.tokens() == Tokens::ZERO) {
        return Err(ApiError::bad_request(
            "Either prompt or prompt_embeds must be provided and non-empty.",
            Some("prompt"),
        ));
    }
    Ok(prompts)
}

fn batch_item(item: &Value) -> Result<Prompt, ApiError> {
    match (item.as_str(), item.as_array()) {
        (Some(text), _) => Ok(Prompt::from_text(text)),
        (None, Some(ids)) if ids.iter().all(Value::is_u64) => from_ids(ids),
        (None, _) => Err(wrong_prompt(item)),
    }
}

fn wrong_prompt(value: &Value) -> ApiError {
    let problem = "Input should be a string, token ids, or a list of either";
    ApiError::validation("string_type", "prompt", problem, &shown(value))
}

fn from_ids(ids: &[Value]) -> Result<Prompt, ApiError> {
    let ids = ids.iter().filter_map(Value::as_u64);
    if let Some(id) = ids.clone().find(|id| *id >= VOCABULARY) {
        return Err(ApiError::bad_request(format!("Token id {id} is out of vocabulary"), None));
    }
    Ok(Prompt::from_ids(ids.map(|id| u32::try_from(id).unwrap_or(u32::MAX))))
}

fn check_answers(prompts: usize, choices: i64) -> Result<usize, ApiError> {
    match usize::try_from(choices) {
        Ok(choices @ 1..) if prompts.saturating_mul(choices) <= ANSWERS_MAX => Ok(choices),
        Ok(1..) => {
            let message = format!("n times the prompts must be at most {ANSWERS_MAX}.");
            Err(ApiError::bad_value(&message, "n", choices))
        }
        _ => {
            let message = format!("n must be at least 1, got {choices}.");
            Err(ApiError::bad_value(&message, "n", choices))
        }
    }
}

/// Every prompt must leave room for its answer.
fn check_lengths(
    prompts: &[Prompt],
    tokens_max: Option<i64>,
    context: Tokens,
) -> Result<Option<Tokens>, ApiError> {
    let most = tokens_max.map(|most| check_tokens_max(most, context)).transpose()?;
    for prompt in prompts.iter().map(Prompt::tokens) {
        let opening = format!("This model's maximum context length is {context} tokens. However,");
        if prompt >= context {
            let message = format!(
                "{opening} your prompt contains {prompt} input tokens, which exceeds this limit \
                 even without any output tokens. Please reduce the length of the input prompt."
            );
            return Err(ApiError::bad_value(&message, "input_tokens", prompt));
        }
        if let Some(most) = most.filter(|most| prompt + *most > context) {
            let message = format!(
                "{opening} you requested {most} output tokens and your prompt contains {prompt} \
                 input tokens, for a total of {} tokens. Please reduce the length of the input \
                 prompt or the number of requested output tokens.",
                prompt + most
            );
            return Err(ApiError::bad_value(&message, "input_tokens", prompt));
        }
    }
    Ok(most)
}

fn check_tokens_max(most: i64, context: Tokens) -> Result<Tokens, ApiError> {
    if most < 1 {
        let message = format!("max_tokens must be at least 1, got {most}.");
        return Err(ApiError::bad_value(&message, "max_tokens", most));
    }
    match u32::try_from(most).map(Tokens) {
        Ok(most) if most <= context => Ok(most),
        _ => {
            let message = format!(
                "max_tokens={most} cannot be greater than max_model_len={context}. Please request \
                 fewer output tokens."
            );
            Err(ApiError::bad_value(&message, "max_tokens", most))
        }
    }
}
