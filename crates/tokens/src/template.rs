//! Renders a chat as an engine does: by the model's own template.
//!
//! Templates are written for Python's Jinja and for what `transformers` adds to it. What they use of
//! either is provided here; a template that wants more fails to render, and the request is then treated
//! as one without a tokenizer.

use std::fmt::Write as _;

use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Deserialize;

/// A chat template can't be used.
#[derive(Debug, thiserror::Error)]
#[error("not a chat template: {0}")]
pub struct BadTemplate(#[from] Error);

/// A model's chat template.
#[derive(Debug)]
pub struct Template {
    environment: Environment<'static>,
    /// Whether it walks over the parts of a message itself.
    walks_parts: bool,
}

/// What of `tokenizer_config.json` is read.
#[derive(Debug, Default, Deserialize)]
pub struct TokenizerConfig {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(default)]
    bos_token: Option<Token>,
    #[serde(default)]
    eos_token: Option<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    /// The chat template that it has, if any.
    #[must_use]
    pub fn chat_template(&self) -> Option<&str> {
        match self.chat_template.as_ref()? {
            Templates::One(template) => Some(template),
            Templates::Named(all) => {
                let default = all.iter().find(|it| it.name == "default");
                Some(&default?.template)
            }
        }
    }
}

impl Template {
    /// Reads a template; `config` says how a text begins and ends.
    ///
    /// # Errors
    ///
    /// It is none.
    pub fn new(source: &str, config: &TokenizerConfig) -> Result<Self, BadTemplate> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |what: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, what))
        });
        for (name, token) in [("bos_token", &config.bos_token), ("eos_token", &config.eos_token)] {
            environment.add_global(name, token.as_ref().map_or("", Token::text));
        }
        environment.add_template_owned("chat", source.to_owned())?;
        let quoted = ["in message['content']", "in message[\"content\"]", "in message.content"];
        let walks_parts = quoted.iter().any(|it| source.contains(it));
        Ok(Self { environment, walks_parts })
    }

    /// The prompt that a chat's body asks for; `None` where that can't be said: it has media, brings a
    /// template of its own, or the template does not render.
    #[must_use]
    pub fn render(&self, body: &serde_json::Map<String, serde_json::Value>) -> Option<String> {
        use serde_json::Value as Json;

        if body.contains_key("chat_template") {
            return None;
        }
        let messages = body.get("messages")?.as_array()?;
        let messages: Option<Vec<Json>> = messages.iter().map(|it| self.message(it)).collect();
        let flag = |name: &str, default| body.get(name).and_then(Json::as_bool).unwrap_or(default);
        let mut context = serde_json::Map::new();
        if let Some(Json::Object(more)) = body.get("chat_template_kwargs") {
            context.clone_from(more);
        }
        context.insert("messages".to_owned(), Json::Array(messages?));
        let generates = flag("add_generation_prompt", true);
        context.insert("add_generation_prompt".to_owned(), generates.into());
        for name in ["tools", "documents"] {
            context.insert(name.to_owned(), body.get(name).cloned().unwrap_or(Json::Null));
        }
        if flag("continue_final_message", false) {
            return None;
        }
        let template = self.environment.get_template("chat").ok()?;
        template.render(Value::from_serialize(&context)).ok()
    }

    /// A message as engines hand it to the template.
    fn message(&self, message: &serde_json::Value) -> Option<serde_json::Value> {
        use serde_json::Value as Json;

        let mut message = message.as_object()?.clone();
        if let Some(Json::Array(parts)) = message.get("content") {
            let texts: Option<Vec<&str>> =
                parts.iter().map(|part| part.get("text").and_then(Json::as_str)).collect();
            let texts = texts?.join("\n");
            if !self.walks_parts {
                message.insert("content".to_owned(), texts.into());
            }
        }
        // Clients send a call's arguments as a text that holds JSON; templates expect what it holds.
        for call in message.get_mut("tool_calls").and_then(Json::as_array_mut).into_iter().flatten()
        {
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            if let Some(read) = arguments.as_str().and_then(|it| serde_json::from_str(it).ok()) {
                *arguments = read;
            }
        }
        Some(Json::Object(message))
    }
}

/// JSON as Python writes it: a space after each comma and colon, and no escapes for other alphabets.
#[expect(clippy::needless_pass_by_value, reason = "so the library calls a filter")]
fn tojson(value: &Value, options: minijinja::value::Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // Others change nothing of what is written here.
    let _: Option<bool> = options.get("ensure_ascii")?;
    let json = serde_json::to_value(value)
        .map_err(|it| Error::new(ErrorKind::BadSerialization, it.to_string()))?;
    let mut text = String::new();
    write_json(&json, indent, 0, &mut text);
    Ok(Value::from_safe_string(text))
}

fn write_json(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    use serde_json::Value as Json;

    let line = |out: &mut String, depth: usize| {
        if let Some(indent) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent.saturating_mul(depth)));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    let inner = depth.saturating_add(1);
    match value {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { comma } else { "" });
                line(out, inner);
                write_json(item, indent, inner, out);
            }
            line(out, depth);
            out.push(']');
        }
        Json::Object(entries) if !entries.is_empty() => {
            out.push('{');
            for (at, (key, item)) in entries.iter().enumerate() {
                out.push_str(if at > 0 { comma } else { "" });
                line(out, inner);
                // Writing to a text does not fail.
                let _ = write!(out, "{}: ", Json::from(key.as_str()));
                write_json(item, indent, inner, out);
            }
            line(out, depth);
            out.push('}');
        }
        Json::Null
        | Json::Bool(_)
        | Json::Number(_)
        | Json::String(_)
        | Json::Array(_)
        | Json::Object(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::TEMPLATE;

    fn rendered(source: &str, body: &serde_json::Value) -> Option<String> {
        let config = serde_json::from_value(json!({"bos_token": {"content": "<s>"}})).unwrap();
        Template::new(source, &config).unwrap().render(body.as_object().unwrap())
    }

    #[test]
    fn a_chat_is_rendered_as_transformers_does() {
        let body = json!({"messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ]});
        let expected = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
            <|im_start|>assistant\n";
        assert_eq!(rendered(TEMPLATE, &body).as_deref(), Some(expected));
    }

    #[test]
    fn what_templates_use_of_python_is_there() {
        let source = "{{- bos_token }}{% set ns = namespace(n=0) %}
            {%- for m in messages %}{% set ns.n = ns.n + 1 %}{{ m.content.strip().split('|')[0] }}{% endfor %}
            {%- if tools is defined and tools %}{{ tools | tojson }}{% endif %}{{ ns.n }}{{ extra }}";
        let body = json!({
            "messages": [{"role": "user", "content": "  hi|there "}],
            "tools": [{"name": "f", "args": [1, "é"]}],
            "chat_template_kwargs": {"extra": "!"},
        });
        let expected = "<s>hi[{\"args\": [1, \"é\"], \"name\": \"f\"}]1!";
        assert_eq!(rendered(source, &body).as_deref(), Some(expected));
    }

    #[test]
    fn arguments_of_calls_are_read_before_they_are_written() {
        let source = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}\
            {% endfor %}{% endfor %}";
        let call = json!({"function": {"name": "f", "arguments": "{\"a\":1}"}});
        let body = json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
        assert_eq!(rendered(source, &body).as_deref(), Some("{\"a\": 1}"));
    }

    #[test]
    fn what_cannot_be_said_is_not_guessed() {
        let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
        for body in [
            json!({"messages": [{"role": "user", "content": image}]}),
            json!({"messages": [{"role": "user", "content": "a"}], "chat_template": "x"}),
            json!({"messages": 7}),
            json!({}),
        ] {
            assert_eq!(rendered(TEMPLATE, &body), None, "{body}");
        }
        let body = json!({"messages": []});
        assert_eq!(rendered("{{ raise_exception('no') }}", &body), None);
    }
}
